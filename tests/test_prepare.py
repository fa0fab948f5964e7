"""Prepare: cuts, rest frame, identity and split of a sample."""

import numpy as np
import pyarrow as pa
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy_healpix import HEALPix
from pipeline_builders import (
    SMALL,
    DyingPlace,
    Killed,
    Prepared,
    digests,
    ingest_release,
    keys_of,
    label_releases,
    prepare_sample,
    write_mock,
)
from surveys_builders import boss_row, coadd_columns, legacy_row, write_spec

from spectra_scale.compute.place import Here
from spectra_scale.config import PrepareSection
from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.mock.release import CATALOGUE_FILE, LINES_FILE
from spectra_scale.spectrum.grid import WavelengthGrid
from spectra_scale.spectrum.masks import mask_bits_of
from spectra_scale.stages.prepare import shift_spectra
from spectra_scale.stages.prepare.rest import luminosity_factor
from spectra_scale.store.objects import column
from spectra_scale.surveys.sdss import SDSS_FIRST_PIXEL, SpectrumArrays
from spectra_scale.verify import verify

N, N_SPEC = 150, 40
CUT = {"min_snr": 400.0, "max_masked_fraction": 0.14, "z_max": 0.3}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    # Repeats and unusable redshifts enough for every cut to have some work.
    return write_mock(
        tmp_path_factory.mktemp("prepare") / "mock", N, N_SPEC, repeat_fraction=0.1,
        bad_redshift_fraction=0.1, star_fraction=0.05, out_of_range_fraction=0.05,
        artefact_fraction=0.1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def release(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("released") / "r"
    return ingest_release(out, source, "dr7", source / CATALOGUE_FILE)


@pytest.fixture(scope="module")
def labels(source, release, tmp_path_factory):
    return label_releases(tmp_path_factory.mktemp("lab") / "l", [release], [source / LINES_FILE])


@pytest.fixture(scope="module")
def sample(release, labels, tmp_path_factory):
    prepared = Prepared([release], labels, PrepareSection(**CUT))
    return prepared.run(tmp_path_factory.mktemp("sampled") / "s")


@pytest.fixture(scope="module")
def alone(release):
    """Every row to the rest frame, each by itself: flux, ivar and quality."""
    block = release.read(slice(0, release.n_rows))
    found = []
    for i, z in enumerate(column(release.catalogue, "z")):
        arrays = (block.flux[i], block.ivar[i], block.mask_bits[i])
        spectrum = SpectrumArrays(block.first_pixel, *arrays)
        rest, quality = shift_spectra(spectrum, z, PrepareSection())
        found.append((rest.flux[0], rest.ivar[0], quality))
    return found


def first_failed_cut(record, quality):
    """The cuts of science.md §4 in plain Python: the name of the first that removes a row."""
    cuts = {
        "quarantined": record["status"] != "kept",
        "class": record["class"] not in ("GALAXY", "QSO"),
        "redshift": not 0.05 <= record["z"] <= CUT["z_max"],
        "zwarning": record["zwarning"] != 0,
        "target type": record["targettype"] not in ("SCIENCE", "", None),
        "specprimary": record["specprimary"] == 0,
        "plate quality": record["platequality"] not in ("good", "", None),
        "masked fraction": not quality.masked_fraction[0] < CUT["max_masked_fraction"],
        "snr_total": not quality.snr_total[0] > CUT["min_snr"],
    }
    return next((name for name, failed in cuts.items() if failed), None)


# Cuts --------------------------------------------------------------------------------------------


def test_cuts_and_their_counts_are_those_of_a_plain_loop(release, alone, sample):
    expected = {
        row: first_failed_cut(record, alone[row][2])
        for row, record in enumerate(release.catalogue.to_pylist())
    }
    dropped = {r["row"]: r["cut"] for r in sample.dropped.to_pylist()}
    assert dropped == {row: cut for row, cut in expected.items() if cut}
    assert sample.index["row"].to_pylist() == [row for row, cut in expected.items() if not cut]
    counts = sample.artifact.counts
    cuts = list(dropped.values())
    assert counts["dropped by cut"] == {cut: cuts.count(cut) for cut in set(cuts)}
    assert counts["kept"] + counts["dropped"] == counts["rows in"] == N
    # Every kind of cut had something to remove, or this test would show nothing.
    assert set(cuts) >= {"class", "redshift", "zwarning", "specprimary", "masked fraction",
                         "snr_total"}  # fmt: skip
    assert counts["kept"] > 30


def test_a_dropped_row_says_what_was_found(release, sample):
    catalogue = release.catalogue.to_pylist()
    for record in sample.dropped.to_pylist():
        theirs = catalogue[record["row"]]
        assert record["spectrum_key"] == theirs["spectrum_key"]
        if record["cut"] in ("class", "redshift", "zwarning", "specprimary"):
            name = {"redshift": "z"}.get(record["cut"], record["cut"])
            assert record["found"] == str(theirs[name])
        else:
            assert float(record["found"]) >= 0


@pytest.mark.parametrize(
    ("settings", "cut"),
    [
        ({"require_primary": False, "require_good_plate": False}, "specprimary"),
        (
            # Stars are standards: their target type would remove them next.
            {"classes": ("GALAXY", "QSO", "STAR"), "z_min": -0.1, "require_science_target": False},
            "class",
        ),
        ({"zwarning_ignore_bits": tuple(range(32))}, "zwarning"),
        ({"z_max": 5.0, "z_min": -0.5}, "redshift"),
        ({"max_masked_fraction": 1.0}, "masked fraction"),
        ({"min_snr": 0.0}, "snr_total"),
    ],
)
def test_a_cut_that_is_lifted_removes_nothing(release, labels, sample, tmp_path, settings, cut):
    found = Prepared([release], labels, PrepareSection(**(CUT | settings))).run(tmp_path / "s")
    assert cut not in found.artifact.counts["dropped by cut"]
    assert set(found.index["row"].to_pylist()) > set(sample.index["row"].to_pylist())


@pytest.mark.parametrize("name", ["snr_median", "snr_mean"])
def test_the_cut_may_be_on_another_signal_to_noise(release, labels, tmp_path, name):
    limit = 19.0
    config = PrepareSection(snr=name, min_snr=limit)
    found = Prepared([release], labels, config).run(tmp_path / "s")
    assert column(found.index, name).min() > limit
    removed = [float(r["found"]) for r in found.dropped.to_pylist() if r["cut"] == name]
    assert removed
    assert max(removed) <= limit


def test_one_zwarning_bit_may_be_ignored(release, labels, tmp_path):
    bits = column(release.catalogue, "zwarning")
    some = int(np.log2(bits[bits > 0].min()))
    config = PrepareSection(min_snr=0.0, zwarning_ignore_bits=(some,))
    found = Prepared([release], labels, config).run(tmp_path / "s")
    kept = bits[column(found.index, "row")]
    assert set((kept & ~(1 << some)).tolist()) == {0}
    assert (kept == 1 << some).any()


def test_no_rows_left_names_the_cuts_and_commits_nothing(release, labels, tmp_path):
    config = PrepareSection(z_min=0.8, z_max=0.9)
    with pytest.raises(SpectraScaleError) as error:
        Prepared([release], labels, config).run(tmp_path / "s")
    message = str(error.value)
    assert f"found {N} rows, removed by class" in message
    assert "redshift" in message
    assert "Loosen the cuts in [prepare]" in message
    assert not (tmp_path / "s" / "manifest.json").exists()
    assert not (tmp_path / "s" / "arrays").exists()


# Spectra -----------------------------------------------------------------------------------------


def test_spectra_do_not_depend_on_their_neighbours(alone, sample):
    flux, ivar = sample.read(slice(0, sample.n_rows))
    for i, row in enumerate(sample.index["row"].to_pylist()):
        mine, weight, quality = alone[row]
        np.testing.assert_array_equal(flux[i], mine)
        np.testing.assert_array_equal(ivar[i], weight)
        for name in ("snr_total", "snr_median", "snr_mean", "masked_fraction"):
            assert sample.index[name][i].as_py() == getattr(quality, name)[0]


def test_flux_is_zero_where_ivar_is_and_both_are_finite(sample):
    flux, ivar = sample.read(slice(0, sample.n_rows))
    assert np.isfinite(flux).all()
    assert np.isfinite(ivar).all()
    assert (ivar >= 0).all()
    assert (ivar == 0).any()
    assert not flux[ivar == 0].any()
    masked = column(sample.index, "masked_fraction")
    # Both are a count of pixels over 1000, once divided and once subtracted from 1.
    np.testing.assert_allclose((ivar == 0).mean(axis=1), masked, rtol=0, atol=1e-12)
    assert [c.problem for c in verify(sample.path, Here()) if c.problem] == []


def test_flux_is_conserved_from_the_survey_to_the_sample(release, sample):
    """∫F dλ over whole grid pixels without a masked native pixel, in float64 (science.md §2)."""
    edges = WavelengthGrid.rest_frame().edges
    flux, ivar = sample.read(slice(0, 5))
    for i, row in enumerate(sample.index["row"].to_pylist()[:5]):
        block, z = release.read(slice(row, row + 1)), sample.index["z"][i].as_py()
        k = SDSS_FIRST_PIXEL + np.arange(block.flux.shape[1] + 1)
        native = 10 ** ((k - 0.5) * 1e-4) / (1 + z)
        good = (block.ivar[0] > 0) & ((block.mask_bits[0] & mask_bits_of("strict")) == 0)
        run = np.flatnonzero(ivar[i] > 0)
        # The longest stretch of grid pixels over native pixels that are all valid.
        whole = [
            j for j in run
            if good[(native[1:] > edges[j]) & (native[:-1] < edges[j + 1])].all()
        ]  # fmt: skip
        pieces = np.split(whole, np.flatnonzero(np.diff(whole) > 1) + 1)
        piece = max(pieces, key=len)
        low, high = edges[piece[0]], edges[piece[-1] + 1]
        overlap = np.clip(np.minimum(native[1:], high) - np.maximum(native[:-1], low), 0, None)
        theirs = np.sum(overlap * block.flux[0].astype("f8") * (1 + z), where=overlap > 0)
        widths = np.diff(edges)
        mine = np.sum(flux[i].astype("f8")[piece] * widths[piece])
        assert len(piece) > 200
        # Each of the sample's fluxes is rounded to float32, 6e-8; science.md asks for 1e-6.
        assert mine == pytest.approx(theirs, rel=1e-6)


def test_the_number_of_pixels_is_a_setting(release, labels, tmp_path):
    config = PrepareSection(n_pixels=2000, **CUT)
    found = Prepared([release], labels, config).run(tmp_path / "s")
    assert found.read(slice(0, 2))[0].shape == (2, 2000)
    wave = found.to_xarray()["wavelength"].to_numpy()
    np.testing.assert_array_equal(wave, WavelengthGrid.rest_frame(2000).centres)


def test_reference_is_the_papers_own_recipe_in_plain_numpy(release, labels, tmp_path):
    """science.md §2, `reference`, steps 1-5, for a few rows in float64."""
    from astropy.cosmology import Planck18

    config = PrepareSection(preset="reference", mask="paper", max_masked_fraction=0.6)
    found = Prepared([release], labels, config).run(tmp_path / "s")
    assert found.artifact.metrics["preset"] == "reference"
    flux, ivar = found.read(slice(0, found.n_rows))
    # After the cap no pixel has a S/N above 50; float32 rounding of v and of F.
    assert (flux * np.sqrt(ivar)).max() <= 50 * (1 + 1e-6)
    edges = WavelengthGrid.rest_frame().edges
    for i in (0, found.n_rows // 2, found.n_rows - 1):
        row, z = (found.index[name][i].as_py() for name in ("row", "z"))
        block = release.read(slice(row, row + 1))
        wave = 10 ** ((SDSS_FIRST_PIXEL + np.arange(block.flux.shape[1])) * 1e-4)
        ratio = Planck18.luminosity_distance(z) / Planck18.luminosity_distance(0.1)
        factor = wave * float(ratio) ** 2
        good = (block.ivar[0] != 0) & (block.mask_bits[0] == 0)
        at = np.searchsorted(edges, wave / (1 + z), side="right") - 1
        for j in range(0, 1000, 37):
            inside = good & (at == j)
            if not inside.any():
                assert flux[i, j] == ivar[i, j] == 0
                continue
            mean = np.mean(block.flux[0][inside] * factor[inside], dtype="f8")
            variance = np.mean(factor[inside] ** 2 / block.ivar[0][inside], dtype="f8")
            v = inside.sum() / variance
            if mean * np.sqrt(v) > 50:
                v = (50 / mean) ** 2
            # The native flux is float32: a few roundings of 6e-8, more where terms cancel.
            assert flux[i, j] == pytest.approx(mean, rel=1e-5, abs=1e-5 / np.sqrt(v))
            assert ivar[i, j] == pytest.approx(v, rel=1e-5)
    assert luminosity_factor(np.array([0.1]))[0] == 1.0


def test_dereddening_follows_fitzpatrick_and_needs_a_colour_excess(tmp_path):
    from dust_extinction.parameter_averages import F99

    folder = tmp_path / "in"
    folder.mkdir()
    bright = {"n_pixels": 3600, "first_pixel": 35800}
    for name, row in (
        ("spec-3606-55182-0679.fits", boss_row(Z=np.float32(0.1))),
        ("spec-0266-51602-0001.fits", legacy_row(Z=np.float32(0.1))),
    ):
        coadd = coadd_columns(**bright)
        coadd["and_mask"][:] = 0
        # Flat, so that nothing but the curve changes within a pixel.
        coadd["flux"][:], coadd["ivar"][:] = 10, 1
        write_spec(folder, name, row=row, coadd=coadd)
    release = ingest_release(tmp_path / "r", folder, "dr17")
    catalogue = {r["plate"]: r for r in release.catalogue.to_pylist()}
    ebv = catalogue[3606]["ebv"]
    assert ebv > 0.05
    assert np.isnan(catalogue[266]["ebv"])
    plain = prepare_sample(tmp_path / "a", [release])
    red = prepare_sample(tmp_path / "b", [release], deredden=True)
    assert plain.n_rows == 2
    assert red.artifact.counts["dropped by cut"] == {"no E(B-V)": 1}
    assert keys_of(red.index) == ["sdss:3606-55182-679"]
    (flux,), (ivar,) = red.read(slice(0, 1))
    before, weight = plain.get("sdss:3606-55182-679")
    good = weight > 0
    wave = WavelengthGrid.rest_frame().centres[good] * 1.1
    factor = 10 ** (0.4 * 3.1 * ebv * F99(Rv=3.1)(wave * u.AA))
    # Within a pixel of 9e-4 of λ the curve changes by less than 1e-3 of itself.
    np.testing.assert_allclose(flux[good] / before[good], factor, rtol=1e-3)
    np.testing.assert_allclose(weight[good] / ivar[good], factor**2, rtol=2e-3)
    assert np.array_equal(ivar > 0, good)


# Identity and split ------------------------------------------------------------------------------


def test_a_release_twice_supersedes_itself_and_trains_once(source, release, tmp_path):
    newer = ingest_release(tmp_path / "r17", source, "dr17", source / CATALOGUE_FILE, limit=90)
    one = prepare_sample(tmp_path / "one", [release], **CUT)
    both = prepare_sample(tmp_path / "both", [release, newer], **CUT)
    index, n = both.index, one.n_rows
    assert index["release"].to_pylist() == ["dr7"] * n + ["dr17"] * (both.n_rows - n)
    again = set(keys_of(index.slice(n)))
    old = column(index, "superseded")
    assert [k in again for k in keys_of(index.slice(0, n))] == old[:n].tolist()
    assert 0 < old.sum() == both.n_rows - n
    # The newest row of a key is neither superseded nor doubled in what trains and what judges.
    used = np.array(keys_of(index))[both.training_rows() | both.validation_rows()]
    assert sorted(used) == sorted(keys_of(one.index))
    assert not (column(index, "primary") & old).any()
    # A release more adds rows and changes none.
    for name in ("flux", "ivar"):
        mine, theirs = (getattr(s, name)[:n].compute(scheduler="synchronous") for s in (both, one))
        np.testing.assert_array_equal(mine, theirs)
    assert index.slice(0, n)["snr_total"].equals(one.index["snr_total"])
    assert index.slice(0, n)["split"].equals(one.index["split"])


def test_the_order_of_releases_decides_what_supersedes_and_nothing_of_the_split(
    source, release, tmp_path
):
    newer = ingest_release(tmp_path / "r17", source, "dr17", source / CATALOGUE_FILE)
    split = {}
    for name, order in (("a", [release, newer]), ("b", [newer, release])):
        sample = prepare_sample(tmp_path / name, order, **CUT)
        old = column(sample.index, "superseded")
        assert set(np.array(sample.index["release"].to_pylist())[old]) == {order[0].name}
        split[name] = dict(
            zip(keys_of(sample.index), sample.index["split"].to_pylist(), strict=True)
        )
    assert split["a"] == split["b"]


def test_observations_of_one_object_are_one_object_on_one_side(release, labels, tmp_path):
    config = PrepareSection(min_snr=0.0, require_primary=False, require_good_plate=False)
    sample = Prepared([release], labels, config).run(tmp_path / "s")
    index = sample.index
    sky = SkyCoord(column(index, "ra"), column(index, "dec"), unit="deg")
    near = sky[:, None].separation(sky[None, :]) <= 1.5 * u.arcsec
    same = column(index, "sky_id")[:, None] == column(index, "sky_id")[None, :]
    # No chains among a hundred scattered objects: friends of friends are friends.
    np.testing.assert_array_equal(np.asarray(near), same)
    assert same.sum() > len(same)  # there are repeats
    split = np.array(index["split"].to_pylist())
    assert (split[:, None] == split[None, :])[same].all()
    primary, snr = column(index, "primary"), column(index, "snr_total")
    for sky_id in set(column(index, "sky_id")):
        rows = np.flatnonzero(column(index, "sky_id") == sky_id)
        assert rows[primary[rows]].tolist() == [rows[np.argmax(snr[rows])]]
    assert sample.artifact.counts["objects"] == primary.sum() == len(set(column(index, "sky_id")))


def test_a_sky_cell_is_wholly_training_or_validation(sample):
    index = sample.index
    healpix = HEALPix(nside=512, order="nested")
    cell = healpix.lonlat_to_healpix(column(index, "ra") * u.deg, column(index, "dec") * u.deg)
    sides = {}
    for c, split, primary in zip(cell, index["split"].to_pylist(), column(index, "primary"),
                                 strict=True):  # fmt: skip
        if primary:
            assert sides.setdefault(int(c), split) == split
    assert set(sides.values()) == {"train", "validation"}
    counts = sample.artifact.counts
    assert counts["train"] + counts["validation"] == counts["kept"]
    # 3 : 1 by a hash: a binomial over the cells, within five of its sigmas.
    share = np.mean([side == "train" for side in sides.values()])
    assert abs(share - 0.75) < 5 * np.sqrt(0.75 * 0.25 / len(sides))


def test_labels_come_with_their_rows(labels, sample):
    from spectra_scale.store.tables import read_table

    table = read_table(labels.path / "objects" / "dr7.parquet")
    rows = pa.array(sample.index["row"].to_pylist())
    assert table["label"].take(rows).equals(sample.index["label"])
    assert table["spectrum_key"].take(rows).equals(sample.index["spectrum_key"])


# Interruptions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4])
def test_a_prepare_that_was_killed_ends_with_the_same_bytes(
    release, labels, sample, tmp_path, after
):
    # Three shards are read and two or more are packed; it dies before one of these tasks.
    assert sample.n_rows > SMALL.shard_rows
    prepared = Prepared([release], labels, PrepareSection(**CUT))
    with pytest.raises(Killed):
        prepared.run(tmp_path / "s", DyingPlace(after))
    assert not (tmp_path / "s" / "manifest.json").exists()
    found = prepared.run(tmp_path / "s")
    assert digests(found.path) == digests(sample.path)
    assert not (found.path / "parts").exists()


def test_lost_parts_and_a_lost_manifest_are_made_again(release, labels, sample, tmp_path):
    prepared = Prepared([release], labels, PrepareSection(**CUT))
    with pytest.raises(Killed):
        prepared.run(tmp_path / "s", DyingPlace(3))
    parts = sorted((tmp_path / "s" / "parts").iterdir())
    (parts[0] / "kept.parquet").unlink()  # killed before its last file
    (parts[0] / "flux.npy").write_bytes(b"half")
    for file in parts[1].iterdir():
        file.unlink()
    prepared.run(tmp_path / "s")
    (tmp_path / "s" / "manifest.json").unlink()
    (tmp_path / "s" / "index.parquet").unlink()
    with pytest.raises(UsageError, match="did not write"):
        prepared.run(tmp_path / "s")  # nothing says whose files these are
    (tmp_path / "s" / "started.json").write_text(
        (sample.path / "manifest.json").read_text()  # what begin had written says the same
    )
    assert digests(prepared.run(tmp_path / "s").path) == digests(sample.path)


def test_every_place_makes_the_same_sample(release, labels, sample, executor, tmp_path):
    prepared = Prepared([release], labels, PrepareSection(**CUT))
    assert digests(prepared.run(tmp_path / "s", executor).path) == digests(sample.path)
