"""The files of a mock release, held against formats.md A1-A4 and against real files."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.mock.fits import card
from spectra_scale.mock.plates import is_written, write_plate
from spectra_scale.mock.release import check_folder, finish, is_complete
from spectra_scale.mock.settings import MockSettings, plan

SMALL = MockSettings(
    n_spectra=110, n_spec_files=40, fibers_legacy=40, fibers_boss=30, boss_fraction=0.4, seed=7
)
# Vacuum wavelengths of some of the 28 lines, by their place in the table (formats.md A4).
PORTSMOUTH_WAVE = {15: 4862.68, 17: 5008.24, 24: 6564.61, 25: 6585.27, 3: 3727.09, 26: 6718.29}
# k(λ) there, of Calzetti et al. (2000), eq. 4, R_V 4.05.
CALZETTI = {15: 4.597, 17: 4.463, 24: 3.325, 25: 3.312}


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mock")
    tasks = plan(SMALL)
    for task in tasks:
        write_plate(task, folder, SMALL)
    finish(folder, tasks, SMALL)
    return folder


def spec_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("spec-*.fits"))


def is_legacy(path: Path) -> bool:
    return "26" in path.parts


def texts(column: np.ndarray) -> list[str]:
    return [str(value).strip() for value in column]


def test_every_file_is_a_valid_fits_file(release):
    paths = sorted(release.rglob("*.fits"))
    assert len(paths) > 40
    for path in paths:
        assert path.stat().st_size % 2880 == 0
        with fits.open(path) as hdus:
            hdus.verify("exception")
            for hdu in hdus:
                assert hdu.header is not None


def test_fitsio_reads_what_astropy_reads(release):
    fitsio = pytest.importorskip("fitsio")
    one = [next(p for p in spec_files(release) if is_legacy(p) is kind) for kind in (True, False)]
    plates = sorted(release.rglob("spPlate-*.fits"))[:1]
    for path in [*one, *plates, release / "specObj-mock.fits"]:
        with fits.open(path) as hdus, fitsio.FITS(str(path)) as other:
            assert len(other) == len(hdus)
            for mine, theirs in zip(hdus, other, strict=True):
                if mine.data is None:
                    continue
                data = theirs.read()
                if mine.is_image:
                    np.testing.assert_array_equal(data, mine.data)
                    continue
                for name in mine.columns.names:
                    expected = np.asarray(mine.data[name])
                    found = np.asarray(data[name])
                    if expected.dtype.kind in "US":
                        expected = np.char.strip(expected.astype(str))
                        found = np.char.strip(found.astype(str))
                    np.testing.assert_array_equal(found, expected, err_msg=f"{path} {name}")


def test_spec_files_have_the_hdus_of_their_era(release):
    for path in spec_files(release):
        with fits.open(path) as hdus:
            wide = "SPECOBJ" if is_legacy(path) else "SPALL"
            assert [hdu.name for hdu in hdus] == ["PRIMARY", "COADD", wide, "SPZLINE"]
            assert len(hdus[2].data) == 1
            assert len(hdus[3].data) == (29 if is_legacy(path) else 32)
            header = hdus[0].header
            assert header["VERS2D"].startswith("v5")
            assert header["BUNIT"] == "1E-17 erg/cm^2/s/Ang"
            assert header["DC-FLAG"] == 1
            assert header["COEFF1"] == 1e-4
            assert header.get("RUN2D") == (None if is_legacy(path) else "v5_13_2")
            row = hdus[2].data[0]
            plate, mjd, fiber = (int(x) for x in re.findall(r"\d+", path.stem))
            assert (row["PLATE"], row["MJD"], row["FIBERID"]) == (plate, mjd, fiber)
            assert (header["PLATEID"], header["MJD"], header["FIBERID"]) == (plate, mjd, fiber)


@pytest.fixture(scope="module")
def full_files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("full")
    some = replace(SMALL, n_spectra=12, n_spec_files=12, n_full_files=12, repeat_fraction=0)
    for task in plan(some):
        write_plate(task, folder, some)
    return spec_files(folder)


@pytest.mark.parametrize(
    ("real_name", "legacy"),
    [("spec-0266-51602-0162.fits", True), ("Iras23060+0505SP1.fits", False)],
)
def test_full_files_have_the_exposures_of_real_ones(full_files, real_data, real_name, legacy):
    # Of the first spectrograph, as the real two are.
    mock = next(
        path for path in full_files
        if is_legacy(path) is legacy and spectrograph_of_name(path) == 1
    )  # fmt: skip
    assert "lite" not in mock.parts
    with fits.open(mock) as mine, fits.open(real_data / "sdss/spec-full" / real_name) as real:
        assert len(mine) == len(real)
        for hdu, theirs in zip(mine[4:], real[4:], strict=True):
            # Camera, exposure, flat, arc: B1-00002591-00002595-00002596.
            assert re.fullmatch(r"[BR]1(-\d{8}){3}", hdu.name)
            assert hdu.name[:2] == theirs.name[:2]
            assert columns_of(hdu) == columns_of(theirs)
            # Blue legacy exposures run from red to blue.
            step = np.sign(hdu.data["loglam"][-1] - hdu.data["loglam"][0])
            assert step == np.sign(theirs.data["loglam"][-1] - theirs.data["loglam"][0])
            for end in (0, -1):
                # Cameras end within 60 Å of that file's.
                gap = hdu.data["loglam"][end] - theirs.data["loglam"][end]
                assert abs(gap) < 0.006
        header, other = mine[0].header, real[0].header
        # The real BOSS file is of v5_7_0: its EXPIDs have two digits.
        counted = [
            [re.sub("EXPID0*", "EXPID", k) for k in cards if k.startswith(("NEXP", "EXPID"))]
            for cards in (header, other)
        ]
        assert counted[0] == counted[1]
        ids = [str(header[k]).upper() for k in header if k.startswith("EXPID")]
        assert ids == [hdu.name for hdu in mine[4:]]


def spectrograph_of_name(path: Path) -> int:
    """Fibres 1 to 320 of legacy plates, 1 to 500 of BOSS ones, feed the first spectrograph."""
    fiber = int(path.stem.split("-")[-1])
    half = (SMALL.fibers_legacy if is_legacy(path) else SMALL.fibers_boss) // 2
    return 1 + (fiber > half)


def test_exposures_are_named_as_the_release_names_them(release, real_data):
    """Two digits in legacy files, three from DR16 on; cameras of the fibre's spectrograph."""
    real = {
        True: ("spec-0266-51602-0013", "spec-0390-51900-0587"),
        False: ("spec-4354-55810-0344", "spec-11277-58450-0705"),
    }
    for legacy, names in real.items():
        for number, name in enumerate(names, start=1):
            other = fits.getheader(real_data / "sdss/spec-lite" / f"{name}.fits")
            mock = next(
                path for path in spec_files(release)
                if is_legacy(path) is legacy and spectrograph_of_name(path) == number
            )  # fmt: skip
            mine = fits.getheader(mock)
            first = next(key for key in mine if key.startswith("EXPID"))
            assert first == next(key for key in other if key.startswith("EXPID"))
            assert mine[first][:2] == other[first][:2] == f"b{number}"
            assert [k for k in mine if k.startswith("NEXP")] == [
                k for k in other if k.startswith("NEXP")
            ]


