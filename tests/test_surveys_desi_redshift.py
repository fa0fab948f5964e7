"""Redshifts of DESI coadds, joined with their spectra by TARGETID: formats.md A5."""

import gzip
import math
import random

import numpy as np
import pytest
from astropy.io import fits
from desi_builders import (
    NAME,
    TILE_HEADER,
    coadd_hdus,
    redrock_hdus,
    target_ids,
    write_coadd,
)
from surveys_builders import SHARED

from spectra_scale.errors import BadSpectrumError
from spectra_scale.surveys.canonical import CATALOGUE_SCHEMA
from spectra_scale.surveys.desi import find_redrock
from spectra_scale.surveys.desi_coadd import read_coadd
from spectra_scale.surveys.desi_redshift import rows_of_coadd
from spectra_scale.surveys.reasons import Reason

REDROCK = "redrock-main-dark-9144.fits"
needs_real_files = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not here")


def key(target):
    return f"desi:main-dark-{target}"


def write_redrock(folder, ids, name=REDROCK, **parts):
    path = folder / name
    redrock_hdus(ids, **parts).writeto(path, overwrite=True)
    return path


def reason_of(coadd, redrock):
    with pytest.raises(BadSpectrumError) as caught:
        rows_of_coadd(coadd, redrock)
    return caught.value


def test_redshifts_are_joined_by_target_whatever_their_order(tmp_path):
    coadd, ids = write_coadd(tmp_path, n_rows=6, resolution=False), target_ids(6)
    order = np.array([3, 0, 5, 1, 4, 2])
    z = np.arange(6) / 10
    redrock = write_redrock(
        tmp_path, ids[order], Z=z[order], ZWARN=order.astype("i8"),
        SPECTYPE=np.array(["QSO"] * 6), SUBTYPE=np.array(["LOZ"] * 6),
    )  # fmt: skip
    table, lost = rows_of_coadd(coadd, find_redrock(coadd))
    assert find_redrock(coadd) == redrock
    assert lost == []
    assert table.schema.names == [*CATALOGUE_SCHEMA.names, "source_row"]
    assert table["source_row"].to_pylist() == table["targetid"].to_pylist() == ids.tolist()
    assert table["spectrum_key"].to_pylist() == [key(target) for target in ids]
    assert table["z"].to_pylist() == z.tolist()
    assert table["zwarning"].to_pylist() == list(range(6))
    assert set(table["class"].to_pylist()) == {"QSO"}
    assert set(table["subclass"].to_pylist()) == {"LOZ"}
    (row,) = table.slice(2, 1).to_pylist()
    assert (row["survey"], row["program"], row["healpix"]) == ("main", "dark", 9144)
    assert (row["mjd"], row["fiberstatus"], row["targettype"]) == (59311, 0, "SCIENCE")
    assert row["ebv"] == pytest.approx(0.03)
    assert (row["plate"], row["fiber"], row["instrument"]) == (-1, -1, "DESI")


def test_the_ids_of_the_rows_are_those_of_the_spectra(tmp_path):
    coadd = write_coadd(tmp_path, n_rows=6, resolution=False)
    redrock = write_redrock(tmp_path, target_ids(6)[::-1])
    table, _ = rows_of_coadd(coadd, redrock)
    block = read_coadd(coadd, table["source_row"].to_numpy())
    assert list(block.reason) == [""] * 6
    np.testing.assert_array_equal(block.flux, read_coadd(coadd).flux)


