"""How far the propagated uncertainties of latents are right, and factors that make them so.

`Propagation` knows the noise that the survey quotes, to first order. What it leaves out is found
from pulls, differences over their standard deviations, which should have width 1 (science.md §6):

noise realisations
    The reconstruction of a spectrum is taken as truth, noise of its own ivar and neighbour
    covariance is added twice, and both are normalised, filled and encoded as any other spectrum.
    Pulls of the pair tell what linearisation and the estimate of the median's noise are worth.
repeats
    Two observations of one object, whose latents differ by noise alone. Their pulls also tell
    what the survey's ivar does not know: correlated noise, flux calibration, sky subtraction.

A width is half of the range from the 16th to the 84th percentile, so that a wrong redshift among
the repeats, or an input beside a kink of the network, counts as one pull and not as its square.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.models.autoencoder import decode_latents
from spectra_scale.models.uncertainty import Propagation
from spectra_scale.spectrum.covariance import correlated_noise

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

#: Pairs from which on the factors are those of the repeats.
ENOUGH_PAIRS = 50
_ONE_SIGMA = (15.865525393145708, 84.13447460685429)


@dataclass(frozen=True, slots=True, eq=False)
class Pulls:
    """Pulls of latents.

    Parameters
    ----------
    values
        Difference over standard deviation, shape (pull, n_latent).
    distance
        Squared length of each difference in the metric of its covariance, divided by n_latent,
        shape (pull,): of mean 1 where the whole covariance is right.
    """

    values: Doubles
    distance: Doubles

    @classmethod
    def of(cls, difference: Floats, covariance: Floats) -> Pulls:
        """Pulls of differences (pull, n_latent) with covariances (pull, n_latent, n_latent).

        Those without a positive variance in every latent are left out.
        """
        d, s = difference.astype(np.float64), covariance.astype(np.float64)
        variance = np.diagonal(s, axis1=1, axis2=2)
        good = (variance > 0).all(axis=1) & np.isfinite(d).all(axis=1)
        d, s, variance = d[good], s[good], variance[good]
        if not len(d):
            return cls(np.empty((0, difference.shape[1])), np.empty(0))
        # A covariance of float32 may lack its last digit, and with it full rank.
        inverse = np.linalg.pinv(s, rcond=1e-5, hermitian=True)
        distance = np.einsum("si,sij,sj->s", d, inverse, d) / d.shape[1]
        return cls(d / np.sqrt(variance), distance)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def width(self) -> float:
        """Robust width of all pulls together; NaN without any."""
        return _width(self.values.ravel())

    @property
    def widths(self) -> tuple[float, ...]:
        """Robust width of the pulls of each latent."""
        return tuple(_width(column) for column in self.values.T)

    @property
    def held_out(self) -> tuple[float, ...]:
        """Width of the pulls of each latent after calibration by those of the other half.

        1 but for sampling, where a factor for each latent is all that is wrong; the widths of all
        pulls, after calibration by themselves, are 1 by construction.
        """
        halves = [Pulls(self.values[i::2], self.distance[i::2]) for i in range(2)]
        other = [half.values / np.asarray(halves[1 - i].widths) for i, half in enumerate(halves)]
        return tuple(_width(column) for column in np.concatenate(other).T)

    def to_dict(self) -> dict[str, Any]:
        """What is recorded of them, as JSON values."""
        if not len(self):
            return {"n": 0}
        found: dict[str, Any] = {
            "n": len(self),
            "width": round(self.width, 4),
            "width by latent": [round(width, 4) for width in self.widths],
            "median by latent": [round(float(m), 4) for m in np.median(self.values, axis=0)],
            "beyond 5": round(float((np.abs(self.values) > 5).mean()), 5),
            "median distance": round(float(np.median(self.distance)), 4),
        }
        if len(self) >= ENOUGH_PAIRS:
            found["held out, by latent"] = [round(width, 4) for width in self.held_out]
        return found


def _width(pulls: Doubles) -> float:
    if not len(pulls):
        return float("nan")
    low, high = np.percentile(pulls, _ONE_SIGMA)
    return float(high - low) / 2.0


def noise_pulls(
    how: Propagation,
    spectra: tuple[Floats, Floats, Floats],
    seed: int,
    n_draws: int = 2,
) -> tuple[Pulls, Pulls]:
    """Pulls over noise realisations of reconstructed spectra.

    Parameters
    ----------
    how
        Model, how it is fed, and propagation that are judged.
    spectra
        Flux and ivar of a sample, each (spectrum, pixel), and the correlation of neighbours,
        (spectrum, pixel - 1). Spectra that cannot be normalised are left out.
    seed
        Seed of the noise.
    n_draws
        Realisations of each spectrum.

    Returns
    -------
    pairs : Pulls
        Of differences between two realisations of one spectrum, ``n_draws // 2`` a spectrum.
    about_truth : Pulls
        Of differences from the latents of the noiseless spectrum, ``n_draws`` a spectrum. Their
        median is a bias: noise moves the median of a spectrum, and with it what is encoded.
    """
    flux, ivar, correlation = spectra
    inputs = how.inputs
    found = inputs.apply(flux, ivar)
    good = found.usable
    first, _ = how.propagate(found.flux[good], found.ivar[good])
    decoded = decode_latents(how.model, first, found.flux[good], found.ivar[good])
    assert decoded.reconstruction is not None
    v, rho = ivar[good], correlation[good]
    truth = decoded.reconstruction * found.factor[good][:, np.newaxis]
    truth_fed = inputs.apply(truth, v)
    expected, _ = how.propagate(truth_fed.flux, truth_fed.ivar)
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(n_draws):
        noisy = inputs.apply(truth + correlated_noise(v, rho, rng), v)
        draws.append(how.propagate(noisy.flux, noisy.ivar, rho))
    pairs = [
        Pulls.of(z - other, s + t)
        for (z, s), (other, t) in zip(draws[::2], draws[1::2], strict=False)
    ]
    return _joined(pairs), _joined([Pulls.of(z - expected, s) for z, s in draws])


def _joined(parts: Sequence[Pulls]) -> Pulls:
    return Pulls(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.distance for part in parts]),
    )


def repeat_pulls(latents: Floats, covariance: Floats, sky_id: NDArray[np.int64]) -> Pulls:
    """Pulls of repeated observations: difference over summed covariance.

    Parameters
    ----------
    latents
        Shape (spectrum, n_latent).
    covariance
        Shape (spectrum, n_latent, n_latent).
    sky_id
        Object on the sky of each, shape (spectrum,). Its first observation is paired with its
        second, its third with its fourth: pairs are independent.
    """
    pairs = np.array(list(_pairs(sky_id)), np.int64).reshape(-1, 2)
    a, b = pairs.T
    return Pulls.of(latents[a] - latents[b], covariance[a] + covariance[b])


def _pairs(sky_id: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    order = np.argsort(sky_id, kind="stable")
    at = 0
    while at + 1 < len(order):
        a, b = int(order[at]), int(order[at + 1])
        if sky_id[a] == sky_id[b]:
            yield a, b
            at += 2
        else:
            at += 1


@dataclass(frozen=True, slots=True)
class Calibration:
    """The factors on standard deviations, and where they are from.

    Parameters
    ----------
    factors
        What the standard deviation of each latent is multiplied with: the covariance of latents i
        and j by ``factors[i] * factors[j]``, so correlations stay. () stands for 1 throughout.
    source
        ``repeats``, ``noise realisations``, or ``none`` where there is nothing to judge by.
    repeats, noise, about_truth
        What is recorded of the pulls before the factor; see `Pulls.to_dict`.
    """

    factors: tuple[float, ...]
    source: str
    repeats: dict[str, Any]
    noise: dict[str, Any]
    about_truth: dict[str, Any]

    @classmethod
    def of(cls, repeats: Pulls, noise: Pulls, about_truth: Pulls) -> Calibration:
        """Take the widths of the repeats if there are enough, else those of the realisations."""
        pulls, source = noise, "noise realisations"
        if len(repeats) >= ENOUGH_PAIRS:
            pulls, source = repeats, "repeats"
        known = len(pulls) > 0 and min(pulls.widths) > 0
        recorded = (each.to_dict() for each in (repeats, noise, about_truth))
        if not known:
            return cls((), "none", *recorded)
        return cls(pulls.widths, source, *recorded)

    def apply(self, columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Columns ``cov_i_j`` of a table, calibrated."""
        found = {}
        for name in (name for name in columns if name.startswith("cov_")):
            i, j = (int(part) for part in name.split("_")[1:])
            factor = self.factors[i] * self.factors[j] if self.factors else 1.0
            found[name] = columns[name] * np.float32(factor)
        return found

    def to_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return {
            "factors": list(self.factors),
            "from": self.source,
            "repeats": self.repeats,
            "noise realisations": self.noise,
            "about the truth": self.about_truth,
        }
