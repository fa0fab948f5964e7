"""Bad input, kind by kind, through a whole ingest: each has its reason, and costs nothing else."""

import gzip
import itertools
import tracemalloc

import desi_builders as desi
import fuzz_builders as build
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from fuzz_builders import HTML, cards_of, content_of, header_of, spans
from pipeline_builders import ingest_release
from surveys_builders import (
    coadd_columns,
    legacy_row,
    line_columns,
    plate_hdus,
    spec_hdus,
    table_hdu,
    write_spec,
    zbest_columns,
)

from spectra_scale.compute.place import Here
from spectra_scale.errors import BadSpectrumError, SpectraScaleError
from spectra_scale.surveys.files import SourceFile
from spectra_scale.surveys.formats import FORMATS, FileIn
from spectra_scale.surveys.recognise import recognise
from spectra_scale.verify import verify

GOOD = "spec-0266-51602-0001.fits"
PLATE, ZBEST = "spPlate-4055-55359.fits", "spZbest-4055-55359.fits"
COADD, REDROCK = "coadd-main-dark-9144.fits", "redrock-main-dark-9144.fits"


@pytest.fixture
def folder(tmp_path):
    """Source folder of a release of SDSS with one good file."""
    folder = tmp_path / "in"
    folder.mkdir()
    write_spec(folder, GOOD)
    return folder


@pytest.fixture
def desi_folder(tmp_path):
    """Source folder of a release of DESI with one good coadd of two targets."""
    folder = tmp_path / "in"
    folder.mkdir()
    header = desi.HEADER | {"HPXPIXEL": 1, "SPGRPVAL": 1}
    desi.write_coadd(folder, "coadd-main-dark-1.fits", n_rows=2, resolution=False, header=header)
    redrock = desi.redrock_hdus(desi.target_ids(2), header)
    redrock.writeto(folder / "redrock-main-dark-1.fits")
    return folder


def name_of(fiber):
    return f"spec-0266-51602-{fiber:04d}.fits"


def spec(folder, fiber=2, coadd=None, **row):
    """A spec file of another fibre: COADD columns and values of the row to change."""
    columns = {
        n: v for n, v in (coadd_columns(seed=fiber) | (coadd or {})).items() if v is not None
    }
    return write_spec(
        folder, name_of(fiber), coadd=columns, row=legacy_row(FIBERID=np.int32(fiber), **row)
    )


def plate(folder, hdus=None, **zbest):
    """A plate of three fibres on objects and one on sky, with its redshifts."""
    (plate_hdus(4) if hdus is None else hdus).writeto(folder / PLATE)
    table = table_hdu(zbest_columns(4, **zbest))
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(folder / ZBEST)


def coadd(folder, hdus=None, redrock=None, n_rows=3):
    ids = desi.target_ids(n_rows) + 1000
    made = desi.coadd_hdus(n_rows, resolution=False, TARGETID=ids) if hdus is None else hdus
    made.writeto(folder / COADD)
    (desi.redrock_hdus(ids) if redrock is None else redrock).writeto(folder / REDROCK)
    return ids


def ingest(folder, survey="sdss", catalogue=None):
    """The release, verified against its files, and the reason of each file and key in it."""
    number = len(list(folder.parent.glob("out*")))
    out = folder.parent / f"out{number}"
    release = ingest_release(out, folder, catalogue=catalogue, survey=survey)
    assert [c.problem for c in verify(release.path, Here(), "all") if c.problem] == []
    rows, ledger = release.catalogue.to_pylist(), release.ledger.to_pylist()
    found = {}
    for line in ledger:
        assert line["message"]
        found.setdefault(line["path"] or line["spectrum_key"], set()).add(line["reason"])
    for row in rows:
        assert row["message"] or not row["reason"]
        found.setdefault(row["source_file"], set()).add(row["reason"] or "kept")
    return release, found


def only(found, name):
    """The one thing that happened to a file."""
    (what,) = found[name]
    return what


def kept(release):
    rows = release.catalogue.to_pylist()
    return [row for row in rows if row["status"] == "kept"]


# Real files -------------------------------------------------------------------------------------


