"""SDSS spec files: what formats.md A1 says, what astropy reads, and what damage does."""

import gzip
import math
import warnings

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from surveys_builders import (
    FIRST_PIXEL,
    N_PIXELS,
    SHARED,
    boss_row,
    coadd_columns,
    legacy_row,
    spec_hdus,
    table_hdu,
    write_spec,
)

from spectra_scale.errors import BadSpectrumError
from spectra_scale.surveys import sdss_spec
from spectra_scale.surveys.canonical import CATALOGUE_SCHEMA
from spectra_scale.surveys.reasons import Reason, describe
from spectra_scale.surveys.sdss_spec import read_spec, read_spec_block

REAL = [
    path
    for path in sorted(SHARED.glob("*/*/*.fits"))
    if path.parent.name in {"spec-lite", "spec-full", "repeats"}
]
needs_real_files = pytest.mark.skipif(not REAL, reason="../shared/data is not here")


def reason_of(path, **options):
    with pytest.raises(BadSpectrumError) as caught:
        read_spec(path, **options)
    assert caught.value.path == str(path)
    assert describe(caught.value.reason)
    return caught.value.reason


def assert_same_bits(found, expected):
    assert found.dtype.isnative
    assert found.tobytes() == expected.astype(expected.dtype.newbyteorder("=")).tobytes()


class Recorder:
    """A function that remembers what it was called with."""

    def __init__(self, function):
        self.function, self.calls = function, []

    def __call__(self, *args):
        self.calls.append(args)
        return self.function(*args)


def no_astropy(*_):
    pytest.fail("the fast parser gave up on a plain file")


@needs_real_files
def test_real_spectra_are_read_as_astropy_reads_them_to_the_bit(monkeypatch):
    monkeypatch.setattr(sdss_spec, "_slow_tables", no_astropy)
    for path in REAL:
        spec = read_spec(path)
        with fits.open(path, memmap=False) as hdus:
            coadd = {name.upper(): hdus[1].data[name] for name in hdus[1].columns.names}
        assert_same_bits(spec.arrays.flux, coadd["FLUX"])
        assert_same_bits(spec.arrays.ivar, coadd["IVAR"])
        assert_same_bits(spec.arrays.mask_bits.view(np.int32), coadd["AND_MASK"])
        assert spec.arrays.mask_bits.dtype == np.uint32
        pixels = spec.arrays.first_pixel + np.arange(len(spec.arrays.flux))
        # float32 wavelengths are off the grid by up to half a unit in the last place: 2.4e-7
        # above log λ = 4 (formats.md §0.2).
        np.testing.assert_allclose(pixels * 1e-4, coadd["LOGLAM"], rtol=0, atol=2.4e-7)
        assert spec.n_repaired == 0


# astropy takes 30 ms for a header of 236 columns: one file in six unless slow tests are asked for.
@needs_real_files
@pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_real_rows_are_read_as_astropy_reads_them(step):
    for path in REAL[::step]:
        found = read_spec(path).row
        with warnings.catch_warnings(), fits.open(path, memmap=False) as hdus:
            warnings.simplefilter("ignore")
            row = hdus[2].data[0]
            text = {name: str(row[name]).strip() for name in ("CLASS", "SUBCLASS", "RUN2D")}
            text["SPECOBJID"] = str(row["SPECOBJID"]).strip()
            identity = [row[name] for name in ("PLATE", "MJD", "FIBERID", "ZWARNING")]
            floats = [float(row[name]) for name in ("Z", "PLUG_RA", "PLUG_DEC", "SN_MEDIAN_ALL")]
        assert [found[name] for name in ("plate", "mjd", "fiber", "zwarning")] == identity
        assert [found[name] for name in ("z", "ra", "dec", "sn_median_all")] == floats
        names = ("class", "subclass", "reduction", "specobjid")
        assert [found[name] for name in names] == list(text.values())


@needs_real_files
def test_the_fall_back_gives_what_the_fast_parser_gives():
    for path in REAL[::8]:
        buffer = sdss_spec.load(path)
        wants = (sdss_spec._COADD, sdss_spec._ROW, sdss_spec._LINES)
        fast = sdss_spec._read(path, buffer, wants, sdss_spec._fast_tables)
        slow = sdss_spec._read(path, buffer, wants, sdss_spec._slow_tables)
        assert fast.arrays.first_pixel == slow.arrays.first_pixel
        for name in ("flux", "ivar", "mask_bits"):
            assert_same_bits(getattr(fast.arrays, name), getattr(slow.arrays, name))
        assert repr(fast.row) == repr(slow.row)
        assert repr(fast.lines) == repr(slow.lines)


