"""Values of catalogue columns as the types of the canonical catalogue, many rows at once.

What cannot be converted is marked and not raised: one bad value must not stop the reading of a
catalogue of millions of rows. An id never passes through a float.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from spectra_scale.errors import SpectraScaleError
from spectra_scale.surveys.fits_bytes import Array

Bools = npt.NDArray[np.bool_]

MISSING_BELOW = -9000.0  # CAS writes -9999 for "no value"
_EXACT = 2.0**53  # larger whole numbers have lost digits as float64
_TRUE = ("T", "TRUE", "1", "Y", "YES")
_FALSE = ("F", "FALSE", "0", "N", "NO")


class UnusableColumnError(SpectraScaleError):
    """A column that is needed is absent, or holds something else than it should."""


def texts(values: Array | None, n_rows: int) -> Array:
    """Text of a column without blanks around it; empty where there is no column.

    Raises
    ------
    UnusableColumnError
        If it has several values a row.
    """
    if values is None:
        return np.full(n_rows, "", "U1")
    if values.ndim != 1:
        msg = f"a column of text has {values.ndim} axes, expected one value a row"
        raise UnusableColumnError(msg)
    if isinstance(values, np.ma.MaskedArray):
        values = np.where(np.ma.getmaskarray(values), "", np.ma.getdata(values).astype(np.str_))
    return np.char.strip(np.asarray(values).astype(np.str_))


def floats(values: Array, name: str, dtype: str, *, has_unknown: bool) -> Array:
    """Numbers of a column; NaN where a value is null, or marked as missing.

    Parameters
    ----------
    values
        Shape (row,).
    name
        Canonical name, for messages.
    dtype
        Wanted type.
    has_unknown
        Whether the column may be unknown: then -9999 is.

    Raises
    ------
    UnusableColumnError
        If it holds something else than numbers.
    """
    _one_a_row(values, name)
    try:
        numbers = np.ma.filled(values.astype(np.float64), np.nan)
    except (ValueError, TypeError) as error:
        raise _not_numbers(name, error) from None
    if has_unknown:
        numbers[numbers < MISSING_BELOW] = np.nan
    with np.errstate(over="ignore"):
        return np.asarray(numbers.astype(dtype))


def integers(values: Array, name: str, dtype: str) -> tuple[Array, Bools]:
    """Whole numbers of a column, exact to the last digit.

    Parameters
    ----------
    values
        Shape (row,): integers, whole floats, or text of whole numbers; masked where null.
    name
        Canonical name, for messages.
    dtype
        Wanted type, a signed integer.

    Returns
    -------
    numbers
        0 where there is none.
    bad
        Where a value is null, no whole number, or too large for the type; for a float also where
        it is so large that its last digits are lost. Shape (row,).

    Raises
    ------
    UnusableColumnError
        If the column holds text that is no number in any row, or several values a row.
    """
    _one_a_row(values, name)
    missing = np.ma.getmaskarray(values)
    plain = np.ma.getdata(values)
    limits = np.iinfo(dtype)
    if plain.dtype.kind == "b":
        return np.where(missing, 0, plain).astype(dtype), missing
    if plain.dtype.kind in "iu":
        bad = missing | (plain > limits.max)
        if plain.dtype.kind == "i":
            bad |= plain < limits.min
    elif plain.dtype.kind == "f":
        bad = missing | ~(np.abs(plain) <= min(limits.max, _EXACT)) | (plain != np.rint(plain))
    else:
        return _from_text(plain, missing, name, dtype)
    return np.where(bad, plain.dtype.type(0), plain).astype(dtype), np.asarray(bad)


def _from_text(values: Array, missing: Bools, name: str, dtype: str) -> tuple[Array, Bools]:
    limits = np.iinfo(dtype)
    out = np.zeros(len(values), dtype)
    bad = np.ones(len(values), bool)
    # A column of text has few different values, or is an id.
    for row, value in enumerate(texts(values, len(values)).tolist()):
        number = None if missing[row] else _integer(value)
        if number is not None and limits.min <= number <= limits.max:
            out[row], bad[row] = number, False
    if len(values) and bad.all():
        raise _not_numbers(name, f"found {str(values[0])!r}")
    return out, bad


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return None
    # 266.0 is a whole number, 2.99533E+17 was rounded.
    return int(number) if abs(number) <= _EXACT and number == int(number) else None


def known_integers(values: Array, name: str, dtype: str, unknown: int) -> Array:
    """Whole numbers of a column that is no id: `unknown` where `integers` finds none."""
    numbers, bad = integers(values, name, dtype)
    return np.asarray(np.where(bad, np.array(unknown, dtype), numbers))


def repeated(ids: Array) -> Array:
    """Ids that stand in more than one row, each once.

    In a file of one plate or healpixel each id is of one spectrum: one that is there twice is
    damaged, as by one flipped bit, and which of the two rows is its cannot be told.
    """
    found, counts = np.unique(ids, return_counts=True)
    return np.asarray(found[counts > 1])


def flags(values: Array, name: str) -> Array:
    """Yes and no of a column as int8 1 and 0, whatever they are written as; -1 if unknown.

    FITS has T and F, other files true, t or 1.
    """
    _one_a_row(values, name)
    if values.dtype.kind not in "SUO":
        numbers, bad = integers(values, name, "int64")
        known = ~bad & ((numbers == 0) | (numbers == 1))
        return np.where(known, numbers, -1).astype(np.int8)
    found, which = np.unique(texts(values, len(values)), return_inverse=True)
    upper = [str(value).upper() for value in found]
    codes = [1 if value in _TRUE else 0 if value in _FALSE else -1 for value in upper]
    return np.array(codes, np.int8)[which]


def value_of(values: Array, row: int) -> str:
    """A value as it stands in its file, for a message."""
    value: Any = values[row]
    return "missing" if value is np.ma.masked else str(value)


def rows_of(found: Mapping[str, Array], keep: Bools) -> dict[str, Array]:
    """Some rows of all columns."""
    return {name: values[keep] for name, values in found.items()}


def _one_a_row(values: Array, name: str) -> None:
    if values.ndim != 1:
        msg = f"column {name} has {values.ndim} axes, expected one number a row"
        raise UnusableColumnError(msg)


def _not_numbers(name: str, error: object) -> UnusableColumnError:
    return UnusableColumnError(f"column {name} holds something else than numbers: {error}")
