"""The encode stage: covariances, precision, resuming, and what a worker does once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from latent_builders import smooth_spectra, trained_model
from pipeline_builders import DyingPlace, Killed, digests, index_of, make_sample

from spectra_scale.compute.place import Here
from spectra_scale.compute.threads import one_thread_in_workers
from spectra_scale.config import EncodeSection
from spectra_scale.models import inputs as model_inputs
from spectra_scale.models.autoencoder import decode_latents, encode
from spectra_scale.models.checkpoint import save_model
from spectra_scale.models.inputs import ModelInputs
from spectra_scale.models.normalise import Normalisation
from spectra_scale.models.uncertainty import Propagation
from spectra_scale.spectrum.covariance import correlated_noise, neighbour_correlation
from spectra_scale.spectrum.grid import DESI_NATIVE, SDSS_NATIVE, WavelengthGrid
from spectra_scale.stages import encode as stage
from spectra_scale.store import artifact
from spectra_scale.store.objects import column, columns_of, read_objects

N_PIXELS = 1000
INPUTS = ModelInputs(Normalisation())


def spectra(n=150, noise_scale=1.0, *, repeats=False):
    """Spectra with the noise of their redshifts, which are those of `index_of`.

    With `repeats` the second half is the first again, and only the noise is new.
    """
    rng = np.random.default_rng(1)
    distinct = n // 2 if repeats else n
    hidden = np.column_stack([rng.normal(0, 0.4, distinct), rng.uniform(0, 1.5, distinct),
                              rng.normal(0, 0.2, distinct)])  # fmt: skip
    blue = rng.integers(0, 90, distinct)
    again = np.arange(n) % distinct
    flux, ivar = smooth_spectra(2, n, N_PIXELS, hidden=hidden[again], blue=blue[again])
    z = np.linspace(0.05, 0.36, n)
    rho = neighbour_correlation(z, SDSS_NATIVE, WavelengthGrid.rest_frame(N_PIXELS))
    return flux + noise_scale * correlated_noise(ivar, rho, rng), ivar, rho


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A finished, trained auto-encoder."""
    out = tmp_path_factory.mktemp("model")
    recipe = artifact.Recipe("train", 1, {}, {"made": "here"})
    assert artifact.begin(out, recipe) is None
    save_model(out, trained_model(N_PIXELS, steps=20), INPUTS.normalisation)
    return artifact.finish(out, recipe, counts={})


def run(sample, model, out, place=None, fitted=None, **settings):
    config = EncodeSection(**settings)
    calibration = None if fitted is None else fitted.fingerprint
    recipe = stage.recipe(sample.artifact.fingerprint, model.fingerprint, config, calibration)
    inputs = stage.EncodeInputs(sample, model, fitted)
    return stage.run(inputs, config, place or Here(), out, recipe)


def covariances(table):
    found = np.empty((table.num_rows, 3, 3), "f4")
    for i in range(3):
        for j in range(i, 3):
            found[:, i, j] = found[:, j, i] = column(table, f"cov_{i}_{j}")
    return found


def test_the_columns_are_the_propagated_covariance_times_the_factors(model, tmp_path):
    flux, ivar, rho = spectra()
    flux[7] *= -1
    n = len(flux)
    keys = [f"{'desi:main-bright-' if i % 3 == 0 else 'sdss:266-51602-'}{i}" for i in range(n)]
    index = index_of(n, spectrum_key=keys)
    sample = make_sample(tmp_path / "sample", flux, ivar, index=index)
    made = run(sample, model, tmp_path / "latents", precision="float32")
    table = read_objects(made.path / "objects", index)
    grid = WavelengthGrid.rest_frame(N_PIXELS)
    linear = np.arange(n) % 3 == 0
    rho[linear] = neighbour_correlation(column(index, "z")[linear], DESI_NATIVE, grid)
    network, _ = model_inputs.load_encoder(model.path)
    fed = INPUTS.apply(flux, ivar)
    latents, expected = Propagation(network, INPUTS).propagate(fed.flux, fed.ivar, rho)
    said = made.metrics["covariance"]
    found = covariances(table)
    usable = column(table, "usable")
    assert np.flatnonzero(~usable).tolist() == [7]
    assert np.isnan(found[7]).all()
    # Batches of other sizes add in another order.
    scale = expected[usable].max()
    np.testing.assert_allclose(
        found[usable],
        expected[usable] * np.outer(*[said["factors"]] * 2),
        rtol=1e-4,
        atol=1e-6 * scale,
    )
    np.testing.assert_allclose(columns_of(table, "latent"), latents, rtol=1e-4, atol=1e-5)
    chi2 = decode_latents(network, latents, fed.flux, fed.ivar).chi2
    np.testing.assert_allclose(column(table, "chi2"), chi2, rtol=1e-4)
    assert said["from"] == "noise realisations"
    assert said["repeats"] == {"n": 0}
    # A quarter of the rows are in the validation split, but for the one that is unusable.
    assert said["noise realisations"]["n"] == 36
    assert max(abs(factor - 1) for factor in said["factors"]) < 0.1 + 3 * 0.93 / np.sqrt(36)
    assert made.manifest["where"]["precision"] == "latents float32, Jacobian float32, cpu"