@needs_real_files
def test_137_real_spectra_are_in_the_papers_range():
    rows = [read_spec(path).row for path in REAL if path.parent.name != "repeats"]
    classes = [row["class"] for row in rows if 0.05 <= row["z"] <= 0.36 and row["zwarning"] == 0]
    assert (classes.count("GALAXY"), classes.count("QSO")) == (96, 41)


@needs_real_files
def test_real_boss_rows_have_a_known_extinction_law():
    rows = [read_spec(path).row for path in REAL]
    boss = [row for row in rows if row["instrument"] == "BOSS"]
    # Two of 71 have no photometric match.
    assert sum(math.isfinite(row["ebv"]) for row in boss) == len(boss) - 2
    assert all(0 < row["ebv"] < 1 for row in boss if math.isfinite(row["ebv"]))
    assert {row["survey"] for row in boss} == {"boss", "eboss"}


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not here")
def test_every_real_malformed_file_has_a_reason_or_is_a_short_spectrum():
    reasons = {}
    for path in sorted((SHARED / "malformed").glob("sdss*/*")):
        try:
            spec = read_spec(path, want_lines=True)
        except BadSpectrumError as error:
            reasons[path.name] = error.reason
        else:
            assert (spec.arrays.ivar > 0).any()
    assert reasons == {
        "spec-0269-51581-0003.fits": Reason.ALL_IVAR_ZERO,
        "spDR2-008.fit": Reason.DR7_SPSPEC,
        "spSpec-51909-0455-597.fit": Reason.DR7_SPSPEC,
        "spSpec-52591-1070-072.fit": Reason.DR7_SPSPEC,
    }


@pytest.mark.parametrize("names", [("COADD", "SPECOBJ", "SPZLINE"), (None, None, None)])
@pytest.mark.parametrize("upper", [False, True])
def test_columns_are_found_by_name_in_any_case_and_hdus_without_names_by_place(
    tmp_path, names, upper
):
    coadd = coadd_columns(upper=upper)
    shuffled = dict(reversed(coadd.items()))
    spec = read_spec(write_spec(tmp_path, coadd=shuffled, names=names), want_lines=True)
    expected = {name.lower(): values for name, values in coadd.items()}
    assert_same_bits(spec.arrays.flux, expected["flux"])
    assert_same_bits(spec.arrays.ivar, expected["ivar"])
    assert_same_bits(spec.arrays.mask_bits, expected["and_mask"].view("u4"))
    assert spec.lines["halpha_flux"] == 40


def test_wavelengths_come_from_the_loglam_column_and_not_from_coeff0(tmp_path):
    path = write_spec(tmp_path)
    assert fits.getheader(path)["COEFF0"] == 3.5799
    assert read_spec(path).arrays.first_pixel == FIRST_PIXEL


def test_a_name_wins_over_a_place(tmp_path):
    hdus = spec_hdus()
    moved = fits.HDUList([hdus[0], hdus[2], hdus[1], hdus[3]])
    path = tmp_path / "spec-0266-51602-0001.fits"
    moved.writeto(path)
    assert read_spec(path).row["plate"] == 266


def test_line_fits_are_found_where_dr18_moved_them(tmp_path):
    hdus = spec_hdus()
    zall = table_hdu({"Z": np.zeros(3, "f4")}, "ZALL")
    hdus[3].name = "ZLINE"
    path = tmp_path / "spec-0266-51602-0001.fits"
    fits.HDUList([hdus[0], hdus[1], hdus[2], zall, hdus[3]]).writeto(path)
    assert read_spec(path, want_lines=True).lines["halpha_flux"] == 40


def test_a_legacy_row_is_made_canonical(tmp_path):
    row = read_spec(write_spec(tmp_path)).row
    assert list(row) == CATALOGUE_SCHEMA.names
    text = ("spectrum_key", "reduction", "survey", "instrument", "specobjid", "platequality")
    assert [row[name] for name in text] == [
        "sdss:266-51602-1", "26", "sdss", "SDSS", "299489676975171584", "good",
    ]  # fmt: skip
    assert row["targettype"] == "SCIENCE"
    assert row["specprimary"] == 1
    # Legacy files do not fill Z_NOQSO: they hold 0.
    assert math.isnan(row["z_noqso"])
    assert row["zwarning_noqso"] == -1
    assert math.isnan(row["ebv"])