def test_each_real_malformed_file_of_sdss_has_its_reason_or_is_a_whole_short_spectrum(
    real_data, tmp_path
):
    release, found = ingest(_linked(real_data, tmp_path))
    assert found == {
        # All pixels of the file have ivar 0.
        "sdss/spec-0269-51581-0003.fits": {"all_ivar_zero"},
        # Cut in wavelength by those who published them: whole files, of fewer pixels.
        "sdss/spec-0389-51795-0222.fits": {"kept"},
        "sdss/spec-2409-54210-0523.fits": {"kept"},
        "sdss/spec-5400-56308-0220.fits": {"kept"},
        "sdss/spec-5400-56308-0772.fits": {"kept"},
        "sdss/spec-5400-56308-0792.fits": {"kept"},
        "sdss/spec-5401-55949-0724.fits": {"kept"},
        "sdss/spec-7293-56741-0527.fits": {"kept"},
        "sdss/spec-7663-57328-0527.fits": {"kept"},
        "sdss-dr7-spSpec/spDR2-008.fit": {"dr7_spspec"},
        "sdss-dr7-spSpec/spSpec-51909-0455-597.fit": {"dr7_spspec"},
        "sdss-dr7-spSpec/spSpec-52591-1070-072.fit": {"dr7_spspec"},
        "desi/missing_b_color.fits": {"other_survey"},
        "desi/missing_scores.fits": {"other_survey"},
        "desi/spectra-main-dark-9144.fits": {"not_coadded"},
    }
    # The hint names the successor.
    hints = [line["message"] for line in release.ledger.to_pylist() if "spSpec" in line["path"]]
    assert all("DR8" in hint for hint in hints)
    assert len(kept(release)) == 8


def _linked(real_data, tmp_path):
    folder = tmp_path / "in"
    folder.symlink_to(real_data / "malformed")
    return folder


def test_a_real_coadd_without_an_arm_or_without_scores_is_read_by_what_it_has(
    real_data, desi_folder
):
    for number, name in enumerate(("missing_b_color", "missing_scores")):
        content = (real_data / "malformed" / "desi" / f"{name}.fits").read_bytes()
        pixel = 9144 if number else 9145
        content = content.replace(b"HPXPIXEL=                 9144", b"HPXPIXEL=%21d" % pixel)
        content = content.replace(b"SPGRPVAL=                 9144", b"SPGRPVAL=%21d" % pixel)
        (desi_folder / f"coadd-sv3-dark-{pixel}.fits").write_bytes(content)
        ids = [39632936152072660, 39632936152073654]
        redrock = desi.redrock_hdus(ids, targets=False)
        redrock.writeto(desi_folder / f"redrock-sv3-dark-{pixel}.fits")
    rows = [
        {"TARGETID": t, "SURVEY": "sv3", "PROGRAM": "dark", "HEALPIX": pixel, "TARGET_RA": 1.0,
         "TARGET_DEC": 2.0, "Z": 2.0, "ZERR": 1e-5, "ZWARN": 0, "SPECTYPE": "QSO"}
        for t, pixel in zip(ids, (9144, 9145), strict=True)
    ]  # fmt: skip
    path = desi_folder.parent / "zall-pix-fuji.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    release, found = ingest(desi_folder, "desi", path)
    assert found["coadd-sv3-dark-9144.fits"] == {"kept"}
    assert found["coadd-sv3-dark-9145.fits"] == {"kept"}
    messages = {row["source_file"]: row["message"] for row in kept(release)}
    assert "no arm B" in messages["coadd-sv3-dark-9145.fits"]


# Files that are something else, or cut -----------------------------------------------------------

NOTHING = {
    "empty": (b"", "empty_file"),
    "html": (HTML * 100, "not_fits"),
    "short html": (HTML, "not_fits"),
    "zeros": (b"\0" * 5760, "not_fits"),
    "text": (b"no such file\n", "not_fits"),
    "the first word of FITS": (b"SIMPLE  =", "truncated"),
    "half of a gzip file": (gzip.compress(HTML * 1000)[:40], "truncated"),
    "gzipped html": (gzip.compress(HTML * 100), "not_fits"),
}


