"""Line tables of a mock release, held against the real ones and against one another."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow.csv as pacsv
import pytest
from astropy.io import fits

from spectra_scale.mock.linerows import portsmouth_rows
from spectra_scale.mock.observation import observe_plate
from spectra_scale.mock.plates import write_plate
from spectra_scale.mock.release import finish
from spectra_scale.mock.settings import MockSettings, plan
from spectra_scale.mock.zline_fits import fit_alone
from spectra_scale.spectrum.classify import LineMeasurements, classify
from spectra_scale.surveys.lines import read_line_catalogue

MOCK = MockSettings(n_spectra=700, n_spec_files=260, boss_fraction=0.2, seed=5)
NAMES = {"OIII_5006": 17, "NII_6583": 25, "Hb_4861": 15, "Ha_6562": 24}


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lines")
    for task in plan(MOCK):
        write_plate(task, folder, MOCK)
    finish(folder, plan(MOCK), MOCK)
    return folder


@pytest.fixture(scope="module")
def portsmouth(release) -> np.ndarray:
    return np.array(fits.getdata(release / "portsmouth_emlinekin_full-mock.fits"))


def zlines_of(paths: list[Path]) -> np.ndarray:
    """SPZLINE of legacy spectra, shape (spectrum, line)."""
    tables = []
    for path in paths:
        with fits.open(path) as hdus:
            if hdus[3].header["NAXIS2"] == 29:
                tables.append(np.array(hdus[3].data))
    return np.stack(tables)


@pytest.fixture(scope="module")
def mock_lines(release):
    """Lines and redshifts of the galaxies at 0.05 < z < 0.36."""
    rows = np.array(fits.getdata(release / "specObj-mock.fits"))
    known = {(r["PLATE"], r["FIBERID"]): r for r in rows if r["CLASS"] == b"GALAXY"}
    paths, redshifts = [], []
    for path in sorted(release.glob("26/spectra/**/spec-*.fits")):
        _, plate, _, fiber = path.stem.split("-")
        row = known.get((int(plate), int(fiber)))
        if row is not None and 0.05 < row["Z"] < 0.36:
            paths.append(path)
            redshifts.append(row["Z"])
    return zlines_of(paths), np.array(redshifts)


@pytest.fixture(scope="module")
def real_lines(real_data):
    """The same of the public legacy galaxies."""
    with (real_data / "MANIFEST.tsv").open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    chosen = [
        r for r in rows
        if r["kind"] in {"sdss-spec-lite", "sdss-spec-full"} and r["run2d"] in {"26", "104"}
        and r["class"] == "GALAXY" and 0.05 < float(r["z"]) < 0.36
    ]  # fmt: skip
    lines = zlines_of([real_data / r["path"] for r in chosen])
    assert len(lines) == len(chosen) > 80
    return lines, np.array([float(r["z"]) for r in chosen])


# Portsmouth and CAS ------------------------------------------------------------------------------


def test_a_portsmouth_line_without_flux_has_no_error_either(portsmouth):
    """Of 7,724 real rows 99 % of the lines of zero flux have an error of 0, EW errors of -9999."""
    none = portsmouth["FLUX"] == 0
    assert 0.05 < none.mean() < 0.6
    assert not portsmouth["FLUX_ERR"][none].any()
    assert not portsmouth["EW"][none].any()
    assert not portsmouth["AON"][none].any()
    assert (portsmouth["EW_ERR"][none] == -9999).all()
    there = portsmouth["FLUX"] > 0
    assert (portsmouth["FLUX_ERR"][there] > 0).all()
    assert (there | none | (portsmouth["FLUX"] == -9999)).all()


def test_real_rows_have_zeros_where_a_line_was_not_found(real_data):
    rows = fits.getdata(real_data / "catalogues/dr14peaPortmatch_ccardamone.fits")
    for name in NAMES:
        none = rows[f"Flux_{name}"] == 0
        assert (rows[f"Flux_{name}_Err"][none] == 0).mean() > 0.98
        assert np.isfinite(rows[f"Flux_{name}_Err"]).all()
    none = rows["Flux_Ha_6562"] == 0
    assert (rows["EW_Ha_6562_Err"][none] == -9999).mean() > 0.98


def test_one_portsmouth_error_in_two_thousand_is_infinite():
    mock = MockSettings(n_spectra=4000, n_spec_files=0, seed=3)
    n = infinite = 0
    for task in plan(mock):
        rows = portsmouth_rows(observe_plate(task, mock))
        n += np.count_nonzero(rows["FLUX"] > 0)
        infinite += np.count_nonzero(np.isinf(rows["FLUX_ERR"]))
        assert not np.isinf(rows["FLUX_ERR"][rows["FLUX"] <= 0]).any()
    # Poisson, five sigma.
    assert abs(infinite - n / 2000) < 5 * np.sqrt(n / 2000)
    assert n > 50_000


def server_rows(folder: Path) -> dict[str, np.ndarray]:
    table = pacsv.read_csv(folder / "emissionLinesPort-mock.csv")
    return {name: table[name].to_numpy() for name in table.column_names}


def test_faint_lines_are_in_the_server_s_table_too(release, real_data):
    """-9999 is for a line where the spectrum ends: 5 to 38 of 7,724 real rows, faint ones not."""
    mock = server_rows(release)
    real = fits.getdata(real_data / "catalogues/dr14peaPortmatch_ccardamone.fits")
    for name in NAMES:
        for rows in (mock, real):
            flux, aon = (np.asarray(rows[f"{key}_{name}"], float) for key in ("Flux", "AoN"))
            assert (flux == -9999).mean() < 0.01
            assert ((aon < 2) & (flux > 0)).mean() > 0.03


def test_the_server_s_table_holds_the_values_of_the_fits_table(release, portsmouth):
    rows = server_rows(release)
    for key in ("plate", "mjd", "fiberID"):
        np.testing.assert_array_equal(rows[key], portsmouth[key.upper()])
    for name, line in NAMES.items():
        for mine, theirs in ((f"Flux_{name}", "FLUX"), (f"Flux_{name}_Err", "FLUX_ERR"),
                             (f"EW_{name}", "EW"), (f"EW_{name}_Err", "EW_ERR"),
                             (f"AoN_{name}", "AON")):  # fmt: skip
            # Shortest decimals of a float32.
            found = np.asarray(rows[mine], dtype=np.float32)
            np.testing.assert_array_equal(found, portsmouth[theirs][:, line])


def test_labels_from_either_table_are_the_same(release):
    labels = []
    for name in ("portsmouth_emlinekin_full-mock.fits", "emissionLinesPort-mock.csv"):
        table = read_line_catalogue(release / name)
        lines = {
            key: table[key].to_numpy() for key in LineMeasurements.__slots__ if key != "measured"
        }
        n = table.num_rows
        found = LineMeasurements(measured=np.ones(n, dtype=bool), **lines)
        labels.append(classify(np.zeros(n, dtype=bool), found))
    np.testing.assert_array_equal(labels[0], labels[1])
    # Star-forming, composite, narrow-line AGN, retired and passive.
    assert len(np.unique(labels[0])) == 5


# SPZLINE -----------------------------------------------------------------------------------------


def measured(lines: np.ndarray) -> np.ndarray:
    return lines["LINEAREA_ERR"] > 0


def column(lines: np.ndarray, name: str) -> np.ndarray:
    names = [text.decode().strip() for text in lines[0]["LINENAME"]]
    return lines[:, names.index(name)]


def test_line_fluxes_of_the_pipeline_may_be_negative_and_are_never_zero(mock_lines, real_lines):
    for lines, _ in (mock_lines, real_lines):
        area = lines["LINEAREA"][measured(lines)]
        # Real files have 29 % in 95 galaxies, of which few are quiet.
        assert 0.2 < (area < 0).mean() < 0.45
        assert (area == 0).mean() < 1e-3


def test_templates_take_too_much_at_the_balmer_lines_and_ca_h(mock_lines, real_lines):
    for name, low, high in (("H_delta", 0.5, 0.9), ("[Ne_III] 3970", 0.8, 1.0),
                            ("H_epsilon", 0.7, 0.98)):  # fmt: skip
        for lines, _ in (mock_lines, real_lines):
            rows = column(lines, name)
            assert low < (rows["LINEAREA"][measured(rows)] < 0).mean() < high, name


@pytest.mark.parametrize("bounds", [(-9, 3), (3, 15), (15, 50)])
def test_balmer_lines_of_galaxies_alike_are_as_in_real_files(mock_lines, real_lines, bounds):
    """Median rest EW at the same EW(Hα)."""
    for name, within in (("H_delta", 0.6), ("[Ne_III] 3970", 1.3), ("H_gamma", 1.0),
                         ("H_beta", 1.3)):  # fmt: skip
        medians = []
        for lines, z in (mock_lines, real_lines):
            width = column(lines, "H_alpha")["LINEEW"] / (1 + z)
            rows = column(lines, name)
            chosen = measured(rows) & (width > bounds[0]) & (width < bounds[1])
            assert chosen.sum() > 8
            medians.append(np.median((rows["LINEEW"] / (1 + z))[chosen]))
        # 13 to 45 real galaxies that scatter by 1 to 2 Å: the error of a median is a third of it.
        assert abs(medians[0] - medians[1]) < within, (name, medians)


def test_weak_lines_are_measured_wherever_the_spectrum_is(mock_lines, real_lines):
    for lines, _ in (mock_lines, real_lines):
        for name in ("He_II 5411", "[O_I] 5577", "[S_III] 6312", "[Ar_III] 7135", "[O_III] 4363"):
            assert measured(column(lines, name)).mean() > 0.96, name
        for name in ("Ly_alpha", "C_IV 1549"):
            rows = column(lines, name)
            assert (rows["LINEAREA_ERR"] == -1).all()
            assert not rows["LINEAREA"].any()


def test_noise_alone_has_pulls_of_one(mock_lines, real_lines):
    """[O I] 5577 and He II 5411 are hardly seen in galaxies: their pulls are those of noise."""
    for lines, _ in (mock_lines, real_lines):
        rows = column(lines, "[O_I] 5577")
        there = measured(rows)
        pull = rows["LINEAREA"][there] / rows["LINEAREA_ERR"][there]
        low, high = np.percentile(pull, (16, 84))
        # Stars' features are in it too: 1.0 in real files.
        assert 0.7 < (high - low) / 2 < 1.5


def test_fits_have_the_chi2_and_the_pixels_of_real_ones(mock_lines, real_lines):
    for lines, _ in (mock_lines, real_lines):
        rows = lines[measured(lines)]
        n = rows["LINENPIXLEFT"] + rows["LINENPIXRIGHT"]
        # One amplitude, and a share of width and centre, which are tied: at most 1.3.
        free = n - rows["LINEDOF"]
        assert 0.5 < np.median(free) < 1.4
        reduced = rows["LINECHI2"] / np.maximum(rows["LINEDOF"], 1)
        weak = np.abs(rows["LINEAREA"]) < 2 * rows["LINEAREA_ERR"]
        assert 0.85 < np.median(reduced[weak]) < 1.05
        strong = np.abs(rows["LINEAREA"]) > 64 * rows["LINEAREA_ERR"]
        assert 3 < np.median(reduced[strong]) < 9
        assert np.percentile(reduced, 95) > 3
        # Three widths of 69 km/s pixels on either side.
        reach = rows["LINENPIXLEFT"] * 69 / rows["LINESIGMA"]
        assert np.median(reach) == pytest.approx(3, abs=0.25)


def test_widths_are_against_a_continuum_that_is_there(mock_lines, real_lines):
    for lines, _ in (mock_lines, real_lines):
        rows = lines[measured(lines)]
        assert (rows["LINECONTLEVEL"] != 0).all()
        assert (rows["LINECONTLEVEL_ERR"] > 0).all()
        ratio = rows["LINEAREA"] / rows["LINEEW"] / np.abs(rows["LINECONTLEVEL"])
        # float32 in three columns.
        np.testing.assert_allclose(ratio[np.isfinite(ratio)], 1, rtol=1e-4)


def test_a_line_without_pixels_failed_and_one_far_outside_was_not_tried(mock_lines, real_lines):
    for lines, _ in (mock_lines, real_lines):
        failed = lines["LINEAREA_ERR"] == -2
        # Nine of 2,755 in real files.
        assert 3e-4 < failed.mean() < 0.01
        assert not lines["LINEAREA"][failed].any()
        assert (lines["LINEEW_ERR"][failed] == -2).all()
        assert (lines["LINECHI2"][failed] == -1).all()
        assert (lines["LINESIGMA"][failed] > 0).all()
        assert set(lines["LINEAREA_ERR"][lines["LINEAREA_ERR"] <= 0]) == {-1, -2}


def test_a_lone_fit_finds_the_area_of_a_gaussian_on_a_level():
    rng = np.random.default_rng(2)
    n, pixel = 400, np.arange(200)
    centre, sigma = 100 + rng.uniform(-0.5, 0.5, n), np.full(n, 1.8)
    area = rng.uniform(-3, 3, n)
    profile = np.exp(-0.5 * ((pixel - centre[:, None]) / 1.8) ** 2) / (np.sqrt(2 * np.pi) * 1.8)
    noise = 0.3 * rng.standard_normal((n, 200))
    flux = (5 + area[:, None] * profile + noise).astype(np.float32)
    # A stronger line beside it, eight pixels away, is taken off by its known profile.
    flux += (6 * np.exp(-0.5 * ((pixel - centre[:, None] - 8) / 1.8) ** 2)).astype(np.float32)
    ivar = np.full((n, 200), 1 / 0.09, dtype=np.float32)
    beside = np.full(n, 8.0), np.full(n, 6.0)
    found, error, level = fit_alone((flux, ivar), np.arange(n), centre, sigma, beside)
    pull = (found - area) / error
    # 400 normal deviates: 3.5 % and 5 %.
    assert pull.std() == pytest.approx(1, abs=0.15)
    assert abs(pull.mean()) < 0.2
    np.testing.assert_allclose(level, 5, atol=0.3)
    # An optimal fit to white noise: σ √(2 √π s).
    assert np.median(error) == pytest.approx(0.3 * np.sqrt(2 * np.sqrt(np.pi) * 1.8), rel=0.1)
