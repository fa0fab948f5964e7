"""Rows of SDSS-V's SPALL and spAll, made from one observed field."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.observation import Observation
from spectra_scale.mock.photo_ids import RERUN, object_numbers, photo_fields
from spectra_scale.mock.plate_facts import plate_facts
from spectra_scale.mock.population import Floats
from spectra_scale.mock.rows import (
    fit_columns,
    focal_plane,
    light_columns,
    signal_to_noise,
    target_names,
)
from spectra_scale.mock.sdssv_columns import Tables
from spectra_scale.mock.sdssv_headers import EXPOSURE_S, N_EXPOSURES, exposure_mjds
from spectra_scale.mock.sdssv_names import (
    NO_SDSS_ID,
    catalog_ids,
    packed_ids,
    sdss_ids,
    spec_file,
    spelled_ids,
)
from spectra_scale.mock.targets import CARTONS

Rows = NDArray[Any]

_NSIDE = 128
_BANDS = "GRI"
#: What stands for a magnitude that nobody measured.
_NO_MAGNITUDE = -999.0


def spectrum_keys(seen: Observation) -> list[str]:
    """Name the observations ``sdssv:FIELD-MJD-CATALOGID`` (science.md section 4)."""
    task = seen.task
    return [f"sdssv:{task.plate}-{task.mjd}-{i}" for i in catalog_ids(task).tolist()]


def field_columns(seen: Observation) -> dict[str, Any]:
    """Columns of all tables of a field by name: one value each, or one for each spectrum.

    FIELD is the spectroscopic one. Names that only some releases have are there for all.
    """
    all_sn, band_sn = signal_to_noise(seen)
    columns = _survey_columns(seen) | _identity_columns(seen) | _exposure_columns(seen)
    columns |= _target_columns(seen) | _place_columns(seen) | fit_columns(seen, all_sn)
    columns |= light_columns(seen) | {"SN_MEDIAN_ALL": all_sn, "SN_MEDIAN": band_sn}
    return columns | _best_without_quasars(seen, columns) | _photometry(seen, columns)


def filled(kind: np.dtype[Any], columns: dict[str, Any], n: int) -> Rows:
    """Records of type `kind` with the columns that are there, the others zero, shape (n,)."""
    rows = np.zeros(n, dtype=kind)
    for name in set(kind.names or ()) & set(columns):
        rows[name] = columns[name]
    return rows


def spall_rows(seen: Observation, columns: dict[str, Any], tables: Tables) -> tuple[Rows, Rows]:
    """Rows of SPALL and of spAll, shape (n,) each.

    SPALL of DR18 has a FIELD among the columns of the photometric survey: it is the field of the
    images, 0 for an object that is in none.
    """
    n, release = len(seen.fiber), seen.settings.sdssv_release
    summary = filled(tables.summary, columns, n)
    photo = _imaging(seen) if release == "dr18" else {}
    return filled(tables.spall, columns | photo, n), summary


def _survey_columns(seen: Observation) -> dict[str, Any]:
    facts, run2d = plate_facts(seen.task), seen.settings.run2d("sdssv")
    # Robots feed the first spectrograph alone.
    depth = {name: value for name, value in facts.depth.items() if name.startswith("SPEC1")}
    worst = min(depth.values())
    columns: dict[str, Any] = {
        "RUN2D": run2d, "RUN1D": run2d, "OBS": "APO", "PROGRAMNAME": "dark_rm",
        "PROGRAM": "bhm_rm", "CHUNK": "dark_174x8", "CADENCE": "dark_174x8",
        "SURVEY": "BHM&MWM" if seen.settings.sdssv_release == "dr18" else "BHM",
        "PLATEQUALITY": facts.quality, "FIELDQUALITY": facts.quality, "PLATESN2": worst,
        "DEREDSN2": worst, "FIELDSN2": worst, "SPECTROGRAPHID": 1, "SPECPRIMARY": 1,
        "SPECBOSS": 1, "NSPECOBS": 1, "TILE": -1, "DESIGNID": -1, "EXP_DISP_MED": 0.05,
        "HOLETYPE": "BOSS", "THROUGHPUT": 65_535, "AIRMASS": 1.18, "SEEING20": 1.1,
        "SEEING50": 1.2, "SEEING80": 1.5,
    }  # fmt: skip
    return columns | depth


def _identity_columns(seen: Observation) -> dict[str, Any]:
    """Numbers of the spectra and of their objects; PLATE has too few bits for a robot's field."""
    task, release = seen.task, seen.settings.sdssv_release
    run2d, catalog, sdss = seen.settings.run2d("sdssv"), catalog_ids(task), sdss_ids(task)
    packed = release == "dr18"
    return {
        "FIELD": task.plate, "MJD": task.mjd, "CATALOGID": catalog, "SDSS_ID": sdss,
        "SPECOBJID": packed_ids(task, seen.fiber, run2d) if packed else spelled_ids(task, run2d),
        "CATALOGID_V0": np.where(catalog < 10**10, catalog, NO_SDSS_ID),
        "CATALOGID_V0P5": np.where(catalog > 10**10, catalog, NO_SDSS_ID),
        "FIBERID": seen.fiber, "TARGET_INDEX": seen.fiber,
        "FIBERID_LIST": [_list([str(i)]) for i in seen.fiber],
        "SPEC_FILE": [spec_file(task, i, release) for i in catalog.tolist()],
        "BOSS_SPECOBJ_ID": seen.fiber,
    }  # fmt: skip


