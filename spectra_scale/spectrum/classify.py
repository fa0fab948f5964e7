"""Spectral classes from emission lines: the BPT and Hα equivalent-width rules of science.md §5.

Codes are fixed and stored as int8: see `Label`. Everything works on whole columns at once and
treats NaN, infinity, non-positive errors and the catalogues' -9999 as "not measured".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from spectra_scale.errors import SpectraScaleError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int8]

CLASS_NAMES: tuple[str, ...] = (
    "N/A",
    "star-forming",
    "composite",
    "narrow-line AGN",
    "broad-line",
    "retired",
    "passive",
)
"""Names of the classes in code order (science.md §5)."""

WHAN_NAMES: tuple[str, ...] = (
    "N/A",
    "star-forming",
    "strong AGN",
    "weak AGN",
    "retired",
    "passive",
)
"""Names of the WHAN classes in code order."""

RETIRED_EW_MIN = 0.5
RETIRED_EW_MAX = 3.0
KAUFFMANN_LIMIT = 0.05
KEWLEY_LIMIT = 0.47
# SDSS catalogues write -9999 for "missing"; no equivalent width comes near.
_SENTINEL = -9000.0


class Label(IntEnum):
    """Class codes (science.md §5)."""

    NOT_AVAILABLE = 0
    STAR_FORMING = 1
    COMPOSITE = 2
    NARROW_LINE_AGN = 3
    BROAD_LINE = 4
    RETIRED = 5
    PASSIVE = 6


class Whan(IntEnum):
    """Codes of the WHAN diagram."""

    NOT_AVAILABLE = 0
    STAR_FORMING = 1
    STRONG_AGN = 2
    WEAK_AGN = 3
    RETIRED = 4
    PASSIVE = 5


@dataclass(frozen=True, slots=True, eq=False)
class LineMeasurements:
    """Emission lines of n objects, one row each.

    Fluxes and errors share one unit an object (1e-17 erg s⁻¹ cm⁻² in the catalogues). Equivalent
    widths are rest frame, Å, positive in emission. NaN, infinity, errors ≤ 0 and -9999 mean "not
    measured" and never reach a logarithm.

    Parameters
    ----------
    measured
        Whether a line catalogue has the object at all; False makes it N/A.
    hbeta_flux, hbeta_err, oiii_flux, oiii_err, halpha_flux, halpha_err, nii_flux, nii_err
        Hβ, [O III] 5007, Hα and [N II] 6584 (air names), shape (n,).
    halpha_ew, halpha_ew_err
        Equivalent width of Hα and its error, shape (n,).
    """

    measured: Bools
    hbeta_flux: npt.NDArray[np.floating]
    hbeta_err: npt.NDArray[np.floating]
    oiii_flux: npt.NDArray[np.floating]
    oiii_err: npt.NDArray[np.floating]
    halpha_flux: npt.NDArray[np.floating]
    halpha_err: npt.NDArray[np.floating]
    nii_flux: npt.NDArray[np.floating]
    nii_err: npt.NDArray[np.floating]
    halpha_ew: npt.NDArray[np.floating]
    halpha_ew_err: npt.NDArray[np.floating]

    def __post_init__(self) -> None:
        for name in self.__slots__:
            shape = np.shape(getattr(self, name))
            if shape != np.shape(self.measured) or len(shape) != 1:
                message = (
                    f"LineMeasurements.{name} has shape {shape}, expected one value an object as "
                    f"in `measured`, {np.shape(self.measured)}. Give columns of equal length."
                )
                raise SpectraScaleError(message)

    @property
    def fluxes(self) -> Floats:
        """Fluxes of Hβ, [O III], Hα, [N II], shape (4, n)."""
        lines = (self.hbeta_flux, self.oiii_flux, self.halpha_flux, self.nii_flux)
        return np.asarray(lines, dtype=np.float64)

    @property
    def errors(self) -> Floats:
        """Errors of `fluxes`, shape (4, n)."""
        lines = (self.hbeta_err, self.oiii_err, self.halpha_err, self.nii_err)
        return np.asarray(lines, dtype=np.float64)


def kauffmann(x: npt.ArrayLike) -> Floats:
    """Empirical star-forming limit y(x) of Kauffmann et al. (2003).

    Parameters
    ----------
    x
        log10([N II]6584/Hα).

    Returns
    -------
    Floats
        log10([O III]5007/Hβ) of the curve; NaN from x = 0.05 on, where the hyperbola's second
        branch begins, which means nothing.
    """
    return _hyperbola(x, KAUFFMANN_LIMIT, 1.30)


def kewley(x: npt.ArrayLike) -> Floats:
    """Theoretical maximum-starburst limit y(x) of Kewley et al. (2001).

    Parameters
    ----------
    x
        log10([N II]6584/Hα).

    Returns
    -------
    Floats
        log10([O III]5007/Hβ) of the curve; NaN from x = 0.47 on.
    """
    return _hyperbola(x, KEWLEY_LIMIT, 1.19)


def _hyperbola(x: npt.ArrayLike, limit: float, offset: float) -> Floats:
    ratio = np.asarray(x, dtype=np.float64)
    inside = ratio < limit
    return np.where(inside, 0.61 / (np.where(inside, ratio, limit - 1.0) - limit) + offset, np.nan)


def bpt_coordinates(lines: LineMeasurements) -> tuple[Floats, Floats]:
    """Coordinates on the BPT diagram.

    Parameters
    ----------
    lines
        Line measurements of n objects.

    Returns
    -------
    tuple[Floats, Floats]
        x = log10([N II]/Hα) and y = log10([O III]/Hβ), each (n,); NaN where one of the two fluxes
        is not positive and finite. No signal-to-noise cut.
    """
    hbeta, oiii, halpha, nii = lines.fluxes
    return _log_ratio(nii, halpha), _log_ratio(oiii, hbeta)


def _log_ratio(over: Floats, under: Floats) -> Floats:
    ok = np.isfinite(over) & np.isfinite(under) & (over > 0) & (under > 0)
    # A difference of logarithms: a quotient of extreme fluxes could overflow.
    return np.where(
        ok, np.log10(np.where(ok, over, 1.0)) - np.log10(np.where(ok, under, 1.0)), np.nan
    )


def has_bpt_signal(lines: LineMeasurements) -> Bools:
    """Objects whose four lines are good enough for the BPT diagram (science.md §5, rule 3).

    Parameters
    ----------
    lines
        Line measurements of n objects.

    Returns
    -------
    Bools
        Shape (n,): all four fluxes positive with finite positive errors, flux/error > 2 in at
        least three lines and > 1 in the fourth.
    """
    flux, error = lines.fluxes, lines.errors
    usable = np.isfinite(flux) & np.isfinite(error) & (error > 0) & (flux > 0)
    # Compared as products: flux/error may overflow for a tiny error.
    clear = usable & (flux > 2.0 * error)
    faint = usable & (flux > error)
    enough: Bools = (clear.sum(axis=0) >= 3) & faint.all(axis=0)
    return enough


def _bpt_label(x: Floats, y: Floats) -> Labels:
    # Comparisons with the curves' NaN outside their domain are False: the guards of science.md §5.
    star_forming = y < kauffmann(x)
    agn = (x >= KEWLEY_LIMIT) | (y > kewley(x))
    return np.select(
        [star_forming, agn], [Label.STAR_FORMING, Label.NARROW_LINE_AGN], Label.COMPOSITE
    ).astype(np.int8)


def _is_retired(lines: LineMeasurements) -> Bools:
    width = np.asarray(lines.halpha_ew, dtype=np.float64)
    error = np.asarray(lines.halpha_ew_err, dtype=np.float64)
    significant = np.isfinite(error) & (error > 0) & (width > 2.0 * error)
    retired: Bools = significant & (width > RETIRED_EW_MIN) & (width < RETIRED_EW_MAX)
    return retired


def classify(broad_line: Bools, lines: LineMeasurements) -> Labels:
    """Class of every object, by the rules of science.md §5 in their order.

    Broad-line first; N/A without line measurements; the BPT diagram where the four lines are good
    enough (`has_bpt_signal`); of the rest, retired with 0.5 < EW(Hα) < 3 Å at more than 2σ, and
    passive otherwise, which includes EW ≥ 3 Å (`passive_with_strong_ew` counts those).

    Parameters
    ----------
    broad_line
        Whether the survey calls the object broad-line, shape (n,).
    lines
        Line measurements of the same n objects.

    Returns
    -------
    Labels
        Codes of `Label`, int8, shape (n,): exactly one an object.
    """
    broad = np.asarray(broad_line, dtype=bool)
    if broad.shape != lines.measured.shape:
        message = (
            f"broad_line has shape {broad.shape}, the line measurements {lines.measured.shape}: "
            "expected the same objects in the same order. Join the two before classifying."
        )
        raise SpectraScaleError(message)
    bpt = _bpt_label(*bpt_coordinates(lines))
    return np.select(
        [
            broad,
            ~np.asarray(lines.measured, dtype=bool),
            has_bpt_signal(lines),
            _is_retired(lines),
        ],
        [np.int8(Label.BROAD_LINE), np.int8(Label.NOT_AVAILABLE), bpt, np.int8(Label.RETIRED)],
        np.int8(Label.PASSIVE),
    ).astype(np.int8)


def passive_with_strong_ew(lines: LineMeasurements, label: npt.ArrayLike) -> Bools:
    """Objects called passive although EW(Hα) ≥ 3 Å.

    They fail the BPT signal cut but are no retired galaxies either; the paper's text does not
    reach them, science.md §5 puts them with the passive ones, and they are counted and reported.

    Parameters
    ----------
    lines
        Line measurements of n objects.
    label
        Their codes from `classify`, shape (n,).

    Returns
    -------
    Bools
        Shape (n,).
    """
    width = np.asarray(lines.halpha_ew, dtype=np.float64)
    strong: Bools = (
        (np.asarray(label) == Label.PASSIVE) & np.isfinite(width) & (width >= RETIRED_EW_MAX)
    )
    return strong


def whan_class(lines: LineMeasurements) -> Labels:
    """Class on the WHAN diagram of Cid Fernandes et al. (2011), for figures.

    With x = log10([N II]/Hα) and W = EW(Hα): star-forming x < -0.4, W ≥ 3 Å; strong AGN
    x ≥ -0.4, W > 6; weak AGN x ≥ -0.4, 3 ≤ W ≤ 6; retired 0.5 ≤ W < 3; passive W < 0.5 (W of Hα
    alone, as in the paper). No signal-to-noise cut.

    Parameters
    ----------
    lines
        Line measurements of n objects.

    Returns
    -------
    Labels
        Codes of `Whan`, int8, shape (n,); N/A where W, or an x that is needed, is missing.
    """
    width = np.asarray(lines.halpha_ew, dtype=np.float64)
    known = np.asarray(lines.measured, dtype=bool) & np.isfinite(width) & (width > _SENTINEL)
    x, _ = bpt_coordinates(lines)
    strong = known & (width >= RETIRED_EW_MAX)
    return np.select(
        [
            strong & (x < -0.4),
            strong & (x >= -0.4) & (width > 6.0),
            strong & (x >= -0.4),
            known & ~strong & (width >= RETIRED_EW_MIN),
            known & ~strong,
        ],
        [Whan.STAR_FORMING, Whan.STRONG_AGN, Whan.WEAK_AGN, Whan.RETIRED, Whan.PASSIVE],
        Whan.NOT_AVAILABLE,
    ).astype(np.int8)


def broad_from_subclass(subclass: npt.ArrayLike) -> Bools:
    """Whether SDSS's SUBCLASS contains ``BROADLINE``.

    Parameters
    ----------
    subclass
        Text or bytes, any padding, shape (n,); None and blanks are not broad.

    Returns
    -------
    Bools
        Shape (n,).

    Examples
    --------
    >>> broad_from_subclass(["STARBURST BROADLINE", "AGN", "BROADLINE   ", ""])
    array([ True, False,  True, False])
    """
    text = np.asarray(subclass)
    if text.dtype.kind == "S":
        return np.asarray(np.char.find(text, b"BROADLINE") >= 0)
    return np.asarray(np.char.find(text.astype(str), "BROADLINE") >= 0)