@pytest.mark.parametrize("kind", NOTHING)
def test_what_is_no_fits_is_told_by_its_content_under_any_name_of_sdss(folder, kind):
    content, reason = NOTHING[kind]
    plate(folder)
    names = (name_of(2), f"{name_of(3)}.gz", "spPlate-4056-55359.fits", "spPlate-4057-55359.fits",
             "spZbest-4057-55359.fits", "other.fits",
             "spec-15143-59205-04544940698.fits")  # fmt: skip
    for name in names:
        (folder / name).write_bytes(content)
    plate_hdus(4).writeto(folder / "spPlate-4057-55359.fits", overwrite=True)
    release, found = ingest(folder)
    # Of spPlate-4056 the redshifts are looked for first: it has none.
    told = {name: only(found, name) for name in names if name not in (names[2], names[4])}
    assert set(told.values()) <= {reason, "unknown_format", "unreadable"}
    assert told[name_of(2)] == reason
    # What is wrong with the redshifts of a plate is said of the plate.
    assert only(found, "spPlate-4057-55359.fits") != "kept"
    assert only(found, GOOD) == "kept"
    assert len(kept(release)) == 1 + 3


@pytest.mark.parametrize("kind", NOTHING)
def test_what_is_no_fits_is_told_by_its_content_under_any_name_of_desi(desi_folder, kind):
    content, reason = NOTHING[kind]
    ids = coadd(desi_folder)
    for name in (COADD, "redrock-main-dark-2.fits", "files/001-of-001.hdf5", "other.fits.gz"):
        (desi_folder / name).parent.mkdir(exist_ok=True)
        (desi_folder / name).write_bytes(content)
    header = desi.HEADER | {"HPXPIXEL": 2, "SPGRPVAL": 2}
    desi.write_coadd(desi_folder, "coadd-main-dark-2.fits", header=header, resolution=False)
    release, found = ingest(desi_folder, "desi")
    assert only(found, COADD) == reason
    assert only(found, "coadd-main-dark-2.fits") == reason
    assert only(found, "files/001-of-001.hdf5") != "kept"
    assert only(found, "other.fits.gz") != "kept"
    assert len(kept(release)) == 2
    assert not {row["targetid"] for row in kept(release)} & set(ids.tolist())


def cut(path, part):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])


@pytest.mark.parametrize("part", [0.05, 0.3, 0.45])
def test_a_cut_file_is_truncated_whatever_its_kind(folder, part):
    cut(spec(folder, 2), part)
    plate(folder)
    cut(folder / PLATE, part)
    _, found = ingest(folder)
    assert only(found, name_of(2)) == only(found, PLATE) == "truncated"
    assert only(found, GOOD) == "kept"


def test_what_is_cut_behind_all_that_is_read_is_whole(folder):
    # The lines of a spectrum are last in its file, the sky of a plate in its.
    cut(spec(folder, 2), 0.95)
    plate(folder)
    cut(folder / PLATE, 0.95)
    release, found = ingest(folder)
    assert only(found, name_of(2)) == "kept"
    assert found[PLATE] == {"kept", "sky_fibre"}
    assert len(kept(release)) == 2 + 3


@pytest.mark.parametrize("part", [0.05, 0.3, 0.6])
def test_a_cut_coadd_is_truncated(desi_folder, part):
    coadd(desi_folder)
    content = (desi_folder / COADD).read_bytes()
    (desi_folder / COADD).write_bytes(content[: int(len(content) * part)])
    release, found = ingest(desi_folder, "desi")
    assert only(found, COADD) == "truncated"
    assert len(kept(release)) == 2


# Pixels -----------------------------------------------------------------------------------------


def test_nan_inf_and_negative_ivar_are_missing_pixels_and_counted(folder):
    columns = coadd_columns(seed=2)
    columns["flux"][[0, 1, 2]] = np.nan, np.inf, -np.inf
    columns["ivar"][[3, 4, 5]] = np.nan, np.inf, -1
    columns["ivar"][6] = 0
    spec(folder, 2, columns)
    release, _ = ingest(folder)
    row = [row["source_file"] for row in release.catalogue.to_pylist()].index(name_of(2))
    found = release.read(slice(row, row + 1))
    at = 35800 - found.first_pixel
    assert (found.ivar[0, at : at + 7] == 0).all()
    assert np.isfinite(found.ivar).all()
    np.testing.assert_array_equal(found.flux[0, at + 7 : at + 50], columns["flux"][7:])
    assert release.catalogue["n_repaired"].to_pylist()[row] == 6


