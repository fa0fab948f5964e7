"""Held-out likelihood of the flows on distributions of known density, beside their peers.

Run as ``python tests/benchmarks/density.py [--quick] [--latents RUN] [--only METHOD ...]``, on one
thread. The gap is the true minus the fitted mean log-likelihood of 10,000 held-out rows, in nats:
0 is perfect, and the statistical error of the gap is about 0.01. "rms" is the error of log p of a
row, "least" how many of the truly least probable 100 are among the 100 that the fit finds least
probable. Times are CPU seconds: of the fit (for the mixture all numbers of components tried), of
10,000 log p and of 10,000 draws. Peers see the same rows: a Gaussian mixture of scikit-learn's,
its components chosen by BIC, and a neural spline flow of zuko's, at its best epoch on the
validation rows. ``--latents RUN`` adds the latents of a finished run, of which the truth is not
known. The last line is JSON.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse  # noqa: E402
import json  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Protocol  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from density_data import DIMS, Distribution, Floats, distributions  # noqa: E402

from spectra_scale.models.gis import GIS, GISSettings  # noqa: E402
from spectra_scale.models.refined import RefinedFlow, RefinedSettings  # noqa: E402

COMPONENTS = (1, 2, 4, 8, 12, 16, 24, 32, 48)
NSF_EPOCHS, NSF_BATCH, NSF_RATE = 20, 256, 1e-3


class Fitted(Protocol):
    """What is asked of a density."""

    def log_prob(self, x: Floats) -> Floats: ...

    def sample(self, n: int, generator: np.random.Generator) -> Floats: ...


@dataclass(frozen=True)
class Rows:
    """Rows to fit, to stop by, and to be judged on."""

    train: Floats
    validation: Floats
    held_out: Floats


class Mixture:
    """scikit-learn's mixture of least BIC."""

    def __init__(self, rows: Rows) -> None:
        from sklearn.mixture import GaussianMixture

        best, worse = np.inf, 0
        for count in COMPONENTS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = GaussianMixture(count, random_state=0, reg_covar=1e-6).fit(rows.train)
            bic = found.bic(rows.train)
            if bic < best:
                self.model, best, worse = found, bic, 0
            else:
                worse += 1
            if worse == 2:
                break

    def log_prob(self, x: Floats) -> Floats:
        return np.asarray(self.model.score_samples(x))

    def sample(self, n: int, generator: np.random.Generator) -> Floats:
        return self.model.sample(n)[0]


