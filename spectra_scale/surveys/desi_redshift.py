"""Catalogue rows of one DESI coadd: its redshifts, joined with its spectra by TARGETID.

Redshifts are in a redrock file (zbest before 2021) beside the coadd; what was pointed at is in the
FIBERMAP of either. Definitions: formats.md A5.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from spectra_scale.errors import BadSpectrumError
from spectra_scale.spectrum.identity import desi_key
from spectra_scale.surveys.canonical import (
    CATALOGUE_SCHEMA,
    Canonical,
    UnusableColumnError,
    canonical_rows,
)
from spectra_scale.surveys.canonical_values import integers, repeated, texts
from spectra_scale.surveys.catalogue import bad_rows
from spectra_scale.surveys.catalogue_columns import DESI_MAP
from spectra_scale.surveys.desi import (
    CoaddPlace,
    find_redrock,
    header_place,
    place_of,
    production_of,
)
from spectra_scale.surveys.desi_arms import Ids, target_ids
from spectra_scale.surveys.desi_hdus import DesiFile, open_desi, rows_for
from spectra_scale.surveys.fits_bytes import Array, UnsureError
from spectra_scale.surveys.fits_table import Table
from spectra_scale.surveys.reasons import Reason

__all__ = ["Lost", "find_redrock", "rows_of_coadd"]

Lost = tuple[str, str, str]
"""Spectrum key, code of `reasons.Reason` and message of a spectrum or redshift that is no row."""

_OF_REDSHIFTS = ("z", "z_err", "zwarning", "class", "subclass")
_OF_TARGETS = (
    "ra", "dec", "targettype", "fiberstatus", "ebv", "fiber", "mean_mjd", "reduction",
)  # fmt: skip
_SKY = "SKY"
_POINTS_AT_SKY = "a fibre that points at the sky"


def rows_of_coadd(coadd: Path, redrock: Path | None) -> tuple[pa.Table, list[Lost]]:
    """Find the catalogue rows of a coadd.

    Parameters
    ----------
    coadd
        The coadd.
    redrock
        File of its redshifts (see `find_redrock`); None if there is none: then none of its
        spectra is a row.

    Returns
    -------
    rows
        `CATALOGUE_SCHEMA` and `source_row` (TARGETID, int64), in the order of the coadd. Positions
        are NaN and target types empty where neither file has them.
    lost
        Everything else: sky fibres (``sky_fibre``), spectra without a redshift (``no_redshift``),
        redshifts without a spectrum (``row_without_fibre``), unusable redshifts
        (``bad_redshift``) and all of a TARGETID that is in a file twice (``duplicate``): one of
        them is another's, and nobody knows which.

    Raises
    ------
    BadSpectrumError
        If one of the files cannot be used, with its path; ``identity_mismatch`` if the coadd's
        name or its redshifts contradict its header.
    """
    with open_desi(coadd) as file:
        place, production = place_of(file), production_of(file)
        ids = target_ids(file)
        targets = file.find("FIBERMAP")
        assert targets is not None
        found = _columns(file.table(targets), np.arange(len(ids)), _OF_TARGETS, coadd)
    if redrock is None:
        sky = _sky(found, len(ids))
        message = "no redrock or zbest file beside the coadd: redshifts are not known"
        lost = _lines(ids[sky], place, Reason.SKY_FIBRE, _POINTS_AT_SKY)
        return _nothing(), lost + _lines(ids[~sky], place, Reason.NO_REDSHIFT, message)
    with _naming(redrock), open_desi(redrock) as file:
        _check_place(file, place)
        redshifts, theirs = _redshifts(file)
        found |= _columns(redshifts, rows_for(theirs, ids), _OF_REDSHIFTS, redrock)
        more = file.find("FIBERMAP")
        if more is not None:
            table = file.table(more)
            rows = rows_for(_ids(table, redrock), ids)
            for name, values in _columns(table, rows, _OF_TARGETS, redrock).items():
                found[name] = _first_of(values, found.get(name))
    return _sorted_out(ids, theirs, found, (place, production, redrock))


def _first_of(values: Array, others: Array | None) -> Array:
    if others is None:
        return values
    gaps = np.ma.getmaskarray(values)
    both = np.where(gaps, np.ma.getdata(others), np.ma.getdata(values))
    return np.ma.MaskedArray(both, gaps & np.ma.getmaskarray(others))


def _check_place(file: DesiFile, place: CoaddPlace) -> None:
    found = header_place(file)
    if found is not None and (found.survey, found.program) != (place.survey, place.program):
        message = (
            f"they are of {found.survey} {found.program}, the coadd is of {place.survey} "
            f"{place.program}: fetch both again"
        )
        raise BadSpectrumError(Reason.IDENTITY_MISMATCH, message, file.path)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of the second file say that they are of it."""
    try:
        yield
    except BadSpectrumError as error:
        message = f"its redshifts, {path.name}: {error.message}"
        raise BadSpectrumError(error.reason, message, path) from error


