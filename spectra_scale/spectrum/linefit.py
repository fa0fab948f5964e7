"""Emission lines of a stack: pixel-integrated Gaussians on a local linear continuum.

science.md §9. Two groups are fitted apart: Hα with [N II] 6549/6585 (tied 1 : 2.96, one velocity,
one width for the three), and Hβ with [O III] 4960/5008 (tied 1 : 2.98; Hβ and [O III] each with
a velocity and width of their own). Each group is fitted without and with a broad Balmer component,
which is kept where it improves the BIC by 10. The Hβ flux is **not corrected for stellar
absorption**, and widths include the instrument's.

Amplitudes and continuum enter linearly: they are solved exactly for each trial of velocities and
widths, so the search is over two to six numbers only, from fixed starts: the same input gives the
same output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares
from scipy.special import erf

from spectra_scale.errors import SpectraScaleError
from spectra_scale.spectrum.indices import balmer_decrement, pixel_edges
from spectra_scale.spectrum.vacuum import LINES

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

LIGHT_SPEED = 299792.458
NII_RATIO = 2.96
OIII_RATIO = 2.98
BIC_GAIN = 10.0
_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))
# Dispersions in km/s. Narrow: from half a native pixel to the widest [N II] of massive galaxies.
# Broad: FWHM 1200 to 15,000 km/s.
_NARROW_SIGMA = (30.0, 500.0)
_BROAD_SIGMA = (510.0, 6400.0)
_NARROW_SHIFT = 400.0
_BROAD_SHIFT = 1500.0
_NARROW_STARTS = (80.0, 150.0, 300.0)
_BROAD_STARTS = (700.0, 1500.0, 3000.0)
# Share of a window's pixels that must be there, and all within this of a line's centre (km/s).
_MIN_COVERAGE = 0.8
_CORE = 300.0
_RIDGE = 1e-12


@dataclass(frozen=True, slots=True)
class _Profile:
    """Lines that share an amplitude, a velocity and a width: names and relative fluxes."""

    name: str
    lines: tuple[tuple[float, float], ...]
    kinematics: int


@dataclass(frozen=True, slots=True)
class _Group:
    """What is fitted together. `kinematics` of a profile indexes (velocity, width) pairs."""

    window: tuple[float, float]
    holes: tuple[tuple[float, float], ...]
    narrow: tuple[_Profile, ...]
    broad: _Profile

    @property
    def n_narrow(self) -> int:
        return 1 + max(profile.kinematics for profile in self.narrow)


_HALPHA = _Group(
    window=(6380.0, 6790.0),
    holes=((6700.0, 6750.0),),  # [S II]
    narrow=(
        _Profile("halpha", ((LINES["Halpha"], 1.0),), 0),
        _Profile("nii", ((LINES["NII6585"], 1.0), (LINES["NII6549"], 1.0 / NII_RATIO)), 0),
    ),
    broad=_Profile("halpha_broad", ((LINES["Halpha"], 1.0),), 1),
)
_HBETA = _Group(
    window=(4740.0, 5090.0),
    holes=(),
    narrow=(
        _Profile("hbeta", ((LINES["Hbeta"], 1.0),), 0),
        _Profile("oiii", ((LINES["OIII5008"], 1.0), (LINES["OIII4960"], 1.0 / OIII_RATIO)), 1),
    ),
    broad=_Profile("hbeta_broad", ((LINES["Hbeta"], 1.0),), 2),
)


@dataclass(frozen=True, slots=True, eq=False)
class _Data:
    """Pixels of one group: edges, flux and 1/error; the continuum is linear in `offset`."""

    low: Floats
    high: Floats
    flux: Floats
    inverse_error: Floats
    offset: Floats
    centre: float


@dataclass(frozen=True, slots=True, eq=False)
class _Solution:
    """A fit: kinematics (pairs), linear coefficients, χ² and the covariance of both."""

    kinematics: Floats
    linear: Floats
    chi2: float
    covariance: Floats


# Model --------------------------------------------------------------------------------------


def _line_shape(data: _Data, profile: _Profile, kinematics: Floats) -> Floats:
    """Flux density of a profile of unit flux in its first line, averaged over each pixel."""
    shift, sigma = kinematics[2 * profile.kinematics : 2 * profile.kinematics + 2]
    shape = np.zeros_like(data.flux)
    for rest, strength in profile.lines:
        centre = rest * (1.0 + shift / LIGHT_SPEED)
        scale = 1.0 / (np.sqrt(2.0) * centre * sigma / LIGHT_SPEED)
        steps = erf((data.high - centre) * scale) - erf((data.low - centre) * scale)
        shape += strength * 0.5 * steps / (data.high - data.low)
    return shape


def _design(data: _Data, profiles: Sequence[_Profile], kinematics: Floats) -> Floats:
    """Model columns over the error: a constant, a slope, one per profile."""
    columns = [np.ones_like(data.flux), data.offset]
    columns += [_line_shape(data, profile, kinematics) for profile in profiles]
    return np.column_stack(columns) * data.inverse_error[:, None]


def _solve(data: _Data, profiles: Sequence[_Profile], kinematics: Floats) -> tuple[Floats, Floats]:
    """Best linear coefficients for given kinematics, and the residuals over the error."""
    design = _design(data, profiles, kinematics)
    target = data.flux * data.inverse_error
    # Columns scaled to unit length: line and continuum columns differ by orders of magnitude.
    scale = np.linalg.norm(design, axis=0)
    scale[scale == 0] = 1.0
    columns = design / scale
    # Normal equations of at most seven scaled columns: a tiny ridge keeps them solvable when a
    # line is narrower than a pixel or two profiles coincide.
    normal = columns.T @ columns + _RIDGE * np.eye(columns.shape[1])
    linear = np.linalg.solve(normal, columns.T @ target) / scale
    return linear, target - design @ linear


def _covariance(
    data: _Data, profiles: Sequence[_Profile], kinematics: Floats, linear: Floats
) -> Floats:
    """Covariance of (linear, kinematics) from the full Jacobian, for the given errors."""
    steps = 1.0  # km/s: small against any width, large against rounding
    columns = [_design(data, profiles, kinematics)]
    for i in range(kinematics.size):
        up, down = kinematics.copy(), kinematics.copy()
        up[i] += steps
        down[i] -= steps
        change = _design(data, profiles, up) - _design(data, profiles, down)
        columns.append((change @ linear / (2.0 * steps))[:, None])
    jacobian = np.hstack(columns)
    scale = np.linalg.norm(jacobian, axis=0)
    scale[scale == 0] = 1.0
    inverse = np.linalg.pinv((jacobian / scale).T @ (jacobian / scale), hermitian=True)
    covariance: Floats = inverse / np.outer(scale, scale)
    return covariance


def _fit(
    data: _Data, profiles: Sequence[_Profile], starts: list[Floats], n_narrow: int
) -> _Solution:
    """Fit from the best of the fixed starts."""
    pairs = starts[0].size // 2
    shift = np.array([_NARROW_SHIFT] * n_narrow + [_BROAD_SHIFT] * (pairs - n_narrow))
    sigma = np.array([_NARROW_SIGMA] * n_narrow + [_BROAD_SIGMA] * (pairs - n_narrow))
    lower = np.column_stack((-shift, sigma[:, 0])).ravel()
    upper = np.column_stack((shift, sigma[:, 1])).ravel()

    def residuals(kinematics: Floats) -> Floats:
        return _solve(data, profiles, kinematics)[1]

    start = min(starts, key=lambda trial: float(np.sum(residuals(trial) ** 2)))
    result = least_squares(
        residuals,
        start,
        bounds=(lower, upper),
        x_scale=np.full(start.size, 100.0),
        xtol=1e-7,
        ftol=1e-9,
        max_nfev=60,
    )
    kinematics = np.asarray(result.x, dtype=np.float64)
    linear, left = _solve(data, profiles, kinematics)
    covariance = _covariance(data, profiles, kinematics, linear)
    return _Solution(kinematics, linear, float(np.sum(left**2)), covariance)


def _starts(n_narrow: int, broad: Floats | None, narrow: Floats | None) -> list[Floats]:
    """Trial kinematics: all widths at rest, or the narrow fit with broad widths added."""
    if narrow is None or broad is None:
        return [
            np.array([value for sigma in widths for value in (0.0, sigma)])
            for widths in product(_NARROW_STARTS, repeat=n_narrow)
        ]
    trials = [narrow, *_starts(n_narrow, None, None)]
    return [np.concatenate((trial, [0.0, sigma])) for trial in trials for sigma in broad]


# Groups -------------------------------------------------------------------------------------


def _select(
    wave: Floats, edges: Floats, flux: Floats, error: Floats, group: _Group
) -> _Data | None:
    """Pixels of a group, or None where too few are there or a line's core is not covered."""
    inside = (wave >= group.window[0]) & (wave <= group.window[1])
    for low, high in group.holes:
        inside &= (wave < low) | (wave > high)
    good = inside & np.isfinite(flux) & np.isfinite(error) & (error > 0)
    full = edges[0] <= group.window[0] and edges[-1] >= group.window[1]
    if not full or good.sum() < max(_MIN_COVERAGE * inside.sum(), 20):
        return None
    for profile in group.narrow:
        for rest, _ in profile.lines:
            core = np.abs(wave / rest - 1.0) * LIGHT_SPEED < _CORE
            if not good[core].all():
                return None
    centre = sum(group.window) / 2.0
    return _Data(
        low=edges[:-1][good],
        high=edges[1:][good],
        flux=flux[good],
        inverse_error=1.0 / error[good],
        offset=(wave[good] - centre) / 100.0,
        centre=centre,
    )


