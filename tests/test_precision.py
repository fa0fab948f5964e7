"""Whether products in bfloat16 are fast, and what they leave in float32."""

from pathlib import Path

import numpy as np
import pytest
import torch

from spectra_scale.models.autoencoder import Architecture, encode, seeded_autoencoder
from spectra_scale.models.precision import bf16_here, products_in

CPUINFO = Path("/proc/cpuinfo")


def test_a_cpu_has_bfloat16_where_its_flags_say_so():
    if not CPUINFO.is_file():
        pytest.skip("this system does not list the flags of its processor")
    flags = set(CPUINFO.read_text().split())
    assert bf16_here("cpu") == bool(flags & {"avx512_bf16", "amx_tile"})


@pytest.mark.parametrize(("capability", "fast"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_has_it_from_capability_8_on(monkeypatch, capability, fast):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert bf16_here("cuda") == fast


def test_what_is_not_known_is_not_fast(monkeypatch):
    assert not bf16_here("meta")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not bf16_here(torch.device("cpu"))


def test_products_are_rounded_and_results_are_float32():
    model = seeded_autoencoder(Architecture(200, (64, 32), 4), 1)
    flux = np.random.default_rng(1).normal(1, 0.2, (50, 200)).astype("f4")
    ivar = np.ones_like(flux)
    exact = encode(model, flux, ivar, want_reconstruction=True)
    rough = encode(model, flux, ivar, want_reconstruction=True, precision="bfloat16")
    for a, b in zip(exact, rough, strict=True):
        assert b.dtype == np.float32
        # Three to six roundings of 2^-9 of sums whose terms are up to 1.
        assert 0 < np.abs(a - b).max() < 0.02
    with products_in("float32", torch.device("cpu")):
        assert model.encode(torch.from_numpy(flux)).dtype == torch.float32