def _redshifts(file: DesiFile) -> tuple[Table, Ids]:
    hdu = file.find("REDSHIFTS", "ZBEST")
    if hdu is None:
        names = ", ".join(each.name for each in file.hdus[1:])
        reason = Reason.TRUNCATED if file.is_cut else Reason.MISSING_HDU
        message = f"has no HDU REDSHIFTS or ZBEST; found {names or 'none'}"
        raise BadSpectrumError(reason, message, file.path)
    table = file.table(hdu)
    needed = ("TARGETID", "Z", "ZWARN", "SPECTYPE")
    lacking = [name for name in needed if name not in table]
    if lacking:
        message = f"{hdu.name} has no column {', '.join(lacking)}"
        raise BadSpectrumError(Reason.MISSING_COLUMN, message, file.path)
    return table, _ids(table, file.path)


def _ids(table: Table, path: Path) -> Ids:
    if "TARGETID" not in table:
        raise BadSpectrumError(Reason.MISSING_COLUMN, "a table has no column TARGETID", path)
    try:
        ids, bad = integers(table.column("TARGETID"), "TARGETID", "int64")
    except (UnusableColumnError, UnsureError) as error:
        message = f"column TARGETID cannot be read: {error}"
        raise BadSpectrumError(Reason.MISSING_COLUMN, message, path) from error
    # Row-aligned with the other columns: what is no id becomes one that no target has.
    return np.asarray(np.where(bad, np.iinfo(np.int64).min, ids), np.int64)


def _columns(table: Table, rows: Ids, names: tuple[str, ...], path: Path) -> dict[str, Array]:
    """Columns of the spectra by canonical name, masked where the table has no row for one."""
    found: dict[str, Array] = {}
    for name in names:
        column = next((each for each in DESI_MAP.columns[name] if each in table), None)
        if column is None:
            continue
        try:
            values = table.column(column)
        except UnsureError as error:
            message = f"column {column} cannot be read: {error}"
            raise BadSpectrumError(Reason.MISSING_COLUMN, message, path) from error
        if values.ndim != 1:
            message = f"column {column} has {values.ndim} axes, expected one value a row"
            raise BadSpectrumError(Reason.MISSING_COLUMN, message, path)
        held = values if len(values) else np.zeros(1, values.dtype)
        found[name] = np.ma.MaskedArray(held[np.maximum(rows, 0)], rows < 0)
    return found


# Rows, and what is none -----------------------------------------------------------------------


def _sorted_out(
    ids: Ids, theirs: Ids, found: dict[str, Array], of: tuple[CoaddPlace, str, Path]
) -> tuple[pa.Table, list[Lost]]:
    place, _, path = of
    sky = _sky(found, len(ids))
    known = ~np.ma.getmaskarray(found["z"])
    both = np.isin(ids, np.append(repeated(ids), repeated(theirs)))
    kept = np.flatnonzero(~sky & known & ~both)
    lost = _lines(ids[sky], place, Reason.SKY_FIBRE, _POINTS_AT_SKY)
    twice = f"the coadd or in {path.name}: which is its cannot be told"
    for which, reason, message in (
        (~sky & ~known, Reason.NO_REDSHIFT, f"{path.name} has no redshift of it"),
        (~sky & known & both, Reason.DUPLICATE, "its TARGETID is there twice in " + twice),
    ):
        lost += _lines(ids[which], place, reason, message)
    message = f"{path.name} has a redshift of it, the coadd has no spectrum"
    absent = theirs[~np.isin(theirs, ids)]
    lost += _lines(absent, place, Reason.ROW_WITHOUT_FIBRE, message)
    made = _canonical({name: values[kept] for name, values in found.items()}, ids[kept], of)
    table = made.table.append_column("source_row", pa.array(ids[kept], pa.int64()))
    bad = bad_rows(made.table)
    keys = made.table["spectrum_key"].to_pylist() if bad else []
    lost += [(keys[row], reason, message) for row, reason, message in bad]
    keep = np.ones(len(kept), bool)
    keep[[row for row, _, _ in bad]] = False
    return table.filter(pa.array(keep)), lost


def _canonical(found: dict[str, Array], ids: Ids, of: tuple[CoaddPlace, str, Path]) -> Canonical:
    place, production, path = of
    n_rows = len(ids)
    given = {
        "targetid": ids,
        "survey": np.full(n_rows, place.survey),
        "program": np.full(n_rows, place.program),
        "healpix": np.full(n_rows, place.healpix),
    }
    try:
        return canonical_rows(found | given, "desi", production)
    except UnusableColumnError as error:
        raise BadSpectrumError(Reason.MISSING_COLUMN, str(error), path) from error


def _sky(found: dict[str, Array], n_rows: int) -> Array:
    return np.asarray(np.char.upper(texts(found.get("targettype"), n_rows)) == _SKY)


def _lines(ids: Ids, place: CoaddPlace, reason: Reason, message: str) -> list[Lost]:
    if not len(ids):
        return []
    keys = desi_key(place.survey, place.program, ids).tolist()
    return [(key, str(reason), message) for key in keys]


def _nothing() -> pa.Table:
    schema = pa.schema([*CATALOGUE_SCHEMA, pa.field("source_row", pa.int64())])
    return schema.empty_table()
