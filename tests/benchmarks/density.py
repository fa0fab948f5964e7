"""Held-out likelihood of the flow on distributions of known density, beside a Gaussian mixture.

Run as ``python tests/benchmarks/density.py [--quick]``. The gap is the true minus the fitted mean
log-likelihood of held-out rows, in nats: 0 is perfect. "tail" is how many of the truly least
probable 1 % of rows are among the 1 % the fit finds least probable. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm, t
from sklearn.mixture import GaussianMixture

from spectra_scale.models.gis import GIS, GISSettings

Floats = NDArray[np.float64]
DIMS = 10


@dataclass(frozen=True)
class Distribution:
    """A way to draw rows and their exact log-density."""

    name: str
    draw: Callable[[int, np.random.Generator], Floats]
    log_prob: Callable[[Floats], Floats]


def _mixture(parts: list[tuple[float, Distribution]], name: str) -> Distribution:
    weights = np.array([weight for weight, _ in parts])

    def draw(n: int, rng: np.random.Generator) -> Floats:
        counts = rng.multinomial(n, weights)
        rows = [part.draw(m, rng) for m, (_, part) in zip(counts, parts, strict=True)]
        return rng.permutation(np.concatenate(rows))

    def log_prob(x: Floats) -> Floats:
        terms = [np.log(weight) + part.log_prob(x) for weight, part in parts]
        return np.asarray(logsumexp(terms, axis=0))

    return Distribution(name, draw, log_prob)


def _gaussian(mean: Floats, covariance: Floats) -> Distribution:
    law = multivariate_normal(mean, covariance)
    return Distribution(
        "gaussian",
        lambda n, rng: rng.multivariate_normal(mean, covariance, size=n),
        lambda x: np.asarray(law.logpdf(x)),
    )


def _random_covariance(rng: np.random.Generator, spread: float) -> Floats:
    rotation, _ = np.linalg.qr(rng.standard_normal((DIMS, DIMS)))
    scale = np.exp(rng.uniform(-spread, spread, DIMS))
    return (rotation * scale**2) @ rotation.T


def _warped(rotation: Floats, freedom: float, strength: float) -> Distribution:
    """A chain: each coordinate is shifted and scaled by smooth functions of the one before.

    Every third base coordinate has Student-t tails; the triangular map gives the exact density.
    """
    heavy = np.arange(DIMS) % 3 == 0

    def shift_scale(before: Floats) -> tuple[Floats, Floats]:
        bounded = np.clip(before, -4, 4)
        return strength * (0.4 * bounded**2 - 1 + np.sin(1.5 * bounded)), 0.4 * np.tanh(before)

    def draw(n: int, rng: np.random.Generator) -> Floats:
        z = np.where(heavy, rng.standard_t(freedom, (n, DIMS)), rng.standard_normal((n, DIMS)))
        x = z.copy()
        for d in range(1, DIMS):
            shift, log_scale = shift_scale(x[:, d - 1])
            x[:, d] = z[:, d] * np.exp(log_scale) + shift
        return x @ rotation.T

    def log_prob(rows: Floats) -> Floats:
        x = rows @ rotation
        total = np.zeros(len(x))
        for d in range(DIMS):
            shift, log_scale = shift_scale(x[:, d - 1]) if d else (0.0, 0.0)
            z = (x[:, d] - shift) * np.exp(-log_scale)
            total += (t.logpdf(z, freedom) if heavy[d] else norm.logpdf(z)) - log_scale
        return total

    return Distribution("curved", draw, log_prob)


def distributions() -> list[Distribution]:
    """The three test cases, always the same."""
    rng = np.random.default_rng(20240607)
    rotation, _ = np.linalg.qr(rng.standard_normal((DIMS, DIMS)))
    means = rng.normal(0, 2.5, (12, DIMS))
    share = rng.dirichlet(np.full(12, 3.0))
    blobs = [
        (float(w), _gaussian(m, _random_covariance(rng, 0.7)))
        for w, m in zip(share, means, strict=True)
    ]
    lobes = [(0.13, _gaussian(m, _random_covariance(rng, 0.5))) for m in means[:3] + 2.0]
    branch = (0.60, _warped(rotation, 30.0, 1.0))
    outliers = (0.01, _gaussian(np.zeros(DIMS), 100.0 * np.eye(DIMS)))
    return [
        _mixture(blobs, "blobs"),
        _warped(rotation, 5.0, 1.0),
        _mixture([branch, *lobes, outliers], "latent-like"),
    ]


def _overlap(fitted: Floats, true: Floats) -> float:
    count = len(true) // 100
    return len(set(np.argsort(fitted)[:count]) & set(np.argsort(true)[:count])) / count


def _measure(
    fit: Callable[[Floats, Floats], Callable[[Floats], Floats]],
    data: tuple[Floats, Floats, Floats],
    true: Floats,
) -> dict[str, float]:
    train, validation, held_out = data
    began = time.process_time()
    log_prob = fit(train, validation)
    fitted_at = time.process_time()
    found = log_prob(held_out)
    return {
        "gap": float(np.mean(true) - np.mean(found)),
        "tail": _overlap(found, true),
        "fit_cpu_s": fitted_at - began,
        "eval_cpu_s": time.process_time() - fitted_at,
    }


def _fit_gis(settings: GISSettings) -> Callable[[Floats, Floats], Callable[[Floats], Floats]]:
    return lambda train, validation: GIS.fit(train, settings, validation).log_prob


def _fit_mixture(train: Floats, validation: Floats) -> Callable[[Floats], Floats]:
    del validation  # a mixture has nothing to stop early
    model = GaussianMixture(30, random_state=0, reg_covar=1e-4).fit(train)
    return lambda x: np.asarray(model.score_samples(x))


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4,000 rows and 40 layers")
    quick = parser.parse_args().quick
    n, layers = (4_000, 40) if quick else (40_000, 200)
    rng = np.random.default_rng(1)
    GIS.fit(rng.standard_normal((100, DIMS)), GISSettings(n_iterations=1))  # compiles
    methods = {
        "GIS, fixed": _fit_gis(GISSettings(n_iterations=layers)),
        "GIS, early stop": _fit_gis(GISSettings(n_iterations=layers, early_stop=True)),
        "GMM 30": _fit_mixture,
    }
    results: dict[str, dict[str, dict[str, float]]] = {}
    print(f"{'distribution':<14}{'method':<18}{'gap':>8}{'tail':>8}{'fit s':>9}{'eval s':>9}")
    for case in distributions():
        data = (case.draw(n, rng), case.draw(n // 10, rng), case.draw(10_000, rng))
        true = case.log_prob(data[2])
        for name, fit in methods.items():
            row = _measure(fit, data, true)
            results.setdefault(case.name, {})[name] = row
            print(
                f"{case.name:<14}{name:<18}{row['gap']:>8.3f}{row['tail']:>8.2f}"
                f"{row['fit_cpu_s']:>9.1f}{row['eval_cpu_s']:>9.2f}",
                flush=True,
            )
    print(json.dumps({"rows": n, "layers": layers, "results": results}))


if __name__ == "__main__":
    main()
