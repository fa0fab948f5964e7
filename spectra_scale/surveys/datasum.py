"""DATASUM of a survey file: the one thing that tells changed bits of pixels from other pixels."""

from __future__ import annotations

import warnings
from pathlib import Path

from astropy.io import fits

#: Ends the names of HDUs that nobody reads here, and that are most of a DESI coadd.
UNREAD = "RESOLUTION"
_WRONG = 0


def wrong_datasums(path: Path) -> list[str]:
    """Name the HDUs whose bytes contradict their DATASUM (FITS standard 4.0, section 4.4.2.7).

    Parameters
    ----------
    path
        The file: plain, gzipped or fpacked.

    Returns
    -------
    list of str
        Their names, in order; HDUs without the keyword, resolution matrices and what astropy
        cannot read are not judged.
    """
    wrong: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Not mapped: a file that ends early or a bad disk would kill the process.
            with fits.open(path, memmap=False, disable_image_compression=True) as hdus:
                for hdu in hdus:
                    judged = not hdu.name.endswith(UNREAD)
                    if judged and hdu.verify_datasum() == _WRONG:
                        wrong.append(hdu.name)
        except Exception:  # noqa: BLE001 - damaged headers make astropy raise anything
            return wrong
    return wrong