def test_the_mean_of_the_exposures_is_the_coadd(full_files):
    for path in full_files[:2] + full_files[-2:]:
        with fits.open(path) as hdus:
            coadd = hdus["COADD"].data
            pixel = np.rint(coadd["loglam"].astype(float) * 1e4).astype(int)
            for camera in "BR":
                blocks = [hdu.data for hdu in hdus[4:] if hdu.name.startswith(camera)]
                place = np.rint(blocks[0]["loglam"].astype(float) * 1e4).astype(int)
                here = np.searchsorted(pixel, place)
                mean = np.mean([block["flux"] for block in blocks], axis=0, dtype=float)
                # float32 of some 100 units, in each of four or five.
                np.testing.assert_allclose(mean, coadd["flux"][here], atol=2e-4, rtol=1e-5)
                total = np.sum([block["ivar"] for block in blocks], axis=0, dtype=float)
                np.testing.assert_allclose(total, coadd["ivar"][here], rtol=1e-5)
                good = (coadd["ivar"][here] > 0) & (blocks[0]["mask"] == 0)
                sigma = 1 / np.sqrt(coadd["ivar"][here][good])
                pull = (blocks[0]["flux"] - coadd["flux"][here])[good] / sigma
                # Deviations have (n - 1) of the variance of the mean; 1500 pixels or more.
                assert pull.std() == pytest.approx(np.sqrt(len(blocks) - 1), rel=0.1)


