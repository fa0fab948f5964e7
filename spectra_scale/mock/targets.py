"""Target classes: why each survey took a spectrum of an object, and the bits that say so.

The bits are those of the public mask files: sdssMaskbits.par of idlutils for PRIMTARGET and
BOSS_TARGET1 (Strauss et al. 2002; Eisenstein et al. 2001; Dawson et al. 2013), desitarget's
targetmask for DESI (Myers et al. 2023).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.kinds import BL_LAC, BROAD, PASSIVE, QUASAR, RETIRED, STAR
from spectra_scale.mock.positions import chosen_objects
from spectra_scale.mock.task import MockTask

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Texts = NDArray[np.str_]

#: PRIMTARGET and LEGACY_TARGET1: QSO_CAP, GALAXY_RED, GALAXY.
LEGACY_BITS = {"qso": 1 << 1, "lrg": (1 << 5) | (1 << 6), "main-galaxy": 1 << 6}
#: SECTARGET and LEGACY_TARGET2: SPECTROPHOTO_STD.
LEGACY_STANDARD = 1 << 5
#: BOSS_TARGET1: GAL_LOZ, GAL_CMASS, QSO_CORE_MAIN, STD_FSTAR.
BOSS_BITS = {"lowz": 1, "cmass": 1 << 1, "qso": 1 << 40, "standard": 1 << 20}
#: ANCILLARY_TARGET1 of what BOSS took besides: BLUE_RADIO stands for all programs.
BOSS_ANCILLARY = 1 << 4
#: FIRSTCARTON of SDSS-V: which of its programs took the object.
CARTONS = {
    "standard": "ops_std_boss", "qso": "bhm_aqmes_med", "x-ray": "bhm_csc_boss",
    "infrared": "bhm_gua_bright",
}  # fmt: skip
#: DESI_TARGET: LRG, ELG, QSO, SKY, STD_BRIGHT, BGS_ANY.
DESI_BITS = {
    "lrg": 1, "elg": 1 << 1, "qso": 1 << 2, "sky": 1 << 32, "standard": 1 << 35,
    "bgs-faint": 1 << 60, "bgs-bright": 1 << 60,
}  # fmt: skip
#: BGS_TARGET: BGS_FAINT, BGS_BRIGHT.
BGS_BITS = {"bgs-faint": 1, "bgs-bright": 1 << 1}


#: OBJTYPE of spPlate, spZbest and SPALL; all others are galaxies.
OBJECT_TYPES = {"standard": "SPECTROPHOTO_STD", "qso": "QSO", "ancillary": "NA"}
# Of stars that a pipeline takes for galaxies, so many were observed as standards.
_STANDARD_SHARE = 0.3


def target_classes(
    task: MockTask,
    kind: Ints,
    redshift: Floats,
    magnitude: Floats,
    as_galaxy: NDArray[np.bool_] | None = None,
) -> Texts:
    """Why `task` observes each of its objects.

    Parameters
    ----------
    task
        Whose survey decides.
    kind, redshift, magnitude
        Truth of its objects: index into `kinds.KINDS`, and r in the fibre; shape (n_science,).
    as_galaxy
        Stars that look like galaxies, most of which were targets for that, shape (n_science,);
        none where not given.

    Returns
    -------
        Names, keys of the bits above, shape (n_science,).
    """
    chance = task.target_rng().random(task.n_source)[chosen_objects(task)]
    # Half of the quasars with a bright host are taken as galaxies.
    is_qso = (kind == QUASAR) | (np.isin(kind, (BROAD, BL_LAC)) & (chance < 0.5))
    is_red = np.isin(kind, (PASSIVE, RETIRED))
    is_standard = kind == STAR
    if as_galaxy is not None:
        is_standard &= ~as_galaxy | (chance < _STANDARD_SHARE)
    first = [is_standard, is_qso]
    if task.survey == "sdss":
        return np.select(
            [*first, is_red & (redshift > 0.16)], ["standard", "qso", "lrg"], "main-galaxy"
        )
    if task.survey == "boss":
        massive = is_red | (chance < 0.7)
        rules = [*first, massive & (redshift < 0.4), massive]
        return np.select(rules, ["standard", "qso", "lowz", "cmass"], "ancillary")
    if task.survey == "sdssv":
        return np.select([*first, is_red], ["standard", "qso", "x-ray"], "infrared")
    if task.program == "bright":
        rules = [*first, magnitude < 19.5]
        return np.select(rules, ["standard", "qso", "bgs-bright"], "bgs-faint")
    rules = [*first, is_red | (chance < 0.6)]
    return np.select(rules, ["standard", "qso", "lrg"], "elg")


def object_types(classes: Texts) -> Texts:
    """OBJTYPE of target classes, shape (n,)."""
    names = list(OBJECT_TYPES)
    return np.select([classes == name for name in names], list(OBJECT_TYPES.values()), "GALAXY")


def bits_of(classes: Texts, bits: dict[str, int]) -> Ints:
    """Target bits of `classes`; 0 for what a word does not know."""
    out = np.zeros(len(classes), dtype=np.int64)
    for name, value in bits.items():
        out[classes == name] |= value
    return out
