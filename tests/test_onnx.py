"""The auto-encoder as ONNX gives what it gives as torch."""

import numpy as np
import onnx
import onnxruntime
import pytest

from spectra_scale.models.autoencoder import Architecture, AutoEncoder, encode, seeded_autoencoder
from spectra_scale.models.baseline import WeightedPCA
from spectra_scale.models.inputs import ModelInputs
from spectra_scale.models.normalise import Normalisation
from spectra_scale.models.onnx_export import onnx_model

SMALL = Architecture(40, (16, 8), 3)


def session(model, inputs=None):
    made = onnx_model(model, inputs or ModelInputs(Normalisation()))
    return onnxruntime.InferenceSession(
        made.SerializeToString(), providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize("sizes", [SMALL, Architecture(), Architecture(50, (9,), 4)])
def test_latents_and_reconstructions_are_torchs(sizes):
    model = seeded_autoencoder(sizes, 1)
    runtime = session(model)
    rng = np.random.default_rng(1)
    for n in (1, 7, 300):  # the number of spectra is free
        flux = rng.normal(1, 0.3, (n, sizes.n_pixels)).astype("f4")
        ours = encode(model, flux, np.ones_like(flux), want_reconstruction=True)
        latents, reconstruction = runtime.run(["latents", "reconstruction"], {"flux": flux})
        # float32 sums of a thousand terms in another order.
        np.testing.assert_allclose(latents, ours.latents, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(reconstruction, ours.reconstruction, rtol=1e-5, atol=1e-5)


def test_the_graph_is_gemm_and_relu_and_says_what_must_be_done_before_it():
    components = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 3)))[0].T
    inputs = ModelInputs(Normalisation("global", 2.5), WeightedPCA(np.ones(40), components))
    made = onnx_model(AutoEncoder.of(SMALL), inputs, {"run": "demo"})
    assert {node.op_type for node in made.graph.node} == {"Gemm", "Relu"}
    assert [node.op_type for node in made.graph.node].count("Gemm") == 6
    said = {prop.key: prop.value for prop in made.metadata_props}
    assert (said["normalisation"], said["scale"], said["fill"]) == ("global", "2.5", "linear")
    assert said["run"] == "demo"
    assert onnx.load_from_string(made.SerializeToString()) == made
