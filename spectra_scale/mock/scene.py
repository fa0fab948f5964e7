"""What a plate or healpixel looks at: its objects, their light, and what blends with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra_scale.mock.foreground import colour_excess, dim, transmission
from spectra_scale.mock.light import Continuum, Emission, Singles, emission, render
from spectra_scale.mock.objects import Objects, draw_objects, take
from spectra_scale.mock.population import Floats
from spectra_scale.mock.positions import chosen_objects, positions
from spectra_scale.mock.settings import MockSettings
from spectra_scale.mock.task import MockTask

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """The n objects of a task and their light.

    Attributes
    ----------
    objects, continuum, lines
        The objects and what shines, as it reaches the Milky Way.
    blended
        Rows whose fibre catches light of a second object, shape (m,).
    partner, partner_lines
        Light of these second objects.
    partner_share
        Share of the light of each of them that the fibre catches, shape (m,).
    excess
        E(B-V) (mag) of the Milky Way in front of each object, shape (n,).
    """

    objects: Objects
    continuum: Continuum
    lines: Emission
    blended: Ints
    partner: Continuum
    partner_lines: Emission
    partner_share: Floats
    excess: Floats

    def received(self, wave: Floats) -> Floats:
        """Continuum F_λ, no blends, at observed wavelengths (m,) or (n, m) in Å, shape (n, m)."""
        stretch = 1 + self.objects.redshift[:, None]
        return self.continuum.at(wave / stretch) * transmission(wave, self.excess)

    def passed(self, rest: float) -> Floats:
        """Share of the light at a rest wavelength (Å) that passes the Milky Way, shape (n,)."""
        observed = rest * (1 + self.objects.redshift[:, None])
        return transmission(observed, self.excess)[:, 0]

    def render(self, log_wave: Floats, sigma_km_s: Floats) -> Singles:
        """Noiseless F_λ with the blends in, shape (n, pixel); parameters as `light.render`."""
        model = render(self.continuum, self.lines, log_wave, sigma_km_s)
        if len(self.blended):
            second = render(self.partner, self.partner_lines, log_wave, sigma_km_s)
            model[self.blended] += second * self.partner_share[:, None].astype(np.float32)
        dim(model, log_wave, self.excess)
        return model


def look(task: MockTask, settings: MockSettings) -> Scene:
    """Draw the objects that `task` observes, and light them up.

    A repeat sees the very objects of its source, blends included.
    """
    every = draw_objects(task, settings)
    chosen = chosen_objects(task)
    objects = take(every, chosen)
    rng = task.blend_rng()
    # The second object is another of the plate: as a rule at another redshift.
    with_whom = rng.integers(0, len(every), len(every))
    share = rng.uniform(0.25, 0.9, len(every))
    blended = np.flatnonzero((rng.random(len(every)) < settings.blend_fraction)[chosen])
    seconds = take(every, with_whom[chosen[blended]])
    # As bright as the first one, before what falls beside the fibre.
    seconds = _as_bright(seconds, objects.magnitude[blended])
    continuum, partner = Continuum.of(objects), Continuum.of(seconds)
    _, ra, dec = positions(task)
    return Scene(
        objects=objects,
        continuum=continuum,
        lines=emission(objects, continuum),
        blended=blended,
        partner=partner,
        partner_lines=emission(seconds, partner),
        partner_share=share[chosen[blended]],
        excess=colour_excess(ra, dec),
    )


def _as_bright(objects: Objects, magnitude: Floats) -> Objects:
    values = {name: getattr(objects, name) for name in Objects.__slots__}
    return Objects(**values | {"magnitude": magnitude})