def test_every_spectrum_and_every_redshift_is_a_row_or_is_lost(tmp_path):
    n_rows = 12
    ids = target_ids(n_rows)
    ids[4] = -1695072  # a stuck positioner
    ids[11] = ids[0]
    types = np.array(["TGT"] * n_rows)
    types[[1, 2]] = "SKY"
    types[4] = ""
    coadd = write_coadd(tmp_path, n_rows=n_rows, resolution=False, TARGETID=ids, OBJTYPE=types)
    theirs = np.append(np.delete(ids, [2, 3, 11]), [777, 39627866878511336])
    z = np.full(len(theirs), 0.2)
    z[theirs == ids[5]], z[theirs == ids[6]], z[theirs == ids[7]] = np.nan, -1, np.inf
    redrock = write_redrock(tmp_path, theirs, targets=False, Z=z)
    table, lost = rows_of_coadd(coadd, redrock)
    assert table["targetid"].to_pylist() == ids[[4, 8, 9, 10]].tolist()
    assert table["targettype"].to_pylist() == ["UNASSIGNED"] + ["SCIENCE"] * 3
    assert sorted((name, reason) for name, reason, _ in lost) == sorted([
        (key(ids[1]), Reason.SKY_FIBRE), (key(ids[2]), Reason.SKY_FIBRE),
        (key(ids[3]), Reason.NO_REDSHIFT), (key(ids[5]), Reason.BAD_REDSHIFT),
        (key(ids[6]), Reason.BAD_REDSHIFT), (key(ids[7]), Reason.BAD_REDSHIFT),
        (key(777), Reason.ROW_WITHOUT_FIBRE), (key(39627866878511336), Reason.ROW_WITHOUT_FIBRE),
        # Whose the spectra are that have one TARGETID, nobody knows.
        (key(ids[0]), Reason.DUPLICATE), (key(ids[0]), Reason.DUPLICATE),
    ])  # fmt: skip
    assert all(message for _, _, message in lost)
    # Spectra in = rows + lost.
    of_spectra = [each for each in lost if each[1] != Reason.ROW_WITHOUT_FIBRE]
    assert table.num_rows + len(of_spectra) == n_rows


def test_without_a_redshift_file_no_spectrum_is_a_row(tmp_path):
    types = np.array(["TGT", "SKY", "TGT", ""])
    coadd = write_coadd(tmp_path, resolution=False, OBJTYPE=types)
    table, lost = rows_of_coadd(coadd, None)
    assert table.num_rows == 0
    assert table.schema.names == [*CATALOGUE_SCHEMA.names, "source_row"]
    assert sorted(reason for _, reason, _ in lost) == [Reason.NO_REDSHIFT] * 3 + [Reason.SKY_FIBRE]


def test_targets_are_taken_from_either_file(tmp_path):
    ids = target_ids(4)
    # The coadd has TARGETIDs alone, as some real files do; the redrock file has two of four.
    names = ("COADD_FIBERSTATUS", "TARGET_RA", "TARGET_DEC", "OBJTYPE", "EBV", "MEAN_MJD")
    bare = dict.fromkeys(names)
    coadd = write_coadd(tmp_path, resolution=False, **bare)
    hdus = redrock_hdus(ids)
    hdus["FIBERMAP"].data["TARGET_RA"] = [20, 21, 22, 23]
    hdus["FIBERMAP"].data["OBJTYPE"] = ["TGT", "SKY", "", "TGT"]
    kept = fits.BinTableHDU(hdus["FIBERMAP"].data[1:3], name="FIBERMAP")
    fits.HDUList([hdus[0], hdus["REDSHIFTS"], kept]).writeto(tmp_path / REDROCK)
    table, lost = rows_of_coadd(coadd, tmp_path / REDROCK)
    assert [name for name, reason, _ in lost if reason == Reason.SKY_FIBRE] == [key(ids[1])]
    assert table["targetid"].to_pylist() == ids[[0, 2, 3]].tolist()
    assert table["targettype"].to_pylist() == ["UNASSIGNED"] * 3
    ra = table["ra"].to_pylist()
    assert ra[1] == 22
    assert math.isnan(ra[0])
    # And the other way round, where the redrock file has none at all.
    write_coadd(tmp_path, resolution=False, TARGET_RA=np.arange(4.0))
    redrock = write_redrock(tmp_path, ids, targets=False)
    assert rows_of_coadd(coadd, redrock)[0]["ra"].to_pylist() == [0, 1, 2, 3]


