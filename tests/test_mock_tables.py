"""Catalogue rows of a mock release: ids, quality, targets and redshifts hang together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from spectra_scale.mock.kinds import BROAD, KINDS, QUASAR, STAR
from spectra_scale.mock.objects import draw_objects
from spectra_scale.mock.observation import observe_plate
from spectra_scale.mock.plate_facts import plate_facts
from spectra_scale.mock.plates import write_plate
from spectra_scale.mock.redshifts import find_redshifts
from spectra_scale.mock.release import finish
from spectra_scale.mock.rows import catalogue_rows
from spectra_scale.mock.settings import MockSettings, plan
from spectra_scale.spectrum.specobjid import unpack_specobjid

# Objects are observed again on plates of both surveys.
TWICE = MockSettings(
    n_spectra=330, n_spec_files=60, fibers_legacy=60, fibers_boss=60, boss_fraction=0.4,
    repeat_fraction=0.2, star_fraction=0.08, star_as_galaxy_fraction=0.04, seed=11,
)  # fmt: skip


def written(folder: Path, mock: MockSettings) -> Path:
    for task in plan(mock):
        write_plate(task, folder, mock)
    finish(folder, plan(mock), mock)
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("twice"), TWICE)


@pytest.fixture(scope="module")
def catalogue(release) -> np.ndarray:
    return np.array(fits.getdata(release / "specObj-mock.fits"))


@pytest.fixture(scope="module")
def truth(release) -> dict[str, np.ndarray]:
    """Truth in the order of the catalogue."""
    return {
        name: np.array(v)
        for name, v in pq.read_table(release / "truth.parquet").to_pydict().items()
    }


def test_numbers_of_objects_are_those_of_the_truth_whichever_plate_observed_them(
    release, catalogue, truth
):
    for name in ("BESTOBJID", "FLUXOBJID", "TARGETOBJID"):
        pairs = set(zip(truth["object_id"].tolist(), catalogue[name].tolist(), strict=True))
        n = len(np.unique(truth["object_id"]))
        assert len(pairs) == n == len(np.unique(catalogue[name])), name
    assert len(np.unique(catalogue["OBJID"], axis=0)) == len(np.unique(truth["object_id"]))
    assert Counter(truth["object_id"].tolist()).most_common(1)[0][1] > 1


def test_obj_ids_are_packed_as_the_survey_packs_them(catalogue):
    """Sky version, rerun, run, camcol, field and id, as in real rows of DR8 and later."""
    best = catalogue["BESTOBJID"].astype(np.int64)
    assert set(best >> 59) == {2}
    assert set((best >> 48) & 0x7FF) == {301}
    target = np.array([int(i) for i in catalogue["TARGETOBJID"]])
    for packed in (best, target):
        parts = [(packed >> 32) & 0xFFFF, (packed >> 29) & 7, (packed >> 16) & 0xFFF]
        np.testing.assert_array_equal(np.stack([*parts, packed & 0xFFFF], axis=1),
                                      catalogue["OBJID"][:, [0, 2, 3, 4]])  # fmt: skip
    np.testing.assert_array_equal((target >> 48) & 0x7FF, catalogue["OBJID"][:, 1])


def test_real_target_ids_are_packed_the_same_way(real_data):
    rows = fits.getdata(real_data / "sdss/spec-lite/spec-0266-51602-0013.fits", 2)
    target, fields = int(rows["TARGETOBJID"][0]), rows["OBJID"][0].tolist()
    found = [(target >> 32) & 0xFFFF, (target >> 48) & 0x7FF, (target >> 29) & 7]
    assert [*found, (target >> 16) & 0xFFF, target & 0xFFFF] == fields


def test_every_row_says_how_often_its_object_was_observed(catalogue, truth):
    count = Counter(truth["object_id"].tolist())
    expected = [count[number] for number in truth["object_id"].tolist()]
    np.testing.assert_array_equal(catalogue["NSPECOBS"], expected)
    assert max(expected) > 1
    # One primary spectrum an object.
    np.testing.assert_array_equal(catalogue["SPECPRIMARY"] == 0, truth["is_repeat"])
    assert catalogue["SPECPRIMARY"].sum() == len(count)


def test_boss_files_name_the_object_as_the_catalogue_does(release, catalogue, truth):
    rows = {int(i): k for k, i in enumerate(catalogue["SPECOBJID"])}
    paths = sorted(release.glob("v5_13_2/spectra/**/spec-*.fits"))
    assert len(paths) > 10
    for path in paths:
        with fits.open(path) as hdus:
            wide = hdus["SPALL"].data[0]
            i = rows[int(wide["SPECOBJID"])]
            assert wide["THING_ID"] == hdus[0].header["THING_ID"] == truth["object_id"][i]
            assert wide["OBJID"] == catalogue["BESTOBJID"][i].decode()
            assert wide["NSPECOBS"] == catalogue["NSPECOBS"][i]
            assert (wide["RUN"], wide["CAMCOL"], wide["FIELD"], wide["ID"]) == tuple(
                catalogue["OBJID"][i][[0, 2, 3, 4]]
            )


def test_the_plate_id_is_a_spec_obj_id_without_a_fibre(catalogue):
    ids = unpack_specobjid(catalogue["PLATEID"])
    np.testing.assert_array_equal(ids.plate, catalogue["PLATE"])
    np.testing.assert_array_equal(ids.mjd, catalogue["MJD"])
    np.testing.assert_array_equal(ids.run2d, np.char.strip(catalogue["RUN2D"].astype(str)))
    assert not ids.fiber.any()
    # Plates from 8882 on have 20 digits.
    assert {len(i.strip()) for i in catalogue["PLATEID"][catalogue["PLATE"] > 8881]} == {20}


def test_the_real_plate_id_is_packed_the_same_way(real_data):
    row = fits.getdata(real_data / "sdss/spec-lite/spec-0266-51602-0013.fits", 2)[0]
    ids = unpack_specobjid(np.array([row["PLATEID"].strip()]))
    assert (ids.plate[0], ids.fiber[0], ids.mjd[0], ids.run2d[0]) == (266, 0, 51602, "26")


def test_plate_quality_does_not_depend_on_being_a_repeat():
    mock = MockSettings(n_spectra=900_000, repeat_fraction=0.05, boss_fraction=0.2)
    tasks = plan(mock)
    quality = np.array([plate_facts(task).quality for task in tasks])
    spectra = np.array([task.n_science for task in tasks])
    lost = spectra[quality != "good"].sum() / spectra.sum()
    # 1.3 % of 1,500 plates, with an error of 0.3 %.
    assert 0.003 < lost < 0.02
    assert set(quality) == {"good", "marginal", "bad"}
    repeat = np.array([task.is_repeat for task in tasks])
    assert (quality[repeat] == "good").mean() > 0.9
    boss = np.array([task.survey == "boss" for task in tasks])
    # SPALL has four letters.
    assert set(quality[boss]) <= {"good", "bad"}


def test_quality_follows_the_depth_of_the_plate():
    """Good legacy plates have (S/N)² above 15 (real ones: 15.1 and more)."""
    tasks = [task for task in plan(MockSettings(n_spectra=300_000)) if task.survey == "sdss"]
    facts = [plate_facts(task) for task in tasks]
    assert min(f.worst for f in facts if f.quality == "good") > 15
    assert max(f.worst for f in facts if f.quality != "good") < 15.1


def test_depth_is_the_same_in_header_catalogue_and_plate_files(release, catalogue):
    names = [f"SPEC{i}_{band}" for i in (1, 2) for band in "GRI"]
    for path in sorted(release.rglob("spPlate-*.fits")) + sorted(release.rglob("spec-*.fits")):
        header = fits.getheader(path)
        row = catalogue[catalogue["PLATE"] == header["PLATEID"]][0]
        # float32 of up to 100.
        np.testing.assert_allclose([row[n] for n in names], [header[n] for n in names], rtol=1e-6)
        assert row["PLATESN2"] == min(row[n] for n in names)
    legacy = np.char.strip(catalogue["SURVEY"].astype(str)) == "sdss"
    # As in all 195 legacy and in most of 67 BOSS files.
    assert not catalogue["DEREDSN2"][legacy].any()
    np.testing.assert_array_equal(catalogue["BLUEFIBER"], np.where(legacy, -1, 1))
    assert set(catalogue["LAMBDA_EFF"][legacy]) == {5000}
    assert set(catalogue["LAMBDA_EFF"][~legacy]) == {4000, 5400}


def test_constants_of_the_catalogue_are_those_of_real_files(real_data):
    for name, expected in (
        ("spec-0266-51602-0013", {"DEREDSN2": 0, "BLUEFIBER": -1, "LAMBDA_EFF": 5000}),
        ("spec-11277-58450-0705", {"BLUEFIBER": 1, "LAMBDA_EFF": 5400}),
        ("spec-4354-55810-0344", {"BLUEFIBER": 1, "LAMBDA_EFF": 4000}),
    ):
        row = fits.getdata(real_data / "sdss/spec-lite" / f"{name}.fits", 2)[0]
        assert {key: row[key] for key in expected} == expected
        depth = [row[f"SPEC{i}_{band}"] for i in (1, 2) for band in "GRI"]
        assert row["PLATESN2"] == min(depth)


def test_fibres_feed_the_spectrograph_of_their_half_of_the_plate(release, catalogue):
    half = {"sdss": TWICE.fibers_legacy // 2, "boss": TWICE.fibers_boss // 2}
    edge = np.array([half[s.decode().strip()] for s in catalogue["SURVEY"]])
    np.testing.assert_array_equal(catalogue["SPECTROGRAPHID"], 1 + (catalogue["FIBERID"] > edge))
    for path in release.rglob("spPlate-*.fits"):
        plug = fits.getdata(path, "PLUGMAP")
        rows = catalogue[catalogue["PLATE"] == fits.getheader(path)["PLATEID"]]
        mine = plug[rows["FIBERID"] - 1]
        for name in ("SPECTROGRAPHID", "XFOCAL", "YFOCAL"):
            # specObj has float32 of up to 320 mm.
            np.testing.assert_allclose(mine[name], rows[name], rtol=1e-6, atol=2e-5)


def test_places_in_the_focal_plane_are_true_angles(catalogue):
    """217.7 mm a degree; a degree of right ascension shrinks with cos(dec)."""
    far = 0
    for plate in np.unique(catalogue["PLATE"]):
        rows = catalogue[catalogue["PLATE"] == plate]
        first, rest = rows[0], rows[1:]
        # Distances on the sky by the haversine formula, on a plate 3 degrees wide.
        ra, dec = np.radians(rest["PLUG_RA"]), np.radians(rest["PLUG_DEC"])
        ra0, dec0 = np.radians(first["PLUG_RA"]), np.radians(first["PLUG_DEC"])
        half = np.sin((dec - dec0) / 2) ** 2
        half = half + np.cos(dec) * np.cos(dec0) * np.sin((ra - ra0) / 2) ** 2
        angle = np.degrees(2 * np.arcsin(np.sqrt(half)))
        away = np.hypot(rest["XFOCAL"] - first["XFOCAL"], rest["YFOCAL"] - first["YFOCAL"])
        # A flat plate for a round sky: 4 % where meridians converge at 58 degrees.
        np.testing.assert_allclose(away / 217.7, angle, rtol=0.06, atol=0.01)
        far += (angle > 1).sum()
    assert far > 50


def test_xfocal_of_real_rows_has_the_cosine(real_data):
    path = real_data / "sdss/spec-lite/spec-0390-51900-0587.fits"
    header, row = fits.getheader(path), fits.getdata(path, 2)[0]
    x = 217.7 * (row["PLUG_RA"] - header["RADEG"]) * np.cos(np.radians(row["PLUG_DEC"]))
    # Refraction and the curved sky: 2 mm of 320.
    assert abs(row["XFOCAL"] - x) < 3


def test_standard_stars_are_targets_of_their_own_type(release, catalogue):
    standard = np.char.strip(catalogue["TARGETTYPE"].astype(str)) == "STANDARD"
    star = np.char.strip(catalogue["CLASS"].astype(str)) == "STAR"
    assert star.sum() > 10
    assert standard[star].all()
    # Some are taken for galaxies: only the cut on the target type finds these.
    assert (standard & ~star).any()
    legacy = np.char.strip(catalogue["SURVEY"].astype(str)) == "sdss"
    np.testing.assert_array_equal(
        standard, np.where(legacy, catalogue["LEGACY_TARGET2"] == 1 << 5,
                           catalogue["BOSS_TARGET1"] == 1 << 20),
    )  # fmt: skip
    types = {}
    for path in release.rglob("spZbest-*.fits"):
        rows = fits.getdata(path, 1)
        types |= {(r["PLATE"], r["FIBERID"]): r["OBJTYPE"].strip() for r in rows}
    for path in release.glob("v5_13_2/spectra/**/spec-*.fits"):
        row = fits.getdata(path, 2)[0]
        types[row["PLATE"], row["FIBERID"]] = row["OBJTYPE"].strip()
    for row, is_standard in zip(catalogue, standard, strict=True):
        kind = types.get((row["PLATE"], row["FIBERID"]))
        assert kind is None or (kind == "SPECTROPHOTO_STD") == is_standard
    # NA: an ancillary program of BOSS; in public files two in five spectra.
    assert {"QSO", "GALAXY", "NA", "SPECTROPHOTO_STD", "SKY"} == set(types.values())


def test_texts_of_boss_files_end_in_nuls_and_those_of_legacy_files_in_blanks(release, real_data):
    for mock, real in (
        ("v5_13_2/spectra/lite", "spec-11277-58450-0705"),
        ("26/spectra/lite", "spec-0266-51602-0013"),
    ):
        paths = [next((release / mock).rglob("spec-*.fits")),
                 real_data / "sdss/spec-lite" / f"{real}.fits"]  # fmt: skip
        for i, name in ((2, "TFILE"), (2, "PROGRAMNAME"), (3, "LINENAME")):
            ends = []
            for path in paths:
                with fits.open(path) as hdus:
                    rows = hdus[i].data
                    kind, first = rows.dtype.fields[name][:2]
                    ends.append(rows.tobytes()[first : first + kind.itemsize][-1:])
            assert ends[0] == ends[1], (mock, name)


def test_measured_dispersions_scatter_around_the_true_ones_by_their_error():
    mock = MockSettings(n_spectra=1200, n_spec_files=0)
    pulls = []
    for task in plan(mock)[:2]:
        seen = observe_plate(task, mock)
        rows = catalogue_rows(seen)
        galaxy = (seen.classes == "GALAXY") & (rows["VDISP"] > 0)
        error = (rows["VDISP"] - seen.objects.sigma_stars)[galaxy]
        pulls.append(error / rows["VDISP_ERR"][galaxy])
    pull = np.concatenate(pulls)
    # 1,100 normal deviates; those of the smallest are cut at 0.
    assert pull.std() == pytest.approx(1, abs=0.08)
    assert abs(pull.mean()) < 0.12


def test_noise_of_a_dispersion_belongs_to_the_fibre_whoever_else_is_observed():
    pulls = []
    for n in (150, 300):
        mock = MockSettings(n_spectra=n, n_spec_files=n, boss_fraction=0, repeat_fraction=0)
        seen = observe_plate(plan(mock)[0], mock)
        rows = catalogue_rows(seen)
        free = (rows["VDISP"] > 0) & (rows["VDISP"] < 850)
        error = (rows["VDISP"] - seen.objects.sigma_stars)[free] / rows["VDISP_ERR"][free]
        pulls.append(dict(zip(seen.fiber[free].tolist(), error.tolist(), strict=True)))
    both = set(pulls[0]) & set(pulls[1])
    assert len(both) > 40
    for fiber in both:
        # float32 of 300 over an error of 10.
        assert pulls[0][fiber] == pytest.approx(pulls[1][fiber], abs=1e-3)


@pytest.fixture(scope="module")
def objects():
    mock = MockSettings(n_spectra=12_000, n_spec_files=0, fibers_legacy=12_600, boss_fraction=0,
                        star_fraction=0.1)  # fmt: skip
    return draw_objects(plan(mock)[0], mock)


@pytest.mark.parametrize("survey", ["sdss", "boss"])
def test_many_outliers_are_in_broad_or_bright_legacy_spectra(objects, survey):
    mock = MockSettings(bad_redshift_fraction=0.1)
    rng = np.random.default_rng(3)
    found = find_redshifts(objects, mock, rng, survey=survey)
    assert np.any(found.zwarning == 16) == (survey == "sdss")
    alarm = (found.zwarning != 0) & ~found.is_wrong
    # A third of the warnings: 12,000 spectra have 420, less those that cannot have more.
    assert 0.02 < alarm.mean() < 0.045
    broad = np.isin(objects.kind, (BROAD, QUASAR))
    if survey == "boss":
        assert broad[alarm].all()
        return
    likely = broad | (objects.magnitude < np.percentile(objects.magnitude, 15))
    assert likely[alarm].mean() > 0.75
    assert broad[alarm].mean() > 3 * broad.mean()


def test_no_galaxy_approaches_and_stars_stay_within_their_templates(objects):
    mock = MockSettings(bad_redshift_fraction=0.5)
    found = find_redshifts(objects, mock, np.random.default_rng(5))
    star = (objects.kind == STAR) & ~objects.as_galaxy
    assert star.sum() > 500
    assert np.abs(found.z[star]).max() < 0.002
    assert found.z[~star].min() > 0
    silent = found.is_wrong & (found.zwarning == 0) & ~objects.as_galaxy
    # A tenth of half of them.
    assert 0.01 < silent.mean() < 0.06
    assert KINDS[STAR] == "star"
    assert not silent[star].any()


def test_warnings_and_wrong_redshifts_are_as_frequent_as_asked_for(objects):
    mock = MockSettings(bad_redshift_fraction=0.02)
    parts = [find_redshifts(objects, mock, np.random.default_rng(seed)) for seed in range(4)]
    warned = np.concatenate([part.zwarning != 0 for part in parts])
    wrong = np.concatenate([part.zwarning == 4 for part in parts])
    # 48,000 spectra: errors of 3.2 and 4 %.
    assert warned.mean() == pytest.approx(0.02, rel=0.13)
    assert wrong.mean() == pytest.approx(0.013, rel=0.16)


def test_the_best_fit_does_not_follow_a_step_of_calibration():
    mock = MockSettings(n_spectra=500, n_spec_files=0, artefact_fraction=0.9, boss_fraction=0)
    seen = observe_plate(plan(mock)[0], mock)
    stepped, clean = (np.flatnonzero(seen.artefact == kind) for kind in (2, 0))
    assert len(stepped) > 20
    chi2 = []
    for rows in (stepped, clean):
        row = seen.row[rows]
        flux, ivar, model = (getattr(seen.exposure, n)[row] for n in ("flux", "ivar", "model"))
        chi2.append(np.median(((flux - model) ** 2 * ivar).sum(axis=1) / (ivar > 0).sum(axis=1)))
    # A step of 10 to 35 % at an S/N of some 15 a pixel.
    assert chi2[0] > 1.2 * chi2[1]
    # And it is where the cameras meet: the mean residual changes there.
    row, split = seen.row[stepped], seen.instrument.split
    pull = (seen.exposure.flux[row] - seen.exposure.model[row]) * np.sqrt(seen.exposure.ivar[row])
    jump = np.abs(pull[:, split + 60 : split + 260].mean(axis=1)
                  - pull[:, split - 260 : split - 60].mean(axis=1))  # fmt: skip
    # Means of 200 correlated pixels scatter by 0.1.
    assert np.median(jump) > 0.5
