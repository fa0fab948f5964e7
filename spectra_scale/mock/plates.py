"""Files of one plate: spPlate and spZbest, or spec-lite files, with their part of the tables."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spectra_scale.mock import fits
from spectra_scale.mock.columns import COADD, PLUGMAP, SPALL, SPECOBJ, ZBEST
from spectra_scale.mock.fits import Card
from spectra_scale.mock.headers import plate_axis_cards, plate_cards, spectrum_cards
from spectra_scale.mock.linerows import portsmouth_rows, truth_columns, zline_tables
from spectra_scale.mock.observation import Observation, observe_plate
from spectra_scale.mock.rows import catalogue_rows
from spectra_scale.mock.settings import MockSettings, MockTask

log = logging.getLogger(__name__)
Rows = NDArray[Any]

_EXPOSURES = {"sdss": 4, "boss": 5}


@dataclass(frozen=True, slots=True)
class MockCounts:
    """What one plate wrote.

    Parameters
    ----------
    plate, mjd
        Its name.
    n_spectra, n_sky
        Science spectra and sky fibres.
    n_files, n_bytes
        FITS files and their size.
    n_galaxies, n_quasars, n_stars
        By the CLASS of the catalogue.
    n_line_rows
        Rows of the line table.
    """

    plate: int
    mjd: int
    n_spectra: int
    n_sky: int
    n_files: int
    n_bytes: int
    n_galaxies: int
    n_quasars: int
    n_stars: int
    n_line_rows: int


def part_path(folder: Path, task: MockTask) -> Path:
    """Where `write_plate` leaves the rows that `finish` collects."""
    return folder / ".parts" / f"{task.name}.npz"


def is_written(folder: Path, task: MockTask, settings: MockSettings) -> bool:
    """Whether this very plate, of these settings, was written here: a resumed run may skip it."""
    path = part_path(folder, task)
    if not path.exists():
        return False
    with np.load(path, allow_pickle=False) as part:
        return str(part["origin"]) == _origin(task, settings)


def _origin(task: MockTask, settings: MockSettings) -> str:
    return json.dumps([asdict(task), asdict(settings)], sort_keys=True)


def write_plate(task: MockTask, folder: Path, settings: MockSettings) -> MockCounts:
    """Write all files of a plate, and its part of the tables, whatever is there already.

    The same task and settings give the same bytes wherever and whenever they run; every file is
    renamed into place when whole. Legacy spZbest lies beside its spPlate, that of BOSS in a
    RUN1D folder, as in the archive.

    Parameters
    ----------
    task
        A plate of ``plan(settings)``.
    folder
        Root of the release; made if it is not there.
    settings
        Those of the plan.
    """
    seen = observe_plate(task, settings)
    rows = catalogue_rows(seen)
    write = _write_spec_files if task.layout == "spec" else _write_plate_files
    paths = write(seen, rows, folder)
    lines = portsmouth_rows(seen)
    counts = MockCounts(
        plate=task.plate,
        mjd=task.mjd,
        n_spectra=len(rows),
        n_sky=len(seen.sky_fiber),
        n_files=len(paths),
        n_bytes=sum(path.stat().st_size for path in paths),
        n_galaxies=int((rows["CLASS"] == b"GALAXY").sum()),
        n_quasars=int((rows["CLASS"] == b"QSO").sum()),
        n_stars=int((rows["CLASS"] == b"STAR").sum()),
        n_line_rows=len(lines),
    )
    _write_part(part_path(folder, task), rows, lines, seen)
    log.info("mock plate=%s files=%d spectra=%d", task.name, counts.n_files, counts.n_spectra)
    return counts


def _write_part(path: Path, rows: Rows, lines: Rows, seen: Observation) -> None:
    truth = pa.table(truth_columns(seen))
    sink = pa.BufferOutputStream()
    pq.write_table(truth, sink)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp.npz")
    np.savez(
        temporary,
        catalogue=rows,
        lines=lines,
        origin=np.array(_origin(seen.task, seen.settings)),
        truth=np.frombuffer(sink.getvalue(), dtype=np.uint8),
    )
    temporary.replace(path)


def _write_plate_files(seen: Observation, rows: Rows, folder: Path) -> list[Path]:
    task, settings, exposure = seen.task, seen.settings, seen.exposure
    run2d = settings.run2d(task.survey)
    directory = folder / run2d / f"{task.plate:04d}"
    n_fibers = exposure.flux.shape[0]
    cards = plate_cards(task, seen.instrument, seen.centre, _EXPOSURES[task.survey])
    axis = plate_axis_cards(seen.instrument)
    wdisp = np.broadcast_to(seen.instrument.wdisp, exposure.flux.shape)
    # EXTNAMEs came with DR10: the index order is what all releases share.
    plate = directory / f"spPlate-{task.name}.fits"
    fits.write_atomically(
        plate,
        (
            fits.image(exposure.flux, [*cards, *axis]),
            fits.image(exposure.ivar, axis, extension="IVAR"),
            fits.image(exposure.and_mask, axis, extension="ANDMASK"),
            fits.image(exposure.or_mask, axis, extension="ORMASK"),
            fits.image(wdisp, axis, extension="WAVEDISP"),
            fits.table(_plugmap(seen), "PLUGMAP"),
            fits.image(exposure.sky, axis, extension="SKY"),
        ),
    )
    best = directory / (run2d if task.survey == "boss" else "") / f"spZbest-{task.name}.fits"
    dispersion = np.zeros((n_fibers, 35), dtype=np.float32)
    fits.write_atomically(
        best,
        (
            fits.primary(cards),
            fits.table(_zbest(seen, rows)),
            fits.image(exposure.model, axis, extension=""),
            fits.image(dispersion, extension=""),
        ),
    )
    return [plate, best]


def _plugmap(seen: Observation) -> Rows:
    n = len(seen.fiber) + len(seen.sky_fiber)
    rows = np.zeros(n, dtype=PLUGMAP)
    rows["FIBERID"] = np.arange(1, n + 1)
    rows["HOLETYPE"], rows["OBJTYPE"] = "OBJECT", "SKY"
    rows["RA"], rows["DEC"] = seen.centre
    rows["SPECTROGRAPHID"] = 1 + (rows["FIBERID"] > n // 2)
    rows["OBJTYPE"][seen.row] = np.where(seen.classes == "STAR", "SPECTROPHOTO_STD", "GALAXY")
    rows["RA"][seen.row], rows["DEC"][seen.row] = seen.ra, seen.dec
    rows["MAG"][seen.row] = seen.objects.magnitude[:, None] + np.array([2.4, 0.8, 0, -0.35, -0.6])
    rows["XFOCAL"] = 217.7 * (rows["RA"] - seen.centre[0])
    rows["YFOCAL"] = 217.7 * (rows["DEC"] - seen.centre[1])
    rows["PRIMTARGET"][seen.row] = 64
    return rows


def _zbest(seen: Observation, rows: Rows) -> Rows:
    """One row a fibre, sky fibres included: theirs are of the class of noise, and flagged."""
    n = len(seen.fiber) + len(seen.sky_fiber)
    best = np.zeros(n, dtype=ZBEST)
    best["PLATE"], best["MJD"] = seen.task.plate, seen.task.mjd
    best["FIBERID"] = np.arange(1, n + 1)
    best["CLASS"], best["OBJTYPE"] = "GALAXY", "SKY"
    best["RUN2D"] = seen.settings.run2d(seen.task.survey)
    # Bit 0 says sky; bit 2 that no redshift stands out.
    best["ZWARNING"], best["Z"] = 5, 0.3
    best["PLUG_RA"], best["PLUG_DEC"] = seen.centre
    for name in set(ZBEST.names or ()) & set(rows.dtype.names or ()):
        best[name][seen.row] = rows[name]
    best["OBJTYPE"][seen.row] = np.where(seen.classes == "STAR", "SPECTROPHOTO_STD", "GALAXY")
    return best


def _write_spec_files(seen: Observation, rows: Rows, folder: Path) -> list[Path]:
    task, n = seen.task, _EXPOSURES[seen.task.survey]
    run2d = seen.settings.run2d(task.survey)
    directory = folder / run2d / "spectra" / "lite" / f"{task.plate:04d}"
    cards = plate_cards(task, seen.instrument, seen.centre, n)
    is_boss = task.survey == "boss"
    wide = _narrowed(rows, SPALL if is_boss else SPECOBJ)
    if is_boss:
        wide["SPECOBJID"] = [int(i) for i in rows["SPECOBJID"]]
        wide["OBJTYPE"] = "GALAXY"
        wide["RA"], wide["DEC"] = seen.ra, seen.dec
    name = "SPALL" if is_boss else "SPECOBJ"
    wide_header = fits.table_header(wide.dtype, 1, name)
    paths = []
    wide_bytes, size = fits.table_rows(wide), wide.dtype.itemsize
    for i, (fiber, zlines) in enumerate(zip(seen.fiber, zline_tables(seen), strict=True)):
        coadd = _coadd(seen, i)
        first = int(np.rint(float(coadd["loglam"][0]) * 1e4))
        path = directory / f"spec-{task.name}-{fiber:04d}.fits"
        primary = spectrum_cards(
            cards,
            # Legacy COEFF0 is the plate's: one or more pixels before the trimmed spectrum.
            first if is_boss else seen.instrument.first_pixel,
            _own_cards(seen, i, rows),
            n,
        )
        fits.write_atomically(
            path,
            (
                fits.primary(primary),
                fits.table(coadd, "COADD", "Coadded spectrum"),
                wide_header,
                fits.padded(wide_bytes[i * size : (i + 1) * size]),
                fits.table(zlines, "SPZLINE"),
            ),
        )
        paths.append(path)
    return paths


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
    coadd["wdisp"] = seen.instrument.wdisp[cut]
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