def columns_of(hdu) -> list[tuple[str, str, object]]:
    return [(c.name, c.format, c.bzero) for c in hdu.columns]


@pytest.mark.parametrize(
    ("real_name", "legacy"),
    [("spec-0266-51602-0013.fits", True), ("spec-11277-58450-0705.fits", False)],
)
def test_tables_of_spec_files_have_the_columns_of_real_ones(release, real_data, real_name, legacy):
    mock = next(path for path in spec_files(release) if is_legacy(path) is legacy)
    with fits.open(mock) as mine, fits.open(real_data / "sdss/spec-lite" / real_name) as real:
        for i in (1, 2, 3):
            assert columns_of(mine[i]) == columns_of(real[i])
            assert mine[i].data.dtype == real[i].data.dtype
            assert mine[i].name == real[i].name
        lines, theirs = mine[3].data, real[3].data
        assert texts(lines["LINENAME"]) == texts(theirs["LINENAME"])
        np.testing.assert_allclose(lines["LINEWAVE"], theirs["LINEWAVE"], rtol=2e-7)
        for key in ("COEFF0", "COEFF1", "BUNIT", "VERS2D", "PLATEID", "MJD", "HELIO_RV"):
            assert type(mine[0].header[key]) is type(real[0].header[key]), key


def test_spectra_lie_on_the_native_grid_in_float32(release):
    for path in spec_files(release):
        with fits.open(path) as hdus:
            loglam = hdus["COADD"].data["loglam"]
            assert loglam.dtype == ">f4"
            pixel = np.rint(loglam.astype(float) / 1e-4).astype(int)
            assert np.all(np.diff(pixel) == 1)
            # float32 carries log10 of 4000-10000 Å to 2.4e-7.
            assert np.abs(loglam - 1e-4 * pixel).max() < 2.5e-7
            offset = pixel[0] - round(hdus[0].header["COEFF0"] / 1e-4)
            if is_legacy(path):
                assert offset >= 1
                assert 35_780 <= pixel[0] < 35_850
                assert 39_600 < pixel[-1] < 39_665
            else:
                assert offset == 0
                assert 35_500 <= pixel[0] < 35_590
                assert 40_120 < pixel[-1] < 40_172


def test_lengths_differ_from_spectrum_to_spectrum(release):
    lengths = set()
    for path in spec_files(release):
        with fits.open(path) as hdus:
            lengths.add(len(hdus[1].data))
            ivar = hdus[1].data["ivar"]
            # Trimmed: no run of missing pixels at either end.
            assert ivar[:6].any()
            assert ivar[-6:].any()
    assert len(lengths) > 15


def test_no_value_is_missing_by_being_nan(release):
    for path in sorted(release.rglob("*.fits")):
        with fits.open(path) as hdus:
            for hdu in hdus:
                if hdu.data is None:
                    continue
                names = [None] if hdu.is_image else hdu.columns.names
                for name in names:
                    values = np.asarray(hdu.data if name is None else hdu.data[name])
                    if values.dtype.kind == "f" and name != "FLUX_ERR":
                        assert np.isfinite(values).all(), (path.name, hdu.name, name)