ALL_BAD = [
    ("flux", np.nan, "non_finite_flux"), ("flux", np.inf, "non_finite_flux"),
    ("ivar", np.nan, "bad_ivar"), ("ivar", np.inf, "bad_ivar"), ("ivar", -1, "bad_ivar"),
    ("ivar", 0, "all_ivar_zero"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "reason"), ALL_BAD)
def test_a_spectrum_without_a_usable_pixel_is_quarantined_in_files_of_every_kind(
    folder, name, value, reason
):
    spec(folder, 2, {name: np.full(50, value, "f4")})
    hdus = plate_hdus(4)
    hdus[("flux", "ivar").index(name)].data[1] = value
    plate(folder, hdus)
    datasets = build.sdss_datasets(0)
    datasets[f"spectrum_{name}"][2] = value
    (folder / "001-of-001.hdf5").write_bytes(build.hdf5(datasets))
    release, found = ingest(folder)
    assert found[name_of(2)] == {reason}
    assert found[PLATE] == {"kept", reason, "sky_fibre"}
    assert found["001-of-001.hdf5"] == {"kept", reason}
    assert len(kept(release)) == 1 + 2 + 2


@pytest.mark.parametrize(("name", "value", "reason"), ALL_BAD)
def test_a_target_without_a_usable_pixel_in_any_arm_is_quarantined(
    desi_folder, name, value, reason
):
    hdus = desi.coadd_hdus(3, resolution=False, TARGETID=desi.target_ids(3) + 1000)
    for arm in "BRZ":
        hdus[f"{arm}_{name.upper()}"].data[1] = value
    coadd(desi_folder, hdus)
    release, found = ingest(desi_folder, "desi")
    assert found[COADD] == {"kept", reason}
    assert len(kept(release)) == 2 + 2


# Tables -----------------------------------------------------------------------------------------


def test_tables_of_zero_rows_have_a_reason(folder):
    for fiber, index in ((2, 1), (3, 2)):
        hdus = spec_hdus(row=legacy_row(FIBERID=np.int32(fiber)))
        hdus[index].data = hdus[index].data[:0]
        hdus.writeto(folder / name_of(fiber))
    hdus = spec_hdus(row=legacy_row(FIBERID=np.int32(4)))
    hdus[3].data = hdus[3].data[:0]
    hdus.writeto(folder / name_of(4))
    plate_hdus(4).writeto(folder / PLATE)
    empty = table_hdu(zbest_columns(4))
    empty.data = empty.data[:0]
    fits.HDUList([fits.PrimaryHDU(), empty]).writeto(folder / ZBEST)
    datasets = {name: values[:0] for name, values in build.sdss_datasets(0).items()}
    (folder / "001-of-001.hdf5").write_bytes(build.hdf5(datasets))
    release, found = ingest(folder)
    assert only(found, name_of(2)) == only(found, name_of(3)) == "no_rows"
    # Without lines it is a spectrum like any other.
    assert only(found, name_of(4)) == "kept"
    assert only(found, PLATE) == "no_redshift"
    assert only(found, "001-of-001.hdf5") == "no_rows"
    measured = dict(zip(release.catalogue["source_file"].to_pylist(),
                        release.lines["measured"].to_pylist(), strict=True))  # fmt: skip
    assert measured[GOOD]


@pytest.mark.parametrize("which", ["coadd", "redshifts"])
def test_a_coadd_or_its_redshifts_of_zero_rows_have_a_reason(desi_folder, which):
    n_rows = 0 if which == "coadd" else 3
    hdus = desi.coadd_hdus(n_rows, resolution=False, TARGETID=desi.target_ids(n_rows) + 1000)
    ids = desi.target_ids(3 - n_rows) + 1000
    coadd(desi_folder, hdus, desi.redrock_hdus(ids if which == "redshifts" else ids[:3]))
    release, found = ingest(desi_folder, "desi")
    assert only(found, COADD) in {"no_rows", "no_redshift", "unreadable"}
    assert len(kept(release)) == 2


