"""Candidate fits (ZALL) and line fits (ZLINE) of SDSS-V's spec files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.observation import Observation
from spectra_scale.mock.population import Floats
from spectra_scale.mock.population_tables import STARS
from spectra_scale.mock.redshifts import SMALL_DELTA_CHI2
from spectra_scale.mock.sdssv_columns import CANDIDATES, Tables
from spectra_scale.mock.sdssv_rows import filled
from spectra_scale.mock.zlines import zline_rows

Rows = NDArray[Any]
Ints = NDArray[np.int64]

_CLASSES = np.array([name for name, _ in CANDIDATES])
_GALAXY, _QSO, _STAR = range(3)
# Redshifts that templates are tried at, by class.
_RANGES = np.array([(-0.01, 1.0), (0.0033, 7.0), (-0.004, 0.004)])
_TEMPLATES = np.array(["spEigenGal-56436.fits", "spEigenQSO-55732.fits", "spEigenStar-55734.fits"])
# Mean step of the reduced χ² from one candidate to the next, but for the first.
_STEP = 0.004
# Below this difference the pipeline says that nothing stands out.
_SMALL = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Fits to n spectra with templates of all classes, best first, each array (n, fit).

    Attributes
    ----------
    classes
        Index into GALAXY, QSO and STAR.
    columns
        What differs from fit to fit, by the name of its column in ZALL.
    """

    classes: Ints
    columns: dict[str, Any]

    def padded(self) -> Candidates:
        """The same with blanks at the ends of texts."""
        return Candidates(
            self.classes,
            {
                name: np.char.ljust(values, values.itemsize)
                if values.dtype.kind == "S"
                else values
                for name, values in self.columns.items()
            },
        )


def draw_candidates(seen: Observation, columns: dict[str, Any]) -> Candidates:
    """Draw the fits that lost, after the best one of `columns`, which SPALL has too.

    The second fit to a quasar is a galaxy at its redshift: the best one without quasars.
    """
    task = seen.task
    n_fits = sum(number for _, number in CANDIDATES)
    # Of every fibre that there could be: who else is observed says nothing of a spectrum.
    rng = np.random.default_rng((task.seed, task.plate, 10))
    drawn = rng.random((seen.settings.fibers(task.survey), 4, n_fits))[seen.fiber - 1]
    best = np.searchsorted(_CLASSES, seen.classes)
    classes = _order(best, drawn[:, 0])
    low, high = np.moveaxis(_RANGES[classes], -1, 0)
    z = low + (high - low) * drawn[:, 1]
    z[:, 0] = columns["Z"]
    is_qso = best == _QSO
    z[is_qso, 1] = seen.redshift[is_qso]
    z_err = 1e-4 * (0.5 + drawn[:, 2])
    z_err[:, 0] = columns["Z_ERR"]
    step = -_STEP * np.log1p(-drawn[:, 3])
    step[:, 0], step[:, -1] = columns["RCHI2DIFF"], 0.0
    rchi2 = columns["RCHI2"][:, None] + np.cumsum(step, axis=1) - step
    stars = np.array([star.name for star in STARS])
    kind = stars[(drawn[:, 1] * len(stars)).astype(int)]
    subclass = np.where(classes == _STAR, kind, "").astype("S21")
    subclass[:, 0] = seen.subclass.astype("S21")
    warning = np.where(step < _SMALL, SMALL_DELTA_CHI2, 0)
    warning[:, 0] = columns["ZWARNING"]
    return Candidates(
        classes,
        {
            "CLASS": _CLASSES.astype("S6")[classes], "SUBCLASS": subclass, "Z": z,
            "Z_ERR": z_err, "RCHI2": rchi2, "RCHI2DIFF": step, "ZWARNING": warning,
            "TFILE": _TEMPLATES.astype("S24")[classes],
        },
    )  # fmt: skip


def _order(best: Ints, chance: Floats) -> Ints:
    """Classes of the fits to each spectrum, the best first, its own class before others; (n, fit).

    Parameters
    ----------
    best
        Class of the best fit, shape (n,).
    chance
        Uniform random numbers, shape (n, fit).
    """
    out = np.zeros(chance.shape, dtype=np.int64)
    every = np.repeat(np.arange(len(CANDIDATES)), [number for _, number in CANDIDATES])
    for kind in range(len(CANDIDATES)):
        rows = np.flatnonzero(best == kind)
        others = np.delete(every, np.flatnonzero(every == kind)[0])
        key = chance[rows, 1:] + np.where(others == kind, 0.0, np.where(others == _STAR, 1.0, 0.5))
        if kind == _QSO:
            key[:, np.flatnonzero(others == _GALAXY)[0]] = -1.0
        out[rows, 0] = kind
        out[rows, 1:] = others[np.argsort(key, axis=1)]
    return out


def zall_rows(base: Rows, found: Candidates, index: int) -> Rows:
    """ZALL of one spectrum: what all its fits share, and what they do not.

    Parameters
    ----------
    base
        Rows of ZALL's type with the best fit of each spectrum, shape (n,).
    found
        Of `draw_candidates`.
    index
        Which spectrum.
    """
    rows = np.repeat(base[index : index + 1], found.classes.shape[1])
    for name, values in found.columns.items():
        rows[name] = values[index]
    return rows


def line_rows(seen: Observation, columns: dict[str, Any], tables: Tables) -> Rows:
    """ZLINE of all spectra, shape (n, 32): the fits that SPZLINE of BOSS has, see `zline_rows`."""
    fits = zline_rows(seen, columns["SN_MEDIAN_ALL"].astype(np.float64))
    rows = np.zeros(fits.shape, dtype=tables.zline)
    ids = filled(tables.zline, columns, len(fits))
    shared = set(fits.dtype.names or ()) - {"MJD"}
    for name in tables.zline.names or ():
        rows[name] = fits[name] if name in shared else ids[name][:, None]
    return rows