def test_old_redshift_files_are_read(tmp_path):
    coadd = write_coadd(tmp_path, resolution=False)
    redrock = write_redrock(tmp_path, target_ids(4)[::-1], "zbest-main-dark-9144.fits",
                            extname="ZBEST", Z=np.array([0.4, 0.3, 0.2, 0.1]))  # fmt: skip
    assert find_redrock(coadd) == redrock
    table, lost = rows_of_coadd(coadd, redrock)
    assert table["z"].to_pylist() == [0.1, 0.2, 0.3, 0.4]
    assert lost == []


def test_gzipped_redshifts_and_hdus_in_any_order_and_case_are_read(tmp_path):
    coadd = write_coadd(tmp_path, resolution=False)
    expected = rows_of_coadd(coadd, write_redrock(tmp_path, target_ids(4)))
    hdus = redrock_hdus(target_ids(4))
    for hdu in hdus[1:]:
        hdu.header["EXTNAME"] = hdu.name.lower()
        for number in range(1, hdu.header["TFIELDS"] + 1):
            hdu.header[f"TTYPE{number}"] = hdu.header[f"TTYPE{number}"].lower()
    fits.HDUList([hdus[0], *hdus[:0:-1]]).writeto(tmp_path / "x.fits")
    packed = tmp_path / "x.fits.gz"
    packed.write_bytes(gzip.compress((tmp_path / "x.fits").read_bytes()))
    for path in (tmp_path / "x.fits", packed):
        table, lost = rows_of_coadd(coadd, path)
        assert table.to_pylist()[0]["z"] == 0.1
        assert table.drop(["sn_median_all", "z_noqso"]).equals(
            expected[0].drop(["sn_median_all", "z_noqso"])
        )
        assert lost == expected[1]


def test_keys_of_tiles_have_the_group_and_the_tile(tmp_path):
    name = "coadd-4-80613-thru20210324.fits"
    coadd = write_coadd(tmp_path, name, resolution=False, header=TILE_HEADER)
    redrock = write_redrock(tmp_path, target_ids(4), name.replace("coadd", "redrock"),
                            header=TILE_HEADER)  # fmt: skip
    table, _ = rows_of_coadd(coadd, redrock)
    assert table["spectrum_key"][0].as_py() == f"desi:cumulative-80613-{target_ids(1)[0]}"
    assert set(table["healpix"].to_pylist()) == {-1}


def test_the_production_is_in_the_header_or_the_folder(tmp_path):
    coadd = write_coadd(tmp_path, resolution=False)
    redrock = write_redrock(tmp_path, target_ids(4))
    assert set(rows_of_coadd(coadd, redrock)[0]["reduction"].to_pylist()) == {""}
    folder = tmp_path / "redux" / "iron" / "healpix" / "main" / "dark" / "91" / "9144"
    folder.mkdir(parents=True)
    for path in (coadd, redrock):
        path.rename(folder / path.name)
    table, _ = rows_of_coadd(folder / NAME, folder / REDROCK)
    assert set(table["reduction"].to_pylist()) == {"iron"}
    hdus = coadd_hdus(resolution=False)
    hdus[0].header["SPECPROD"] = "loa"
    hdus.writeto(folder / NAME, overwrite=True)
    table, _ = rows_of_coadd(folder / NAME, folder / REDROCK)
    assert set(table["reduction"].to_pylist()) == {"loa"}


def test_files_that_cannot_be_used_have_a_reason_and_are_named(tmp_path):
    coadd, ids = write_coadd(tmp_path, resolution=False), target_ids(4)
    redrock = tmp_path / REDROCK
    redrock.write_bytes(b"")
    error = reason_of(coadd, redrock)
    assert error.reason == Reason.EMPTY_FILE
    assert error.path == str(redrock)
    assert REDROCK in error.message
    for hdus, reason in (
        (redrock_hdus(ids, extname="OTHER"), Reason.MISSING_HDU),
        (redrock_hdus(ids, Z=None), Reason.MISSING_COLUMN),
        (redrock_hdus(ids, ZWARN=None), Reason.MISSING_COLUMN),
        (redrock_hdus(ids, Z=np.array(["x"] * 4)), Reason.MISSING_COLUMN),
        (redrock_hdus(ids, header={"SURVEY": "sv3", "PROGRAM": "dark"}), Reason.IDENTITY_MISMATCH),
        (redrock_hdus(ids, header=TILE_HEADER), Reason.IDENTITY_MISMATCH),
    ):
        hdus.writeto(redrock, overwrite=True)
        assert reason_of(coadd, redrock).reason == reason
    content = write_redrock(tmp_path, ids).read_bytes()
    redrock.write_bytes(content[:5760])
    assert reason_of(coadd, redrock).reason == Reason.TRUNCATED
    redrock.write_bytes(content)
    coadd.write_bytes(b"<html>")
    assert reason_of(coadd, redrock).reason == Reason.NOT_FITS