def test_columns_in_any_case_are_found_in_files_of_every_kind(folder):
    def turned(columns):
        return {name.swapcase(): values for name, values in columns.items()}

    hdus = spec_hdus(
        turned(coadd_columns(seed=2)), turned(legacy_row(FIBERID=np.int32(2))),
        turned(line_columns()),
    )  # fmt: skip
    hdus.writeto(folder / name_of(2))
    plate_hdus(4).writeto(folder / PLATE)
    table = table_hdu(turned(zbest_columns(4)))
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(folder / ZBEST)
    datasets = {n.swapcase(): values for n, values in build.sdss_datasets(0).items()}
    (folder / "001-of-001.hdf5").write_bytes(build.hdf5(datasets))
    release, found = ingest(folder)
    assert only(found, name_of(2)) == only(found, "001-of-001.hdf5") == "kept"
    assert found[PLATE] == {"kept", "sky_fibre"}
    assert len(kept(release)) == 2 + 3 + 3
    assert release.lines["measured"].to_pylist().count(True) == 2


def test_columns_in_any_case_are_found_in_a_coadd_and_a_catalogue(desi_folder):
    ids = desi.target_ids(3) + 1000
    hdus = desi.coadd_hdus(3, resolution=False, targetid=ids, TARGETID=None)
    coadd(desi_folder, hdus)
    release, found = ingest(desi_folder, "desi")
    assert only(found, COADD) == "kept"
    rows = [
        {"targetid": int(t), "Survey": "main", "program": "dark", "HealPix": 9144,
         "target_ra": 1.0, "Target_Dec": 2.0, "z": 0.2, "zerr": 1e-5, "zwarn": 0,
         "spectype": "QSO"}
        for t in ids
    ]  # fmt: skip
    path = desi_folder.parent / "zall-pix-fuji.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    release, _ = ingest(desi_folder, "desi", path)
    assert [row["z"] for row in kept(release)] == [0.2] * 3


@pytest.mark.parametrize("name", ["flux", "loglam", "ivar", "and_mask"])
def test_a_column_that_is_not_there_or_there_twice_is_a_reason(folder, name):
    spec(folder, 2, {name: None})
    columns = coadd_columns(seed=3)
    hdus = spec_hdus(columns, legacy_row(FIBERID=np.int32(3)))
    content = content_of(hdus).replace(b"'model   '", b"'%-8s'" % name.encode())
    (folder / name_of(3)).write_bytes(content)
    _, found = ingest(folder)
    assert only(found, name_of(2)) == "missing_column"
    assert only(found, name_of(3)) in {"missing_column", "unreadable"}


# Identity ---------------------------------------------------------------------------------------


