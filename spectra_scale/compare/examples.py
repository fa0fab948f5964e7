"""Spectra to look at: forty to sort blind, and one of each kind and failure of the mock."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spectra_scale.compare.discriminate import Examples
from spectra_scale.errors import BadSpectrumError
from spectra_scale.spectrum.grid import NATIVE_STEP
from spectra_scale.surveys.scan import Scan, scan
from spectra_scale.surveys.sdss_plate import PLATE_NAME, read_plate
from spectra_scale.surveys.sdss_spec import FILE_NAME, read_spec

log = logging.getLogger(__name__)
Doubles = NDArray[np.float64]

TRUTH = "truth.parquet"
N_BLIND = 20
# Columns of the truth that name an observation, not what it is an example of.
_NAMES = frozenset({"spectrum_key", "survey", "program", "target", "has_lines"})
_PLAIN = frozenset({"", "none", "ok"})
_FAULTS = ("artefact", "failure")
_BIN = 4
_N_PIXELS = 1160


@dataclass(frozen=True, slots=True, eq=False)
class Blind:
    """Spectra in random order, with the key apart.

    Parameters
    ----------
    pixels
        Flux over its median on the rest-frame grid, shape (spectrum, pixel).
    is_mock
        The key, shape (spectrum,).
    label
        Class of each.
    """

    pixels: NDArray[np.float32]
    is_mock: NDArray[np.bool_]
    label: NDArray[np.int8]


def blind(examples: Examples, rng: np.random.Generator, n: int = N_BLIND) -> Blind:
    """Draw `n` real spectra, and the mock partners of as many others, and shuffle them.

    Partners would tell each other by the gaps and the range that they share.
    """
    n_pairs = len(examples.group) // 2
    order = rng.permutation(n_pairs)
    _, first = np.unique(examples.group[order], return_index=True)
    chosen = order[np.sort(first)]
    n = min(n, len(chosen) // 2)
    rows = rng.permutation(np.concatenate([chosen[:n], chosen[n : 2 * n] + n_pairs]))
    return Blind(examples.pixels[rows], examples.is_mock[rows], examples.label[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """Examples in the observed frame.

    Parameters
    ----------
    titles
        What each is an example of.
    wave, flux
        Mean of four native pixels: vacuum Å and 1e-17 erg s⁻¹ cm⁻² Å⁻¹, shape (spectrum, pixel);
        NaN where missing.
    """

    titles: list[str]
    wave: Doubles
    flux: Doubles


def gallery(folder: Path, rng: np.random.Generator) -> Gallery:
    """One spectrum of each kind, each artefact and each flag of the truth table.

    Parameters
    ----------
    folder
        A mock release; without a truth table the gallery is empty.
    rng
        Chooses among the brighter half of each.
    """
    if not (folder / TRUTH).is_file():
        return Gallery([], np.empty((0, _N_PIXELS)), np.empty((0, _N_PIXELS)))
    truth = pq.read_table(folder / TRUTH)
    found = scan(folder, "sdss")
    titles, waves, fluxes = [], [], []
    for title, row in _chosen(truth, rng):
        spectrum = _spectrum(found, truth, row)
        if spectrum is not None:
            z = truth["z_true"][row].as_py() if "z_true" in truth.column_names else float("nan")
            titles.append(f"{title}, z = {z:.3f}")
            waves.append(spectrum[0])
            fluxes.append(spectrum[1])
    shape = (len(titles), _N_PIXELS)
    return Gallery(titles, np.array(waves).reshape(shape), np.array(fluxes).reshape(shape))


def _chosen(truth: pa.Table, rng: np.random.Generator) -> list[tuple[str, int]]:
    """Title and row of one example of each value of each column of words, and of each flag."""
    plain, out = _plain_rows(truth), []
    # Spectra of surveys without plates are not read here.
    here = truth["plate"].to_numpy() >= 0
    faint = np.zeros(truth.num_rows)
    if "r_fiber_magnitude" in truth.column_names:
        faint = truth["r_fiber_magnitude"].to_numpy()
    for name in truth.column_names:
        kind = truth.schema.field(name).type
        if name in _NAMES or not (_is_text(kind) or pa.types.is_boolean(kind)):
            continue
        values = _words(truth, name)
        for value in sorted(set(values.tolist()) - _PLAIN - {"False"} - _shown(truth, name)):
            rows = np.flatnonzero((values == value) & here & (plain | (name in _FAULTS)))
            if len(rows):
                bright = rows[faint[rows] <= np.median(faint[rows])]
                title = name if value == "True" else f"{name}: {value}"
                out.append((title, int(rng.choice(bright if len(bright) else rows))))
    return out


def _is_text(kind: pa.DataType) -> bool:
    # pandas writes the large kind.
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _words(truth: pa.Table, name: str) -> NDArray[np.str_]:
    return np.asarray(truth[name].to_numpy(zero_copy_only=False), np.str_)


def _plain_rows(truth: pa.Table) -> NDArray[np.bool_]:
    """Spectra that show what the object is: no artefact, and not without any data."""
    plain = np.ones(truth.num_rows, bool)
    if "artefact" in truth.column_names:
        plain = np.isin(_words(truth, "artefact"), list(_PLAIN))
    if "failure" in truth.column_names:
        plain &= _words(truth, "failure") != "no-data"
    return plain


def _shown(truth: pa.Table, name: str) -> set[str]:
    """Values of a column that another column shows: failures name the artefacts again."""
    twice = name == "failure" and "artefact" in truth.column_names
    return set(_words(truth, "artefact").tolist()) if twice else set()


def _spectrum(found: Scan, truth: pa.Table, row: int) -> tuple[Doubles, Doubles] | None:
    identity = tuple(int(truth[name][row].as_py()) for name in ("plate", "mjd", "fiber"))
    for file in (each.file for each in found.of("spec")):
        if _numbers(FILE_NAME, file.path.name) == identity:
            try:
                a = read_spec(file.path, want_row=False).arrays
            except BadSpectrumError as error:
                # Some failures leave no data: the reader refuses such a file, as it should.
                log.info("no example of file=%s: %s", file.relative, error)
                return None
            return _binned(a.first_pixel, a.flux, a.ivar)
    for plate in found.of("spplate"):
        if _numbers(PLATE_NAME, plate.file.path.name) == identity[:2]:
            p = read_plate(plate.file.path, [identity[2]])
            return _binned(p.first_pixel, p.flux[0], p.ivar[0])
    return None


def _numbers(pattern: re.Pattern[str], name: str) -> tuple[int, ...]:
    match = pattern.fullmatch(name)
    return tuple(int(part) for part in match.groups()) if match else ()


def _binned(
    first: int, flux: NDArray[np.float32], ivar: NDArray[np.float32]
) -> tuple[Doubles, Doubles]:
    n = min(len(flux) // _BIN, _N_PIXELS)
    good = (ivar[: n * _BIN] > 0).reshape(n, _BIN)
    total = np.where(good, flux[: n * _BIN].reshape(n, _BIN), 0).sum(axis=1, dtype=np.float64)
    wave, values = np.full(_N_PIXELS, np.nan), np.full(_N_PIXELS, np.nan)
    index = first + (np.arange(n) + 0.5) * _BIN - 0.5
    wave[:n] = 10 ** (index * NATIVE_STEP)
    values[:n] = np.where(good.any(axis=1), total / np.maximum(good.sum(axis=1), 1), np.nan)
    return wave, values
