"""Truths of the mask presets (science.md §2.1, formats.md §A1)."""

import numpy as np
import pytest

from spectra_scale.errors import UsageError
from spectra_scale.spectrum.grid import WavelengthGrid
from spectra_scale.spectrum.kernels import rest_frame_conserve
from spectra_scale.spectrum.masks import MASK_PRESETS, SPPIXMASK, mask_bits_of
from spectra_scale.spectrum.observed import ObservedSpectra, snap_loglam
from spectra_scale.spectrum.preprocess import Preprocess, to_rest_frame


def bits_set(number):
    return {bit for bit in range(64) if number >> bit & 1}


def test_presets_hold_the_bits_that_science_md_names():
    assert bits_set(MASK_PRESETS["paper"]) == set(range(32))
    assert bits_set(MASK_PRESETS["brightsky"]) == {23}
    assert bits_set(MASK_PRESETS["strict"]) == {17, 18, 20, 21, 22, 23, 25, 26, 27, 28}


def test_strict_leaves_out_the_bits_of_whole_fibres_and_of_partly_bad_pixels():
    strict = bits_set(MASK_PRESETS["strict"])
    assert all(bit > 15 for bit in strict)
    assert SPPIXMASK["PARTIALREJECT"] not in strict
    assert SPPIXMASK["NEARBADPIXEL"] not in strict


def test_bit_numbers_follow_the_sdss_table():
    assert SPPIXMASK["NOPLUG"] == 0
    assert SPPIXMASK["MANYBADCOLUMNS"] == 4
    assert SPPIXMASK["NEARBADPIXEL"] == 16
    assert SPPIXMASK["BRIGHTSKY"] == 23
    assert SPPIXMASK["REDMONSTER"] == 28
    assert len(set(SPPIXMASK.values())) == len(SPPIXMASK) == 26


def test_an_unknown_preset_is_refused_with_the_ones_there_are():
    with pytest.raises(UsageError, match=r"'lax'.*brightsky, paper, strict"):
        mask_bits_of("lax")


@pytest.mark.parametrize("preset", sorted(MASK_PRESETS))
@pytest.mark.parametrize("bit", range(32))
def test_a_pixel_is_rejected_by_exactly_the_bits_of_the_preset(preset, bit):
    native = np.arange(6.0) + 4000.0
    flux = np.array([[1, 1, 100, 1, 1]], np.float32)
    bits = np.zeros((1, 5), np.uint32)
    bits[0, 2] = np.uint32(1) << np.uint32(bit)
    reject = int(mask_bits_of(preset))
    ones = np.ones_like(flux)
    got, _, _ = rest_frame_conserve(flux, ones, bits, native, [0.0], native[[0, 5]], reject, 0.5)
    hidden = bit in bits_set(MASK_PRESETS[preset])
    assert got[0, 0] == pytest.approx(1.0 if hidden else 104 / 5, rel=1e-6)  # float32


def read_real(real_data):
    """Galaxies and quasars of the real files that are in the paper's range (science.md §4)."""
    fits = pytest.importorskip("astropy.io.fits")
    lines = (real_data / "MANIFEST.tsv").read_text().splitlines()
    names = lines[0].split("\t")
    for line in lines[1:]:
        row = dict(zip(names, line.split("\t"), strict=False))
        if not row["path"].startswith(("sdss/spec-lite", "sdss/spec-full")):
            continue
        if row["class"] not in {"GALAXY", "QSO"} or row["zwarning"] != "0":
            continue
        if 0.05 <= float(row["z"]) <= 0.36:
            with fits.open(real_data / row["path"], memmap=False) as hdus:
                table = hdus[1].data
                columns = {name.lower(): table[name] for name in table.names}
            pixel = snap_loglam(columns["loglam"])
            block = ObservedSpectra(
                np.array([row["path"]]),
                int(pixel[0]),
                columns["flux"][None],
                columns["ivar"][None],
                columns["and_mask"][None],
            )
            yield block, float(row["z"])


def test_any_bit_drops_half_spectra_of_real_files_and_the_other_presets_do_not(real_data):
    spectra = list(read_real(real_data))
    assert len(spectra) == 137
    dropped = {}
    for preset in MASK_PRESETS:
        settings = Preprocess(mask=preset, grid=WavelengthGrid.rest_frame())
        blocks = [to_rest_frame(block, [z], settings) for block, z in spectra]
        dropped[preset] = sum(quality.masked_fraction[0] > 0.4 for _, quality in blocks)
        for rest, quality in blocks:
            assert np.isfinite(rest.flux).all()
            assert (rest.flux[~rest.mask] == 0).all()
            # Any bit can reject all of a spectrum: then there is no S/N.
            assert (quality.snr_total[0] > 0) == (quality.masked_fraction[0] < 1)
    # The counts of science.md §2.1.
    assert dropped == {"paper": 17, "brightsky": 0, "strict": 0}
