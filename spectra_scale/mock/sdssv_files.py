"""Files of one SDSS-V field: one spec-lite file for each spectrum, and its rows of spAll."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spectra_scale.mock import fits
from spectra_scale.mock.fits import Card
from spectra_scale.mock.observation import Observation, observe_plate
from spectra_scale.mock.parts import write_part
from spectra_scale.mock.rows import target_names
from spectra_scale.mock.sdssv_columns import FIRST_PIXEL, N_PIXELS, Tables, tables_of
from spectra_scale.mock.sdssv_fits import draw_candidates, line_rows, zall_rows
from spectra_scale.mock.sdssv_headers import field_cards, object_cards
from spectra_scale.mock.sdssv_names import catalog_ids, spec_file, spec_folder
from spectra_scale.mock.sdssv_rows import field_columns, filled, spall_rows, spectrum_keys
from spectra_scale.mock.settings import MockSettings
from spectra_scale.mock.task import MockTask
from spectra_scale.mock.truth import truth_table

Rows = NDArray[Any]

_UNITS = {
    "FLUX": "10^-17 ergs/s/cm^2/Angs", "LOGLAM": "log10(Angs)", "WDISP": "Pixels",
    "SKY": "10^-17 ergs/s/cm^2/Angs", "WRESL": "Angs",
}  # fmt: skip
# TDIM of the tables of DR18, by column of SPALL. ZALL and ZLINE have the same cards, although
# their columns are others: IDL wrote all from one header, and readers are to bear it.
_DR18_SHAPES = {
    2: "(6, 1)", 17: "(6, 1)", 20: "(3, 1)", 34: "(1, 1)", 43: "(48, 1)", 48: "(1, 1)",
    62: "(109, 1)", 63: "(120, 1)", 64: "(131, 1)", 65: "(87, 1)", 66: "(87, 1)", 67: "(87, 1)",
    86: "( 10, 10)",
}  # fmt: skip


def write_field(
    task: MockTask, folder: Path, settings: MockSettings
) -> tuple[list[int], NDArray[np.str_], int]:
    """Write the spec files of a field, and its part of the tables.

    Returns
    -------
        Sizes of the files in bytes, CLASS of each spectrum, and rows of the line table: none, the
        fits to lines are in the files.
    """
    seen = observe_plate(task, settings)
    tables, columns = tables_of(settings.sdssv_release), field_columns(seen)
    spall, summary = spall_rows(seen, columns, tables)
    sizes = _write_spectra(seen, columns, (spall, tables), folder)
    names = {"spectrum_key": spectrum_keys(seen), "plate": -1, "fiber": -1}
    no_table = np.zeros(len(seen.fiber), dtype=np.bool_)
    truth = truth_table(seen, names, no_table, target_names(seen))
    write_part(folder, task, settings, {"spall": summary}, pa.table(truth))
    return sizes, seen.classes, 0


def _write_spectra(
    seen: Observation, columns: dict[str, Any], wide: tuple[Rows, Tables], folder: Path
) -> list[int]:
    spall, tables = wide
    release, n = seen.settings.sdssv_release, len(seen.fiber)
    cards = field_cards(seen)
    candidates = draw_candidates(seen, columns)
    best, lines = filled(tables.zall, columns, n), line_rows(seen, columns, tables)
    n_fits, n_lines = candidates.classes.shape[1], lines.shape[1]
    headers = [
        fits.table_header(kind, n_rows, name, cards=_table_cards(kind, name, release))
        for kind, n_rows, name in (
            (tables.coadd, N_PIXELS, "COADD"), (tables.spall, 1, "SPALL"),
            (tables.zall, n_fits, "ZALL"), (tables.zline, n_lines, "ZLINE"),
        )
    ]  # fmt: skip
    directory = folder / spec_folder(seen.task, seen.settings)
    if release == "dr18":
        # IDL pads texts with blanks, Python leaves NULs. All at once: it takes long.
        spall, best, lines = (fits.padded_texts(rows) for rows in (spall, best, lines))
        candidates = candidates.padded()
    sizes = []
    for i, catalog_id in enumerate(catalog_ids(seen.task).tolist()):
        coadd, zall = _coadd(seen, i, tables), zall_rows(best, candidates, i)
        rows = (coadd, spall[i : i + 1], zall, lines[i])
        parts = [fits.header([*cards, *object_cards(seen, i)])]
        for header, table in zip(headers, rows, strict=True):
            parts += [header, fits.padded(fits.table_rows(table, blanks=False))]
        path = directory / spec_file(seen.task, catalog_id, release)
        sizes.append(fits.write_atomically(path, [b"".join(parts)]))
    return sizes


def _coadd(seen: Observation, index: int, tables: Tables) -> Rows:
    """COADD of one spectrum: all of the grid, with ivar 0 and flux 0 beyond its own ends."""
    exposure, row = seen.exposure, seen.row[index]
    first = FIRST_PIXEL - seen.instrument.first_pixel
    cut = slice(first, first + N_PIXELS)
    coadd = np.zeros(N_PIXELS, dtype=tables.coadd)
    log_wave = 1e-4 * (FIRST_PIXEL + np.arange(N_PIXELS))
    coadd["LOGLAM"] = log_wave
    dispersion = seen.instrument.wdisp_of(exposure.slit_place[row])[cut]
    coadd["WDISP"] = dispersion
    coadd["WRESL"] = dispersion * 10**log_wave * (np.log(10) * 1e-4)
    for name in ("flux", "ivar", "and_mask", "or_mask", "sky", "model"):
        coadd[name.upper()] = getattr(exposure, name)[row, cut]
    return coadd


def _table_cards(kind: np.dtype[Any], name: str, release: str) -> list[Card]:
    """Units and shapes of columns, as far as a release has any."""
    if release == "dr18":
        # The shape of THETA_COVAR is among the cards of its columns already.
        shaped = [i for i, column in enumerate(kind.names or (), 1) if len(kind[column].shape) > 1]
        shapes = {i: text for i, text in _DR18_SHAPES.items() if i not in shaped}
        return [(f"TDIM{i}", text, "") for i, text in shapes.items()] if name != "COADD" else []
    cards: list[Card] = []
    for i, column in enumerate(kind.names or (), 1):
        if name == "COADD" and column in _UNITS:
            cards.append((f"TUNIT{i}", _UNITS[column], ""))
        if len(kind[column].shape) == 1:
            cards.append((f"TDIM{i}", f"({kind[column].shape[0]})", ""))
    return [*cards, ("SDSSC2BV", 1, "")] if name == "SPALL" else cards


def summary_cards(settings: MockSettings) -> list[Card]:
    """Cards of spAll's primary HDU; DR18's has none."""
    if settings.sdssv_release == "dr18":
        return []
    return [
        ("RUN2D", settings.run2d("sdssv"), "IDLSPEC2D RUN2D"),
        ("DATE", "Mon Jan  1 00:00:00 2024", ""),
        ("SDSSC2BV", 1, ""),
    ]
