"""The kinds of emission-line tables: how each is told, and where its values stand (formats.md A4).

A new kind is one entry of `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spectra_scale.errors import SpectraScaleError
from spectra_scale.surveys.fits_bytes import Array

LINES = ("hbeta", "oiii", "halpha", "nii")
"""The lines of the BPT diagram."""

LINE_COLUMNS = (
    *(f"{line}_{what}" for line in LINES for what in ("flux", "err")),
    "halpha_ew",
    "halpha_ew_err",
)
"""Canonical measurement columns, all float64."""

MISSING = -9999.0
"""Says "no value" in CAS and MPA-JHU tables; real fluxes may be lower still."""

BROAD_SNR = 5.0
"""A broad Hα or Hβ of FastSpecFit counts above this ratio of flux and error (science.md §5)."""
BROAD_SIGMA = 500.0
"""... and above this SIGMA in km/s."""

_PORTSMOUTH_INDEX = (15, 17, 24, 25)  # of 28 lines (formats.md A4)
_PORTSMOUTH_LINES = 28
_MOST_DIGITS = 99999

Block = Mapping[str, Array]
"""Columns of a block of rows, by the names that a format gives them."""


class HasColumns(Protocol):
    """A table that says whether it has a column."""

    def __contains__(self, name: str) -> bool: ...


@dataclass(frozen=True, slots=True, eq=False)
class LineFormat:
    """One kind of line table.

    Parameters
    ----------
    source
        What stands in the column `source`.
    title
        What it is, for people.
    survey
        Whose spectrum keys it has: `sdss` or `desi`.
    identity
        Columns that name the object: plate, MJD and fibre, or TARGETID, survey and program.
    marks
        Columns by which it is told, beside `identity`.
    others
        Columns that are read too.
    values
        `LINE_COLUMNS`, and ``broad`` where the table tells, from a block of columns.
    """

    source: str
    title: str
    survey: str
    identity: tuple[tuple[str, ...], ...]
    marks: tuple[str, ...]
    others: tuple[str, ...]
    values: Callable[[Block], dict[str, Array]]

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """All columns that are read, by their first name, with the names they may have."""
        return {n[0]: n for n in self.identity} | {n: (n,) for n in self.marks + self.others}

    def fits(self, source: HasColumns) -> bool:
        """Whether a table with these columns is of this kind."""
        there = all(any(name in source for name in names) for names in self.identity)
        return there and all(name in source for name in self.marks)


# Identity -------------------------------------------------------------------------------------


def keys_of(kind: LineFormat, block: Block) -> tuple[dict[str, Array], pa.Array]:
    """Who the rows of a block are.

    Parameters
    ----------
    kind
        Kind of the table.
    block
        Its columns.

    Returns
    -------
    identity
        plate, mjd and fiber as int32, -1 throughout for a table of DESI.
    keys
        Spectrum keys; null for a row that names no object.

    Raises
    ------
    SpectraScaleError
        If a column holds another id than it should, or a rounded one.
    """
    if kind.survey == "desi":
        nobody = np.full(len(block["TARGETID"]), -1, np.int32)
        return dict.fromkeys(("plate", "mjd", "fiber"), nobody), _desi_keys(block)
    found = {
        name: _whole(block[names[0]], names[0])
        for name, names in zip(("plate", "mjd", "fiber"), kind.identity, strict=True)
    }
    there = np.logical_and.reduce([values > 0 for values in found.values()])
    for name, values in found.items():
        if len(values) and values[there].max(initial=0) > _MOST_DIGITS:
            msg = (
                f"{name} reaches {values[there].max()}, expected at most five digits. The "
                "column is another id (PLATEID of CAS is one): export PLATE, MJD and FIBERID."
            )
            raise SpectraScaleError(msg)
    identity = {name: values.astype(np.int32) for name, values in found.items()}
    return identity, _joined([*identity.values()], "sdss:", there)


def _desi_keys(block: Block) -> pa.Array:
    target = block["TARGETID"]
    if target.dtype.kind not in "iu":
        msg = (
            f"TARGETID is {target.dtype}, expected whole numbers: as floats or text they "
            "lose their last digits. Export it as 64-bit integers."
        )
        raise SpectraScaleError(msg)
    # As in keys of coadds: lower case, whatever the table has.
    survey, program = (
        np.char.lower(np.char.strip(block[n].astype(np.str_))) for n in ("SURVEY", "PROGRAM")
    )
    there = (survey != "") & (program != "")
    return _joined([survey, program, target], "desi:", there)


def _joined(parts: list[Array], prefix: str, there: Array) -> pa.Array:
    text = [pa.array(each).cast(pa.string()) for each in parts]
    keys = pc.binary_join_element_wise(*text, "-")
    keys = pc.binary_join_element_wise(prefix, keys, "")
    return pc.if_else(pa.array(there), keys, pa.scalar(None, pa.string()))


def _whole(values: Array, name: str) -> Array:
    """Whole numbers as int64; -1 where there is none."""
    try:
        numbers = values.astype(np.float64)
    except ValueError as error:
        msg = f"column {name} holds something else than numbers: {error}"
        raise SpectraScaleError(msg) from error
    good = np.isfinite(numbers) & (np.abs(numbers) < 2.0**63) & (numbers == np.rint(numbers))
    return np.where(good, numbers, -1).astype(np.int64)


# Values ---------------------------------------------------------------------------------------


def _portsmouth(block: Block) -> dict[str, Array]:
    for name in ("FLUX", "FLUX_ERR", "EW", "EW_ERR"):
        shape = block[name].shape
        if len(shape) != 2 or shape[1] != _PORTSMOUTH_LINES:
            msg = (
                f"column {name} has shape {shape}, expected {_PORTSMOUTH_LINES} lines a row, in "
                "the order of the Portsmouth catalogue."
            )
            raise SpectraScaleError(msg)
    out = {}
    for line, index in zip(LINES, _PORTSMOUTH_INDEX, strict=True):
        out[f"{line}_flux"] = block["FLUX"][:, index]
        out[f"{line}_err"] = block["FLUX_ERR"][:, index]
    halpha = _PORTSMOUTH_INDEX[2]
    return out | {"halpha_ew": block["EW"][:, halpha], "halpha_ew_err": block["EW_ERR"][:, halpha]}


_CAS_NAMES = ("Hb_4861", "OIII_5006", "Ha_6562", "NII_6583")


def _cas(block: Block) -> dict[str, Array]:
    out = {}
    for line, name in zip(LINES, _CAS_NAMES, strict=True):
        out[f"{line}_flux"], out[f"{line}_err"] = block[f"Flux_{name}"], block[f"Flux_{name}_Err"]
    return out | {"halpha_ew": block["EW_Ha_6562"], "halpha_ew_err": block["EW_Ha_6562_Err"]}


_MPA_NAMES = ("H_BETA", "OIII_5007", "H_ALPHA", "NII_6584")


def _mpa_jhu(block: Block) -> dict[str, Array]:
    out = {}
    for line, name in zip(LINES, _MPA_NAMES, strict=True):
        out[f"{line}_flux"], out[f"{line}_err"] = block[f"{name}_FLUX"], block[f"{name}_FLUX_ERR"]
    # MPA-JHU counts emission as negative.
    ew = np.asarray(block["H_ALPHA_EQW"], np.float64)
    out["halpha_ew"] = np.where(ew != MISSING, -ew, np.nan)
    out["halpha_ew_err"] = block["H_ALPHA_EQW_ERR"]
    reliable = np.asarray(block["RELIABLE"]).astype(np.float64) == 1
    return {name: np.where(reliable, values, np.nan) for name, values in out.items()}


_FASTSPEC_NAMES = ("HBETA", "OIII_5007", "HALPHA", "NII_6584")
_FASTSPEC_BROAD = ("HALPHA_BROAD", "HBETA_BROAD")


def _fastspec(block: Block) -> dict[str, Array]:
    """Values of FastSpecFit; where it fits a broad component, HALPHA and HBETA are the narrow one.

    So the narrow lines stand on the BPT diagram, and the broad ones make the broad-line class. EW
    is rest frame and positive in emission, as here. Its fluxes are free of Milky Way dust. Flux
    and EW errors of versions before 3.1.5 (DR1 before v3.0) are known to be off.
    """
    out = {}
    for line, name in zip(LINES, _FASTSPEC_NAMES, strict=True):
        out[f"{line}_flux"] = block[f"{name}_FLUX"]
        out[f"{line}_err"] = _error(block[f"{name}_FLUX_IVAR"])
    out["halpha_ew"], out["halpha_ew_err"] = block["HALPHA_EW"], _error(block["HALPHA_EW_IVAR"])
    broad = np.zeros(len(block["TARGETID"]), np.bool_)
    for name in _FASTSPEC_BROAD:
        flux, error = block[f"{name}_FLUX"], _error(block[f"{name}_FLUX_IVAR"])
        with np.errstate(invalid="ignore"):
            significant = np.isfinite(flux) & (flux > BROAD_SNR * error)
            broad |= significant & (block[f"{name}_SIGMA"] > BROAD_SIGMA)
    return out | {"broad": broad}


def _error(ivar: Array) -> Array:
    """ivar^-1/2; NaN where ivar is not positive, which says "not measured"."""
    ivar = np.asarray(ivar, np.float64)
    with np.errstate(invalid="ignore"):
        good = np.isfinite(ivar) & (ivar > 0)
    return 1 / np.sqrt(np.where(good, ivar, np.nan))


# The table ------------------------------------------------------------------------------------

_PLATE = (("PLATE", "PLATEID"), ("MJD",), ("FIBERID", "FIBER"))
FORMATS = (
    LineFormat(
        "portsmouth", "Portsmouth, arrays of 28 lines", "sdss", _PLATE,
        ("FLUX", "FLUX_ERR", "EW", "EW_ERR"), (), _portsmouth,
    ),
    LineFormat(
        "cas", "Portsmouth, CAS or Data Lab columns", "sdss", _PLATE,
        tuple(f"Flux_{name}" for name in _CAS_NAMES),
        (*(f"Flux_{name}_Err" for name in _CAS_NAMES), "EW_Ha_6562", "EW_Ha_6562_Err"),
        _cas,
    ),
    LineFormat(
        "mpa-jhu", "MPA-JHU galSpecLine", "sdss", (("PLATEID", "PLATE"), *_PLATE[1:]),
        tuple(f"{name}_FLUX" for name in _MPA_NAMES),
        (*(f"{name}_FLUX_ERR" for name in _MPA_NAMES), "H_ALPHA_EQW", "H_ALPHA_EQW_ERR",
         "RELIABLE"),
        _mpa_jhu,
    ),
    LineFormat(
        "fastspecfit", "DESI FastSpecFit (FASTSPEC)", "desi",
        (("TARGETID",), ("SURVEY",), ("PROGRAM",)),
        tuple(f"{name}_FLUX_IVAR" for name in _FASTSPEC_NAMES),
        (*(f"{name}_FLUX" for name in _FASTSPEC_NAMES), "HALPHA_EW", "HALPHA_EW_IVAR",
         *(f"{n}_{w}" for n in _FASTSPEC_BROAD for w in ("FLUX", "FLUX_IVAR", "SIGMA"))),
        _fastspec,
    ),
)  # fmt: skip
"""Known kinds, in the order in which they are tried."""

WANTED = frozenset(
    name.lower() for kind in FORMATS for names in kind.columns.values() for name in names
)
"""Lower-case names of all columns that are read from a line table."""
FASTSPECFIT = FORMATS[-1]
"""The kind whose table is found by its EXTNAME."""