def test_of_one_observation_in_several_files_one_is_kept_and_the_others_are_told(folder):
    content = (folder / GOOD).read_bytes()
    for name in (f"b/{GOOD}", "copy.fits", f"c/{GOOD}.gz"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(gzip.compress(content) if "gz" in name else content)
    release, found = ingest(folder)
    (row,) = kept(release)
    others = {name: reasons for name, reasons in found.items() if name != row["source_file"]}
    assert set(others) == {GOOD, f"b/{GOOD}", "copy.fits", f"c/{GOOD}.gz"} - {row["source_file"]}
    assert all(reasons == {"duplicate"} for reasons in others.values())


def test_a_fibre_number_that_a_plate_or_its_redshifts_have_twice_is_nobodys(folder):
    # One flipped bit turns the number of a fibre into that of its neighbour.
    hdus = plate_hdus(4)
    hdus[5].data["FIBERID"][0] = 2
    plate(folder, hdus)
    release, found = ingest(folder)
    assert [row["fiber"] for row in kept(release) if row["plate"] == 4055] == [3]
    assert found[PLATE] == {"kept", "duplicate", "row_without_fibre", "sky_fibre"}


def test_a_fibre_of_two_redshifts_is_nobodys(folder):
    plate(folder, FIBERID=np.array([1, 2, 2, 4], "i4"))
    release, found = ingest(folder)
    assert [row["fiber"] for row in kept(release) if row["plate"] == 4055] == [1]
    assert found[PLATE] == {"kept", "duplicate", "no_redshift", "sky_fibre"}


@pytest.mark.parametrize("which", ["coadd", "redshifts"])
def test_a_target_that_a_coadd_or_its_redshifts_have_twice_is_nobodys(desi_folder, which):
    ids = desi.target_ids(3) + 1000
    twice = ids[[0, 0, 2]]
    hdus = desi.coadd_hdus(3, resolution=False, TARGETID=twice if which == "coadd" else ids)
    redrock = desi.redrock_hdus(twice if which == "redshifts" else ids, targets=False)
    coadd(desi_folder, hdus, redrock)
    release, found = ingest(desi_folder, "desi")
    mine = [row["targetid"] for row in kept(release) if row["source_file"] == COADD]
    assert mine == [int(ids[2])]
    other = "row_without_fibre" if which == "coadd" else "no_redshift"
    assert found[COADD] == {"kept", "duplicate", other}


def test_a_target_that_a_coadd_has_twice_is_quarantined_if_the_catalogue_asks_for_it(desi_folder):
    ids = desi.target_ids(3) + 1000
    coadd(desi_folder, desi.coadd_hdus(3, resolution=False, TARGETID=ids[[0, 0, 2]]))
    rows = [
        {"TARGETID": int(t), "SURVEY": "main", "PROGRAM": "dark", "HEALPIX": 9144,
         "TARGET_RA": 1.0, "TARGET_DEC": 2.0, "Z": 0.2, "ZERR": 1e-5, "ZWARN": 0,
         "SPECTYPE": "QSO"}
        for t in ids
    ]  # fmt: skip
    path = desi_folder.parent / "zall-pix-fuji.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    release, _ = ingest(desi_folder, "desi", path)
    reasons = {r["targetid"]: r["reason"] for r in release.catalogue.to_pylist()}
    assert reasons == {int(ids[0]): "duplicate", int(ids[1]): "row_without_fibre", int(ids[2]): ""}


def test_files_under_each_others_names_are_refused(folder):
    a, b = spec(folder, 2), spec(folder, 3)
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    _, found = ingest(folder)
    assert only(found, name_of(2)) == only(found, name_of(3)) == "identity_mismatch"


def test_a_catalogue_of_odd_rows_is_accounted_row_by_row(folder):
    for fiber in (2, 3, 4, 5):
        spec(folder, fiber)
    fibers = [1, 2, 2, 3, 4, None, -1, 70000000000, 5, 600]
    z = [0.1, float("nan"), 0.2, -1.0, float("inf"), 0.1, 0.1, 0.1, None, 0.1]
    rows = {"PLATE": [266] * 10, "MJD": [51602] * 10, "FIBERID": fibers, "PLUG_RA": [1.0] * 10,
            "PLUG_DEC": [1.0] * 10, "CLASS": ["GALAXY"] * 10, "Z": z, "ZWARNING": [0] * 10,
            "RUN2D": ["26"] * 10}  # fmt: skip
    path = folder.parent / "catalogue.parquet"
    pq.write_table(pa.table(rows), path)
    release, found = ingest(folder, catalogue=path)
    # A redshift is revised, and the cut on it is that of prepare: no spectrum is lost by it.
    assert sorted(row["fiber"] for row in kept(release)) == [1, 2, 3, 4, 5]
    ledger = [line for line in release.ledger.to_pylist() if line["kind"] == "row"]
    assert sorted(line["reason"] for line in ledger) == [
        "bad_identity", "bad_identity", "bad_identity", "duplicate", "row_without_file",
    ]  # fmt: skip
    assert release.n_rows + len(ledger) == 10
    assert found["sdss:266-51602-600"] == {"row_without_file"}


@pytest.mark.parametrize("z", [np.nan, np.inf, -np.inf, -1, -1.5])
def test_a_redshift_of_a_file_that_is_none_is_a_reason(folder, z):
    spec(folder, 2, Z=np.float32(z))
    values = np.array([z, 0.2, 0.3, 0.4], "f4")
    plate(folder, Z=values)
    release, found = ingest(folder)
    assert only(found, name_of(2)) == "bad_redshift"
    # The spectrum of a fibre is what it is, and the redshift as the survey gives it.
    assert "kept" in found[PLATE]
    low = [row["z"] for row in kept(release) if row["source_file"] == PLATE]
    assert len(low) in {2, 3}


@pytest.mark.parametrize("z", [np.nan, np.inf, -1])
def test_a_redshift_of_a_target_that_is_none_is_a_reason(desi_folder, z):
    ids = desi.target_ids(3) + 1000
    coadd(desi_folder, redrock=desi.redrock_hdus(ids, Z=np.array([0.1, z, 0.2])))
    release, found = ingest(desi_folder, "desi")
    assert found[COADD] == {"kept", "bad_redshift"}
    assert len(kept(release)) == 4


# Byte order and packing --------------------------------------------------------------------------


def _turned(content, index, size=4):
    """The data of an HDU in the other byte order."""
    _, start, stop = spans(content)[index]
    turned = np.frombuffer(content[start:stop], f"u{size}").byteswap().tobytes()
    return content[:start] + turned + content[stop:]


def test_a_spectrum_of_swapped_bytes_has_wavelengths_off_the_grid(folder, tmp_path):
    path = spec(folder, 2)
    path.write_bytes(_turned(path.read_bytes(), 1))
    _, found = ingest(folder)
    assert only(found, name_of(2)) == "bad_loglam"


def test_a_coadd_of_swapped_wavelengths_is_off_the_grid(desi_folder):
    coadd(desi_folder)
    path = desi_folder / COADD
    path.write_bytes(_turned(path.read_bytes(), 2, 8))
    release, found = ingest(desi_folder, "desi")
    assert only(found, COADD) == "bad_wavelength"
    assert len(kept(release)) == 2


def test_hdf5_numbers_of_either_byte_order_are_the_same_spectra(folder):
    datasets = build.sdss_datasets(0)
    (folder / "a.hdf5").write_bytes(build.hdf5(datasets))
    release, _ = ingest(folder)
    swapped = {
        name: values.astype(values.dtype.newbyteorder(">"))
        if values.dtype.kind in "if"
        else values
        for name, values in datasets.items()
    }
    (folder / "a.hdf5").write_bytes(build.hdf5(swapped))
    with h5py.File(folder / "a.hdf5") as file:
        assert file["spectrum_flux"].dtype == ">f4"
    again, _ = ingest(folder)
    np.testing.assert_array_equal(again.flux.compute(), release.flux.compute())
    np.testing.assert_array_equal(again.ivar.compute(), release.ivar.compute())


def _packed(content, how):
    return build.fpacked(content) if how == "fz" else gzip.compress(content)


@pytest.mark.parametrize("how", ["gz", "fz"])
def test_packed_files_of_sdss_are_the_same_spectra(folder, how):
    if how == "fz" and not build.has_fpack():
        pytest.skip("fpack is not here")
    spec(folder, 2)
    plate(folder)
    release, _ = ingest(folder)
    for name in (name_of(2), PLATE, ZBEST):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / f"{name}.{how}").write_bytes(_packed(content, how))
    again, found = ingest(folder)
    assert only(found, f"{name_of(2)}.{how}") == "kept"
    assert (
        again.catalogue["spectrum_key"].to_pylist()
        == release.catalogue["spectrum_key"].to_pylist()
    )
    np.testing.assert_array_equal(again.flux.compute(), release.flux.compute())
    np.testing.assert_array_equal(again.ivar.compute(), release.ivar.compute())
    np.testing.assert_array_equal(again.mask_bits.compute(), release.mask_bits.compute())


