"""The same flow, training and encoding on a device; on the processor's torch without a GPU.

On a machine without pydantic: ``pytest --noconftest -m gpu tests/test_gis_gpu.py``, or without
pytest: ``python tests/benchmarks/gpu.py --checks``.
"""

from __future__ import annotations

from collections.abc import Callable

import gpu_checks
import pytest
import torch


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
            ],
        ),
    ],
)
@pytest.mark.parametrize("check", gpu_checks.ALL, ids=lambda check: check.__name__)
def test_a_device_gives_what_the_processor_gives(check: Callable[[str], None], device: str):
    check(device)
