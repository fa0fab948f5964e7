"""Files of single spectra: spec-lite, and spec-full with the HDUs of the exposures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock import fits
from spectra_scale.mock.columns import COADD, SPALL, SPECOBJ
from spectra_scale.mock.fits import Card
from spectra_scale.mock.headers import N_EXPOSURES, exposure_names, plate_cards, spectrum_cards
from spectra_scale.mock.observation import Observation
from spectra_scale.mock.photo_ids import RERUN, SKY_VERSION, object_numbers, photo_fields
from spectra_scale.mock.plate_facts import spectrograph_of
from spectra_scale.mock.rows import target_names
from spectra_scale.mock.single_exposures import exposure_hdus
from spectra_scale.mock.targets import object_types
from spectra_scale.mock.zlines import zline_rows

Rows = NDArray[Any]


def write_spec_files(seen: Observation, rows: Rows, folder: Path) -> list[int]:
    """Write one file for each science spectrum.

    Texts of BOSS files end in NULs, those of legacy files in blanks.

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
    task = seen.task
    is_boss = task.survey == "boss"
    cards = plate_cards(task, seen.instrument, seen.centre, N_EXPOSURES[task.survey])
    wide = _spall(seen, rows) if is_boss else _narrowed(rows, SPECOBJ)
    name = "SPALL" if is_boss else "SPECOBJ"
    wide_header = fits.table_header(wide.dtype, 1, name)
    zlines = zline_rows(seen, rows["SN_MEDIAN_ALL"].astype(np.float64))
    line_header = fits.table_header(zlines.dtype, zlines.shape[1], "SPZLINE")
    wide_bytes, size = fits.table_rows(wide, blanks=not is_boss), wide.dtype.itemsize
    spectrograph = spectrograph_of(seen.fiber, task, seen.settings)
    sizes = []
    for i in range(len(seen.fiber)):
        exposures = exposure_names(N_EXPOSURES[task.survey], int(spectrograph[i]))
        coadd = _coadd(seen, i)
        # Legacy COEFF0 is the plate's: one or more pixels before the trimmed spectrum.
        first = int(np.rint(float(coadd["loglam"][0]) * 1e4))
        first = first if is_boss else seen.instrument.first_pixel
        own = _own_cards(seen, i, rows)
        hdus = [
            fits.primary(spectrum_cards(cards, first, own, exposures, is_boss=is_boss)),
            fits.table(coadd, "COADD", "Coadded spectrum"),
            wide_header,
            fits.padded(wide_bytes[i * size : (i + 1) * size]),
            line_header,
            fits.padded(fits.table_rows(zlines[i], blanks=not is_boss)),
        ]
        if i < task.n_full:
            hdus += exposure_hdus(seen, i, exposures)
        path = _path(seen, folder, i)
        sizes.append(fits.write_atomically(path, [b"".join(hdus)]))
    return sizes


def _path(seen: Observation, folder: Path, index: int) -> Path:
    task = seen.task
    spectra = folder / seen.settings.run2d(task.survey) / "spectra"
    name = f"spec-{task.name}-{seen.fiber[index]:04d}.fits"
    full = spectra / "full" if task.survey == "boss" else spectra
    return (full if index < task.n_full else spectra / "lite") / f"{task.plate:04d}" / name


def _own_cards(seen: Observation, index: int, rows: Rows) -> list[Card]:
    own: list[Card] = [
        ("PLUG_RA", round(float(seen.ra[index]), 7), "RA of object [deg]"),
        ("PLUG_DEC", round(float(seen.dec[index]), 8), "dec of object [deg]"),
    ]
    if seen.task.survey == "boss":
        number = int(object_numbers(seen.task)[index])
        own.append(("THING_ID", number, "Unique object identifier"))
    else:
        number_text = rows["SPECOBJID"][index].decode()
        own.append(("SPEC_ID", number_text, "Unique object identifier"))
    own.append(("FIBERID", int(seen.fiber[index]), "Fiber number"))
    return own


def _spall(seen: Observation, rows: Rows) -> Rows:
    """Rows of SPALL: those of the catalogue, and the object's numbers in the photometric survey.

    Magnitudes and shapes are 0: the mock takes no images.
    """
    wide = _narrowed(rows, SPALL)
    number = object_numbers(seen.task)
    fields = photo_fields(number)
    run, camcol, field, place = fields.T
    photo = rows["BESTOBJID"]
    field_id = [str(int(i) - int(n)) for i, n in zip(photo, place, strict=True)]
    columns: dict[str, Any] = {
        "SPECOBJID": [int(i) for i in rows["SPECOBJID"]], "RA": seen.ra, "DEC": seen.dec,
        "OBJTYPE": object_types(target_names(seen)), "OBJID": photo, "FIELDID": field_id,
        "SKYVERSION": SKY_VERSION, "RUN": run, "RERUN": str(RERUN), "CAMCOL": camcol,
        "FIELD": field, "ID": place, "THING_ID": number, "MODE": 1, "CLEAN": 1,
    }  # fmt: skip
    for name, value in columns.items():
        wide[name] = value
    return wide


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
