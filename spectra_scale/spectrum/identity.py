"""Who is who: spectrum keys, specObjIDs, objects on the sky, repeats and the split.

science.md §4. A *spectrum key* names an observation and not its reduction; a *sky group* is one
object on the sky. Nothing here depends on the order of the rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from spectra_scale.errors import SpectraScaleError
from spectra_scale.spectrum.specobjid import (
    SpecObjIds,
    sdss_specobjid,
    stripped_text,
    unpack_specobjid,
    whole_numbers,
)

__all__ = [
    "SpecObjIds",
    "desi_key",
    "harmonise_split",
    "primary_of_groups",
    "sdss_key",
    "sdss_specobjid",
    "sdssv_key",
    "sky_groups",
    "split_of_cells",
    "superseded",
    "unpack_specobjid",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
UInts = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Text = npt.NDArray[np.str_]

# 3/4 of 2^64: hashes below are training (3 : 1).
_TRAINING_BELOW = np.uint64(3 << 62)


# Keys ---------------------------------------------------------------------------------------


def _columns(*columns: npt.NDArray[np.generic]) -> list[list[object]]:
    try:
        return [column.ravel().tolist() for column in np.broadcast_arrays(*columns)]
    except ValueError as error:
        message = f"The columns of a key differ in length ({error}). Give one value a spectrum."
        raise SpectraScaleError(message) from error


def sdss_key(plate: npt.ArrayLike, mjd: npt.ArrayLike, fiber: npt.ArrayLike) -> Text:
    """Spectrum keys of SDSS to DR17.

    Parameters
    ----------
    plate, mjd, fiber
        Whole numbers, or text of them with or without leading zeros; shape (n,) or scalars.

    Returns
    -------
    Text
        ``sdss:PLATE-MJD-FIBER`` without zero padding, shape (n,).

    Raises
    ------
    SpectraScaleError
        A value is no non-negative whole number, or the lengths differ.

    Examples
    --------
    >>> print(sdss_key(266, 51602, [1, 640]))
    ['sdss:266-51602-1' 'sdss:266-51602-640']
    """
    parts = _columns(
        whole_numbers(plate, "PLATE"), whole_numbers(mjd, "MJD"), whole_numbers(fiber, "FIBERID")
    )
    return np.array([f"sdss:{p}-{m}-{f}" for p, m, f in zip(*parts, strict=True)], dtype=np.str_)


def sdssv_key(field: npt.ArrayLike, mjd: npt.ArrayLike, catalogid: npt.ArrayLike) -> Text:
    """Spectrum keys of SDSS-V.

    Parameters
    ----------
    field, mjd, catalogid
        Whole numbers, or text of them with or without leading zeros; shape (n,) or scalars.

    Returns
    -------
    Text
        ``sdssv:FIELD-MJD-CATALOGID`` without zero padding, shape (n,).

    Raises
    ------
    SpectraScaleError
        A value is no non-negative whole number, or the lengths differ.
    """
    parts = _columns(
        whole_numbers(field, "FIELD"),
        whole_numbers(mjd, "MJD"),
        whole_numbers(catalogid, "CATALOGID"),
    )
    return np.array([f"sdssv:{p}-{m}-{c}" for p, m, c in zip(*parts, strict=True)], dtype=np.str_)


def desi_key(survey: npt.ArrayLike, program: npt.ArrayLike, targetid: npt.ArrayLike) -> Text:
    """Spectrum keys of DESI.

    Parameters
    ----------
    survey, program
        Text or bytes, blanks around them are dropped; shape (n,) or scalars.
    targetid
        Whole numbers, negative ones (sky and stuck positioners) included.

    Returns
    -------
    Text
        ``desi:SURVEY-PROGRAM-TARGETID``, shape (n,): TARGETID alone is not unique.

    Raises
    ------
    SpectraScaleError
        The lengths differ.
    """
    parts = _columns(
        stripped_text(survey), stripped_text(program), np.asarray(targetid, dtype=np.int64)
    )
    return np.array([f"desi:{s}-{p}-{t}" for s, p, t in zip(*parts, strict=True)], dtype=np.str_)


# Objects on the sky ---------------------------------------------------------------------------


def sky_groups(ra: npt.ArrayLike, dec: npt.ArrayLike, radius_arcsec: float = 1.5) -> Ints:
    """Objects on the sky: observations linked by less than a radius (friends of friends).

    Parameters
    ----------
    ra, dec
        Position in degrees, ICRS, shape (n,). A position that is not finite or no position
        (declination beyond ±90, right ascension outside -360 to 720: -9999 is "missing") is an
        object of its own.
    radius_arcsec
        Linking length on the sphere, inclusive.

    Returns
    -------
    Ints
        Group of every row, int64, shape (n,): 0 for the group with the southernmost member (then
        the one with the smallest right ascension), and so on, so that the numbers do not depend
        on the order of the rows. Rows without a position come last, in their order.
    """
    alpha = np.asarray(ra, dtype=np.float64)
    delta = np.asarray(dec, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        valid = (np.abs(delta) <= 90.0) & (alpha >= -360.0) & (alpha <= 720.0)
    linked = np.flatnonzero(valid)
    component = np.arange(alpha.size, dtype=np.int64)
    if linked.size:
        component[linked] = linked[_linked_components(alpha[linked], delta[linked], radius_arcsec)]
    order = np.lexsort((np.where(valid, alpha % 360.0, 0.0), np.where(valid, delta, 91.0)))
    _, first, inverse = np.unique(component[order], return_index=True, return_inverse=True)
    rank = np.empty(first.size, dtype=np.int64)
    rank[np.argsort(first)] = np.arange(first.size)
    group = np.empty(alpha.size, dtype=np.int64)
    group[order] = rank[inverse]
    return group


def _linked_components(ra: Floats, dec: Floats, radius_arcsec: float) -> Ints:
    """Component number of each position, smaller than the number of positions."""
    alpha, delta = np.deg2rad(ra), np.deg2rad(dec)
    unit = np.column_stack(
        (np.cos(delta) * np.cos(alpha), np.cos(delta) * np.sin(alpha), np.sin(delta))
    )
    chord = 2.0 * np.sin(0.5 * np.deg2rad(radius_arcsec / 3600.0))
    pairs = cKDTree(unit).query_pairs(chord, output_type="ndarray")
    links = coo_matrix((np.ones(len(pairs), dtype=bool), pairs.T), shape=(ra.size, ra.size))
    _, component = connected_components(links, directed=False)
    return np.asarray(component, dtype=np.int64)


def primary_of_groups(
    group: Ints,
    snr_total: npt.NDArray[np.floating],
    tie_key: npt.NDArray[np.generic],
    eligible: Bools | None = None,
) -> Bools:
    """Mark one observation of each object: the one with the highest signal to noise.

    Parameters
    ----------
    group
        Object of each row, shape (n,).
    snr_total
        Signal to noise, shape (n,); NaN counts as the lowest.
    tie_key
        Sortable key, shape (n,); of equal signal to noise the smallest key wins.
    eligible
        Rows that may be primary (such as those not superseded), shape (n,); default all. An
        object without an eligible row has no primary.

    Returns
    -------
    Bools
        Shape (n,), True for the primary.
    """
    groups = np.asarray(group)
    rows = np.arange(groups.size) if eligible is None else np.flatnonzero(eligible)
    snr = np.asarray(snr_total, dtype=np.float64)[rows]
    order = np.lexsort(
        (np.asarray(tie_key)[rows], np.where(np.isnan(snr), np.inf, -snr), groups[rows])
    )
    ordered = groups[rows][order]
    first = np.ones(rows.size, dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    primary = np.zeros(groups.size, dtype=bool)
    primary[rows[order[first]]] = True
    return primary


def superseded(spectrum_key: npt.NDArray[np.generic], release_order: npt.ArrayLike) -> Bools:
    """Rows whose observation came again in a later release.

    Parameters
    ----------
    spectrum_key
        Keys, shape (n,).
    release_order
        Position of the row's release in time, shape (n,); larger is newer.

    Returns
    -------
    Bools
        Shape (n,): True where the same key is in a strictly newer release.
    """
    order = np.asarray(release_order, dtype=np.int64)
    keys, inverse = np.unique(np.asarray(spectrum_key), return_inverse=True)
    newest = np.full(keys.size, np.iinfo(np.int64).min)
    np.maximum.at(newest, inverse, order)
    return np.asarray(order < newest[inverse])


# Split ----------------------------------------------------------------------------------------


def _splitmix64(values: UInts) -> UInts:
    """Output function of SplitMix64 (Steele, Lea & Flood 2014): a bijection that mixes 64 bits.

    Written out here because the split must be the same in every release of this package.
    """
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def split_of_cells(cell: npt.ArrayLike) -> Bools:
    """Training (True) or validation (False) of the sky cells, 3 : 1.

    Parameters
    ----------
    cell
        HEALPix cell number of each row, int64, shape (n,): nside 512, nested or ring, but the
        same everywhere. Any other number, such as -1 for "no position", is hashed like a cell.

    Returns
    -------
    Bools
        Shape (n,): whether the SplitMix64 hash of the number is below 0.75 · 2^64. Depends on
        nothing but the number.
    """
    numbers = np.atleast_1d(np.asarray(cell, dtype=np.int64))
    return np.asarray(_splitmix64(numbers.view(np.uint64)) < _TRAINING_BELOW)


def harmonise_split(is_training: Bools, group: Ints, is_primary: Bools) -> Bools:
    """Put all observations of an object on the side of its primary.

    Needed for the objects whose observations straddle a border of the HEALPix cells.

    Parameters
    ----------
    is_training
        Split of each row by its own cell, shape (n,).
    group
        Object of each row, shape (n,).
    is_primary
        Whether the row is its object's primary, shape (n,); at most one an object. An object
        without one is training if any of its rows is.

    Returns
    -------
    Bools
        Split of each row, shape (n,), equal within each object.

    Raises
    ------
    SpectraScaleError
        An object has two primaries.
    """
    training = np.asarray(is_training, dtype=bool)
    primary = np.asarray(is_primary, dtype=bool)
    groups, inverse = np.unique(np.asarray(group), return_inverse=True)
    primaries = np.bincount(inverse[primary], minlength=groups.size)
    if primaries.size and primaries.max() > 1:
        message = (
            f"object {groups[primaries.argmax()]} has {primaries.max()} primary observations, "
            "expected one at most. Take them from `primary_of_groups`."
        )
        raise SpectraScaleError(message)
    side = np.bincount(inverse[training], minlength=groups.size) > 0
    side[inverse[primary]] = training[primary]
    return np.asarray(side[inverse])
