"""Whether matrix products in bfloat16 are fast here, and running a model's products in it.

bfloat16 has the range of float32 and 8 bits of mantissa. Products in it are several times as fast
where the hardware has them, and slower than float32 where it does not: so one looks first.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

#: First CUDA capability whose tensor cores know bfloat16.
_CUDA_CAPABILITY = (8, 0)

Precision = Literal["float32", "bfloat16"]


def bf16_here(device: torch.device | str) -> bool:
    """Whether the hardware behind a device multiplies bfloat16 matrices at speed.

    Parameters
    ----------
    device
        A device of torch.

    Returns
    -------
    True for a CUDA device of capability 8.0 or more, and for a CPU with AVX512-BF16 or AMX, as
    torch tells it; False for everything else, and where this torch cannot tell.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _CUDA_CAPABILITY
    if device.type != "cpu":
        return False
    # Not on older torch: then float32 is right, only slower.
    found: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def products_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """A block in which a model's matrix products are in `precision`.

    Parameters
    ----------
    precision
        ``bfloat16`` is torch's autocast: weights stay float32 and are rounded when used, products
        are added up in float32, and what comes out of a layer is bfloat16. ``float32`` changes
        nothing.
    device
        Device of the model.
    """
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