@pytest.mark.parametrize("how", ["gz", "fz"])
def test_packed_files_of_desi_are_the_same_spectra(desi_folder, how):
    if how == "fz" and not build.has_fpack():
        pytest.skip("fpack is not here")
    coadd(desi_folder)
    release, _ = ingest(desi_folder, "desi")
    for name in (COADD, REDROCK):
        content = (desi_folder / name).read_bytes()
        (desi_folder / name).unlink()
        (desi_folder / f"{name}.{how}").write_bytes(_packed(content, how))
    again, _ = ingest(desi_folder, "desi")
    assert (
        again.catalogue["spectrum_key"].to_pylist()
        == release.catalogue["spectrum_key"].to_pylist()
    )
    np.testing.assert_array_equal(again.flux.compute(), release.flux.compute())
    np.testing.assert_array_equal(again.mask_bits.compute(), release.mask_bits.compute())


# Headers that lie -------------------------------------------------------------------------------

COUNTS = ("NAXIS", "NAXIS1", "NAXIS2", "PCOUNT", "GCOUNT", "TFIELDS", "BITPIX")
HUGE = ("1000000000000", "4000000000", "99999999999999999999", "-1000000000000")


def _with_card(content, key, value):
    """The value of a card changed in all headers that have it."""
    for start, data, _ in reversed(spans(content)):
        cards = [f"{key:<8}= {value:>20}".encode() if card.startswith(key.ljust(8).encode())
                 else card for card in cards_of(content[start:data])]  # fmt: skip
        content = content[:start] + header_of(cards) + content[data:]
    return content