class Splines:
    """zuko's neural spline flow on standardised rows."""

    def __init__(self, rows: Rows) -> None:
        import zuko

        torch.manual_seed(0)
        self.mean, self.scale = rows.train.mean(axis=0), rows.train.std(axis=0)
        x, judge = self._fed(rows.train), self._fed(rows.validation)
        dims = x.shape[1]
        self.flow = zuko.flows.NSF(dims, transforms=3, hidden_features=(128, 128))
        adam = torch.optim.Adam(self.flow.parameters(), lr=NSF_RATE)
        steps = NSF_EPOCHS * (len(x) // NSF_BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        best, kept = -np.inf, None
        for _ in range(NSF_EPOCHS):
            for chosen in torch.randperm(len(x)).split(NSF_BATCH)[: len(x) // NSF_BATCH]:
                loss = -self.flow().log_prob(x[chosen]).mean()
                adam.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.flow.parameters(), 5.0)
                adam.step()
                schedule.step()
            with torch.no_grad():
                score = float(self.flow().log_prob(judge).mean())
            if score > best:
                best = score
                kept = {name: value.clone() for name, value in self.flow.state_dict().items()}
        assert kept is not None
        self.flow.load_state_dict(kept)

    def _fed(self, x: Floats) -> torch.Tensor:
        return torch.as_tensor((x - self.mean) / self.scale, dtype=torch.float32)

    def log_prob(self, x: Floats) -> Floats:
        with torch.no_grad():
            found = self.flow().log_prob(self._fed(x)).double().numpy()
        return found - np.log(self.scale).sum()

    def sample(self, n: int, generator: np.random.Generator) -> Floats:
        with torch.no_grad():
            return self.flow().sample((n,)).double().numpy() * self.scale + self.mean


def overlap(fitted: Floats, true: Floats, count: int = 100) -> int:
    return len(set(np.argsort(fitted)[:count]) & set(np.argsort(true)[:count]))


def measure(make: Callable[[Rows], Fitted], rows: Rows, true: Floats | None) -> dict[str, float]:
    began = time.process_time()
    density = make(rows)
    fitted_at = time.process_time()
    found = density.log_prob(rows.held_out)
    scored_at = time.process_time()
    density.sample(10_000, np.random.default_rng(0))
    row = {
        "log_prob": float(np.mean(found)),
        "fit_cpu_s": fitted_at - began,
        "eval_cpu_s": scored_at - fitted_at,
        "sample_cpu_s": time.process_time() - scored_at,
        "eval_per_s": len(found) / max(scored_at - fitted_at, 1e-9),
    }
    if true is not None:
        row |= {
            "gap": float(np.mean(true) - np.mean(found)),
            "rms": float(np.sqrt(np.mean((found - true) ** 2))),
            "least": overlap(found, true),
        }
    return row


def methods(*, quick: bool) -> dict[str, Callable[[Rows], Fitted]]:
    def refined(rows: Rows) -> Fitted:
        return RefinedFlow.fit(rows.train, RefinedSettings(), rows.validation)

    def plain(rows: Rows) -> Fitted:
        layers = 40 if quick else 200
        return GIS.fit(rows.train, GISSettings(n_iterations=layers), rows.validation)

    found: dict[str, Callable[[Rows], Fitted]] = {"refined": refined, "gis": plain}
    return found if quick else found | {"gmm": Mixture, "nsf": Splines}


def cases(*, quick: bool) -> list[tuple[str, Rows, Floats | None]]:
    n = 5_000 if quick else 40_000
    rng = np.random.default_rng(1)

    def rows_of(case: Distribution) -> Rows:
        return Rows(case.draw(n, rng), case.draw(n // 10, rng), case.draw(10_000, rng))

    drawn = [(case, rows_of(case)) for case in distributions()]
    return [(case.name, rows, case.log_prob(rows.held_out)) for case, rows in drawn]


def latents_of(run: Path) -> Rows:
    """Latents of a finished run: a tenth of its training rows stop, its validation rows judge."""
    from spectra_scale.store.objects import column, columns_of, read_objects
    from spectra_scale.store.run import OBJECTS, open_run

    opened = open_run(run)
    table = read_objects(opened.folder("encode") / OBJECTS, opened.index)
    latents = columns_of(table, "latent").astype(np.float64)
    usable = column(table, "usable").astype(bool)
    train = latents[opened.sample.training_rows() & usable]
    judged = latents[opened.sample.validation_rows() & usable]
    return Rows(train[np.arange(len(train)) % 10 > 0], train[::10], judged)


def warm_up() -> None:
    """Compile, and load what is loaded once."""
    few = np.random.default_rng(0).standard_normal((200, DIMS))
    GIS.fit(few, GISSettings(n_iterations=1)).log_prob(few)
    RefinedFlow.fit(few, RefinedSettings(min_steps=2, epochs=1)).sample(
        2, np.random.default_rng(0)
    )


def show(name: str, method: str, row: dict[str, float]) -> None:
    gap, rms, least = (f"{row[key]:.3f}" if key in row else "–" for key in ("gap", "rms", "least"))
    print(
        f"{name:<10}{method:<10}{row['log_prob']:>10.3f}{gap:>8}{rms:>8}{least.split('.')[0]:>7}"
        f"{row['fit_cpu_s']:>9.1f}{row['eval_cpu_s']:>9.3f}{row['sample_cpu_s']:>9.3f}",
        flush=True,
    )


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5,000 rows, without the peers")
    parser.add_argument("--latents", type=Path, help="a finished run whose latents are added")
    parser.add_argument(
        "--only", nargs="+", choices=["refined", "gis", "gmm", "nsf"], help="these methods alone"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    warm_up()
    todo = cases(quick=options.quick)
    if options.latents is not None:
        todo.append(("mock", latents_of(options.latents), None))
    print(
        f"{'data':<10}{'method':<10}{'log p':>10}{'gap':>8}{'rms':>8}{'least':>7}"
        f"{'fit s':>9}{'eval s':>9}{'draw s':>9}"
    )
    out: dict[str, Any] = {}
    slowest = np.inf
    for name, rows, true in todo:
        for method, make in methods(quick=options.quick).items():
            if options.only and method not in options.only:
                continue
            row = measure(make, rows, true)
            show(name, method, row)
            prefix = name if method == "refined" else f"{name}_{method}"
            out[f"{prefix}_gap_nats" if true is not None else f"{prefix}_log_prob"] = round(
                row["gap"] if true is not None else row["log_prob"], 4
            )
            out[f"{prefix}_fit_cpu_s"] = round(row["fit_cpu_s"], 2)
            if method == "refined":
                slowest = min(slowest, row["eval_per_s"])
    if np.isfinite(slowest):
        out["eval_per_s"] = round(slowest)
    print(json.dumps(out | {"rows": len(todo[0][1].train)}))


if __name__ == "__main__":
    main()