def test_a_boss_row_is_made_canonical(tmp_path):
    path = write_spec(tmp_path, "spec-3606-55182-0679.fits", row=boss_row())
    row = read_spec(path).row
    assert (row["survey"], row["instrument"], row["reduction"]) == ("boss", "BOSS", "v5_13_0")
    assert row["specobjid"] == "4060181793114181632"
    assert row["z_noqso"] == float(np.float32(0.31))
    assert row["zwarning_noqso"] == 4
    # A_r = 2.285 E(B-V) in releases after Schlafly & Finkbeiner 2011; 0.2285 is a float32.
    assert row["ebv"] == pytest.approx(0.1, rel=1e-6)
    later = boss_row(MJD=np.int32(57328), PLATE=np.int32(7663), OBJTYPE="SKY")
    row = read_spec(write_spec(tmp_path, "a.fits", row=later)).row
    assert (row["survey"], row["targettype"]) == ("eboss", "SKY")


@pytest.mark.parametrize(
    ("u", "r", "ebv"),
    # Schlegel et al.: A_u = 5.155 E(B-V), A_r = 2.751 E(B-V); any other ratio is no known law.
    [(0.5155, 0.2751, 0.1), (0.5, 0.2, math.nan), (0.0, 0.0, math.nan), (-1, -1, math.nan)],
)
def test_the_extinction_law_is_told_by_the_ratio_of_its_bands(tmp_path, u, r, ebv):
    row = boss_row(EXTINCTION=np.array([u, 1, r, 1, 1], "f4"))
    found = read_spec(write_spec(tmp_path, "a.fits", row=row)).row["ebv"]
    assert found == pytest.approx(ebv, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("objid", [None, np.float32(2.99e17), "2.99489E+17"])
def test_a_missing_or_rounded_specobjid_is_rebuilt(tmp_path, objid):
    row = legacy_row(SPECOBJID=objid)
    # Bit packing of formats.md A3: (266, 1, 51602, 26).
    assert read_spec(write_spec(tmp_path, row=row)).row["specobjid"] == "299489676975171584"


def test_the_reduction_comes_from_the_header_where_the_row_has_none(tmp_path):
    hdus = spec_hdus(row=legacy_row(RUN2D=None))
    hdus[0].header["RUN2D"] = "103"
    path = tmp_path / "x.fits"
    hdus.writeto(path)
    assert read_spec(path).row["reduction"] == "103"


def test_gzipped_files_are_read_whatever_their_name(tmp_path):
    plain = write_spec(tmp_path)
    packed = tmp_path / "spec-0266-51602-0001.fits.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert_same_bits(read_spec(packed).arrays.flux, read_spec(plain).arrays.flux)
    packed.write_bytes(gzip.compress(plain.read_bytes())[:-500])
    assert reason_of(packed) == Reason.TRUNCATED


def test_pixels_that_cannot_be_used_become_missing_and_are_counted(tmp_path):
    coadd = coadd_columns()
    coadd["flux"][:3] = np.nan, np.inf, 1e30
    coadd["ivar"][3:6] = np.nan, np.inf, -1
    coadd["ivar"][6] = 0
    coadd["flux"][6] = np.nan
    spec = read_spec(write_spec(tmp_path, coadd=coadd))
    assert spec.n_repaired == 5
    assert np.flatnonzero(spec.arrays.ivar == 0).tolist() == [0, 1, 3, 4, 5, 6]
    # What the survey wrote stays, NaN and all.
    assert_same_bits(spec.arrays.flux, coadd["flux"])


def test_a_block_of_a_spectrum_file_has_one_spectrum_with_its_lines(tmp_path):
    path = write_spec(tmp_path)
    spec = read_spec(path, want_lines=True)
    block = read_spec_block(path, [0])
    assert len(block) == 1
    assert_same_bits(block.flux[0], spec.arrays.flux)
    assert_same_bits(block.ivar[0], spec.arrays.ivar)
    assert_same_bits(block.mask_bits[0], spec.arrays.mask_bits)
    assert (list(block.reason), block.first_pixel) == ([""], FIRST_PIXEL)
    assert block.lines[0] == spec.lines
    block = read_spec_block(path, [5, 0])
    assert list(block.reason) == [Reason.ROW_WITHOUT_FIBRE, ""]
    assert not block.ivar[0].any()
    assert block.lines[0] is None
    assert_same_bits(block.flux[1], spec.arrays.flux)


def change(name, value):
    coadd = coadd_columns()
    coadd[name][:] = value
    return coadd


@pytest.mark.parametrize(
    ("coadd", "reason"),
    [
        (change("ivar", 0), Reason.ALL_IVAR_ZERO),
        (change("ivar", -1), Reason.BAD_IVAR),
        (change("ivar", np.nan), Reason.BAD_IVAR),
        (change("flux", np.nan), Reason.NON_FINITE_FLUX),
        (change("loglam", np.nan), Reason.BAD_LOGLAM),
        (change("loglam", 3.6), Reason.BAD_LOGLAM),
        (change("loglam", 1e30), Reason.BAD_LOGLAM),
        (coadd_columns() | {"loglam": np.linspace(3.6, 3.61, 50, dtype="f4")}, Reason.BAD_LOGLAM),
        (coadd_columns() | {"flux": np.zeros(N_PIXELS, "i4")}, Reason.MISSING_COLUMN),
        (coadd_columns() | {"ivar": np.zeros((N_PIXELS, 2), "f4")}, Reason.MISSING_COLUMN),
        (coadd_columns(0), Reason.NO_ROWS),
        (coadd_columns(first_pixel=35470), Reason.OUTSIDE_NATIVE_GRID),
        (coadd_columns(first_pixel=40200), Reason.OUTSIDE_NATIVE_GRID),
        ({n: v for n, v in coadd_columns().items() if n != "ivar"}, Reason.MISSING_COLUMN),
        ({"wave": np.zeros(3)}, Reason.MISSING_HDU),
    ],
)
def test_a_spectrum_that_cannot_be_used_has_a_reason(tmp_path, coadd, reason):
    assert reason_of(write_spec(tmp_path, coadd=coadd)) == reason


def test_missing_pixels_outside_the_native_grid_are_no_loss(tmp_path):
    coadd = coadd_columns(first_pixel=35470)
    coadd["ivar"][:10] = 0
    assert read_spec(write_spec(tmp_path, coadd=coadd)).arrays.first_pixel == 35470


@pytest.mark.parametrize("mjd", [51602, 51603])
def test_the_file_name_must_agree_with_the_row(tmp_path, mjd):
    path = write_spec(tmp_path, f"spec-0266-{mjd}-0001.fits")
    if mjd == 51602:
        assert read_spec(path).row["mjd"] == mjd
    else:
        assert reason_of(path) == Reason.IDENTITY_MISMATCH
        assert read_spec(path, want_row=False).row is None


@pytest.mark.parametrize("z", [np.nan, np.inf, -1, -1.5])
def test_a_redshift_that_is_none_is_refused_unless_the_row_is_not_wanted(tmp_path, z):
    path = write_spec(tmp_path, row=legacy_row(Z=np.float32(z)))
    assert reason_of(path) == Reason.BAD_REDSHIFT
    assert len(read_spec(path, want_row=False).arrays.flux) == N_PIXELS


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (legacy_row(Z=None), Reason.MISSING_COLUMN),
        (legacy_row(PLATE=np.float32(np.nan)), Reason.MISSING_COLUMN),
        (legacy_row(PLATE=np.float32(266.5)), Reason.MISSING_COLUMN),
        (legacy_row(ZWARNING="bad"), Reason.MISSING_COLUMN),
        (legacy_row(Z="none"), Reason.MISSING_COLUMN),
    ],
)
def test_a_row_without_a_needed_value_has_a_reason(tmp_path, row, reason):
    assert reason_of(write_spec(tmp_path, row=row)) == reason


