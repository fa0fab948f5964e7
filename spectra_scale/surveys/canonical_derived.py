"""Quantities of SDSS that are made from others: specObjIDs, and E(B-V) from extinctions."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from spectra_scale.errors import SpectraScaleError
from spectra_scale.surveys.canonical_values import texts
from spectra_scale.surveys.catalogue_columns import EXTINCTION_LAWS, EXTINCTION_RATIO_TOLERANCE
from spectra_scale.surveys.fits_bytes import Array

log = logging.getLogger(__name__)


def ebv_of_extinction(extinction_u: Array, extinction_r: Array) -> Array:
    """E(B−V) of Schlegel et al. (1998) from the extinctions in u and r of a photometric match.

    Which of two extinction laws a release used shows in the ratio of its bands
    (`catalogue_columns.EXTINCTION_LAWS`).

    Parameters
    ----------
    extinction_u, extinction_r
        Magnitudes, shape (row,).

    Returns
    -------
    numpy.ndarray
        float32, shape (row,); NaN where the extinction is not positive or of an unknown law.
    """
    u, r = np.asarray(extinction_u, np.float64), np.asarray(extinction_r, np.float64)
    out = np.full(u.shape, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = u / r
        for expected, per_ebv in EXTINCTION_LAWS:
            law = (r > 0) & (np.abs(ratio - expected) < EXTINCTION_RATIO_TOLERANCE)
            out[law] = r[law] / per_ebv
    return out.astype(np.float32)


def own_ids(values: Array | None, n_rows: int) -> Array:
    """Ids as the survey writes them, text or number; empty if unknown."""
    if values is None or values.dtype.kind == "f":
        return np.full(n_rows, "", "U1")
    if values.dtype.kind in "iu":
        # Some files hold the unsigned id in a signed column.
        held = np.ma.filled(values, 0)
        return (held.astype(np.int64).view(np.uint64) if held.dtype.kind == "i" else held).astype(
            "U20"
        )
    return texts(np.ma.filled(values, ""), n_rows)


def specobjids(values: Array | None, out: Mapping[str, Array]) -> Array:
    """SpecObjIDs as text: the given ones, or rebuilt from canonical columns `out`."""
    text = own_ids(values, len(out["plate"]))
    # A float column, or text such as 2.99533E+17, has lost the last digits.
    rebuild = np.flatnonzero(~np.char.isdigit(text))
    if len(rebuild):
        plate, fiber, mjd = (out[name][rebuild] for name in ("plate", "fiber", "mjd"))
        text = text.astype(f"U{max(20, text.dtype.itemsize // 4)}")
        text[rebuild] = rebuilt_specobjid(plate, fiber, mjd, out["reduction"][rebuild].tolist())
    return text


def rebuilt_specobjid(plate: Array, fiber: Array, mjd: Array, reductions: list[str]) -> Array:
    """SpecObjIDs as text from what they are packed from; empty where they cannot be."""
    from spectra_scale.spectrum.identity import sdss_specobjid

    out = np.full(len(plate), "", "U20")
    names = np.array(reductions, dtype=np.str_)
    for name in np.unique(names[names != ""]).tolist():
        rows = np.flatnonzero(names == name)
        try:
            ids = sdss_specobjid(plate[rows], fiber[rows], mjd[rows], name)
        except SpectraScaleError as error:
            log.debug("no specObjID reduction=%s rows=%d: %s", name, len(rows), error)
            continue
        out[rows] = ids.astype("U20")
    return out