@pytest.mark.parametrize("noise_scale", [1.0, 1.5])
def test_fifty_repeats_set_the_factors(model, tmp_path, noise_scale):
    """Noise half as large again as is quoted: realisations cannot know it, repeats do."""
    n = 400
    flux, ivar, _ = spectra(n, noise_scale, repeats=True)
    sample = make_sample(
        tmp_path / "sample", flux, ivar, index=index_of(n, sky_id=np.arange(n) % (n // 2))
    )
    said = run(sample, model, tmp_path / "latents").metrics["covariance"]
    assert said["from"] == "repeats"
    assert said["repeats"]["n"] == n // 2
    # A robust width of 200 pairs of three latents has sigma 0.93/√200 at most.
    for width in said["factors"]:
        assert abs(width / noise_scale - 1) < 0.1 + 3 * 0.93 / np.sqrt(n / 2)
    assert abs(said["noise realisations"]["width"] - 1) < 0.1 + 2 * 0.93 / np.sqrt(n / 4)


def test_a_superseded_observation_is_no_repeat(model, tmp_path):
    n = 120
    flux, ivar, _ = spectra(n, repeats=True)
    index = index_of(n, sky_id=np.arange(n) % (n // 2), superseded=np.arange(n) < n // 2)
    sample = make_sample(tmp_path / "sample", flux, ivar, index=index)
    assert run(sample, model, tmp_path / "latents").metrics["covariance"]["repeats"]["n"] == 0


def test_an_earlier_run_lends_its_factors_with_its_model(model, tmp_path):
    """Else a release more would change the uncertainties of all others."""
    flux, ivar, _ = spectra()
    first = run(make_sample(tmp_path / "sample", flux, ivar), model, tmp_path / "first")
    fewer = make_sample(tmp_path / "fewer", flux[:60], ivar[:60])
    found = {}
    for name, fitted in (("own", None), ("lent", first)):
        made = run(fewer, model, tmp_path / name, fitted=fitted)
        said = made.metrics["covariance"]
        found[name] = (
            said["factors"],
            column(read_objects(made.path / "objects", fewer.index), "cov_0_0"),
        )
    assert said["from"] == "the models' run: noise realisations"
    assert found["lent"][0] == first.metrics["covariance"]["factors"] != found["own"][0]
    ratio = (found["lent"][0][0] / found["own"][0][0]) ** 2
    np.testing.assert_allclose(found["lent"][1] / found["own"][1], ratio, rtol=1e-5)
    # What was lent is lent on.
    again = run(fewer, model, tmp_path / "again", fitted=made)
    assert again.metrics["covariance"]["from"] == said["from"]


def test_covariances_can_be_left_out_and_latents_stay(model, tmp_path):
    flux, ivar, _ = spectra()
    sample = make_sample(tmp_path / "sample", flux, ivar)
    without = run(sample, model, tmp_path / "without", covariance=False)
    table = read_objects(without.path / "objects", sample.index)
    assert not any(name.startswith("cov") for name in table.column_names)
    assert "covariance" not in without.metrics
    with_ = read_objects(run(sample, model, tmp_path / "with").path / "objects", sample.index)
    # Batches of 128 and of the whole shard add in another order.
    np.testing.assert_allclose(
        columns_of(table, "latent"), columns_of(with_, "latent"), rtol=1e-4, atol=1e-5
    )


def test_a_killed_run_goes_on_at_the_shard_and_ends_in_the_same_bytes(model, tmp_path):
    flux, ivar, _ = spectra()
    sample = make_sample(tmp_path / "sample", flux, ivar)
    whole = run(sample, model, tmp_path / "whole")
    for after in (1, 2, 3):  # three shards, then the calibration
        out = tmp_path / f"killed-{after}"
        with pytest.raises(Killed):
            run(sample, model, out, DyingPlace(after))
        assert len(list((out / "parts").glob("*.parquet"))) == after
        assert digests(run(sample, model, out).path) == digests(whole.path)


def test_latents_do_not_depend_on_where_tasks_run_or_on_batches(model, tmp_path, executor):
    flux, ivar, _ = spectra()
    sample = make_sample(tmp_path / "sample", flux, ivar)
    one = run(sample, model, tmp_path / "one")
    other = run(sample, model, tmp_path / "other", executor, batch=17)
    tables = [read_objects(each.path / "objects", sample.index) for each in (one, other)]
    for name in ("latent_0", "chi2_valid", "cov_0_1", "cov_2_2"):
        mine, theirs = (column(table, name) for table in tables)
        # Other batches add in another order; bfloat16 products may round to the other side.
        scale = np.abs(mine).max()
        np.testing.assert_allclose(mine, theirs, rtol=1e-2, atol=1e-3 * scale)


def test_a_process_reads_the_model_once(model, tmp_path, monkeypatch):
    flux, ivar, _ = spectra()
    sample = make_sample(tmp_path / "sample", flux, ivar)
    assert len(sample.shards) > 1
    read = []
    load = model_inputs.load_encoder
    monkeypatch.setattr(model_inputs, "load_encoder", lambda path: read.append(path) or load(path))
    model_inputs.load_encoder_once.cache_clear()
    run(sample, model, tmp_path / "latents")
    assert read == [model.path.resolve()]


def test_inpainting_reaches_the_latents(model, tmp_path):
    flux, ivar, _ = spectra()
    sample = make_sample(tmp_path / "sample", flux, ivar)
    made = run(sample, model, tmp_path / "latents", inpaint=1, covariance=False)
    network, _ = model_inputs.load_encoder(model.path)
    fed = INPUTS.apply(flux, ivar)
    expected = encode(network, fed.flux, fed.ivar, inpaint_passes=1).latents
    table = read_objects(made.path / "objects", sample.index)
    np.testing.assert_allclose(columns_of(table, "latent"), expected, rtol=1e-4, atol=1e-5)
    again = read_objects(
        run(sample, model, tmp_path / "too", inpaint=1).path / "objects", sample.index
    )
    np.testing.assert_allclose(columns_of(again, "latent"), expected, rtol=1e-4, atol=1e-5)


def test_a_model_trained_with_a_second_stage_is_encoded_with_one(model, tmp_path):
    flux, ivar, _ = spectra()
    sample = make_sample(tmp_path / "sample", flux, ivar)
    network, inputs = model_inputs.load_encoder(model.path)
    again = tmp_path / "again"
    recipe = artifact.Recipe("train", 1, {}, {"made": "with a second stage"})
    assert artifact.begin(again, recipe) is None
    save_model(again, network, inputs.normalisation, {"inpaint": 1})
    staged = artifact.finish(again, recipe, counts={})

    def latents(made):
        return columns_of(read_objects(made.path / "objects", sample.index), "latent")

    asked = latents(run(sample, model, tmp_path / "one", inpaint=1))
    np.testing.assert_array_equal(latents(run(sample, staged, tmp_path / "two")), asked)
    never = latents(run(sample, staged, tmp_path / "three", inpaint=0))
    np.testing.assert_array_equal(latents(run(sample, model, tmp_path / "four")), never)
    assert (never != asked).any()


def test_in_the_reference_preset_neighbours_share_no_noise(model, tmp_path):
    flux, ivar, _ = spectra()
    sample = make_sample(tmp_path / "sample", flux, ivar, preset="reference")
    made = run(sample, model, tmp_path / "latents", precision="float32")
    network, _ = model_inputs.load_encoder(model.path)
    fed = INPUTS.apply(flux, ivar)
    expected = Propagation(network, INPUTS).covariance(fed.flux, fed.ivar)
    found = covariances(read_objects(made.path / "objects", sample.index))
    factor = np.outer(*[made.metrics["covariance"]["factors"]] * 2)
    np.testing.assert_allclose(found, expected * factor, rtol=1e-4, atol=1e-6 * found.max())


def test_latents_are_made_from_every_setting():
    plain = stage.recipe("a", "b", EncodeSection())
    # Products of batches of another size differ in their last bits.
    for changed in (
        {"precision": "bfloat16"}, {"inpaint": 1}, {"covariance": False}, {"batch": 7},
    ):  # fmt: skip
        assert stage.recipe("a", "b", EncodeSection(**changed)).fingerprint != plain.fingerprint


def test_workers_use_one_thread_and_leave_the_number_as_it_was():
    before = torch.get_num_threads()
    seen = []

    def work():
        with one_thread_in_workers():
            seen.append((torch.get_num_threads(), threading.current_thread().name))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()
    work()
    assert [n for n, _ in seen] == [1, before]
    assert torch.get_num_threads() == before
