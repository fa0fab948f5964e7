"""The conditional flow on classes of known density, beside QDA and gradient boosting.

Run as ``python tests/benchmarks/conditional.py [--quick]``. Four overlapping classes in ten
dimensions: a Gaussian, a curved one, one with two lobes and heavy tails, and a small one. Their
densities are known, so are the best accuracy any classifier can reach (Bayes) and the posteriors.
The last line is JSON.
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

Floats = NDArray[np.float64]
DIMS = 10


@dataclass(frozen=True)
class Planted:
    """A class: how to draw rows, and their exact log-density."""

    name: str
    draw: Callable[[int, np.random.Generator], Floats]
    log_prob: Callable[[Floats], Floats]


def _gaussian(mean: Floats, covariance: Floats, name: str) -> Planted:
    law = multivariate_normal(mean, covariance)
    return Planted(
        name,
        lambda n, rng: rng.multivariate_normal(mean, covariance, size=n),
        lambda x: np.asarray(law.logpdf(x)).reshape(len(x)),
    )


def _covariance(rng: np.random.Generator, spread: float) -> Floats:
    rotation, _ = np.linalg.qr(rng.standard_normal((DIMS, DIMS)))
    return (rotation * np.exp(2 * rng.uniform(-spread, spread, DIMS))) @ rotation.T


def _curved(rotation: Floats, mean: Floats) -> Planted:
    """A chain: each coordinate is bent by the one before; a triangular map gives the density."""

    def bend(before: Floats) -> tuple[Floats, Floats]:
        return 0.5 * (np.clip(before, -4, 4) ** 2 - 1), 0.3 * np.tanh(before)

    def draw(n: int, rng: np.random.Generator) -> Floats:
        x = rng.standard_normal((n, DIMS))
        for d in range(1, 6):
            shift, log_scale = bend(x[:, d - 1])
            x[:, d] = x[:, d] * np.exp(log_scale) + shift
        return x @ rotation.T + mean

    def log_prob(rows: Floats) -> Floats:
        x = (rows - mean) @ rotation
        total = norm.logpdf(x[:, [0, 6, 7, 8, 9]]).sum(axis=1)
        for d in range(1, 6):
            shift, log_scale = bend(x[:, d - 1])
            total += norm.logpdf((x[:, d] - shift) * np.exp(-log_scale)) - log_scale
        return np.asarray(total)

    return Planted("curved", draw, log_prob)


def _lobes(rotation: Floats, mean: Floats, freedom: float) -> Planted:
    """Two lobes along one axis, Student-t tails along the others."""

    def draw(n: int, rng: np.random.Generator) -> Floats:
        x = rng.standard_t(freedom, (n, DIMS))
        x[:, 0] = rng.standard_normal(n) + np.where(rng.random(n) < 0.3, -2.5, 1.5)
        return x @ rotation.T + mean

    def log_prob(rows: Floats) -> Floats:
        x = (rows - mean) @ rotation
        pair = [
            np.log(0.3) + norm.logpdf(x[:, 0] + 2.5),
            np.log(0.7) + norm.logpdf(x[:, 0] - 1.5),
        ]
        return np.asarray(logsumexp(pair, axis=0) + t.logpdf(x[:, 1:], freedom).sum(axis=1))

    return Planted("lobes", draw, log_prob)


def classes() -> tuple[list[Planted], Floats]:
    """The planted classes and their fractions, always the same."""
    rng = np.random.default_rng(20240611)
    rotation, _ = np.linalg.qr(rng.standard_normal((DIMS, DIMS)))
    means = rng.normal(0, 0.55, (4, DIMS))
    parts = [
        _gaussian(means[0], _covariance(rng, 0.5), "gaussian"),
        _curved(rotation, means[1]),
        _lobes(rotation[::-1], means[2], 5.0),
        _gaussian(means[3] + 0.4, _covariance(rng, 0.4), "small"),
    ]
    return parts, np.array([0.45, 0.33, 0.2, 0.02])


def draw(n: int, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """Rows and labels 1 .. 4 in the planted fractions."""
    rng = np.random.default_rng(seed)
    parts, share = classes()
    labels = rng.choice(len(parts), n, p=share)
    x = np.empty((n, DIMS))
    for code, part in enumerate(parts):
        x[labels == code] = part.draw(int((labels == code).sum()), rng)
    return x, labels + 1


def truth(x: Floats) -> Floats:
    """Exact log p(x|c), shape (n, classes)."""
    return np.stack([part.log_prob(x) for part in classes()[0]], axis=1)


def _scores(log_posterior: Floats, labels: NDArray[np.int64]) -> dict[str, float]:
    from spectra_scale.models.reliability import reliability

    found = reliability(np.exp(log_posterior), labels, np.arange(1, log_posterior.shape[1] + 1))
    return {"accuracy": found.accuracy, "log_loss": found.log_loss, "ece": found.ece}


def _normalised(joint: Floats) -> Floats:
    return np.asarray(joint - logsumexp(joint, axis=1, keepdims=True))


def measure(n: int) -> dict[str, dict[str, float]]:
    """Fit all on n rows, a fifth of them for validation, and score all on 20,000 others."""
    from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
    from sklearn.ensemble import HistGradientBoostingClassifier

    from spectra_scale.models.conditional_gis import ConditionalGIS, ConditionalSettings

    x, labels = draw(n, 1)
    test, wanted = draw(20_000, 2)
    exact, share = truth(test), classes()[1]
    cut = n - n // 5
    results = {"Bayes (truth)": _scores(_normalised(exact + np.log(share)), wanted)}

    start = time.process_time()
    flow = ConditionalGIS.fit(x[:cut], labels[:cut], ConditionalSettings(), x[cut:], labels[cut:])
    fit = time.process_time() - start
    start = time.process_time()
    found = flow.log_prob(test)
    scored = time.process_time() - start
    # Through arrays, as a run stores it.
    flow = ConditionalGIS.from_arrays(flow.to_arrays(), flow.settings)
    posterior = np.log(np.maximum(flow.posterior(test), 1e-300))
    own = np.arange(len(test)), wanted - 1
    error = found - exact
    ours = _scores(posterior, wanted) | {"fit_cpu_s": fit, "eval_per_s": len(test) / scored}
    ours["rms_log_p"] = float(np.sqrt(np.mean(error[own] ** 2)))
    for code, part in enumerate(classes()[0]):
        inside = wanted == code + 1
        ours[f"{part.name}_gap_nats"] = -float(np.mean(error[inside, code]))
        ours[f"{part.name}_layers"] = int(flow.n_layers[code])
    results["conditional GIS"] = ours

    for name, model in (
        ("QDA", QuadraticDiscriminantAnalysis()),
        ("gradient boosting", HistGradientBoostingClassifier(early_stopping=True, random_state=0)),
    ):
        start = time.process_time()
        model.fit(x, labels)
        fit = time.process_time() - start
        chances = np.log(np.maximum(model.predict_proba(test), 1e-300))
        results[name] = _scores(chances, wanted) | {"fit_cpu_s": fit}
    return results


def main() -> None:
    """Print a table, and the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10,000 rows instead of 40,000")
    n = 10_000 if parser.parse_args().quick else 40_000
    results = measure(n)
    print(f"{n} rows, 4 classes in {DIMS} dimensions, scored on 20,000 others")
    print(f"{'':20s} {'accuracy':>9s} {'log-loss':>9s} {'ECE':>7s} {'fit, CPU s':>11s}")
    for name, found in results.items():
        fit = f"{found['fit_cpu_s']:11.1f}" if "fit_cpu_s" in found else ""
        print(
            f"{name:20s} {found['accuracy']:9.4f} {found['log_loss']:9.4f} "
            f"{found['ece']:7.4f} {fit}"
        )
    ours = results["conditional GIS"]
    for part in classes()[0]:
        print(
            f"{part.name:10s} gap to the truth {ours[f'{part.name}_gap_nats']:.3f} nats, "
            f"{ours[f'{part.name}_layers']:.0f} layers"
        )
    print(json.dumps({"n": n} | results))


if __name__ == "__main__":
    main()
