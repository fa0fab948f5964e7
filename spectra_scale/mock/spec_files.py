"""Files of single spectra: spec-lite, and spec-full with the HDUs of the exposures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock import fits
from spectra_scale.mock.columns import COADD, SPALL, SPECOBJ
from spectra_scale.mock.fits import Card
from spectra_scale.mock.headers import N_EXPOSURES, plate_cards, spectrum_cards
from spectra_scale.mock.linerows import zline_rows
from spectra_scale.mock.observation import Observation
from spectra_scale.mock.single_exposures import exposure_hdus

Rows = NDArray[Any]


def write_spec_files(seen: Observation, rows: Rows, folder: Path) -> list[int]:
    """Write one file for each science spectrum.

    Parameters
    ----------
    seen, rows
        The plate as observed, and its rows of the catalogue.
    folder
        Root of the release. Legacy full files lie in ``26/spectra/PPPP``, those of BOSS in
        ``v5_13_2/spectra/full/PPPP``, lite ones in ``spectra/lite/PPPP``.

    Returns
    -------
        Sizes of the files in bytes.
    """
    task, n = seen.task, N_EXPOSURES[seen.task.survey]
    run2d = seen.settings.run2d(task.survey)
    spectra, plate = folder / run2d / "spectra", f"{task.plate:04d}"
    is_boss = task.survey == "boss"
    full = spectra / "full" / plate if is_boss else spectra / plate
    cards = plate_cards(task, seen.instrument, seen.centre, n)
    wide = _narrowed(rows, SPALL if is_boss else SPECOBJ)
    if is_boss:
        wide["SPECOBJID"] = [int(i) for i in rows["SPECOBJID"]]
        wide["OBJTYPE"] = "GALAXY"
        wide["RA"], wide["DEC"] = seen.ra, seen.dec
    name = "SPALL" if is_boss else "SPECOBJ"
    wide_header = fits.table_header(wide.dtype, 1, name)
    sizes = []
    wide_bytes, size = fits.table_rows(wide), wide.dtype.itemsize
    for i, (fiber, zlines) in enumerate(zip(seen.fiber, zline_rows(seen), strict=True)):
        coadd = _coadd(seen, i)
        first = int(np.rint(float(coadd["loglam"][0]) * 1e4))
        is_full = i < task.n_full
        directory = full if is_full else spectra / "lite" / plate
        primary = spectrum_cards(
            cards,
            # Legacy COEFF0 is the plate's: one or more pixels before the trimmed spectrum.
            first if is_boss else seen.instrument.first_pixel,
            _own_cards(seen, i, rows),
            n,
        )
        hdus = [
            fits.primary(primary),
            fits.table(coadd, "COADD", "Coadded spectrum"),
            wide_header,
            fits.padded(wide_bytes[i * size : (i + 1) * size]),
            fits.table(zlines, "SPZLINE"),
        ]
        if is_full:
            hdus += exposure_hdus(seen, i, n)
        path = directory / f"spec-{task.name}-{fiber:04d}.fits"
        sizes.append(fits.write_atomically(path, [b"".join(hdus)]))
    return sizes


def _own_cards(seen: Observation, index: int, rows: Rows) -> list[Card]:
    is_boss = seen.task.survey == "boss"
    number = rows["SPECOBJID"][index].decode()
    own: list[Card] = [
        ("PLUG_RA", round(float(seen.ra[index]), 7), "RA of object [deg]"),
        ("PLUG_DEC", round(float(seen.dec[index]), 8), "dec of object [deg]"),
    ]
    if is_boss:
        own.append(("THING_ID", int(number) % 10**9, "Unique object identifier"))
    else:
        own.append(("SPEC_ID", number, "Unique object identifier"))
    own.append(("FIBERID", int(seen.fiber[index]), "Fiber number"))
    return own


def _coadd(seen: Observation, index: int) -> Rows:
    """COADD of one spectrum, trimmed to its own ends, as spec files are and spPlate is not."""
    exposure, row = seen.exposure, seen.row[index]
    cut = slice(int(exposure.start[row]), int(exposure.stop[row]))
    coadd = np.zeros(cut.stop - cut.start, dtype=COADD)
    pixel = seen.instrument.first_pixel + np.arange(cut.start, cut.stop)
    coadd["loglam"] = 1e-4 * pixel
    coadd["wdisp"] = seen.instrument.wdisp_of(exposure.slit_place[row])[cut]
    for name in ("flux", "ivar", "and_mask", "or_mask", "sky", "model"):
        coadd[name] = getattr(exposure, name)[row, cut]
    return coadd


def _narrowed(rows: Rows, kind: np.dtype[Any]) -> Rows:
    """The columns of `kind` that the catalogue has, the others zero, in the widths of `kind`."""
    out = np.zeros(len(rows), dtype=kind)
    # SPALL gives two names another meaning: SPECOBJID is a number there, OBJID a text.
    shared = set(kind.names or ()) & set(rows.dtype.names or ()) - {"SPECOBJID", "OBJID"}
    for name in shared:
        out[name] = rows[name]
    if kind["SPECOBJID"].kind == "S":
        out["SPECOBJID"] = rows["SPECOBJID"]
    return out
