"""New spectra: samples of the latents' density, decoded; and whether they could be real ones.

The density is that of the latents of real spectra and the decoder makes a spectrum of a latent, so
the two together are a generative model of noiseless spectra (Böhm & Seljak 2022, the probabilistic
auto-encoder of the paper). It is tested against the reconstructions of held-out spectra, in the
latents and in indices of the spectra: what the decoder cannot reproduce is not seen by either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectra_scale.errors import SpectraScaleError
from spectra_scale.models.density import Density
from spectra_scale.models.neighbours import knn
from spectra_scale.spectrum.indices import balmer_break, d4000n, halpha_nii_ew, hdelta_a

Floats = NDArray[np.float64]
Spectra = NDArray[np.float32]

#: Indices that generated and real spectra are compared in: unit, function of (wavelength, flux).
INDICES: Mapping[str, tuple[str, Callable[[ArrayLike, ArrayLike], float]]] = {
    "D4000n": ("", d4000n),
    "HδA": ("Å", hdelta_a),
    "Balmer break": ("", balmer_break),
    "EW(Hα+[N II])": ("Å", halpha_nii_ew),
}
#: Neighbours of the two-sample test.
N_NEIGHBOURS = 5
#: Rows of each side that the two-sample tests look at, at most.
MAX_ROWS = 4000
#: And at least.
MIN_ROWS = 50
_PERMUTATIONS = 500
_FOLDS = 5


@dataclass(frozen=True, slots=True, eq=False)
class Generated:
    """Spectra that were never observed.

    Parameters
    ----------
    latents
        Samples of the density, shape (spectrum, D), float64.
    log_prob
        Their log-density, shape (spectrum,).
    flux
        Decoded, in units of the normalisation, shape (spectrum, pixel), float32; noiseless.
    """

    latents: Floats
    log_prob: Floats
    flux: Spectra


def generate(
    model: Any, flow: Density, n: int, seed: int, draw: Callable[..., Floats] | None = None
) -> Generated:
    """Draw latents and decode them.

    Parameters
    ----------
    model
        Auto-encoder (`spectra_scale.models.autoencoder.AutoEncoder`).
    flow
        Density of its latents, which scores the samples.
    n
        Number of spectra.
    seed
        Same seed, same spectra.
    draw
        Called as ``draw(n, generator)`` for the latents; None: the flow's own `sample`.

    Raises
    ------
    SpectraScaleError
        If the flow is of another dimension than the latents.
    """
    n_latent = model.architecture.n_latent
    if flow.n_dimensions != n_latent:
        msg = (
            f"the density has {flow.n_dimensions} dimensions, the auto-encoder {n_latent} "
            "latents: they are of different runs. Fit the density on this auto-encoder's latents."
        )
        raise SpectraScaleError(msg)
    generator = np.random.default_rng(seed)
    latents = np.asarray((draw or flow.sample)(n, generator), dtype=np.float64)
    return Generated(latents, flow.log_prob(latents), decode(model, latents))


def decode(model: Any, latents: NDArray[Any], batch_size: int = 4096) -> Spectra:
    """Spectra of latents, shape (spectrum, pixel), in units of the normalisation."""
    import torch

    rows = np.ascontiguousarray(latents, dtype=np.float32)
    parts = [np.empty((0, model.architecture.n_pixels), np.float32)]
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            z = torch.from_numpy(rows[start : start + batch_size]).to(model.device)
            parts.append(model.decode(z).float().cpu().numpy())
    return np.concatenate(parts)


def indices_of(wave: ArrayLike, flux: Spectra) -> dict[str, Floats]:
    """Indices of spectra, shape (spectrum,) each; NaN where one is not defined."""
    return {
        name: np.array([index(wave, row) for row in flux], dtype=np.float64)
        for name, (_, index) in INDICES.items()
    }


@dataclass(frozen=True, slots=True)
class IndexCheck:
    """One index of generated spectra beside that of real ones.

    Parameters
    ----------
    name, unit
        The index.
    made, real
        16th, 50th and 84th percentile of either.
    distance, p_value
        Kolmogorov-Smirnov distance of generated and held-out, and its p-value.
    floor
        The same distance of training and held-out spectra: what chance and overfitting of the
        auto-encoder give alone.
    undefined
        Generated spectra that have no such index (a continuum that is not positive).
    """

    name: str
    unit: str
    made: tuple[float, float, float]
    real: tuple[float, float, float]
    distance: float
    p_value: float
    floor: float
    undefined: int


@dataclass(frozen=True, slots=True)
class TwoSample:
    """Whether two sets of rows could be of one distribution.

    Parameters
    ----------
    n
        Rows of each.
    same_neighbours, neighbours_p
        Share of nearest neighbours that are of a row's own set (0.5 if they are alike), and the
        p-value of so large a share by permutation of the sets.
    auc, auc_error
        Of a classifier on rows it has not seen (0.5 if it cannot tell), and its standard error if
        there is nothing to tell.
    """

    n: int
    same_neighbours: float
    neighbours_p: float
    auc: float
    auc_error: float


@dataclass(frozen=True, slots=True)
class Realism:
    """How real generated spectra are: indices, latents, and the latents' floor.

    Parameters
    ----------
    indices
        A check an index.
    latents
        Generated against held-out latents.
    floor
        Training against held-out latents.
    """

    indices: tuple[IndexCheck, ...]
    latents: TwoSample
    floor: TwoSample


def realism(
    wave: ArrayLike, model: Any, made: Generated, real: tuple[Floats, Floats], seed: int
) -> Realism:
    """Compare generated spectra with reconstructions of real ones.

    Parameters
    ----------
    wave
        Rest-frame vacuum wavelength, Å, shape (pixel,).
    model
        The auto-encoder.
    made
        Generated spectra.
    real
        Latents of the held-out and of the training spectra, shape (n, D) each, finite.
    seed
        Of subsamples, permutations and folds.
    """
    rng = np.random.default_rng([seed, 1])
    held_out, training = (_some(rows, MAX_ROWS, rng) for rows in real)
    drawn = rng.permutation(len(made.latents))[:MAX_ROWS]
    values = [
        indices_of(wave, flux)
        for flux in (made.flux[drawn], decode(model, held_out), decode(model, training))
    ]
    checks = tuple(
        _check_index(name, unit, *(each[name] for each in values))
        for name, (unit, _) in INDICES.items()
    )
    return Realism(
        checks,
        two_sample(made.latents[drawn], held_out, seed),
        two_sample(training, held_out, seed),
    )


def _some(rows: Floats, most: int, rng: np.random.Generator) -> Floats:
    return rows[np.sort(rng.permutation(len(rows))[:most])]


def _check_index(name: str, unit: str, made: Floats, real: Floats, other: Floats) -> IndexCheck:
    good = [values[np.isfinite(values)] for values in (made, real, other)]
    nan = (float("nan"),) * 3
    thirds = [_percentiles(values) if len(values) else nan for values in good]
    distance, p_value = _ks(good[0], good[1])
    return IndexCheck(
        name, unit, thirds[0], thirds[1], distance, p_value, _ks(good[2], good[1])[0],
        int((~np.isfinite(made)).sum()),
    )  # fmt: skip


def _percentiles(values: Floats) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, [16, 50, 84]).tolist()
    return low, middle, high


def _ks(a: Floats, b: Floats) -> tuple[float, float]:
    from scipy.stats import ks_2samp

    if not len(a) or not len(b):
        return float("nan"), float("nan")
    found = ks_2samp(a, b)
    return float(found.statistic), float(found.pvalue)


def two_sample(a: Floats, b: Floats, seed: int) -> TwoSample:
    """Test whether two sets of rows are of one distribution.

    Parameters
    ----------
    a, b
        Rows, shape (n, D) and (m, D), finite; as many of either are used. They are scaled by the
        covariance of `b`.
    seed
        Of the choice of rows, of permutations and of folds.

    Returns
    -------
    TwoSample
        Nearest neighbours (Schilling 1986; Henze 1988) and a classifier (gradient boosting,
        5 folds; Lopez-Paz & Oquab 2017).

    Raises
    ------
    SpectraScaleError
        If there are fewer than 50 rows of either.
    """
    n = min(len(a), len(b), MAX_ROWS)
    if n < MIN_ROWS:
        msg = (
            f"found {len(a)} and {len(b)} rows to compare, expected at least {MIN_ROWS} of each. "
            "Generate more spectra (--n), or use a run with a larger validation split."
        )
        raise SpectraScaleError(msg)
    rng = np.random.default_rng([seed, 2])
    rows = np.concatenate([_some(a, n, rng), _some(b, n, rng)])
    factor = np.linalg.cholesky(np.atleast_2d(np.cov(b, rowvar=False)))
    white = np.linalg.solve(factor, (rows - b.mean(axis=0)).T).T
    is_first = np.repeat([True, False], n)
    k = min(N_NEIGHBOURS, 2 * n - 1)
    neighbours = knn(white, k=k + 1, seed=seed)[0][:, 1:]

    def share(side: NDArray[np.bool_]) -> float:
        return float((side[neighbours] == side[:, None]).mean())

    found = share(is_first)
    chance = np.array([share(rng.permutation(is_first)) for _ in range(_PERMUTATIONS)])
    p_value = float((np.sum(chance >= found) + 1) / (_PERMUTATIONS + 1))
    # Mann-Whitney U of two sets of n that are alike has variance n n (2n + 1) / 12.
    error = float(np.sqrt((2 * n + 1) / (12 * n * n)))
    return TwoSample(n, found, p_value, _auc(white, is_first, seed), error)


def _auc(rows: Floats, is_first: NDArray[np.bool_], seed: int) -> float:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from threadpoolctl import threadpool_limits

    classifier = HistGradientBoostingClassifier(max_iter=100, random_state=seed)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    # Small trees: threads that wait for one another cost more than they bring.
    with threadpool_limits(1):
        score = cross_val_predict(classifier, rows, is_first, cv=folds, method="predict_proba")[
            :, 1
        ]
    return float(roc_auc_score(is_first, score))


def realism_table(found: Realism) -> tuple[list[str], list[list[Any]]]:
    """A check as a table: its columns, and a line an index or test.

    An index has its median (and 16th and 84th percentile) and the Kolmogorov-Smirnov distance. The
    last column is what training spectra give in place of the generated ones.
    """
    names = ["", "generated", "held-out", "test", "p", "training"]
    lines: list[list[Any]] = [
        [
            f"{each.name} ({each.unit})" if each.unit else each.name,
            _shown(each.made),
            _shown(each.real),
            f"KS {each.distance:.3f}",
            f"{each.p_value:.2g}",
            f"{each.floor:.3f}",
        ]
        for each in found.indices
    ]
    now, floor = found.latents, found.floor
    lines += [
        ["latents: kNN", f"n = {now.n:,}", "", f"{now.same_neighbours:.3f}",
         f"{now.neighbours_p:.2g}", f"{floor.same_neighbours:.3f}"],
        ["latents: AUC", f"n = {now.n:,}", f"0.5 ± {now.auc_error:.3f}", f"{now.auc:.3f}", "",
         f"{floor.auc:.3f}"],
    ]  # fmt: skip
    return names, lines


def _shown(values: tuple[float, float, float]) -> str:
    low, middle, high = values
    return f"{middle:.3g} ({low:.3g}, {high:.3g})"