def _exposure_columns(seen: Observation) -> dict[str, Any]:
    facts, mjds = plate_facts(seen.task), exposure_mjds(seen)
    is_dr18 = seen.settings.sdssv_release == "dr18"
    single = {
        band: _list([f"{facts.depth[f'SPEC1_{band}'] / N_EXPOSURES:.2f}"[:4]]) for band in _BANDS
    }
    return {
        "NEXP": N_EXPOSURES, "EXPTIME": N_EXPOSURES * EXPOSURE_S, "SCI_EXPTIME": EXPOSURE_S,
        "MJD_FINAL": float(np.mean(mjds)),
        "MJD_LIST": str(seen.task.mjd) if is_dr18 else _list([str(seen.task.mjd)]),
        "TAI_LIST": " ".join(f"{86_400 * mjd:.0f}" for mjd in mjds),
        "DESIGNS": _list(["121234"]), "CONFIGS": _list(["8123"]), "MOON_DIST": _list(["71.85"]),
        "MOON_PHASE": _list(["0.35"]), "DELTA_RA_LIST": _list(["0.0"]),
        "DELTA_DEC_LIST": _list(["0.0"]),
        **dict.fromkeys(("ASSIGNED", "ON_TARGET", "VALID"), _list(["1"])),
        "DECOLLIDED": _list(["0"]),
        **{f"FIELDSNR2{band}_LIST": text for band, text in single.items()},
        **{f"PLATESNR2{band}_LIST": text for band, text in single.items()},
    }  # fmt: skip


def _list(texts: list[str]) -> str:
    """The values of all exposures, or the same value for each of them, as one text."""
    return " ".join(texts * (N_EXPOSURES if len(texts) == 1 else 1))


def _target_columns(seen: Observation) -> dict[str, Any]:
    target = target_names(seen)
    carton = np.select([target == name for name in CARTONS], list(CARTONS.values()), "")
    is_standard = target == "standard"
    return {
        "FIRSTCARTON": carton, "SOURCETYPE": "QSO", "LAMBDA_EFF": 5400.0,
        # Whatever is no standard star was called QSO.
        "OBJTYPE": np.where(is_standard, "SPECTROPHOTO_STD", "QSO"),
        "CARTON_TO_TARGET_PK": [str(12_000_000 + i) for i in seen.fiber],
        "SDSSV_BOSS_TARGET0": 1 << 1,
    }  # fmt: skip


def _place_columns(seen: Observation) -> dict[str, Any]:
    x, y = focal_plane(seen.ra, seen.dec, seen.centre)
    pixel = _healpix(seen.ra, seen.dec)
    group = pixel // 1000
    names = [spec_file(seen.task, i, "dr19") for i in catalog_ids(seen.task).tolist()]
    texts = seen.settings.sdssv_release != "dr18"
    return {
        **dict.fromkeys(("PLUG_RA", "RACAT", "FIBER_RA", "RA"), seen.ra),
        **dict.fromkeys(("PLUG_DEC", "DECCAT", "FIBER_DEC", "DEC"), seen.dec),
        "XFOCAL": [_list([f"{v:.3f}"]) for v in x] if texts else x,
        "YFOCAL": [_list([f"{v:.3f}"]) for v in y] if texts else y,
        "RA_LIST": [_list([f"{v:.6f}"]) for v in seen.ra],
        "DEC_LIST": [_list([f"{v:.5f}"]) for v in seen.dec],
        "COORD_EPOCH": 2015.5, "HEALPIX": pixel, "HEALPIXGRP": group,
        "HEALPIX_PATH": [f"{g}/{p}/boss/{s}" for g, p, s in zip(group, pixel, names, strict=True)],
    }  # fmt: skip


def _healpix(ra: Floats, dec: Floats) -> NDArray[np.int64]:
    import astropy.units as u
    from astropy_healpix import lonlat_to_healpix

    pixel = lonlat_to_healpix(ra * u.deg, dec * u.deg, _NSIDE, order="ring")
    return np.asarray(pixel, dtype=np.int64)


def _best_without_quasars(seen: Observation, columns: dict[str, Any]) -> dict[str, Any]:
    """The best fit that is no quasar: the next one where the best is, and of the same redshift."""
    is_qso = seen.classes == "QSO"
    return {
        "ZNUM_NOQSO": np.where(is_qso, 2, 1),
        "SUBCLASS_NOQSO": np.where(is_qso, "", seen.subclass),
        "RCHI2DIFF_NOQSO": np.where(is_qso, 0.004, columns["RCHI2DIFF"]),
    }


def _photometry(seen: Observation, columns: dict[str, Any]) -> dict[str, Any]:
    magnitude = 22.5 - 2.5 * np.log10(columns["CALIBFLUX"])
    ebv = seen.scene.excess
    gaia = seen.objects.magnitude + 0.1
    return {
        **dict.fromkeys(("MAG", "PSFMAG", "FIBER2MAG", "CATDB_MAG"), magnitude),
        **dict.fromkeys(("GAIA_G", "GAIA_G_MAG"), gaia), "GAIA_BP": gaia + 0.4,
        "BP_MAG": gaia + 0.4, "GAIA_RP": gaia - 0.5, "RP_MAG": gaia - 0.5,
        "WISE_MAG": _NO_MAGNITUDE, "TWOMASS_MAG": _NO_MAGNITUDE, "GUVCAT_MAG": _NO_MAGNITUDE,
        "EBV": ebv, "SFD_EBV": ebv, "EBV_TYPE": "SFD", "OPTICAL_PROV": "sdss_psfmag",
    }  # fmt: skip


def _imaging(seen: Observation) -> dict[str, Any]:
    """Run, camcol, field and id of the objects that plates took from the photometric survey."""
    task = seen.task
    fields = photo_fields(object_numbers(task)) * task.is_repeat
    run, camcol, field, number = fields.T
    rerun = str(RERUN) if task.is_repeat else ""
    return {"RUN": run, "CAMCOL": camcol, "FIELD": field, "ID": number, "RERUN": rerun}