def damaged(content, rng):
    made = bytearray(content)
    kind, at = rng.randrange(4), rng.randrange(len(content))
    if kind == 0:
        made[at] = rng.choice(b"0123456789 'TF-+.E=BRZ")
    elif kind == 1:
        made[at] ^= 1 << rng.randrange(8)
    elif kind == 2:
        made[at : at + 200] = bytes(len(made[at : at + 200]))
    else:
        del made[at:]
    return bytes(made)


@pytest.mark.parametrize("which", ["coadd", "redrock"])
def test_damaged_files_give_rows_that_add_up_or_a_reason(tmp_path, which):
    # One arm is enough: it is the tables that are damaged.
    coadd = write_coadd(tmp_path, n_rows=5, arms="B", resolution=False)
    redrock = write_redrock(tmp_path, target_ids(5))
    path = coadd if which == "coadd" else redrock
    content, rng = path.read_bytes(), random.Random(7)
    tables = content[:23040]  # headers and tables stand before the images
    n_read = 0
    for _ in range(150):
        path.write_bytes(damaged(tables, rng) + content[23040:])
        try:
            table, lost = rows_of_coadd(coadd, redrock)
        except BadSpectrumError:
            continue
        n_read += 1
        spectra = [each for each in lost if each[1] != Reason.ROW_WITHOUT_FIBRE]
        assert table.num_rows + len(spectra) == 5
        assert table["z"].null_count == 0
        assert (table["z"].to_numpy() > -1).all()
    assert n_read


def test_an_empty_table_of_redshifts_leaves_all_spectra_without_one(tmp_path):
    coadd = write_coadd(tmp_path, resolution=False)
    table, lost = rows_of_coadd(coadd, write_redrock(tmp_path, target_ids(0)))
    assert table.num_rows == 0
    assert [reason for _, reason, _ in lost] == [Reason.NO_REDSHIFT] * 4


@needs_real_files
def test_a_real_coadd_and_its_redshifts_are_joined():
    folder = SHARED / "desi"
    coadd = folder / "coadd-4-80613-thru20210324.fits"
    redrock = find_redrock(coadd)
    assert redrock == folder / "redrock-4-80613-thru20210324.fits"
    table, lost = rows_of_coadd(coadd, redrock)
    assert lost == []
    (row,) = table.to_pylist()
    with fits.open(redrock) as hdus:
        found, target = hdus["REDSHIFTS"].data[0], hdus["FIBERMAP"].data[0]
        assert row["z"] == found["Z"]
        assert row["z_err"] == np.float32(found["ZERR"])
        assert row["source_row"] == row["targetid"] == target["TARGETID"]
        assert (row["ra"], row["dec"]) == (target["TARGET_RA"], target["TARGET_DEC"])
        assert row["ebv"] == target["EBV"]
        assert row["fiber"] == target["FIBER"]
    assert row["spectrum_key"] == "desi:cumulative-80613-39633345008634465"


@needs_real_files
def test_real_spectra_without_redshifts_are_told_by_what_their_fibres_point_at():
    coadd = SHARED / "desi" / "coadd-sv3-dark-26065.fits"
    assert find_redrock(coadd) is None
    table, lost = rows_of_coadd(coadd, None)
    assert table.num_rows == 0
    reasons = {name: reason for name, reason, _ in lost}
    assert len(reasons) == 5
    assert reasons["desi:sv3-dark-616088619186127404"] == Reason.SKY_FIBRE
    assert reasons["desi:sv3-dark--2713437"] == Reason.NO_REDSHIFT
