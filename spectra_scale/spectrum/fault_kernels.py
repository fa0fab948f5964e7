"""Compiled loops behind `faults`: one pass over spectra and their reconstructions.

A pixel is missing where ivar is 0; what its flux holds never reaches a sum.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from spectra_scale.spectrum.compiled import ONE, ZERO, compiled

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: Squares of pulls are cut here where a mean over pixels is wanted that single ones cannot own.
CUT = np.float32(9.0)
#: The same where strong pulls are what is looked for, and one pixel alone shall not decide.
WIDE_CUT = np.float32(25.0)
_TINY = np.float32(1e-20)


@compiled
def observed_pixel(pixel: int, offset: int, n_observed: int) -> int:
    """Pixel of the observed grid, clipped to its ends."""
    return min(max(pixel + offset, 0), n_observed - 1)


@compiled
def median_of(values: Floats, n: int) -> float:
    """Median of the first `n` values, which are sorted in place; n > 0."""
    # Insertion: a few dozen values, nearly in order from one pixel to the next.
    for i in range(1, n):
        v = values[i]
        k = i - 1
        while k >= 0 and values[k] > v:
            values[k + 1] = values[k]
            k -= 1
        values[k + 1] = v
    return 0.5 * (np.float64(values[(n - 1) // 2]) + np.float64(values[n // 2]))


@compiled
def add_misfit(
    recon: Floats,
    flux: Floats,
    ivar: Floats,
    group: Ints,
    bins: tuple[float, float, float],
    hist: Doubles,
) -> None:
    """Count, by pixel, the relative error that a reconstruction needs beside the noise.

    Parameters
    ----------
    recon, flux, ivar
        Shape (spectrum, pixel).
    group
        Of each spectrum, shape (spectrum,).
    bins
        Pull that the error may reach; natural logarithm of the first edge; bins in one e-fold.
    hist
        Changed, shape (group, pixel, bin): the first bin holds errors below the first edge and
        pixels that need none.
    """
    limit, first, per_fold = bins
    last = hist.shape[2] - 1
    for s in range(recon.shape[0]):
        for j in range(recon.shape[1]):
            v = ivar[s, j]
            if v <= ZERO:
                continue
            residual = np.float64(recon[s, j] - flux[s, j]) / limit
            need = residual * residual - 1.0 / np.float64(v)
            at = 0
            if need > 0.0:
                error = math.sqrt(need) / max(abs(np.float64(recon[s, j])), 1e-12)
                at = min(max(int((math.log(error) - first) * per_fold) + 1, 0), last)
            hist[group[s], j, at] += 1.0


@compiled
def add_observed(
    ivar: Floats, offset: Ints, half: int, excess: Doubles, valid: Doubles, seen: Doubles
) -> None:
    """Add up how noisy each observed pixel is beside its neighbours, and how often it is valid.

    Parameters
    ----------
    ivar
        Shape (spectrum, pixel).
    offset
        Of a spectrum's first pixel on the observed grid, shape (spectrum,).
    half
        Half the width of the neighbourhood, in pixels.
    excess, valid, seen
        Changed, shape (observed pixel,): sum of ln(σ / median σ of the neighbours), number of
        valid pixels, and of pixels.
    """
    n_pixels, n_observed = ivar.shape[1], len(seen)
    near = np.empty(2 * half + 1, np.float32)
    for s in range(ivar.shape[0]):
        for j in range(n_pixels):
            k = observed_pixel(j, offset[s], n_observed)
            seen[k] += 1.0
            if ivar[s, j] <= ZERO:
                continue
            n = 0
            for i in range(max(j - half, 0), min(j + half + 1, n_pixels)):
                if ivar[s, i] > ZERO:
                    near[n] = ivar[s, i]
                    n += 1
            valid[k] += 1.0
            excess[k] += 0.5 * math.log(median_of(near, n) / ivar[s, j])


@compiled
def pulls_of(
    recon: Floats, flux: Floats, ivar: Floats, misfit: Floats, pull: Floats, good: Bools
) -> None:
    """Residuals of one spectrum in units of noise and usual misfit together; 0 where missing."""
    for j in range(len(pull)):
        v = ivar[j]
        good[j] = v > ZERO
        error = misfit[j] * recon[j]
        pull[j] = (
            (flux[j] - recon[j]) / np.sqrt(ONE / max(v, _TINY) + error * error)
            if v > ZERO
            else ZERO
        )


@compiled
def measure(
    recon: Floats,
    flux: Floats,
    ivar: Floats,
    whose: tuple[Ints, Ints],
    scales: tuple[Floats, Bools, Bools, Bools],
    widths: tuple[int, int, int, int],
    seams: Ints,
    out: Doubles,
) -> None:
    """Measure what may be wrong with each spectrum; see `faults.measure_faults`.

    Parameters
    ----------
    recon, flux, ivar
        Shape (spectrum, pixel).
    whose
        Offset on the observed grid and group of each spectrum, shape (spectrum,).
    scales
        Misfit (group, pixel), sky (observed pixel,), usual (observed pixel,), quiet (pixel,).
    widths
        Pixels: core and reach of a spike, gap and reach of a step.
    seams
        Observed pixels where two arms meet, shape (seam,).
    out
        Changed, shape (spectrum, column).
    """
    offset, group = whose
    misfits, sky, usual, quiet = scales
    n_pixels = recon.shape[1]
    pull, good = np.empty(n_pixels, np.float32), np.empty(n_pixels, np.bool_)
    dark, far = np.empty(n_pixels, np.bool_), np.empty(n_pixels, np.bool_)
    for s in range(recon.shape[0]):
        misfit = misfits[group[s]]
        pulls_of(recon[s], flux[s], ivar[s], misfit, pull, good)
        for j in range(n_pixels):
            dark[j] = not sky[observed_pixel(j, offset[s], len(sky))]
        for j in range(n_pixels):
            # What a line of the sky leaves has wings.
            far[j] = dark[max(j - 1, 0)] and dark[j] and dark[min(j + 1, n_pixels - 1)]
        _sky(pull, good, (dark, far), out[s])
        _spikes(pull, (recon[s], flux[s]), (good, far, quiet), widths, out[s])
        _steps((recon[s], flux[s], ivar[s], misfit), seams - offset[s], widths, out[s])
        _missing(good, usual, offset[s], out[s])


@compiled
def _sky(pull: Floats, good: Bools, where: tuple[Bools, Bools], out: Doubles) -> None:
    dark, far = where
    on, off, n_on, n_off = 0.0, 0.0, 0, 0
    for j in range(len(pull)):
        if not good[j]:
            continue
        square = pull[j] * pull[j]
        if far[j]:
            off += min(square, CUT)
            n_off += 1
        elif not dark[j]:
            on += min(square, WIDE_CUT)
            n_on += 1
    out[0] = off / n_off if n_off > 0 else np.nan
    # A handful of pixels at least, or noise decides.
    known = n_on >= 8 and n_off >= 8
    out[1] = (on / n_on) / max(off / n_off, 1e-9) if known else np.nan
    out[2] = n_on


@compiled
def _spikes(
    pull: Floats,
    spectrum: tuple[Floats, Floats],
    where: tuple[Bools, Bools, Bools],
    widths: tuple[int, int, int, int],
    out: Doubles,
) -> None:
    good, dark, quiet = where
    core, reach = widths[0], widths[1]
    n_pixels = len(pull)
    near = np.empty(2 * reach + 1, np.float32)
    best, place, count = 0.0, -1, 0
    for j in range(n_pixels):
        if not (good[j] and dark[j]) or abs(pull[j]) < 3.0:
            continue
        n = 0
        for i in range(max(j - reach, 0), min(j + reach + 1, n_pixels)):
            if good[i] and abs(i - j) > core:
                near[n] = pull[i]
                n += 1
        if n < 4:
            continue
        height = (
            abs(pull[j] - median_of(near, n)) if quiet[j] else _depth(pull, spectrum, j, reach)
        )
        if height > 5.0:
            count += 1
        if height > best:
            best, place = height, j
    out[3], out[4], out[5] = best, place, count


@compiled
def _depth(pull: Floats, spectrum: tuple[Floats, Floats], at: int, reach: int) -> float:
    """By how many σ a pixel lies below the reconstruction of all its neighbours; 0 if it does not.

    No line, known to the model or not, takes the flux there.
    """
    recon, flux = spectrum
    least = recon[at]
    for i in range(max(at - reach, 0), min(at + reach + 1, len(recon))):
        least = min(least, recon[i])
    if flux[at] >= least:
        return 0.0
    depth: float = -pull[at] * np.float64(flux[at] - least) / np.float64(flux[at] - recon[at])
    return depth


@compiled
def _steps(
    spectrum: tuple[Floats, Floats, Floats, Floats],
    seams: Ints,
    widths: tuple[int, int, int, int],
    out: Doubles,
) -> None:
    out[6], out[7], out[8] = 0.0, 0.0, -1.0
    for number in range(len(seams)):
        jump, sigma = _jump(spectrum, seams[number], widths)
        if sigma > out[7]:
            out[6], out[7], out[8] = jump, sigma, seams[number]
    if out[7] > 0.0:
        # The root, because a step distorts the fit elsewhere, too: dividing by all of the usual
        # jump costs half of the steps, by none of it calls broad lines near a seam one.
        out[7] /= math.sqrt(max(_usual_jump(spectrum, seams, widths), 1.0))


@compiled
def _usual_jump(
    spectrum: tuple[Floats, Floats, Floats, Floats], seams: Ints, widths: tuple[int, int, int, int]
) -> float:
    """Median |jump| / σ away from the seams, in units of a Gaussian's."""
    reach = widths[3]
    n_pixels = len(spectrum[0])
    found = np.empty(n_pixels, np.float32)
    n = 0
    for place in range(reach, n_pixels - reach, max(reach // 2, 1)):
        away = n_pixels
        for number in range(len(seams)):
            away = min(away, abs(seams[number] - place))
        sigma = _jump(spectrum, place, widths)[1] if away >= reach else 0.0
        if sigma > 0.0:
            found[n] = sigma
            n += 1
    # Too few to tell: noise alone then.
    return median_of(found, n) / 0.6745 if n >= 5 else 1.0


@compiled
def _jump(
    spectrum: tuple[Floats, Floats, Floats, Floats], place: int, widths: tuple[int, int, int, int]
) -> tuple[float, float]:
    """Jump of F / F_rec at a pixel, and |jump| / σ; 0 where either side is not covered."""
    gap, reach = widths[2], widths[3]
    left = _mean_ratio(spectrum, place - reach, place - gap)
    right = _mean_ratio(spectrum, place + gap, place + reach)
    if left[1] <= 0.0 or right[1] <= 0.0:
        return 0.0, 0.0
    jump = right[0] - left[0]
    return jump, abs(jump) / math.sqrt(1.0 / left[1] + 1.0 / right[1])


@compiled
def _mean_ratio(
    spectrum: tuple[Floats, Floats, Floats, Floats], start: int, stop: int
) -> tuple[float, float]:
    """Weighted mean of F / F_rec - 1 over pixels, and its weight; 0 with under half of them."""
    recon, flux, ivar, misfit = spectrum
    total, weight, n = 0.0, 0.0, 0
    for j in range(max(start, 0), min(stop, len(recon))):
        if ivar[j] <= ZERO or recon[j] <= ZERO:
            continue
        ratio = flux[j] / recon[j] - ONE
        noise = ONE / (ivar[j] * recon[j] * recon[j]) + misfit[j] * misfit[j]
        # One bad pixel is no step.
        if ratio * ratio > np.float32(25.0) * noise + np.float32(0.25):
            continue
        w = 1.0 / np.float64(noise)
        total += w * ratio
        weight += w
        n += 1
    if 2 * n < stop - start:
        return 0.0, 0.0
    return total / weight, weight


@compiled
def _missing(good: Bools, usual: Bools, offset: int, out: Doubles) -> None:
    n_pixels = len(good)
    out[9], out[10] = 0.0, 0.0
    first, last = 0, n_pixels - 1
    while first < n_pixels and not good[first]:
        out[9] += usual[observed_pixel(first, offset, len(usual))]
        first += 1
    while last > first and not good[last]:
        out[10] += usual[observed_pixel(last, offset, len(usual))]
        last -= 1
    run, longest = 0.0, 0.0
    for j in range(first, last):
        run = 0.0 if good[j] else run + usual[observed_pixel(j, offset, len(usual))]
        longest = max(longest, run)
    out[9] /= n_pixels
    out[10] /= n_pixels
    out[11] = longest / n_pixels
