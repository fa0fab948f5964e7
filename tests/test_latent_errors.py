"""Uncertainties of latents through a whole run of mock spectra, and the model as ONNX."""

import numpy as np
import onnxruntime
import pytest
from astropy.io import fits

from spectra_scale.apply import apply_to_file
from spectra_scale.cli import main
from spectra_scale.models.calibration import noise_pulls
from spectra_scale.models.inputs import load_encoder
from spectra_scale.models.uncertainty import Propagation
from spectra_scale.stages.encode.shard import correlation_of
from spectra_scale.store.objects import column, columns_of
from spectra_scale.surveys.release import open_release

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tiny_run):
    return tiny_run.run


def test_pulls_over_noise_realisations_of_mock_spectra_have_width_one(run):
    model, inputs = load_encoder(run.folder("train"))
    flux, ivar = run.sample.read(slice(0, run.sample.n_rows))
    z = column(run.index, "z")
    rho = correlation_of(z, np.zeros(len(z), bool), 1000)
    how = Propagation(model, inputs)
    pairs, _ = noise_pulls(how, (flux, ivar, rho), seed=3, n_draws=4)
    assert len(pairs) > 500
    # 0.1 is what is promised, and holds for every latent: sampling adds 0.93/√500 = 0.04.
    assert abs(pairs.width - 1) < 0.1
    assert max(abs(width - 1) for width in pairs.to_dict()["width by latent"]) < 0.14


def test_the_run_records_how_its_uncertainties_were_calibrated(run):
    said = run.artifact("encode").metrics["covariance"]
    assert said["from"] in {"repeats", "noise realisations"}
    kind = said["repeats"] if said["from"] == "repeats" else said["noise realisations"]
    assert said["factors"] == pytest.approx(kind["width by latent"], rel=1e-3)
    table = run.table()
    for k in range(5):
        variance = column(table, f"cov_{k}_{k}")
        assert (variance > 0).all()
        # A latent's error is far less than the scatter of latents.
        assert np.median(np.sqrt(variance)) < column(table, f"latent_{k}").std()
    page = (run.folder("report") / "index.html").read_text()
    assert f"multiplied by its width of {said['from']}" in page
    assert "cov_3_4" in table.column_names
    assert "cov_4_3" not in table.column_names


def test_a_file_gets_the_uncertainties_it_has_in_the_run(tiny_run):
    run = tiny_run.run
    used = column(run.index, "spectrum_key").tolist()
    catalogue = open_release(run.path / "releases" / "mock").catalogue.to_pylist()
    record = next(r for r in catalogue if r["source_row"] == 0 and r["spectrum_key"] in used)
    scored = apply_to_file(run.path, tiny_run.folder / "mock" / record["source_file"])
    table = run.objects("encode")
    row = used.index(record["spectrum_key"])
    np.testing.assert_allclose(
        scored.latents, columns_of(table, "latent")[row], rtol=1e-4, atol=1e-4
    )
    theirs = np.sqrt([column(table, f"cov_{k}_{k}")[row] for k in range(5)])
    # The run's Jacobian may be of bfloat16 products.
    np.testing.assert_allclose(scored.latent_errors, theirs, rtol=0.01)
    first = f"{scored.latents[0]:.3f} ± {scored.latent_errors[0]:.3f}"
    assert scored.facts["latents"].startswith(first)
    assert scored.error.shape == scored.reconstruction.shape
    assert (scored.error > 0).all()


def test_a_spectrum_beyond_those_trained_on_is_said_to_be(tiny_run, tmp_path):
    run = tiny_run.run
    training = run.sample.training_rows()
    key = column(run.index, "spectrum_key")[training]
    catalogue = open_release(run.path / "releases" / "mock").catalogue.to_pylist()
    record = next(r for r in catalogue if r["source_row"] == 0 and r["spectrum_key"] in key)
    source = tiny_run.folder / "mock" / record["source_file"]
    assert "extrapolated" not in apply_to_file(run.path, source).facts
    far = tmp_path / source.name
    with fits.open(source) as hdus:
        hdus[2].data["Z"] = 0.5
        hdus.writeto(far)
    said = apply_to_file(run.path, far).facts["extrapolated"]
    z = column(run.index, "z")[training]
    assert said == f"z 0.5, trained on {z.min():.4g} to {z.max():.4g}"


def test_the_exported_onnx_file_gives_the_latents_of_the_run(run, tmp_path, capsys):
    path = tmp_path / "deep" / "model.onnx"
    main_ok(["export", str(run.path), str(path)])
    assert capsys.readouterr().out == f"{path}: {path.stat().st_size:,} bytes\n"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    assert said["normalisation"] == "median"
    assert said["fill"] == "linear"
    assert float(said["last_edge_angstrom"]) == pytest.approx(8318)
    _, inputs = load_encoder(run.folder("train"))
    fed = inputs.apply(*run.sample.read(slice(0, 50)))
    (latents,) = session.run(["latents"], {"flux": fed.flux})
    theirs = columns_of(run.objects("encode"), "latent")[:50]
    # float32 sums of a thousand terms in another order.
    np.testing.assert_allclose(latents, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())
    with pytest.raises(SystemExit):
        main(["export", str(run.path), str(path)])
    assert "exists already" in capsys.readouterr().err


def main_ok(arguments):
    with pytest.raises(SystemExit) as done:
        main(arguments)
    assert done.value.code == 0