def test_plate_files_have_the_order_of_the_archive(release):
    for path in sorted(release.rglob("spPlate-*.fits")):
        with fits.open(path) as hdus:
            names = ["PRIMARY", "IVAR", "ANDMASK", "ORMASK", "WAVEDISP", "PLUGMAP", "SKY"]
            assert [hdu.name for hdu in hdus] == names
            kinds = [">f4", ">f4", ">i4", ">i4", ">f4", None, ">f4"]
            shape = hdus[0].data.shape
            for hdu, kind in zip(hdus, kinds, strict=True):
                if kind is not None:
                    assert hdu.data.shape == shape
                    assert hdu.data.dtype == kind
            header = hdus[0].header
            assert header["CRVAL1"] == header["COEFF0"]
            assert header["CD1_1"] == header["COEFF1"] == 1e-4
            assert header["CRPIX1"] == 1
            assert header["CTYPE1"] == "LINEAR"
            first = header["COEFF0"] / 1e-4
            assert first == pytest.approx(round(first), abs=1e-6)
            plug = hdus["PLUGMAP"].data
            np.testing.assert_array_equal(plug["FIBERID"], np.arange(1, shape[0] + 1))
            # Untrimmed: some fibre begins late, and none is measured over the whole grid.
            assert (hdus[1].data[:, 0] == 0).all()
            assert (hdus[1].data[:, -1] == 0).all()


def test_redshifts_of_a_plate_are_those_of_the_catalogue(release):
    with fits.open(release / "specObj-mock.fits") as hdus:
        catalogue = hdus[1].data
        number = {
            (int(p), int(f)): i
            for i, (p, f) in enumerate(zip(catalogue["PLATE"], catalogue["FIBERID"], strict=True))
        }
        for path in sorted(release.rglob("spZbest-*.fits")):
            with fits.open(path) as best, fits.open(plate_beside(path)) as plate:
                rows = best[1].data
                n_fibers, n_pixels = plate[0].data.shape
                assert len(rows) == n_fibers
                assert best[2].data.shape == (n_fibers, n_pixels)
                assert best[0].header["COEFF0"] == plate[0].header["COEFF0"]
                sky = np.array(texts(plate["PLUGMAP"].data["OBJTYPE"])) == "SKY"
                assert sky.any()
                assert (rows["ZWARNING"][sky] & 1).all()
                for row in rows[~sky]:
                    i = number[int(row["PLATE"]), int(row["FIBERID"])]
                    assert row["Z"] == catalogue["Z"][i]
                    assert str(row["CLASS"]).strip() == str(catalogue["CLASS"][i]).strip()


def plate_beside(best: Path) -> Path:
    """Find the spPlate of an spZbest: beside it for legacy, one folder up for BOSS."""
    folder = best.parent if is_legacy(best) else best.parent.parent
    return folder / best.name.replace("spZbest", "spPlate")


def test_the_catalogue_has_legacy_names_and_blank_padded_texts(release, real_data):
    with (
        fits.open(release / "specObj-mock.fits", character_as_bytes=True) as hdus,
        fits.open(real_data / "sdss/spec-lite/spec-0266-51602-0013.fits") as real,
    ):
        rows = hdus[1].data
        assert len(rows) == SMALL.n_spectra
        assert hdus[1].columns.names == real[2].columns.names
        raw = rows.view(np.ndarray)
        assert set(raw["SURVEY"].tolist()) == {b"sdss  ", b"boss  "}
        assert set(raw["TARGETTYPE"].tolist()) <= {b"SCIENCE ", b"STANDARD"}
        assert set(raw["PLATEQUALITY"].tolist()) <= {b"good    ", b"marginal", b"bad     "}
        ids = raw["SPECOBJID"].tolist()
        assert all(len(i) == 22 and i.startswith(b"  ") for i in ids)


def test_spec_obj_ids_are_packed_as_the_survey_packs_them(release):
    with fits.open(release / "specObj-mock.fits") as hdus:
        for row in hdus[1].data:
            value = int(row["SPECOBJID"])
            run2d = str(row["RUN2D"]).strip()
            assert value >> 50 == row["PLATE"]
            assert (value >> 38) & 0xFFF == row["FIBERID"]
            assert ((value >> 24) & 0x3FFF) + 50_000 == row["MJD"]
            # (5-5)*10000 + 13*100 + 2 for v5_13_2.
            assert (value >> 10) & 0x3FFF == {"26": 26, "v5_13_2": 1302}[run2d]


def test_ids_agree_in_catalogue_and_spec_file(release):
    with fits.open(release / "specObj-mock.fits") as hdus:
        catalogue = {int(i) for i in hdus[1].data["SPECOBJID"]}
    for path in spec_files(release):
        with fits.open(path) as hdus:
            assert int(hdus[2].data["SPECOBJID"][0]) in catalogue


