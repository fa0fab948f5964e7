"""2000 and 3000 pixels and other numbers of latents are settings (science.md §1, §6)."""

import numpy as np
import pytest
from pipeline_builders import job_of, tiny_job, write_mock

from spectra_scale import planning
from spectra_scale.compute.place import Here
from spectra_scale.models.inputs import load_encoder
from spectra_scale.pipeline import Pipeline
from spectra_scale.provenance import read_json
from spectra_scale.store.objects import column
from spectra_scale.store.run import open_run


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grids")
    return write_mock(folder / "mock", 160, 16)


def encoded(source, out, n_pixels, n_latent):
    """A run as far as its latents."""
    made = tiny_job(
        source.parent, out=str(out), mock=None, prepare={"n_pixels": n_pixels},
        train={"n_latent": n_latent, "hidden": [64, 40], "epochs": 10},
    )  # fmt: skip
    pipeline = Pipeline(planning.make_plan(job_of(made)), Here())
    pipeline._prepare([pipeline._release(name) for name in pipeline.plan.releases])
    pipeline._models()
    return open_run(out)


@pytest.mark.parametrize(("n_pixels", "n_latent"), [(2000, 4), (3000, 16)])
def test_finer_grids_and_other_latents_train_and_encode(source, tmp_path, n_pixels, n_latent):
    run = encoded(source, tmp_path / "run", n_pixels, n_latent)
    flux, ivar = run.sample.read(slice(0, run.sample.n_rows))
    assert flux.shape == ivar.shape == (run.sample.n_rows, n_pixels)
    folder = run.folder("train")
    model, inputs = load_encoder(folder)
    assert model.architecture.sizes == (n_pixels, 64, 40, n_latent)
    # What is stored is what the stored weights say of the stored spectra.
    objects = run.objects("encode")
    names = [f"latent_{k}" for k in range(n_latent)]
    assert f"latent_{n_latent}" not in objects.column_names
    usable = column(objects, "usable").astype(bool)
    latents = np.column_stack([column(objects, name) for name in names])[usable]
    assert usable.sum() > 100
    assert (latents.std(axis=0) > 0).all()
    expected = model.encode(_tensor(inputs.apply(flux, ivar).flux[usable])).detach().numpy()
    # float32 products of other batches.
    np.testing.assert_allclose(latents, expected, rtol=1e-3, atol=1e-4)
    # It starts at the linear model of as many components, and a hundred spectra teach it no more:
    # found 1.06 and 1.43 times the χ² of that.
    scores = read_json(folder / "model_card.json")["validation"]["all"]
    assert scores["chi2_uncapped"] < 2 * scores["linear_chi2_uncapped"]
    grid = read_json(folder / "model_card.json")["sample"]["grid"]
    assert (grid["n_pixels"], grid["first edge"], grid["last edge"]) == (n_pixels, 3388, 8318)


def _tensor(values):
    import torch

    return torch.from_numpy(values)
