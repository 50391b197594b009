"""A fast check for GPUs on machines without one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["short_cuda_check"]

_VARIABLE = "PYTORCH_NVML_BASED_CUDA_CHECK"


@contextmanager
def short_cuda_check() -> Iterator[None]:
    """Let torch know within the context that there is no GPU, without a look at the disk, if there is none.

    Adam and AdamW ask for one in each step, and Lightning makes torch look for the driver's library each time, which
    takes 0.1 ms where it is missing. Where there is a GPU nothing changes.
    """
    before = os.environ.get(_VARIABLE)
    if torch.cuda.is_available() or before is None:
        yield
        return
    os.environ[_VARIABLE] = "0"
    try:
        yield
    finally:
        os.environ[_VARIABLE] = before