def _bic(chi2: float, n_pixels: int, n_parameters: int) -> float:
    # With the noise level free: the errors of a stack of thousands are so small that any misfit of
    # the starlight would "improve" χ² by tens, and errors are known to 10-20 % only.
    floor = np.finfo(np.float64).tiny
    return n_pixels * float(np.log(max(chi2, floor) / n_pixels)) + n_parameters * float(
        np.log(n_pixels)
    )


def _fit_group(data: _Data, group: _Group) -> tuple[_Solution, tuple[_Profile, ...], float]:
    """Fit a group without and with a broad component; the better one, and the gain in BIC."""
    n_narrow = group.n_narrow
    plain = _fit(data, group.narrow, _starts(n_narrow, None, None), n_narrow)
    profiles = (*group.narrow, group.broad)
    starts = _starts(n_narrow, np.array(_BROAD_STARTS), plain.kinematics)
    broad = _fit(data, profiles, starts, n_narrow)
    n = data.flux.size
    gain = _bic(plain.chi2, n, plain.linear.size + plain.kinematics.size) - _bic(
        broad.chi2, n, broad.linear.size + broad.kinematics.size
    )
    # A broad component in absorption is starlight, not a broad-line region.
    if gain >= BIC_GAIN and broad.linear[-1] > 0:
        return broad, profiles, gain
    return plain, group.narrow, gain


