"""Spectral indices of a stack: breaks, absorption, continuum slope, Fe II (science.md §9).

Spectra are rest frame, wavelengths vacuum Å, flux density per Å. A pixel is taken as constant
between its edges, which lie half way (in the logarithm) to its neighbours; pixels that a window
cuts count by their overlap. An index is NaN where a window is not covered by finite pixels: a
missing pixel is never bridged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spectra_scale.errors import SpectraScaleError
from spectra_scale.spectrum.vacuum import air_to_vacuum

Floats = npt.NDArray[np.float64]
Window = tuple[float, float]


def _from_air(low: float, high: float) -> Window:
    first, last = air_to_vacuum([low, high]).tolist()
    return first, last


# Published in air, kept in vacuum.
D4000N_BLUE = _from_air(3850.0, 3950.0)
D4000N_RED = _from_air(4000.0, 4100.0)
BALMER_BLUE = _from_air(3500.0, 3650.0)
BALMER_RED = _from_air(3800.0, 3950.0)
HDELTA_A_INDEX = _from_air(4083.50, 4122.25)
HDELTA_A_BLUE = _from_air(4041.60, 4081.50)
HDELTA_A_RED = _from_air(4128.50, 4161.00)
# Wide enough for narrow lines in pixels of 6 Å; the sides are free of lines.
HALPHA_NII: Window = (6525.0, 6610.0)
HALPHA_SIDES: tuple[Window, Window] = ((6440.0, 6510.0), (6630.0, 6690.0))
# Quasar continuum and iron windows are vacuum, as is the Vanden Berk composite.
CONTINUUM_WINDOWS: tuple[Window, ...] = (
    (3500.0, 3600.0),
    (4200.0, 4230.0),
    (5080.0, 5100.0),
    (5600.0, 5800.0),
    (6000.0, 6250.0),
    (7000.0, 7500.0),
)
FEII_WINDOW: Window = (4435.0, 4685.0)

# A window reaching past the grid by rounding alone is covered.
_COVERAGE_SLACK = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """The part of a spectrum inside a window: edges (k + 1,) and flux (k,), all finite."""

    edges: Floats
    flux: Floats

    @property
    def widths(self) -> Floats:
        return np.diff(self.edges)

    @property
    def middles(self) -> Floats:
        middles: Floats = 0.5 * (self.edges[1:] + self.edges[:-1])
        return middles

    def mean(self) -> float:
        """Mean F_λ over the window."""
        return float((self.flux * self.widths).sum() / (self.edges[-1] - self.edges[0]))

    def mean_fnu(self) -> float:
        """Mean over wavelength of λ²F_λ, which is F_ν but for the speed of light."""
        third_power = np.diff(self.edges**3) / 3.0
        return float((self.flux * third_power).sum() / (self.edges[-1] - self.edges[0]))


def pixel_edges(wave: Floats) -> Floats:
    """Edges of pixels given by their centres.

    Parameters
    ----------
    wave
        Centres in Å, increasing, shape (n,), n ≥ 2.

    Returns
    -------
    Floats
        Shape (n + 1,): geometric means of neighbours, exact on a log-uniform grid and within
        1e-5 Å on DESI's linear one; the outer pixels are as wide as their neighbours.

    Raises
    ------
    SpectraScaleError
        Fewer than two pixels, or not increasing.
    """
    centres = np.asarray(wave, dtype=np.float64)
    if centres.ndim != 1 or centres.size < 2 or not (np.diff(centres) > 0).all():
        message = (
            f"wavelengths of shape {centres.shape} do not increase; expected the centres of at "
            "least two pixels in Å, shortest first."
        )
        raise SpectraScaleError(message)
    log_wave = np.log(centres)
    inner = 0.5 * (log_wave[1:] + log_wave[:-1])
    first = 2.0 * log_wave[0] - inner[0]
    last = 2.0 * log_wave[-1] - inner[-1]
    return np.exp(np.concatenate(([first], inner, [last])))


def _cut(edges: Floats, flux: Floats, window: Window) -> _Piece | None:
    """Pixels in a window with the outer ones cut to it; None if it is not fully covered."""
    low, high = window
    if low < edges[0] - _COVERAGE_SLACK or high > edges[-1] + _COVERAGE_SLACK:
        return None
    first = max(int(np.searchsorted(edges, low, side="right")) - 1, 0)
    last = min(int(np.searchsorted(edges, high, side="left")), flux.size)
    inside = flux[first:last]
    if not np.isfinite(inside).all():
        return None
    cut_edges = edges[first : last + 1].copy()
    cut_edges[0], cut_edges[-1] = low, high
    return _Piece(cut_edges, inside)


def _spectrum(wave: npt.ArrayLike, flux: npt.ArrayLike) -> tuple[Floats, Floats]:
    centres = np.asarray(wave, dtype=np.float64)
    values = np.asarray(flux, dtype=np.float64)
    edges = pixel_edges(centres)
    if values.shape != centres.shape:
        message = (
            f"flux has shape {values.shape}, wavelength {centres.shape}; expected one value a "
            "pixel of one spectrum."
        )
        raise SpectraScaleError(message)
    return edges, values


def _break(wave: npt.ArrayLike, flux: npt.ArrayLike, red: Window, blue: Window) -> float:
    edges, values = _spectrum(wave, flux)
    above, below = _cut(edges, values, red), _cut(edges, values, blue)
    if above is None or below is None:
        return float("nan")
    bottom = below.mean_fnu()
    return above.mean_fnu() / bottom if bottom > 0 else float("nan")


def d4000n(wave: npt.ArrayLike, flux: npt.ArrayLike) -> float:
    """Narrow 4000 Å break: mean F_ν in 4000-4100 Å over 3850-3950 Å (air).

    Parameters
    ----------
    wave
        Vacuum wavelength of the pixel centres, Å, shape (n,).
    flux
        Flux density per Å, shape (n,); NaN where missing.

    Returns
    -------
    float
        The ratio; NaN where a window is not covered or the blue one is not positive.

    References
    ----------
    Balogh et al. 1999, ApJ 527, 54; science.md §9.
    """
    return _break(wave, flux, D4000N_RED, D4000N_BLUE)


def balmer_break(wave: npt.ArrayLike, flux: npt.ArrayLike) -> float:
    """Balmer break: mean F_ν in 3800-3950 Å over 3500-3650 Å (air).

    Parameters
    ----------
    wave
        Vacuum wavelength of the pixel centres, Å, shape (n,).
    flux
        Flux density per Å, shape (n,); NaN where missing.

    Returns
    -------
    float
        The ratio; NaN where a window is not covered or the blue one is not positive.
    """
    return _break(wave, flux, BALMER_RED, BALMER_BLUE)


def hdelta_a(wave: npt.ArrayLike, flux: npt.ArrayLike) -> float:
    """Equivalent width HδA of Worthey & Ottaviani (1997), Å, positive in absorption.

    ∫(1 - F/C) dλ over 4083.50-4122.25 Å (air), C the straight line through the mean fluxes of
    4041.60-4081.50 and 4128.50-4161.00 Å at their middles. No correction to the Lick resolution.

    Parameters
    ----------
    wave
        Vacuum wavelength of the pixel centres, Å, shape (n,).
    flux
        Flux density per Å, shape (n,); NaN where missing.

    Returns
    -------
    float
        Å; NaN where a window is not covered or the continuum is not positive.
    """
    return _equivalent_width(*_spectrum(wave, flux), HDELTA_A_INDEX, (HDELTA_A_BLUE, HDELTA_A_RED))


def _equivalent_width(
    edges: Floats, flux: Floats, window: Window, sides: tuple[Window, Window]
) -> float:
    """∫(1 - F/C) dλ over a window, C the straight line through the means of both sides."""
    blue, red = (_cut(edges, flux, side) for side in sides)
    line = _cut(edges, flux, window)
    if blue is None or red is None or line is None:
        return float("nan")
    x_blue, x_red = (sum(side) / 2.0 for side in sides)
    slope = (red.mean() - blue.mean()) / (x_red - x_blue)
    continuum = blue.mean() + slope * (line.middles - x_blue)
    if not (continuum > 0).all():
        return float("nan")
    return float(((1.0 - line.flux / continuum) * line.widths).sum())


def halpha_nii_ew(wave: npt.ArrayLike, flux: npt.ArrayLike) -> float:
    """Equivalent width of Hα and [N II] together, Å, positive in emission.

    ∫(F/C - 1) dλ over 6525-6610 Å (vacuum), C the straight line through the mean fluxes of
    6440-6510 and 6630-6690 Å at their middles. A broad Hα reaches into all of these, so that of
    broad-line objects is too small; `spectra_scale.spectrum.linefit` fits the lines apart.

    Parameters
    ----------
    wave
        Vacuum wavelength of the pixel centres, Å, shape (n,).
    flux
        Flux density per Å, shape (n,); NaN where missing.

    Returns
    -------
    float
        Å; NaN where a window is not covered or the continuum is not positive.
    """
    return -_equivalent_width(*_spectrum(wave, flux), HALPHA_NII, HALPHA_SIDES)


def _power_law(edges: Floats, flux: Floats) -> tuple[float, float] | None:
    """Slope and ln of the amplitude at 5000 Å, through the mean fluxes of the windows."""
    pieces = [_cut(edges, flux, window) for window in CONTINUUM_WINDOWS]
    means = [piece.mean() for piece in pieces if piece is not None]
    # All windows or none: slopes through different windows are not comparable.
    if len(means) < len(CONTINUUM_WINDOWS) or min(means) <= 0:
        return None
    middles = [np.sqrt(low * high) for low, high in CONTINUUM_WINDOWS]
    slope, intercept = np.polyfit(np.log(np.array(middles) / 5000.0), np.log(means), 1)
    return float(slope), float(intercept)


def continuum_slope(wave: npt.ArrayLike, flux: npt.ArrayLike) -> float:
    """Slope β of the continuum, F_λ ∝ λ^β.

    A straight line in log F over log λ through the mean fluxes of six windows (vacuum, science.md
    §9), each counting once: wide windows are no better continuum than narrow ones.

    Parameters
    ----------
    wave
        Vacuum wavelength of the pixel centres, Å, shape (n,).
    flux
        Flux density per Å, shape (n,); NaN where missing.

    Returns
    -------
    float
        β; NaN where any of the windows is not covered or not positive.
    """
    law = _power_law(*_spectrum(wave, flux))
    return float("nan") if law is None else law[0]


def feii_excess(wave: npt.ArrayLike, flux: npt.ArrayLike) -> float:
    """Optical Fe II: equivalent width of the excess over the power law in 4435-4685 Å (vacuum).

    Host galaxies and He II 4687 add to it; no template is subtracted.

    Parameters
    ----------
    wave
        Vacuum wavelength of the pixel centres, Å, shape (n,).
    flux
        Flux density per Å, shape (n,); NaN where missing.

    Returns
    -------
    float
        ∫(F/P - 1) dλ in Å with P the law of `continuum_slope`; NaN where that is.
    """
    edges, values = _spectrum(wave, flux)
    law, piece = _power_law(edges, values), _cut(edges, values, FEII_WINDOW)
    if law is None or piece is None:
        return float("nan")
    expected = np.exp(law[1] + law[0] * np.log(piece.middles / 5000.0))
    return float(((piece.flux / expected - 1.0) * piece.widths).sum())


def balmer_decrement(halpha_flux: float, hbeta_flux: float) -> float:
    """Ratio Hα/Hβ of the narrow lines; 2.86 without dust (case B, 10⁴ K).

    Parameters
    ----------
    halpha_flux, hbeta_flux
        Line fluxes in one unit. Hβ is not corrected for stellar absorption.

    Returns
    -------
    float
        The ratio; NaN unless both are positive.
    """
    if halpha_flux > 0 and hbeta_flux > 0:
        return halpha_flux / hbeta_flux
    return float("nan")


def reddening_against(
    wave: npt.ArrayLike,
    flux: npt.ArrayLike,
    reference_wave: npt.ArrayLike,
    reference_flux: npt.ArrayLike,
) -> float:
    """Reddening E(B-V) of a broad-line stack against a composite quasar spectrum.

    Straight line of -2.5 log10(F / F_reference) over k(λ) = 1.39 (λ/μm)^-1.2 through the windows
    of `continuum_slope`: the SMC law of Prevot et al. (1984) as Richards et al. (2003) write it.
    Starlight of the host counts as reddening here.

    Parameters
    ----------
    wave, flux
        The stack: vacuum Å and flux density per Å, shape (n,); NaN where missing.
    reference_wave, reference_flux
        The composite (Vanden Berk et al. 2001), shape (m,), any unit of flux density per Å.

    Returns
    -------
    float
        E(B-V) in magnitudes, positive where the stack is redder; NaN where a window is not
        covered or not positive in either spectrum.
    """
    stack, reference = _spectrum(wave, flux), _spectrum(reference_wave, reference_flux)
    dimming, law = [], []
    for window in CONTINUUM_WINDOWS:
        found, expected = _cut(*stack, window), _cut(*reference, window)
        if found is None or expected is None or found.mean() <= 0 or expected.mean() <= 0:
            return float("nan")
        dimming.append(-2.5 * np.log10(found.mean() / expected.mean()))
        law.append(1.39 * (np.sqrt(window[0] * window[1]) * 1e-4) ** -1.2)
    return float(np.polyfit(law, dimming, 1)[0])


def measure_indices(wave: npt.ArrayLike, flux: npt.ArrayLike) -> dict[str, float]:
    """All indices of one spectrum.

    Parameters
    ----------
    wave
        Vacuum wavelength of the pixel centres, Å, shape (n,).
    flux
        Flux density per Å, shape (n,); NaN where missing.

    Returns
    -------
    dict[str, float]
        ``d4000n``, ``hdelta_a`` (Å), ``balmer_break``, ``continuum_slope``, ``feii_excess`` (Å);
        NaN where not covered. Errors come from repeating this on bootstrap stacks.
    """
    return {
        "d4000n": d4000n(wave, flux),
        "hdelta_a": hdelta_a(wave, flux),
        "balmer_break": balmer_break(wave, flux),
        "continuum_slope": continuum_slope(wave, flux),
        "feii_excess": feii_excess(wave, flux),
    }
