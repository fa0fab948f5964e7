"""Noise and masks of native pixels, of both sides by the same functions."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra_scale.compare.sides import Native
from spectra_scale.errors import BadSpectrumError, SpectraScaleError
from spectra_scale.mock.noise_statistics import (
    NoiseStatistics,
    median_statistics,
    noise_statistics,
)
from spectra_scale.spectrum.masks import SPPIXMASK
from spectra_scale.surveys.files import SpectrumFile
from spectra_scale.surveys.fits_bytes import UnsureError, image, load, read_hdus
from spectra_scale.surveys.fits_fallback import astropy_hdus
from spectra_scale.surveys.scan import scan
from spectra_scale.surveys.sdss_plate import read_plate, read_zbest
from spectra_scale.surveys.sdss_spec import read_spec

SPECTROGRAPHS = ("legacy", "boss")
_BRIGHTSKY = 1 << SPPIXMASK["BRIGHTSKY"]
# The range of the paper's grid: outside it masks do no harm.
_REST_RANGE = (3388.0, 8318.0)
_HALF_MASKED = 0.4
# The HDU of spZbest with the best template fit of every fibre.
_MODELS = 2


@dataclass(slots=True, eq=False)
class MaskCounts:
    """Sums over native pixels with data, by spectrograph; call it with every block.

    Parameters
    ----------
    spectra, half_masked
        Spectra, and those with 40 % of their pixels in the rest-frame range masked by any bit.
    pixels
        Pixels with ivar > 0.
    by_bit
        Of those, pixels with each bit of AND_MASK, shape (32,).
    """

    spectra: dict[str, int] = field(default_factory=dict)
    half_masked: dict[str, int] = field(default_factory=dict)
    pixels: dict[str, int] = field(default_factory=dict)
    by_bit: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def __call__(self, block: Native) -> None:
        """Add a block."""
        boss = np.array([row["instrument"] == "BOSS" for row in block.rows])
        z = np.array([row["z"] for row in block.rows])
        for name, rows in zip(SPECTROGRAPHS, (~boss, boss), strict=True):
            if rows.any():
                self._add(name, block, rows, z[rows])

    def _add(
        self, name: str, block: Native, rows: NDArray[np.bool_], z: NDArray[np.float64]
    ) -> None:
        bits = block.observed.mask_bits[rows]
        valid = block.observed.ivar[rows] > 0
        counts = [int((valid & (bits >> bit & 1 == 1)).sum()) for bit in range(32)]
        rest = block.observed.wavelength / (1 + z[:, None])
        inside = valid & (rest > _REST_RANGE[0]) & (rest < _REST_RANGE[1])
        masked = (inside & (bits != 0)).sum(axis=1) / np.maximum(inside.sum(axis=1), 1)
        self.by_bit[name] = self.by_bit.get(name, np.zeros(32, np.int64)) + np.array(counts)
        self.pixels[name] = self.pixels.get(name, 0) + int(valid.sum())
        self.spectra[name] = self.spectra.get(name, 0) + int(rows.sum())
        half = int((masked >= _HALF_MASKED).sum())
        self.half_masked[name] = self.half_masked.get(name, 0) + half

    def numbers(self) -> dict[str, dict[str, Any]]:
        """Shares by spectrograph, and of both together, as JSON can hold them."""
        out = {}
        groups = {name: (name,) for name in self.spectra} | {"all": tuple(self.spectra)}
        for name, members in groups.items():
            pixels = max(sum(self.pixels[m] for m in members), 1)
            counts = np.sum([self.by_bit[m] for m in members], axis=0)
            spectra = sum(self.spectra[m] for m in members)
            out[name] = {
                "spectra": spectra,
                "half_masked": sum(self.half_masked[m] for m in members) / max(spectra, 1),
                "bits": {bit: float(counts[n] / pixels) for bit, n in SPPIXMASK.items()},
            }
        return out


def noise_of(folder: Path, limit: int, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Noise of the spectra of a folder, against the models that stand beside them.

    Spec files come first, with the model of their own; where there are too few, fibres of plates,
    with the template fits in HDU 2 of spZbest. Stars and all redshifts enter: noise knows no
    class, and the real BOSS files in the range of z are few.

    Parameters
    ----------
    folder
        Of the release or of real files.
    limit
        Spectra to read at most.
    rng
        Chooses them.

    Returns
    -------
    By ``legacy`` and ``boss``: medians over spectra, the number of ``spectra``, and ``brightsky``,
    the mean share of pixels with that bit among those with data.
    """
    there = scan(folder, "sdss")
    found: dict[str, list[_Noise]] = {}
    single = [each.file for each in there.of("spec")]
    files = [single[i] for i in rng.permutation(len(single))[:limit]]
    for file in files:
        one = _of_file(file.path)
        if one is not None:
            found.setdefault(one.spectrograph, []).append(one)
    left = limit - len(files)
    plates = [plate for plate in there.of("spplate") if plate.redshifts is not None]
    for n, i in enumerate(rng.permutation(len(plates))):
        # Equal shares; what a small plate lacks goes to those that follow.
        share = -(-left // (len(plates) - n))
        measured = _of_plate(plates[i], share, rng) if share else []
        left -= len(measured)
        for one in measured:
            found.setdefault(one.spectrograph, []).append(one)
    return {name: _summary(spectra) for name, spectra in sorted(found.items())}


@dataclass(frozen=True, slots=True)
class _Noise:
    """Noise of one spectrum, and the share of its pixels with data that have BRIGHTSKY."""

    spectrograph: str
    statistics: NoiseStatistics
    brightsky: float

    @classmethod
    def of(
        cls,
        spectrograph: str,
        flux: NDArray[np.float32],
        ivar: NDArray[np.float32],
        model: NDArray[np.float32],
        bits: NDArray[np.uint32],
    ) -> _Noise:
        bright = (bits[ivar > 0] & _BRIGHTSKY) != 0
        statistics = noise_statistics(flux, ivar, model, bits)
        return cls(spectrograph, statistics, float(bright.mean()) if bright.size else 0.0)


def _summary(spectra: list[_Noise]) -> dict[str, float]:
    middle = asdict(median_statistics(one.statistics for one in spectra))
    bright = float(np.mean([one.brightsky for one in spectra]))
    return middle | {"brightsky": bright, "spectra": len(spectra)}


def _of_file(path: Path) -> _Noise | None:
    try:
        spec = read_spec(path)
        model = _model(path)
    except (BadSpectrumError, SpectraScaleError):
        return None
    assert spec.row is not None
    if model is None:
        return None
    a = spec.arrays
    name = SPECTROGRAPHS[int(spec.row["instrument"] == "BOSS")]
    return _Noise.of(name, a.flux, a.ivar, model, a.mask_bits)


def _of_plate(plate: SpectrumFile, n: int, rng: np.random.Generator) -> list[_Noise]:
    """Noise of `n` fibres of a plate on science targets; none if its files cannot be used."""
    assert plate.redshifts is not None
    try:
        table = read_zbest(plate.redshifts.path, plate.file.path)
        names = ("fiber", "targettype", "instrument")
        rows = list(zip(*(table[name].to_pylist() for name in names), strict=True))
        targets = [row for row in rows if row[1] == "SCIENCE"]
        chosen = [targets[i] for i in sorted(rng.permutation(len(targets))[:n].tolist())]
        if not chosen:
            return []
        arrays = read_plate(plate.file.path, [row[0] for row in chosen])
        hdu = read_hdus(load(plate.redshifts.path, mapped=True), _MODELS + 1)[_MODELS]
        models = image(hdu) if hdu.complete else np.empty((0, 0))
    except (BadSpectrumError, SpectraScaleError, UnsureError, IndexError):
        return []
    if models.shape != (len(rows), arrays.flux.shape[1]):
        return []
    # Fit and spectrum are both in the order of the fibres.
    place = {row[0]: i for i, row in enumerate(rows)}
    return [
        _Noise.of(
            SPECTROGRAPHS[int(row[2] == "BOSS")],
            arrays.flux[i],
            arrays.ivar[i],
            np.asarray(models[place[row[0]]], np.float32),
            arrays.mask_bits[i],
        )
        for i, row in enumerate(chosen)
        if (arrays.ivar[i] > 0).any()
    ]


def _model(path: Path) -> NDArray[np.float32] | None:
    table = astropy_hdus(load(path), 2)[1].table
    if table is None or "model" not in table:
        return None
    return np.asarray(table.column("model"), np.float32)