def test_files_that_are_no_spectra_are_refused_by_name(tmp_path):
    path = tmp_path / "spec-0266-51602-0001.fits"
    path.write_bytes(b"")
    assert reason_of(path) == Reason.EMPTY_FILE
    path.write_bytes(b"\n<!DOCTYPE html><html><title>404 Not Found</title></html>" * 100)
    assert reason_of(path) == Reason.NOT_FITS
    path.write_bytes(b"\x00" * 5000)
    assert reason_of(path) == Reason.NOT_FITS
    fits.PrimaryHDU().writeto(path, overwrite=True)
    assert reason_of(path) == Reason.UNKNOWN_FORMAT
    hdus = spec_hdus()
    hdus[:2].writeto(path, overwrite=True)
    assert reason_of(path) == Reason.MISSING_HDU
    assert len(read_spec(path, want_row=False).arrays.flux) == N_PIXELS
    hdus[:1].writeto(path, overwrite=True)
    assert reason_of(path) == Reason.MISSING_HDU
    assert reason_of(tmp_path / "absent.fits") == Reason.UNREADABLE


def test_a_dr7_file_is_refused_with_the_name_of_its_successor(tmp_path):
    # formats.md: DR7 spSpec is an image of 5 rows with the redshift in the header.
    primary = fits.PrimaryHDU(np.zeros((5, 3854), "f4"))
    for key, value in {"SPEC_CLN": 2, "PLATEID": 455, "MJD": 51909, "FIBERID": 597}.items():
        primary.header[key] = value
    path = tmp_path / "spSpec-51909-0455-597.fit"
    fits.HDUList([primary, table_hdu({"wave": np.zeros(3, "f4")})]).writeto(path)
    with pytest.raises(BadSpectrumError, match=r"spec-0455-51909-0597\.fits") as caught:
        read_spec(path)
    assert caught.value.reason == Reason.DR7_SPSPEC


