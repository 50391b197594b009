"""Whether the device that trains computes in bfloat16, or imitates it."""

import platform

import torch

__all__ = ["has_bfloat16"]


def has_bfloat16(accelerator: str = "auto") -> bool:
    """Return whether the device has instructions for products of bfloat16 matrices.

    A processor without them computes such products one by one: a training step of a small residual network takes five
    to ten times as long in bfloat16 as in float32 there, and half as long where they exist (AMX, AVX512_BF16).

    Args:
        accelerator: As the Trainer takes it; "auto" stands for the best device of this machine.

    Returns:
        False for x86 processors without AMX and AVX512_BF16, for others where oneDNN has no such products, and for GPUs
        of NVIDIA before Ampere; True for what is not known.
    """
    device = None if accelerator == "cpu" else torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        if platform.machine().lower() in ("x86_64", "amd64"):
            return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        return bool(available and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
