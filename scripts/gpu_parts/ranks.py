"""NT-Xent on two ranks equals one process with the joined batch."""

import os
import socket
from typing import Any

import torch
import torch.multiprocessing
from torch import Tensor

from gpu_parts.setting import Setting, SkippedItemError, require
from lit_cv.losses import NTXentLoss

__all__ = ["items", "run"]

IMAGES, DIM, RANKS = 256, 128, 2
TOLERANCE = 1e-4  # relative to the largest gradient
BACKENDS = {"nccl, two devices": "nccl", "gloo, one device": "gloo", "gloo, CPU": "gloo"}


def items(setting: Setting) -> dict[str, list[str]]:
    """Return the ways to connect two ranks."""
    return {"items": ["gloo, CPU"] if setting.tiny else list(BACKENDS)}


def run(item: str, setting: Setting) -> dict[str, Any]:
    """Compute the loss and its gradient on two ranks, each with half of the images."""
    devices = torch.cuda.device_count() if setting.device == "cuda" else 0
    if item.startswith("nccl") and devices < RANKS:
        raise SkippedItemError(f"{devices} device(s), not two")
    if "one device" in item and not devices:
        raise SkippedItemError("no GPU")
    folder = setting.new_folder("ranks")
    port = _free_port()
    torch.multiprocessing.spawn(_rank, args=(item, port, str(folder)), nprocs=RANKS)
    results = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
    error = {key: max(float(result[key]) for result in results) for key in results[0]}
    require(all(value < TOLERANCE for value in error.values()), f"relative errors {error}")
    return {key: f"{value:.1e}" for key, value in error.items()}


def _rank(rank: int, item: str, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    device = torch.device("cpu")
    if "CPU" not in item:
        device = torch.device("cuda", rank if item.startswith("nccl") else 0)
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(BACKENDS[item], rank=rank, world_size=RANKS)
    views = torch.randn(2, IMAGES, DIM, generator=torch.Generator().manual_seed(0)).to(device)
    mine = slice(rank * IMAGES // RANKS, (rank + 1) * IMAGES // RANKS)
    expected_loss, expected_gradient = _loss(views, gather=False)
    loss, gradient = _loss(views[:, mine], gather=True)
    torch.distributed.all_reduce(loss)
    largest = expected_gradient.abs().max()
    # DistributedDataParallel divides gradients by the number of ranks.
    difference = (gradient / RANKS - expected_gradient[:, mine]).abs().max()
    errors = {
        "loss_error": ((loss / RANKS - expected_loss) / expected_loss).abs().cpu(),
        "gradient_error": (difference / largest).cpu(),
    }
    torch.save(errors, f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _loss(views: Tensor, gather: bool) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient; every view counts the same."""
    views = views.clone().requires_grad_()
    loss = NTXentLoss(0.2, gather=gather)(views)
    (gradient,) = torch.autograd.grad(loss, views)
    return loss.detach().clone(), gradient


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
