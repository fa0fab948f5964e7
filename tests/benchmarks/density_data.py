"""Three distributions in ten dimensions whose density is known: test cases of the flows.

blobs
    Twelve correlated Gaussians of unequal weights, some of them overlapping.
curved
    Four coordinates, two of them of Student-t tails (4 degrees of freedom), and six that are
    bent functions of these and a little noise; all of it rotated.
latent
    What latents look like: a tight curved branch, two diffuse lobes, and one row in a hundred far
    out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm, t

Floats = NDArray[np.float64]
DIMS = 10


@dataclass(frozen=True)
class Distribution:
    """A way to draw rows and their exact log-density."""

    name: str
    draw: Callable[[int, np.random.Generator], Floats]
    log_prob: Callable[[Floats], Floats]


def mixture(parts: list[tuple[float, Distribution]], name: str) -> Distribution:
    """Distributions with weights."""
    weights = np.array([weight for weight, _ in parts])

    def draw(n: int, rng: np.random.Generator) -> Floats:
        counts = rng.multinomial(n, weights)
        rows = [part.draw(m, rng) for m, (_, part) in zip(counts, parts, strict=True)]
        return rng.permutation(np.concatenate(rows))

    def log_prob(x: Floats) -> Floats:
        terms = [np.log(weight) + part.log_prob(x) for weight, part in parts]
        return np.asarray(logsumexp(terms, axis=0))

    return Distribution(name, draw, log_prob)


def gaussian(mean: Floats, covariance: Floats) -> Distribution:
    """One Gaussian."""
    law = multivariate_normal(mean, covariance)
    return Distribution(
        "gaussian",
        lambda n, rng: rng.multivariate_normal(mean, covariance, size=n),
        lambda x: np.asarray(law.logpdf(x)),
    )


def rotation(rng: np.random.Generator) -> Floats:
    """A random rotation."""
    return np.linalg.qr(rng.standard_normal((DIMS, DIMS)))[0]


def covariance(rng: np.random.Generator, low: float, high: float) -> Floats:
    """A random covariance of standard deviations between e^low and e^high."""
    turned, scale = rotation(rng), np.exp(rng.uniform(low, high, DIMS))
    return (turned * scale**2) @ turned.T


@dataclass(frozen=True)
class Bend:
    """How a sheet is bent: coordinates of its own, of which some are heavy-tailed, and noise."""

    own: int
    heavy: int
    strength: float
    noise: float
    frequency: float
    freedom: float = 4.0


def sheet(rng: np.random.Generator, bend: Bend, name: str) -> Distribution:
    """Rows (u, f(u) + noise), rotated: u independent, f sines and bounded parabolas."""
    turned, rest = rotation(rng), DIMS - bend.own
    waves = rng.normal(0, bend.frequency, (rest, bend.own))
    phases = rng.uniform(0, 2 * np.pi, rest)
    slopes, curves = rng.normal(0, 1, (2, rest, bend.own)) / np.sqrt(bend.own)
    sigma = bend.noise * np.exp(rng.uniform(-0.3, 0.3, rest))
    is_heavy = np.arange(bend.own) < bend.heavy

    def bent(u: Floats) -> Floats:
        near = np.clip(u, -4, 4)
        shape = np.sin(u @ waves.T + phases) + 0.3 * (near**2 - 1) @ curves.T
        return bend.strength * shape + 0.5 * u @ slopes.T

    def draw(n: int, rng: np.random.Generator) -> Floats:
        shape = (n, bend.own)
        heavy, light = rng.standard_t(bend.freedom, shape), rng.standard_normal(shape)
        u = np.where(is_heavy, heavy, light)
        return np.concatenate([u, bent(u) + sigma * rng.standard_normal((n, rest))], 1) @ turned.T

    def log_prob(x: Floats) -> Floats:
        u, y = np.split(x @ turned, [bend.own], axis=1)
        own = np.where(is_heavy, t.logpdf(u, bend.freedom), norm.logpdf(u)).sum(axis=1)
        return own + (norm.logpdf((y - bent(u)) / sigma) - np.log(sigma)).sum(axis=1)

    return Distribution(name, draw, log_prob)


def distributions() -> list[Distribution]:
    """The three test cases, always the same."""
    rng = np.random.default_rng(20240607)
    means, share = rng.normal(0, 2.5, (12, DIMS)), rng.dirichlet(np.full(12, 3.0))
    blobs = [
        (float(w), gaussian(m, covariance(rng, -1.0, 0.4)))
        for w, m in zip(share, means, strict=True)
    ]
    curved = sheet(np.random.default_rng(7), Bend(4, 2, 1.0, 0.25, 0.8), "curved")
    rng = np.random.default_rng(11)
    branch = sheet(rng, Bend(2, 0, 0.2, 0.2, 0.5), "branch")
    lobes = [gaussian(rng.normal(0, 3.0, DIMS), covariance(rng, 0.3, 1.2)) for _ in range(2)]
    far = gaussian(np.zeros(DIMS), 30.0**2 * np.eye(DIMS))
    latent = [(0.59, branch), (0.20, lobes[0]), (0.20, lobes[1]), (0.01, far)]
    return [mixture(blobs, "blobs"), curved, mixture(latent, "latent")]