def _read_all(folder, kind, name, redshifts=None):
    """All that ingest does with a file: look, find rows, read spectra; what is said of it."""
    path = folder / name
    try:
        recognise(SourceFile(folder, name))
        partner = folder / redshifts if redshifts else None
        _, lost = FORMATS[kind].rows([FileIn(name, path, partner)])
        FORMATS[kind].read(path, np.array([0, 1, int(desi.target_ids(1)[0])]))
    except BadSpectrumError as error:
        return error.message
    return lost[0].message if lost else ""


CLAIMS = {
    "spec": (GOOD, None), "spplate": (PLATE, None), "spplate of its redshifts": (PLATE, ZBEST),
    "coadd": (COADD, None), "coadd of its redshifts": (COADD, REDROCK),
}  # fmt: skip


@pytest.mark.parametrize("what", CLAIMS)
def test_headers_that_claim_numbers_beyond_measure_allocate_nothing(tmp_path, what):
    write_spec(tmp_path, GOOD)
    plate(tmp_path)
    coadd(tmp_path)
    kind, (name, redshifts) = what.split()[0], CLAIMS[what]
    path = tmp_path / (redshifts or name)
    whole, refused = path.read_bytes(), 0
    partner = redshifts or {"spplate": ZBEST, "coadd": REDROCK}.get(kind)
    _read_all(tmp_path, kind, name, partner)  # what is compiled or imported at first use
    for key, value in itertools.product(COUNTS, HUGE):
        path.write_bytes(_with_card(whole, key, value))
        path.with_name("other.fits").write_bytes(path.read_bytes())
        tracemalloc.start()
        told = _read_all(tmp_path, kind, name, partner)
        other = recognise(SourceFile(tmp_path, "other.fits"))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # numpy counts what it is promised, touched or not; nor is more asked for in vain.
        assert peak < 30e6, (key, value)
        assert "allocate" not in f"{told} {getattr(other, 'message', '')}", (key, value)
        refused += bool(told)
    assert refused > len(COUNTS)


def test_a_release_in_which_nothing_can_be_used_is_an_error_and_not_a_release(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for fiber in (1, 2):
        path = spec(folder, fiber)
        path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(SpectraScaleError, match=r"no spectrum could be used; found file: trunc"):
        ingest_release(tmp_path / "out", folder)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_what_is_behind_a_second_primary_header_is_another_file_whatever_was_read_before(folder):
    content = (folder / GOOD).read_bytes()
    # HDUs with headers as short as a primary one, read first.
    plate(folder)
    (folder / name_of(2)).write_bytes(content[:2880] + content)
    (folder / "twice.fits").write_bytes(content * 2)
    release, found = ingest(folder)
    assert only(found, name_of(2)) == "missing_hdu"
    # The first file of two in one is whole.
    assert only(found, "twice.fits") == "duplicate"
    assert len(kept(release)) == 1 + 3


@pytest.mark.parametrize("index", range(1, 6))
def test_a_plate_that_lacks_an_hdu_is_refused_and_not_read_one_place_on(folder, index):
    hdus = plate_hdus(4)
    del hdus[index]
    plate(folder, hdus)
    _, found = ingest(folder)
    assert only(found, PLATE) in {"missing_hdu", "unreadable"}


@pytest.mark.parametrize("card", ["NAXIS1", "NAXIS2", "NAXIS"])
def test_two_negative_numbers_are_no_size(folder, card):
    path = spec(folder, 2)
    content = path.read_bytes()
    start, data, _ = spans(content)[1]
    cards = cards_of(content[start:data])
    for key in {"NAXIS1", "NAXIS2"} if card == "NAXIS2" else {card}:
        at = next(i for i, each in enumerate(cards) if each.startswith(key.ljust(8).encode()))
        cards[at] = f"{key:<8}= {-int(cards[at][10:30]):>20}".encode()
    path.write_bytes(content[:start] + header_of(cards) + content[data:])
    _, found = ingest(folder)
    assert only(found, name_of(2)) in {"unreadable", "missing_hdu"}