def test_scaled_columns_are_left_to_astropy_where_they_are_needed(tmp_path, monkeypatch):
    hdus = spec_hdus(row=legacy_row(ZWARNING=np.int32(4)))
    number = hdus[2].columns.names.index("ZWARNING") + 1
    hdus[2].header[f"TZERO{number}"] = 3
    monkeypatch.setattr(sdss_spec, "_arrays", seen := Recorder(sdss_spec._arrays))
    path = tmp_path / "x.fits"
    hdus.writeto(path)
    assert read_spec(path).row["zwarning"] == 7
    assert [type(call[2]).__name__ for call in seen.calls] == ["RawTable", "AstropyTable"]
    coadd = coadd_columns() | {"odd": np.arange(N_PIXELS, dtype="i2")}
    hdus = spec_hdus(coadd=coadd)
    hdus[1].header["TSCAL9"] = 0.5
    hdus.writeto(path, overwrite=True)
    seen.calls.clear()
    assert_same_bits(read_spec(path).arrays.flux, coadd["flux"])
    assert [type(call[2]).__name__ for call in seen.calls] == ["RawTable"]


# Damage --------------------------------------------------------------------------------------


def read_or_reason(path):
    """Read a damaged file: a result in order, or `BadSpectrumError`; anything else fails."""
    try:
        spec = read_spec(path, want_lines=True)
    except BadSpectrumError as error:
        return Reason(error.reason)
    assert len(spec.arrays.flux) == len(spec.arrays.ivar) == len(spec.arrays.mask_bits)
    assert np.isfinite(spec.arrays.ivar).all()
    assert (spec.arrays.ivar >= 0).all()
    assert spec.row["z"] > -1
    return None


@pytest.fixture(scope="module")
def spec_bytes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage")
    return folder, write_spec(folder).read_bytes()


def test_a_file_cut_anywhere_is_truncated_or_reads_as_before(spec_bytes):
    folder, content = spec_bytes
    path = folder / "spec-0266-51602-0001.fits"
    # All block borders and their neighbours, and some in between.
    cuts = {at + near for at in range(0, len(content), 2880) for near in (-81, -1, 0, 1, 80)}
    for cut in sorted(cut for cut in cuts | {*range(0, len(content), 997)} if cut >= 0):
        path.write_bytes(content[:cut])
        reason = read_or_reason(path)
        assert reason in {
            None, Reason.TRUNCATED, Reason.EMPTY_FILE, Reason.NOT_FITS, Reason.MISSING_HDU,
            Reason.UNKNOWN_FORMAT,
        }, cut  # fmt: skip
        if reason is None:
            # Coadd and row come before the last quarter; only lines can be lost unseen.
            assert cut > len(content) * 0.6


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_flipped_bits_give_a_reason_or_a_result(spec_bytes, data):
    folder, content = spec_bytes
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = folder / "spec-0266-51602-0001.fits"
    path.write_bytes(damaged)
    read_or_reason(path)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_header_cards_that_lie_give_a_reason_or_a_result(spec_bytes, data):
    folder, content = spec_bytes
    cards = [
        at
        for at in range(0, len(content), 80)
        if content[at : at + 5] in {b"NAXIS", b"BITPI", b"TFORM", b"TTYPE", b"TFIEL", b"PCOUN",
                                    b"GCOUN", b"XTENS", b"EXTNA", b"TZERO", b"SIMPL"}
    ]  # fmt: skip
    at = data.draw(st.sampled_from(cards))
    value = data.draw(
        st.sampled_from(["0", "-1", "3", "8", "999999999999", "1E30", "NaN", "'PE(3)'", "'5J'",
                         "'X'", "'0A'", "'1000000000E'", "T", "''", "'flux'", "-32"])
    )  # fmt: skip
    path = folder / "spec-0266-51602-0001.fits"
    path.write_bytes(content[: at + 10] + f"{value:<70s}".encode() + content[at + 80 :])
    read_or_reason(path)