def truth_of(folder: Path) -> dict[str, dict[str, object]]:
    return {
        row["spectrum_key"]: row for row in pq.read_table(folder / "truth.parquet").to_pylist()
    }


def test_the_line_table_has_28_lines_in_the_order_of_the_archive(release):
    truth = truth_of(release)
    checked = 0
    with fits.open(release / "portsmouth_emlinekin_full-mock.fits") as hdus:
        rows = hdus[1].data
        for name in ("FLUX", "FLUX_ERR", "EW", "EW_ERR", "AON", "FIT_WARNING", "SIG", "AMPLITUDE"):
            assert rows[name].shape == (len(rows), 28)
        for row in rows:
            true = truth[f"sdss:{row['PLATE']}-{row['MJD']}-{row['FIBERID']}"]
            if true["failure"] in {"star-as-galaxy", "wrong-redshift"}:
                continue  # what was measured there is no line
            for index, name in ((15, "hb"), (17, "oiii_5008"), (24, "ha"), (25, "nii_6585")):
                err = row["FLUX_ERR"][index]
                if not (np.isfinite(err) and err > 0) or row["FIT_WARNING"][index]:
                    continue
                observed = PORTSMOUTH_WAVE[index] * (1 + true["z_true"])
                assert 3700 < observed < 10_400
                # The dust that the table corrects for, put back: Calzetti et al. (2000), eq. 4.
                dust = 10 ** (-0.4 * CALZETTI[index] * row["EBMV"])
                pull = (row["FLUX"][index] * dust - true[f"flux_{name}"]) / (err * dust)
                # Narrow lines on broad ones are anybody's guess; one Gaussian misses wings.
                assert abs(pull) < (20 if true["broad_fwhm_km_s"] > 0 else 8)
                checked += 1
    assert checked > 200


def test_equivalent_widths_are_rest_frame_and_positive_in_emission(release):
    truth = truth_of(release)
    with fits.open(release / "portsmouth_emlinekin_full-mock.fits") as hdus:
        rows = hdus[1].data
        strong = rows["EW"][:, 24] > 20 * rows["EW_ERR"][:, 24]
        assert strong.sum() > 10
        keys = [f"sdss:{r['PLATE']}-{r['MJD']}-{r['FIBERID']}" for r in rows[strong]]
        true = np.array([truth[key]["ew_ha"] for key in keys])
        ratio = rows["EW"][strong, 24] / true
        # 2 % of the continuum; one Gaussian misses up to 5 % of a line with wings.
        assert np.median(ratio) == pytest.approx(0.98, abs=0.04)


def test_spzline_widths_are_in_the_observed_frame(release):
    truth, ratios = truth_of(release), []
    for path in spec_files(release):
        with fits.open(path) as hdus:
            lines = hdus["SPZLINE"].data
            here = {name: i for i, name in enumerate(texts(lines["LINENAME"]))}
            row = lines[here["H_alpha"]]
            plate, mjd, fiber = (int(x) for x in re.findall(r"\d+", path.stem))
            true = truth[f"sdss:{plate}-{mjd}-{fiber}"]
            if row["LINEEW"] > 20 * row["LINEEW_ERR"] > 0 and true["broad_fwhm_km_s"] == 0:
                ratios.append(row["LINEEW"] / true["ew_ha"] / (1 + true["z_true"]))
            outside = lines[here["Ly_alpha"]]
            assert outside["LINEAREA"] == 0
            assert outside["LINEAREA_ERR"] == -1
    assert len(ratios) > 5
    # As above.
    assert np.median(ratios) == pytest.approx(0.98, abs=0.04)


def test_halpha_is_seen_in_the_spectrum_at_its_redshift(release):
    truth, found = truth_of(release), 0
    for path in spec_files(release):
        plate, mjd, fiber = (int(x) for x in re.findall(r"\d+", path.stem))
        true = truth[f"sdss:{plate}-{mjd}-{fiber}"]
        if true["ew_ha"] < 20 or true["z_true"] > 0.36 or true["kind"] != "star-forming":
            continue
        with fits.open(path) as hdus:
            data = hdus["COADD"].data
            wave = 10 ** data["loglam"].astype(float) / (1 + hdus[2].data["Z"][0])
            flux = np.where(data["ivar"] > 0, data["flux"], 0)
        near = np.abs(wave - 6564.61) < 12
        peak = wave[near][flux[near].argmax()]
        # A pixel is 1.5 Å here; noise moves the peak by one or two.
        assert abs(peak - 6564.61) < 4
        found += 1
    assert found >= 5


