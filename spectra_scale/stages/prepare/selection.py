"""The cuts that need the catalogue alone (science.md §4), in a fixed order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spectra_scale.config import PrepareSection
from spectra_scale.store.objects import column
from spectra_scale.surveys.release import Release

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Cuts:
    """Rows of a release that pass the catalogue's cuts, and those that do not.

    Parameters
    ----------
    rows
        Row numbers that pass, ascending.
    redshift
        Redshift of each, as used for the rest frame.
    extinction
        E(B−V) of each; NaN where the catalogue has none.
    table
        Catalogue rows that pass, row-aligned with `rows`.
    dropped
        Rows that do not, each with the first cut that removed it.
    """

    rows: NDArray[np.int64]
    redshift: NDArray[np.float64]
    extinction: NDArray[np.float64]
    table: pa.Table
    dropped: pa.Table


def select_rows(number: int, release: Release, config: PrepareSection) -> Cuts:
    """Apply the catalogue's cuts to a release.

    Parameters
    ----------
    number
        Place of the release in the job; not used for the cuts, only to keep rows apart.
    release
        The release.
    config
        `[prepare]`.

    Notes
    -----
    Unknown values pass: SPECPRIMARY -1 and PLATEQUALITY '' mean that the catalogue does not say.
    Quarantined spectra are removed first, with the reason ingest gave them.
    """
    del number
    catalogue = release.catalogue
    z, zwarning = redshift_of(catalogue, config)
    first = np.full(catalogue.num_rows, "", dtype=object)
    found = np.full(catalogue.num_rows, "", dtype=object)
    for name, passed, values in _cuts(catalogue, (z, zwarning), config):
        failed = ~passed & (first == "")
        first[failed] = name
        found[failed] = [str(value) for value in values[failed].tolist()]
    rows = np.flatnonzero(first == "")
    gone = np.flatnonzero(first != "")
    dropped = pa.table({
        "release": pa.array([release.name] * len(gone), pa.string()),
        "row": pa.array(gone),
        "spectrum_key": catalogue["spectrum_key"].take(pa.array(gone)),
        "cut": pa.array(first[gone], pa.string()),
        "found": pa.array(found[gone], pa.string()),
    })  # fmt: skip
    ebv = column(catalogue, "ebv").astype(np.float64)
    return Cuts(rows, z[rows], ebv[rows], catalogue.take(pa.array(rows)), dropped)


def redshift_of(
    catalogue: pa.Table, config: PrepareSection
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Redshift used and its ZWARNING: of the best fit, or of the best without quasar templates.

    The latter where asked for, and only for BOSS galaxies that have it (science.md §4): legacy
    rows have Z_NOQSO = 0, and for a quasar it is the redshift of the wrong template.
    """
    z = column(catalogue, "z").astype(np.float64)
    zwarning = column(catalogue, "zwarning").astype(np.int64)
    if config.use_z_noqso:
        other = column(catalogue, "z_noqso").astype(np.float64)
        galaxy = column(catalogue, "class").astype(str) == "GALAXY"
        use = galaxy & np.isfinite(other) & (other > 0)
        z = np.where(use, other, z)
        theirs = column(catalogue, "zwarning_noqso").astype(np.int64)
        zwarning = np.where(use & (theirs >= 0), theirs, zwarning)
    return np.asarray(z), np.asarray(zwarning)


def _in_range(z: NDArray[np.float64], config: PrepareSection) -> Bools:
    """Ends included; `reference` has strict inequalities (science.md §2)."""
    if config.preset == "reference":
        return np.asarray((z > config.z_min) & (z < config.z_max))
    return np.asarray((z >= config.z_min) & (z <= config.z_max))


def _cuts(
    catalogue: pa.Table,
    redshift: tuple[NDArray[np.float64], NDArray[np.int64]],
    config: PrepareSection,
) -> list[tuple[str, Bools, NDArray[np.generic]]]:
    z, zwarning = redshift

    def values(name: str) -> NDArray[np.generic]:
        return column(catalogue, name)

    ignored = sum(1 << bit for bit in set(config.zwarning_ignore_bits))
    primary, quality, target = (
        values("specprimary"), values("platequality"), values("targettype")
    )  # fmt: skip
    fiberstatus = values("fiberstatus")
    everything = np.ones(len(z), dtype=bool)
    ebv_known = np.isfinite(values("ebv").astype(np.float64)) if config.deredden else everything
    return [
        ("quarantined", values("status") == "kept", values("reason")),
        ("class", np.isin(values("class").astype(str), config.classes), values("class")),
        ("redshift", _in_range(z, config), z),
        ("zwarning", (zwarning & ~ignored) == 0, zwarning),
        (
            "target type",
            np.isin(target.astype(str), ("SCIENCE", "")) | (not config.require_science_target),
            target,
        ),
        ("specprimary", (primary != 0) | (not config.require_primary), primary),
        (
            "plate quality",
            np.isin(quality.astype(str), ("good", "")) | (not config.require_good_plate),
            quality,
        ),
        (
            "fibre status",
            np.isin(fiberstatus, (0, -1)) | (not config.require_good_fiber),
            fiberstatus,
        ),
        ("no E(B-V)", ebv_known, values("ebv")),
    ]
