"""What depends on all rows of a sample: objects on the sky, primary, superseded, split."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pyarrow as pa
from astropy_healpix import HEALPix
from numpy.typing import NDArray

from spectra_scale.spectrum.identity import (
    harmonise_split,
    primary_of_groups,
    sky_groups,
    split_of_cells,
)
from spectra_scale.store.objects import column
from spectra_scale.store.schema import INDEX

#: Resolution of the cells whose hash decides the split (science.md §4): 6.9 arcmin.
NSIDE = 512


def identify(kept: pa.Table, old: NDArray[np.bool_]) -> pa.Table:
    """Make a sample's index.

    Parameters
    ----------
    kept
        Rows that passed all cuts: catalogue columns, release, row, label, z and S/N.
    old
        Rows that a newer release supersedes.
    """
    keys = column(kept, "spectrum_key").astype(str)
    snr = column(kept, "snr_total")
    ra, dec = column(kept, "ra"), column(kept, "dec")
    group = sky_groups(ra, dec)
    # The newest reduction of an observation stands for it: an older one is never primary.
    primary = primary_of_groups(group, snr, keys, eligible=~old)
    train = harmonise_split(split_of_cells(cells(ra, dec)), group, primary)
    made = {
        "sky_id": pa.array(group, pa.int64()),
        "primary": pa.array(primary),
        "superseded": pa.array(old),
        "split": pa.array(np.where(train, "train", "validation").tolist(), pa.string()),
    }
    columns = {name: made.get(name) for name in INDEX.arrow().names}
    return pa.table(
        {name: kept[name] if values is None else values for name, values in columns.items()}
    )


def cells(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.int64]:
    """HEALPix cell (nside 512, nested, ICRS) of positions in deg; -1 without a position."""
    known = np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90)
    found = np.full(len(ra), -1, dtype=np.int64)
    healpix = HEALPix(nside=NSIDE, order="nested")
    found[known] = healpix.lonlat_to_healpix(ra[known] * u.deg, dec[known] * u.deg)
    return found
