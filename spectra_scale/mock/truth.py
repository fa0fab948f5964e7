"""What is true of each spectrum, as columns of the truth table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.instrument import ARTEFACTS
from spectra_scale.mock.kinds import KINDS
from spectra_scale.mock.light import broad_flux
from spectra_scale.mock.lines import HA, HB, LINE_WAVE, NII, OIII
from spectra_scale.mock.population import AGES_GYR
from spectra_scale.mock.positions import chosen_objects
from spectra_scale.mock.redshifts import Redshifts
from spectra_scale.mock.scene import Scene
from spectra_scale.mock.task import MockTask


class Observed(Protocol):
    """What the observations of all surveys know: `Observation` and `DesiObservation`."""

    @property
    def task(self) -> MockTask:
        """The plate or healpixel."""

    @property
    def scene(self) -> Scene:
        """Its objects, shape (n,)."""

    @property
    def redshifts(self) -> Redshifts:
        """What the pipeline found, shape (n,)."""

    @property
    def artefact(self) -> NDArray[np.int64]:
        """Index into ``instrument.ARTEFACTS``, shape (n,)."""


def truth_table(
    seen: Observed,
    names: Mapping[str, Any],
    has_lines: NDArray[np.bool_],
    target: NDArray[np.str_],
    no_data: NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Columns of the truth table, in the same order and of the same types for every survey.

    Parameters
    ----------
    seen
        n science spectra as observed.
    names
        The columns `spectrum_key`, `plate` and `fiber`, each of n values or one for all; -1 where
        a survey has no plates, but healpixels or fields.
    has_lines
        Which have a row in the line table, shape (n,).
    target
        Target class of each, see `targets.target_classes`, shape (n,).
    no_data
        Which have no pixel with an inverse variance above 0, shape (n,); none where not given: a
        plate of SDSS always leaves something.

    Returns
    -------
        Those names; `object_columns`; and of the observation: `artefact`; `failure`, see
        `failures`; `is_blend`, whatever else is wrong; `object_id`, the same in all observations
        of one object; `program` and `healpix`, empty and -1 but for DESI.
    """
    task, n = seen.task, len(seen.scene.objects)
    # A plate or pixel has fewer than 10,000 objects.
    object_id = task.source_plate * 10_000 + chosen_objects(task)
    return {
        "spectrum_key": names["spectrum_key"],
        "plate": np.full(n, names["plate"], dtype=np.int32),
        "mjd": np.full(n, task.mjd, dtype=np.int32),
        "fiber": np.full(n, names["fiber"], dtype=np.int32),
        "artefact": [ARTEFACTS[a] for a in seen.artefact],
        "failure": failures(seen.scene, seen.redshifts, seen.artefact, no_data),
        "is_blend": np.isin(np.arange(n), seen.scene.blended),
        "is_repeat": np.full(n, task.is_repeat),
        "has_lines": has_lines,
        **object_columns(seen.scene),
        "survey": [task.survey] * n,
        "object_id": object_id.astype(np.int64),
        "target": [str(name) for name in target],
        "program": [task.program if task.layout == "healpix" else ""] * n,
        "healpix": np.full(n, task.healpix, dtype=np.int32),
    }


def failures(
    scene: Scene,
    redshifts: Redshifts,
    artefact: NDArray[np.int64],
    no_data: NDArray[np.bool_] | None = None,
) -> list[str]:
    """What is wrong with each spectrum: one word each for the gravest, "none" for most.

    Parameters
    ----------
    scene, redshifts
        Objects, and what the pipeline found.
    artefact
        Index into ``instrument.ARTEFACTS``, shape (n,).
    no_data
        As in `truth_table`.
    """
    n = len(scene.objects)
    empty = np.zeros(n, dtype=np.bool_) if no_data is None else no_data
    blend = np.isin(np.arange(n), scene.blended)
    names = np.select(
        [empty, scene.objects.as_galaxy, redshifts.is_wrong, artefact > 0, blend],
        ["no-data", "star-as-galaxy", "wrong-redshift", np.array(ARTEFACTS)[artefact], "blend"],
        "none",
    )
    return [str(name) for name in names]


def object_columns(scene: Scene) -> dict[str, Any]:
    """Columns that describe objects and their light; units are in the names.

    Fluxes are 1e-17 erg/s/cm² as received, with the dust of the object and of the Milky Way; EWs
    are rest-frame Å, ages and metallicities weighted with light at 5500 Å, shares of light before
    dust, and the magnitude is without the Milky Way's dust, which `ebv` (E(B-V), mag) tells.
    """
    objects, lines = scene.objects, scene.lines
    nucleus, gas, weights = objects.nucleus, objects.gas, objects.weights
    columns: dict[str, Any] = {
        "kind": [KINDS[k] for k in objects.kind],
        "z_true": objects.redshift,
        "r_fiber_magnitude": objects.magnitude,
        "ebv": scene.excess,
        "log_mass": objects.log_mass,
        "log_age_gyr": objects.log_age,
        "log_metallicity": objects.metallicity,
        "dispersion_km_s": objects.sigma_stars,
        "av_stars": objects.dust_stars,
        "av_birth_clouds": objects.dust_birth,
        "av_gas": gas.dust,
        "av_nucleus": nucleus.dust,
        "dust_slope": objects.dust_slope,
        "agn_fraction_5100": nucleus.share,
        "power_law_slope": nucleus.slope,
        "fe2_strength": nucleus.iron[:, 0],
        "broad_fwhm_km_s": nucleus.fwhm,
        "sigma_gas_km_s": gas.sigma,
        "gas_offset_km_s": gas.offset,
        "ew_ha": gas.ew_ha,
        "nuclear_share_ha": gas.nuclear,
        "wing_share": gas.wing,
        "flux_broad_hb": broad_flux(lines, LINE_WAVE[HB]) * scene.passed(LINE_WAVE[HB]),
        "flux_broad_ha": broad_flux(lines, LINE_WAVE[HA]) * scene.passed(LINE_WAVE[HA]),
    }
    for age in np.unique(AGES_GYR):
        columns[f"light_{age:g}_gyr"] = weights[:, age == AGES_GYR].sum(axis=1)
    narrow = lines.narrow()
    for name, index in (("hb", HB), ("oiii_5008", OIII), ("ha", HA), ("nii_6585", NII)):
        columns[f"flux_{name}"] = narrow[:, index] * scene.passed(LINE_WAVE[index])
    return columns
