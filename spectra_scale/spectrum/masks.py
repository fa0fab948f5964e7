"""Which mask bits make a pixel unusable: the SPPIXMASK bits and the named presets.

Source of the bits: formats.md §A1 (sdssMaskbits.par of sdss/idlutils). Of the presets: science.md
§2.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np

from spectra_scale.errors import UsageError

__all__ = ["MASK_PRESETS", "SPPIXMASK", "mask_bits_of", "reject_bits"]

SPPIXMASK: Mapping[str, int] = MappingProxyType(
    {
        # 0-15 are set for a whole fibre or half a spectrum.
        "NOPLUG": 0,
        "BADTRACE": 1,
        "BADFLAT": 2,
        "BADARC": 3,
        "MANYBADCOLUMNS": 4,
        "MANYREJECTED": 5,
        "LARGESHIFT": 6,
        "BADSKYFIBER": 7,
        "NEARWHOPPER": 8,
        "WHOPPER": 9,
        "SMEARIMAGE": 10,
        "SMEARHIGHSN": 11,
        "SMEARMEDSN": 12,
        # From 16 on a bit is about one pixel.
        "NEARBADPIXEL": 16,
        "LOWFLAT": 17,
        "FULLREJECT": 18,
        "PARTIALREJECT": 19,
        "SCATTEREDLIGHT": 20,
        "CROSSTALK": 21,
        "NOSKY": 22,
        "BRIGHTSKY": 23,
        "NODATA": 24,
        "COMBINEREJ": 25,
        "BADFLUXFACTOR": 26,
        "BADSKYCHI": 27,
        "REDMONSTER": 28,
    }
)
"""Bit number of each SPPIXMASK flag of SDSS."""


def _bits(numbers: Iterable[int]) -> int:
    return sum(1 << number for number in numbers)


MASK_PRESETS: Mapping[str, int] = MappingProxyType(
    {
        "paper": 0xFFFFFFFF,
        "brightsky": _bits([23]),
        "strict": _bits([17, 18, 20, 21, 22, 23, 25, 26, 27, 28]),
    }
)
"""Bits that reject a pixel, by the name of the preset; a pixel with ivar 0 is always rejected."""


def mask_bits_of(preset: str) -> np.uint32:
    """Look up the bits that reject a pixel.

    Parameters
    ----------
    preset
        ``paper`` (any bit), ``brightsky`` (bit 23, the advice of SDSS) or ``strict`` (17, 18,
        20-23, 25-28).

    Returns
    -------
    numpy.uint32
        A pixel is rejected where ``mask_bits & this`` is not 0.

    Raises
    ------
    UsageError
        If there is no such preset.

    Examples
    --------
    >>> int(mask_bits_of("brightsky")) == 2**23
    True
    """
    try:
        return np.uint32(MASK_PRESETS[preset])
    except KeyError:
        msg = (
            f"Unknown mask preset {preset!r}; expected one of {', '.join(sorted(MASK_PRESETS))}. "
            "Set [prepare] mask in the job to one of these."
        )
        raise UsageError(msg) from None


def reject_bits(preset: str, linear_step: float) -> np.uint32:
    """Bits that reject a pixel of a survey, told by its native grid (science.md §2.1).

    Parameters
    ----------
    preset
        As in `mask_bits_of`: presets are of SDSS bits.
    linear_step
        Å per native pixel: above 0 for DESI, where any bit of its own MASK rejects a pixel,
        whatever the preset; 0 for SDSS.

    Raises
    ------
    UsageError
        If there is no such preset.
    """
    bits = mask_bits_of(preset)
    return np.uint32(0xFFFFFFFF) if linear_step > 0 else bits
