"""An auto-encoder as an ONNX graph, for programs without torch: Gemm and Relu, nothing else.

The graph begins after the normalisation and the fill of missing pixels (`ModelInputs`), which are
not part of it: a median over the valid pixels of a spectrum needs its mask, and the fill a
weighted least-squares fit. What has to be done before is in the file's metadata:
``normalisation`` (kind), ``scale`` (of ``global``), ``fill`` (``zeros`` or ``linear``) and the
edges of the wavelength grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from spectra_scale.errors import UsageError
from spectra_scale.models.autoencoder import AutoEncoder
from spectra_scale.models.inputs import ModelInputs

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Of ONNX: Gemm and Relu have not changed since; any runtime of these years reads it.
OPSET = 13
IR_VERSION = 8
FLUX, LATENTS, RECONSTRUCTION = "flux", "latents", "reconstruction"


def onnx_model(
    model: AutoEncoder, inputs: ModelInputs, metadata: Mapping[str, str] | None = None
) -> Any:
    """The auto-encoder as an ONNX model.

    Parameters
    ----------
    model
        Trained auto-encoder.
    inputs
        How it is fed; goes into the metadata.
    metadata
        More of it: names and texts.

    Returns
    -------
    onnx.ModelProto
        Input ``flux``: normalised, missing pixels filled or 0, float32, (spectrum, pixel) with any
        number of spectra. Outputs ``latents`` (spectrum, n_latent) and ``reconstruction``
        (spectrum, pixel), both float32, the latter in the unit of the input.

    Raises
    ------
    UsageError
        If the `onnx` package is not installed.
    """
    try:
        from onnx import TensorProto, checker, helper
    except ImportError as error:
        message = "ONNX needs the package onnx, which is not installed: spectra-scale[onnx]."
        raise UsageError(message) from error
    nodes, weights = [], []
    for side, given, result in (
        (model.encoder, FLUX, LATENTS),
        (model.decoder, LATENTS, RECONSTRUCTION),
    ):
        for node, arrays in _layers(side, given, result):
            nodes.append(node)
            weights += arrays
    sizes = model.architecture
    widths = {FLUX: sizes.n_pixels, LATENTS: sizes.n_latent, RECONSTRUCTION: sizes.n_pixels}
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["spectrum", width])
        for name, width in widths.items()
    }
    graph = helper.make_graph(
        nodes,
        "spectra_scale auto-encoder",
        [values[FLUX]],
        [values[LATENTS], values[RECONSTRUCTION]],
        weights,
    )
    made = helper.make_model(
        graph,
        producer_name="spectra_scale",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    helper.set_model_props(made, _metadata(inputs) | dict(metadata or {}))
    checker.check_model(made, full_check=True)
    return made


def _metadata(inputs: ModelInputs) -> dict[str, str]:
    return {
        "normalisation": inputs.normalisation.kind,
        "scale": repr(inputs.normalisation.scale),
        "fill": "zeros" if inputs.fill is None else "linear",
        "inpaint": f"{inputs.inpaint}: so often feed again, missing pixels from the output",
        "normalisation_is": "outside the graph: divide flux by it before, multiply after",
    }


def _layers(side: nn.Sequential, given: str, result: str) -> Iterator[tuple[Any, list[Any]]]:
    """Nodes of one side in order, each with its weights."""
    from onnx import helper, numpy_helper

    at = given
    last = len(side) - 1
    for i, layer in enumerate(side):
        then = result if i == last else f"{result}_{i}"
        if isinstance(layer, nn.Linear):
            names = [f"{result}_{i}_weight", f"{result}_{i}_bias"]
            arrays = [
                numpy_helper.from_array(value.detach().cpu().numpy(), name)
                for value, name in zip((layer.weight, layer.bias), names, strict=True)
            ]
            # torch keeps (out, in).
            yield helper.make_node("Gemm", [at, *names], [then], transB=1), arrays
        else:
            assert isinstance(layer, nn.ReLU)
            yield helper.make_node("Relu", [at], [then]), []
        at = then