def _measure(data: _Data, profile: _Profile, index: int, fit: _Solution) -> dict[str, float]:
    """Flux, EW and FWHM of the first line of a profile, with formal errors."""
    n_linear = fit.linear.size
    flux, variance = fit.linear[2 + index], fit.covariance
    k = 2 * profile.kinematics
    shift, sigma = fit.kinematics[k : k + 2]
    centre = profile.lines[0][0] * (1.0 + shift / LIGHT_SPEED)
    continuum = fit.linear[0] + fit.linear[1] * (centre - data.centre) / 100.0
    flux_error = float(np.sqrt(variance[2 + index, 2 + index]))
    sigma_error = float(np.sqrt(variance[n_linear + k + 1, n_linear + k + 1]))
    positive = continuum > 0
    return {
        f"{profile.name}_flux": float(flux),
        f"{profile.name}_flux_error": flux_error,
        f"{profile.name}_ew": float(flux / continuum) if positive else float("nan"),
        # The continuum's own error is far smaller than the line's and left out.
        f"{profile.name}_ew_error": flux_error / float(continuum) if positive else float("nan"),
        f"{profile.name}_fwhm": float(_FWHM * sigma),
        f"{profile.name}_fwhm_error": float(_FWHM * sigma_error),
    }


_QUANTITIES = ("flux", "flux_error", "ew", "ew_error", "fwhm", "fwhm_error")


def _group_result(data: _Data | None, group: _Group) -> dict[str, float]:
    profiles = (*group.narrow, group.broad)
    result = {f"{p.name}_{quantity}": float("nan") for p in profiles for quantity in _QUANTITIES}
    gain_name = f"{group.broad.name}_bic_gain"
    result[gain_name] = float("nan")
    if data is None:
        return result
    fit, used, result[gain_name] = _fit_group(data, group)
    for index, profile in enumerate(used):
        result.update(_measure(data, profile, index, fit))
    if group.broad not in used:
        # No broad line was found: its flux is 0, its width means nothing.
        result[f"{group.broad.name}_flux"] = 0.0
        result[f"{group.broad.name}_ew"] = 0.0
    return result


def fit_lines(wave: npt.ArrayLike, flux: npt.ArrayLike, error: npt.ArrayLike) -> dict[str, float]:
    """Measure the narrow and broad lines around Hβ and Hα in one rest-frame spectrum.

    Parameters
    ----------
    wave
        Vacuum wavelength of the pixel centres, Å, rest frame, increasing, shape (n,).
    flux
        Flux density per Å, shape (n,); NaN where missing.
    error
        1σ error of `flux`, shape (n,); a pixel whose error is NaN, infinite or not positive is
        missing.

    Returns
    -------
    dict[str, float]
        For ``hbeta``, ``oiii`` (the 5008 line), ``halpha``, ``nii`` (the 6585 line),
        ``hbeta_broad`` and ``halpha_broad``: ``NAME_flux`` (flux unit times Å), ``NAME_ew`` (Å,
        positive in emission), ``NAME_fwhm`` (km/s, as observed) and the formal error of each
        (``_flux_error``, ...). A broad component that is not kept has flux and EW 0 and NaN
        otherwise; ``NAME_bic_gain`` says how far it was from the 10 it needs.
        ``balmer_decrement`` is narrow Hα/Hβ. Where a fit window is not covered by at least 80 %,
        or a line's core has a missing pixel, everything in that group is NaN.

    Raises
    ------
    SpectraScaleError
        The three arrays differ in shape, or wavelengths do not increase.
    """
    centres = np.asarray(wave, dtype=np.float64)
    values = np.asarray(flux, dtype=np.float64)
    errors = np.asarray(error, dtype=np.float64)
    if not (centres.shape == values.shape == errors.shape):
        message = (
            f"wavelength, flux and error have shapes {centres.shape}, {values.shape} and "
            f"{errors.shape}; expected one value a pixel in each."
        )
        raise SpectraScaleError(message)
    edges = pixel_edges(centres)
    result: dict[str, float] = {}
    for group in (_HBETA, _HALPHA):
        data = _select(centres, edges, values, errors, group)
        result.update(_group_result(data, group))
    result["balmer_decrement"] = balmer_decrement(result["halpha_flux"], result["hbeta_flux"])
    return result
