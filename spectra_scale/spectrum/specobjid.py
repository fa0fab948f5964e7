"""The 64-bit specObjID of SDSS DR8 to DR17, and clean columns to make ids from (formats.md A3)."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spectra_scale.errors import SpectraScaleError

Ints = npt.NDArray[np.int64]
UInts = npt.NDArray[np.uint64]
Text = npt.NDArray[np.str_]

# Legacy reductions, written as plain numbers; every later one is vN_M_P.
_LEGACY_RUN2D = (26, 103, 104)
_RUN2D = re.compile(r"v([56])_(\d+)_(\d+)")
# specObjID fields (formats.md A3): lowest bit and width.
_FIELDS = {"plate": (50, 14), "fiber": (38, 12), "mjd": (24, 14), "run2d": (10, 14)}
_MJD_ZERO = 50000


def whole_numbers(values: npt.ArrayLike, what: str) -> Ints:
    """Whole non-negative numbers of a column.

    Parameters
    ----------
    values
        Integers, whole floats, or text of whole numbers with or without leading zeros.
    what
        Name of the column, for the error.

    Returns
    -------
    Ints
        int64, same shape.

    Raises
    ------
    SpectraScaleError
        A value is negative, no whole number, or too large.
    """
    column = np.asarray(values)
    if column.dtype.kind == "f" and not np.all(column == np.rint(column)):
        message = f"{what} holds fractions or NaN, expected whole numbers. Check the column."
        raise SpectraScaleError(message)
    try:
        numbers = column.astype(np.int64)
    except (ValueError, OverflowError, TypeError) as error:
        message = f"{what} holds something else than whole numbers ({error}). Check the column."
        raise SpectraScaleError(message) from error
    if numbers.size and numbers.min() < 0:
        message = f"{what} holds {numbers.min()}, expected no negative number. Drop such rows."
        raise SpectraScaleError(message)
    return numbers


def stripped_text(values: npt.ArrayLike) -> Text:
    """Text of a column without the blanks survey files pad it with.

    Parameters
    ----------
    values
        Text or ASCII bytes.

    Returns
    -------
    Text
        Same shape.
    """
    text = np.asarray(values)
    if text.dtype.kind == "S":
        text = np.char.decode(text, "ascii")
    return np.asarray(np.char.strip(text.astype(str)))


@dataclass(frozen=True, slots=True, eq=False)
class SpecObjIds:
    """What a specObjID is made of, one row each."""

    plate: Ints
    fiber: Ints
    mjd: Ints
    run2d: Text


def _run2d_number(run2d: str) -> int:
    if run2d.isdigit():
        return int(run2d)
    match = _RUN2D.fullmatch(run2d)
    if match is None or int(match[2]) > 99 or int(match[3]) > 99:
        message = (
            f"RUN2D {run2d!r} has no place in a specObjID: expected 26, 103, 104 or vN_M_P with "
            "N 5 or 6 (SDSS to DR17). SDSS-V ids are text: use `sdssv_key`."
        )
        raise SpectraScaleError(message)
    return (int(match[1]) - 5) * 10000 + int(match[2]) * 100 + int(match[3])


def _run2d_text(number: int) -> str:
    if number in _LEGACY_RUN2D:
        return str(number)
    return f"v{number // 10000 + 5}_{number % 10000 // 100}_{number % 100}"


def _pack(values: Ints, field: str) -> UInts:
    shift, width = _FIELDS[field]
    if values.size and (values.min() < 0 or values.max() >= 1 << width):
        offset = _MJD_ZERO if field == "mjd" else 0
        message = (
            f"{field} runs from {values.min() + offset} to {values.max() + offset}, expected "
            f"{offset} to {offset + (1 << width) - 1}: it does not fit a specObjID. Use the "
            "spectrum key."
        )
        raise SpectraScaleError(message)
    return values.astype(np.uint64) << np.uint64(shift)


def sdss_specobjid(
    plate: npt.ArrayLike, fiber: npt.ArrayLike, mjd: npt.ArrayLike, run2d: npt.ArrayLike
) -> UInts:
    """Pack the specObjID of SDSS DR8 to DR17.

    Bits 50-63 plate, 38-49 fibre, 24-37 MJD - 50000, 10-23 reduction, 0-9 zero (formats.md A3).

    Parameters
    ----------
    plate, fiber, mjd
        Whole numbers, shape (n,) or scalars; `mjd` is the full MJD.
    run2d
        Reduction as text (``26``, ``103``, ``104``, ``v5_13_0``), blanks are dropped.

    Returns
    -------
    UInts
        uint64, shape (n,), or 0-d if all arguments are scalars.

    Raises
    ------
    SpectraScaleError
        A value does not fit its field, or `run2d` is none that has specObjIDs.

    Examples
    --------
    >>> print(sdss_specobjid(3606, 679, 55182, "v5_13_0"))
    4060181793114181632
    """
    names = stripped_text(run2d)
    unique, inverse = np.unique(names, return_inverse=True)
    numbers = np.array([_run2d_number(str(name)) for name in unique], dtype=np.int64)
    packed = (
        _pack(whole_numbers(plate, "PLATE"), "plate")
        | _pack(whole_numbers(fiber, "FIBERID"), "fiber")
        | _pack(np.asarray(whole_numbers(mjd, "MJD") - _MJD_ZERO), "mjd")
        | _pack(numbers[inverse].reshape(names.shape), "run2d")
    )
    return np.asarray(packed, dtype=np.uint64)


def unpack_specobjid(specobjid: npt.ArrayLike) -> SpecObjIds:
    """Take specObjIDs apart.

    Parameters
    ----------
    specobjid
        uint64, or the blank-padded text SDSS files hold, shape (n,).

    Returns
    -------
    SpecObjIds
        Plates, fibres, full MJDs and reductions. The numbers 26, 103 and 104 are read as the
        legacy reductions; v5_0_26, v5_1_3 and v5_1_4, which would share them, were not released.

    Raises
    ------
    SpectraScaleError
        Text that is no whole number.
    """
    column = np.asarray(specobjid)
    try:
        if column.dtype.kind in "SUO":
            column = np.array(
                [int(text) for text in stripped_text(column).ravel()], dtype=np.uint64
            )
        ids = np.atleast_1d(column.astype(np.uint64))
    except (ValueError, OverflowError) as error:
        message = f"SPECOBJID holds something else than 64-bit numbers ({error})."
        raise SpectraScaleError(message) from error
    parts = {
        field: ((ids >> np.uint64(shift)) & np.uint64((1 << width) - 1)).astype(np.int64)
        for field, (shift, width) in _FIELDS.items()
    }
    numbers, inverse = np.unique(parts["run2d"], return_inverse=True)
    names = np.array([_run2d_text(number) for number in numbers.tolist()], dtype=np.str_)
    return SpecObjIds(
        plate=parts["plate"],
        fiber=parts["fiber"],
        mjd=parts["mjd"] + _MJD_ZERO,
        run2d=names[inverse],
    )
