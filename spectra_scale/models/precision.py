"""Arithmetic in bfloat16: where the hardware has it, and where it is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, get_args

import torch

from spectra_scale.errors import UsageError

Precision = Literal["float32", "bfloat16"]
PrecisionSetting = Literal["auto", "float32", "bfloat16"]

_FIRST_WITH_BF16 = 8  # CUDA's compute capability of Ampere
_CPU_TESTS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def bf16_here(device: torch.device | str) -> bool:
    """Whether products of bfloat16 matrices are faster than of float32 on a device.

    Parameters
    ----------
    device
        A CPU (AVX512-BF16 or AMX is needed: without them torch emulates, slowly), or a GPU
        (compute capability 8 or more).
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= _FIRST_WITH_BF16
    # torch tells it by names with an underscore; without them the answer is no.
    tests = [getattr(torch.cpu, name, None) for name in _CPU_TESTS]
    return kind == "cpu" and any(test() for test in tests if test is not None)


def resolve(setting: PrecisionSetting, device: torch.device | str) -> Precision:
    """The precision that a setting means on a device; ``auto`` is bfloat16 where it pays."""
    if setting not in get_args(PrecisionSetting):
        msg = f"precision {setting!r} is none of {get_args(PrecisionSetting)}."
        raise UsageError(msg)
    if setting == "auto":
        return "bfloat16" if bf16_here(device) else "float32"
    return setting


def products_in(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Matrix products inside the block are taken in this precision; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def without_denormals() -> Iterator[None]:
    """Numbers below 1.2e-38 are 0 inside the block, in this thread and those it starts.

    Adam's moments of units that have gone silent decay into them, and a CPU takes a hundred times
    as long for each: after three epochs of the paper's settings, steps took four times as long
    (docs/performance.md). Threads that torch had started before keep their ways.
    """
    before = float(torch.tensor(1e-310, dtype=torch.float64) * 1) == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
