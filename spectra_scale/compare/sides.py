"""One side of the comparison: spectra of a folder in the rest frame, with what was measured."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spectra_scale.errors import BadSpectrumError, UsageError
from spectra_scale.spectrum.classify import LineMeasurements, broad_from_subclass, classify
from spectra_scale.spectrum.identity import sky_groups
from spectra_scale.spectrum.observed import ObservedSpectra
from spectra_scale.spectrum.preprocess import Preprocess, to_rest_frame
from spectra_scale.surveys.files import SpectrumFile
from spectra_scale.surveys.lines import LINE_COLUMNS, read_line_catalogue
from spectra_scale.surveys.scan import Scan, scan
from spectra_scale.surveys.sdss import SDSS_FIRST_PIXEL, SDSS_N_PIXELS, place_on_native
from spectra_scale.surveys.sdss_plate import read_plate, read_zbest
from spectra_scale.surveys.sdss_spec import read_spec

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]
Progress = Callable[[str], None]

Z_RANGE = (0.05, 0.36)
CLASSES = ("GALAXY", "QSO")
MAX_MASKED = 0.4
_BLOCK = 512
_ROW = ("spectrum_key", "plate", "mjd", "fiber", "ra", "dec", "z", "class", "subclass",
        "zwarning", "instrument", "targettype")  # fmt: skip
Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Native:
    """A block of spectra as published, on the native grid, with their rows.

    Parameters
    ----------
    rows
        Catalogue facts of each, and ``lines``: the release's own line measurements, or None.
    observed
        The spectra.
    """

    rows: Rows
    observed: ObservedSpectra


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """Spectra of one side that pass the cuts; every array has one row a spectrum.

    Parameters
    ----------
    name
        ``mock`` or ``real``.
    key
        Spectrum keys.
    z, snr
        Redshift, and median S/N of a rest-frame pixel (science.md §3).
    boss, quasar
        Whether from the BOSS spectrograph, and whether the pipeline's CLASS is QSO.
    group
        Number of the object on the sky (1.5 arcsec): repeats share it.
    label
        Class by science.md §5 of lines that are measured here, alike on both sides: for matching.
    measures
        Name to values, shape (spectrum,); NaN where not measured.
    flux, ivar
        On the paper's grid, preset ``conserve`` and mask ``strict``, shape (spectrum, pixel).
    table_label
        Class by science.md §5 of the folder's own line tables, as the label stage gives it; of
        SPZLINE where the folder has no table.
    """

    name: str
    key: NDArray[np.str_]
    z: Doubles
    snr: Doubles
    boss: Bools
    quasar: Bools
    group: NDArray[np.int64]
    label: NDArray[np.int8]
    measures: dict[str, Doubles]
    flux: Floats
    ivar: Floats
    table_label: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.z)

    def take(self, rows: NDArray[np.int64]) -> Side:
        """The given rows, repeated ones too, in the given order."""
        picked = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in picked.items():
            if isinstance(value, np.ndarray):
                picked[name] = value[rows]
        picked["measures"] = {name: value[rows] for name, value in self.measures.items()}
        return Side(**picked)


def blocks(folder: Path) -> Iterator[Native]:
    """Spectra of a folder that pass the catalogue's cuts, in blocks on the native grid.

    0.05 ≤ z ≤ 0.36, ZWARNING 0, GALAXY or QSO, no sky fibre. Files that cannot be used are left
    out with a line in the log.

    Parameters
    ----------
    folder
        Searched for spec and spPlate files, and tables of lines.

    Yields
    ------
    At most 512 spectra at once.

    Raises
    ------
    UsageError
        If there are no SDSS spectra.
    """
    found = scan(folder, "sdss")
    lines = _line_rows(found)
    for plate in found.of("spplate"):
        yield from _plate_blocks(plate, lines)
    yield from _spec_blocks(found, lines)


def _line_rows(found: Scan) -> dict[tuple[int, int, int], dict[str, float]]:
    # Of several rows of an object the first counts, as in the label stage; of several tables the
    # last by name, so that Portsmouth's own arrays go before the archive server's copy.
    out: dict[tuple[int, int, int], dict[str, float]] = {}
    for file in reversed(found.line_catalogues):
        table = read_line_catalogue(file.path)
        identity = [table[name].to_pylist() for name in ("plate", "mjd", "fiber")]
        values = [table[name].to_pylist() for name in LINE_COLUMNS]
        for where, row in zip(zip(*identity, strict=True), zip(*values, strict=True), strict=True):
            out.setdefault(where, dict(zip(LINE_COLUMNS, row, strict=True)))
    return out


def passes(row: dict[str, Any]) -> bool:
    """Whether a catalogue row passes the cuts that both sides have in common."""
    low, high = Z_RANGE
    science = row["targettype"] != "SKY" and row["class"] in CLASSES
    return bool(science and row["zwarning"] == 0 and low <= row["z"] <= high)


def _identity(row: dict[str, Any]) -> tuple[int, int, int]:
    return row["plate"], row["mjd"], row["fiber"]


def _plate_blocks(plate: SpectrumFile, lines: dict[tuple[int, int, int], Any]) -> Iterator[Native]:
    if plate.redshifts is None:
        return
    try:
        table: pa.Table = read_zbest(plate.redshifts.path, plate.file.path).select(list(_ROW))
        rows = [row for row in table.to_pylist() if passes(row)]
        if not rows:
            return
        arrays = read_plate(plate.file.path, [row["fiber"] for row in rows])
    except BadSpectrumError as error:
        log.warning("comparison leaves out plate=%s: %s", plate.file.relative, error)
        return
    for row in rows:
        row["lines"] = lines.get(_identity(row))
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        arrays_of_part = arrays.flux[part], arrays.ivar[part], arrays.mask_bits[part]
        yield _native(rows[part], [(arrays.first_pixel, arrays_of_part)])


def _spec_blocks(found: Scan, lines: dict[tuple[int, int, int], Any]) -> Iterator[Native]:
    rows: Rows = []
    parts: list[tuple[int, tuple[Any, Any, Any]]] = []
    for file in (each.file for each in found.of("spec")):
        try:
            spec = read_spec(file.path, want_lines=True)
        except BadSpectrumError as error:
            log.warning("comparison leaves out file=%s: %s", file.relative, error)
            continue
        assert spec.row is not None
        if not passes(spec.row):
            continue
        row = {name: spec.row[name] for name in _ROW}
        # Where there is a table, what it lacks is not measured: again as in the label stage.
        rows.append(row | {"lines": lines.get(_identity(row)) if lines else spec.lines})
        a = spec.arrays
        parts.append((a.first_pixel, (a.flux[None], a.ivar[None], a.mask_bits[None])))
        if len(rows) == _BLOCK:
            yield _native(rows, parts)
            rows, parts = [], []
    if rows:
        yield _native(rows, parts)


def _native(rows: Rows, parts: list[tuple[int, tuple[Any, Any, Any]]]) -> Native:
    shape = (len(rows), SDSS_N_PIXELS)
    out = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.uint32)
    at = 0
    for first, arrays in parts:
        n = len(arrays[0])
        rows_of_part = slice(at, at + n)
        target = out[0][rows_of_part], out[1][rows_of_part], out[2][rows_of_part]
        place_on_native(first, arrays, target)
        at += n
    keys = np.array([row["spectrum_key"] for row in rows], dtype=object)
    return Native(rows, ObservedSpectra(keys, SDSS_FIRST_PIXEL, *out))


Measure = Callable[[Native, Floats, Floats], tuple[NDArray[np.int8], dict[str, Doubles]]]


def read_side(folder: Path, name: str, measure: Measure, visit: Callable[[Native], None]) -> Side:
    """Read, shift, cut and measure the spectra of a folder.

    Parameters
    ----------
    folder
        Of the release or of real files.
    name
        What to call it.
    measure
        Gives classes and measures of a block and its rest-frame flux and ivar.
    visit
        Called with every block as published, for statistics of native pixels.

    Returns
    -------
    Side
        Without spectra that are 40 % masked or have no positive median.
    """
    parts: list[dict[str, Any]] = []
    for block in blocks(folder):
        visit(block)
        parts.append(_part(block, measure))
    if not parts or not sum(len(part["z"]) for part in parts):
        message = (
            f"{folder} holds no galaxy or quasar with ZWARNING 0 and {Z_RANGE[0]} ≤ z ≤ "
            f"{Z_RANGE[1]}: nothing to compare. Give a folder with more spectra."
        )
        raise UsageError(message)
    measured = [part.pop("measures") for part in parts]
    measures = {name: np.concatenate([m[name] for m in measured]) for name in measured[0]}
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    group = sky_groups(joined.pop("ra"), joined.pop("dec"))
    return Side(name=name, group=np.asarray(group, np.int64), measures=measures, **joined)


def table_labels(rows: Rows) -> NDArray[np.int8]:
    """Classes by the line measurements that came with the spectra, shape (row,).

    Parameters
    ----------
    rows
        Of a block, with ``subclass``, and ``lines`` or None.
    """
    blank = dict.fromkeys(LINE_COLUMNS, np.nan)
    table = [row["lines"] or blank for row in rows]
    columns = {name: np.array([row[name] for row in table], np.float64) for name in LINE_COLUMNS}
    measured = np.array([bool(row["lines"]) for row in rows])
    subclass = np.array([row["subclass"] for row in rows], dtype=str)
    return classify(broad_from_subclass(subclass), LineMeasurements(measured, **columns))


def _part(block: Native, measure: Measure) -> dict[str, Any]:
    z = np.array([row["z"] for row in block.rows], np.float64)
    rest, quality = to_rest_frame(block.observed, z, Preprocess())
    good = (quality.masked_fraction < MAX_MASKED) & (quality.snr_median > 0)
    label, measures = measure(block, rest.flux, rest.ivar)

    def column(name: str) -> NDArray[Any]:
        return np.array([row[name] for row in block.rows])[good]

    return {
        "key": column("spectrum_key"),
        "z": z[good],
        "snr": quality.snr_median[good],
        "boss": column("instrument") == "BOSS",
        "quasar": column("class") == "QSO",
        "ra": column("ra"),
        "dec": column("dec"),
        "label": label[good],
        "table_label": table_labels(block.rows)[good],
        "measures": {name: values[good] for name, values in measures.items()},
        "flux": rest.flux[good],
        "ivar": rest.ivar[good],
    }
