"""The instrument, as the rest of the mock uses it.

`spectrograph` and `desi_arms` set up a plate (spectrograph.py, with the night of sky.py and the
measured tables of instrument_tables.py), `observe` and `observe_arms` expose light through it
(exposure.py, with fibers.py, masks.py and faults.py).
"""

from __future__ import annotations

from spectra_scale.mock.exposure import Exposure, observe, observe_arms
from spectra_scale.mock.faults import ARTEFACTS
from spectra_scale.mock.spectrograph import Spectrograph, desi_arms, spectrograph

__all__ = [
    "ARTEFACTS",
    "Exposure",
    "Spectrograph",
    "desi_arms",
    "observe",
    "observe_arms",
    "spectrograph",
]