def test_specutils_loads_spec_files_as_the_survey_s(release):
    specutils = pytest.importorskip("specutils")
    for path in (spec_files(release)[0], spec_files(release)[-1]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spectrum = specutils.Spectrum.read(path, format="SDSS-III/IV spec")
        with fits.open(path) as hdus:
            data = hdus["COADD"].data
            np.testing.assert_array_equal(spectrum.flux.value, data["flux"])
            np.testing.assert_array_equal(spectrum.uncertainty.array, data["ivar"])
            wave = 10 ** data["loglam"].astype(float)
            # specutils takes the power in float32.
            np.testing.assert_allclose(spectrum.spectral_axis.to_value("AA"), wave, rtol=1e-6)
            np.testing.assert_array_equal(spectrum.mask, data["and_mask"] != 0)


def test_the_summary_counts_what_is_there(release):
    summary = json.loads((release / "mock.json").read_text())
    truth = pq.read_table(release / "truth.parquet")
    assert summary["n_spectra"] == len(truth) == SMALL.n_spectra
    assert sum(summary["kinds"].values()) == SMALL.n_spectra
    assert sum(summary["artefacts"].values()) == SMALL.n_spectra
    assert not (release / ".parts").exists()
    assert not [path for path in release.rglob("*") if path.name.endswith(".tmp")]


def test_a_plate_written_twice_and_elsewhere_has_the_same_bytes(release, tmp_path):
    for task in (plan(SMALL)[-1], next(t for t in plan(SMALL) if t.layout == "spec")):
        write_plate(task, tmp_path, SMALL)
        write_plate(task, tmp_path, SMALL)
    again = sorted(path for path in tmp_path.rglob("*.fits"))
    assert len(again) > 2
    for path in again:
        assert path.read_bytes() == (release / path.relative_to(tmp_path)).read_bytes()


def test_a_finished_release_is_left_alone_and_another_is_refused(release):
    assert is_complete(release, SMALL)
    before = (release / "specObj-mock.fits").stat().st_mtime_ns
    assert finish(release, plan(SMALL), SMALL)["n_spectra"] == SMALL.n_spectra
    assert (release / "specObj-mock.fits").stat().st_mtime_ns == before
    other = MockSettings(n_spectra=110, n_spec_files=40, seed=8)
    assert not is_complete(release, other)
    with pytest.raises(UsageError, match="seed"):
        check_folder(release, other)
    with pytest.raises(UsageError, match="seed"):
        finish(release, plan(other), other)


def test_a_release_with_a_plate_missing_is_not_finished(tmp_path):
    tasks = plan(SMALL)
    write_plate(tasks[0], tmp_path, SMALL)
    with pytest.raises(SpectraScaleError, match=tasks[1].name):
        finish(tmp_path, tasks, SMALL)
    # What a run with another seed left behind is no part of this release.
    assert is_written(tmp_path, tasks[0], SMALL)
    assert not is_written(tmp_path, tasks[0], replace(SMALL, seed=8))
    assert not is_complete(tmp_path, SMALL)
    assert not (tmp_path / "mock.json").exists()


@given(
    value=st.one_of(
        st.booleans(),
        st.integers(-(2**40), 2**40),
        st.floats(-1e30, 1e30, allow_nan=False),
        # astropy takes a quote before a slash for the end of a text, in cards of its own too.
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40).filter(
            lambda text: "'/" not in text
        ),
    )
)
@settings(deadline=None, max_examples=200)
def test_header_cards_read_back_as_they_were_written(value):
    text = card("KEY", value, "comment")
    assert len(text) == 80
    read = fits.Card.fromstring(text).value
    if isinstance(value, str):
        assert read == value.rstrip(" ")
    elif isinstance(value, float):
        # Twelve digits, as in the survey's headers.
        assert read == pytest.approx(value, rel=1e-11)
    else:
        assert read == value
        assert isinstance(read, type(value))
