"""Export: everything known of every object of a run as one table, and its model as ONNX."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from spectra_scale.errors import UsageError
from spectra_scale.provenance import write_bytes
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.store.objects import column
from spectra_scale.store.run import Run
from spectra_scale.store.table_files import check_table_file, refuse_existing, write_table_file

#: Ending of the auto-encoder's file.
ONNX = ".onnx"
_MODEL = f"{ONNX} (the auto-encoder)"


def export(run: Run, path: Path) -> int:
    """Write the joined per-object table of a run.

    Parameters
    ----------
    run
        The run.
    path
        File to write; its ending decides: .fits, .parquet, .csv, .vot or .xml (VOTable).

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    UsageError
        If the ending is none of these, or the file exists.
    """
    check_table_file(path, _MODEL)
    table = run.table()
    names = [CLASS_NAMES[code] for code in column(table, "label").tolist()]
    table = table.append_column("label_name", pa.array(names, pa.string()))
    return write_table_file(path, table, _MODEL)


def export_model(run: Run, path: Path) -> int:
    """Write the auto-encoder of a run as ONNX; see `spectra_scale.models.onnx_export`.

    Parameters
    ----------
    run
        The run.
    path
        File to write.

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    UsageError
        If the file exists, the run has no auto-encoder of its own, or `onnx` is not installed.
    """
    from spectra_scale.models.inputs import load_encoder
    from spectra_scale.models.onnx_export import onnx_model

    refuse_existing(path)
    if not run.has("train"):
        msg = (
            f"{run.path} has no finished auto-encoder of its own. Run the job to its end, or give "
            "the run that its job names in [models] from."
        )
        raise UsageError(msg)
    model, inputs = load_encoder(run.folder("train"))
    grid, metrics = run.sample.grid, run.sample.artifact.metrics
    facts = {
        "run": run.path.name,
        "fingerprint": run.artifact("train").fingerprint,
        "preset": str(metrics["preset"]),
        "first_edge_angstrom": repr(float(grid.edges[0])),
        "last_edge_angstrom": repr(float(grid.edges[-1])),
        "grid": "edges uniform in the logarithm of the rest-frame vacuum wavelength",
    }
    data: bytes = onnx_model(model, inputs, facts).SerializeToString()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, data)
    return len(data)
