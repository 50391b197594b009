"""Measure the speed of augmentation, compared with torchvision, lightly, kornia and albumentations.

All run in turn in one process, on the same images; peers that are not installed are reported and skipped. Each gets
images in its preferred form (PIL, HWC arrays, uint8 tensors) and returns a batch. Rows:

    crop       padded crop, horizontal flip and normalization, 32 pixels, batch 256
    simclr32   two views without blur, 32 pixels, batch 128
    simclr224  two views with blur (k = 23), from 256 to 224 pixels, batch 16
    cutmix32, cutmix224   compared with torchvision v2.CutMix, which draws one box for the entire batch
    step       the share of the views in the time of a SimCLR step (ResNet-18, 32 pixels, batch 64)

    pip install lit-cv[bench]
    python scripts/benchmark_augmentation.py --threads 1 2
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no network access

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.models import resnet18
from torchvision.transforms import v2

from lit_cv.augment import (
    build_operations,
    cutmix,
    draw_cutmix,
    mix_labels,
    policy_operations,
    simclr_operations,
    soft_labels,
)
from lit_cv.callbacks.contrastive import ContrastiveAugmentation

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Works = dict[str, Callable[[], object]]


def optional(name: str) -> Any:
    """Return a module, or `None` if it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        print(f"skipped: {name} ({error})")
        return None


def random_images(n: int, size: int) -> Tensor:
    """Return smooth random uint8 images with a little noise, (n, 3, size, size)."""
    smooth = F.interpolate(torch.rand(n, 3, size // 8, size // 8), size=(size, size), mode="bicubic")
    return ((smooth + 0.1 * torch.rand(n, 3, size, size)).clamp(0, 1) * 255).to(torch.uint8)


def normalized(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) * 255 for values in (MEAN, STD))
    return images.float().sub_(mean).div_(std)


def crop_row(peers: dict[str, Any]) -> tuple[int, Works]:
    images = random_images(256, 32)
    pil = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    per_sample = v2.Compose(
        [
            v2.RandomCrop(32, 4),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    chain = build_operations(policy_operations("small_images"))
    works: Works = {
        "torchvision v2, PIL": lambda: torch.stack([per_sample(image) for image in pil]),
        "lit_cv": lambda: normalized(chain(images)),
    }
    if album := peers["albumentations"]:
        steps = [album.PadIfNeeded(40, 40, border_mode=0), album.RandomCrop(32, 32), album.HorizontalFlip()]
        composed = album.Compose([*steps, album.Normalize(), album.ToTensorV2()])
        arrays = [np.asarray(image) for image in pil]
        works["albumentations"] = lambda: torch.stack([composed(image=array)["image"] for array in arrays])
    if korn := peers["kornia.augmentation"]:
        steps = [korn.RandomCrop((32, 32), 4), korn.RandomHorizontalFlip()]
        steps.append(korn.Normalize(torch.tensor(MEAN), torch.tensor(STD)))
        sequence = korn.AugmentationSequential(*steps)
        works["kornia"] = lambda: sequence(images.float() / 255)
    return 256, works


def simclr_row(peers: dict[str, Any], n: int, full: int, size: int, blur: float) -> tuple[int, Works]:
    images = random_images(n, full)
    pil = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    jitter, sigma = (0.8, 0.8, 0.8, 0.2), (0.1, 2.0)
    steps: list[Any] = [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]
    steps += [v2.RandomApply([v2.ColorJitter(*jitter)], 0.8), v2.RandomGrayscale(0.2)]
    if blur:
        steps.append(v2.RandomApply([v2.GaussianBlur(23, sigma)], blur))
    per_sample = v2.Compose([*steps, v2.ToImage()])
    batched = [{"name": "gaussian_blur", "kernel_size": 23, "p": blur}] if blur else []
    chain = build_operations([*simclr_operations(size, blur=0.0), *batched])
    linear = build_operations([*simclr_operations(size, blur=0.0, exact=False), *batched])
    works: Works = {
        "torchvision v2, PIL": lambda: torch.stack([per_sample(image) for image in pil * 2]),
        "lit_cv": lambda: chain(images.repeat(2, 1, 1, 1)),
        "lit_cv, exact=False": lambda: linear(images.repeat(2, 1, 1, 1)),
    }
    if lightly := peers["lightly.transforms"]:
        views = lightly.SimCLRTransform(input_size=size, gaussian_blur=blur, cj_strength=1.0, normalize=None)

        def with_lightly() -> list[Tensor]:
            samples = [views(image) for image in pil]
            return [torch.stack(view) for view in zip(*samples, strict=True)]

        works["lightly"] = with_lightly
    if album := peers["albumentations"]:
        factors = (0.2, 1.8)
        steps = [album.RandomResizedCrop((size, size)), album.HorizontalFlip()]
        steps += [album.ColorJitter(factors, factors, factors, (-0.2, 0.2), p=0.8), album.ToGray(p=0.2)]
        if blur:
            steps.append(album.GaussianBlur((23, 23), sigma, p=blur))
        composed = album.Compose([*steps, album.ToTensorV2()])
        arrays = [np.asarray(image) for image in pil]
        works["albumentations"] = lambda: torch.stack([composed(image=array)["image"] for array in arrays * 2])
    if korn := peers["kornia.augmentation"]:
        steps = [korn.RandomResizedCrop((size, size)), korn.RandomHorizontalFlip(), korn.ColorJitter(*jitter, p=0.8)]
        steps.append(korn.RandomGrayscale(p=0.2))
        if blur:
            steps.append(korn.RandomGaussianBlur((23, 23), sigma, p=blur))
        sequence = korn.AugmentationSequential(*steps)
        works["kornia"] = lambda: sequence(images.repeat(2, 1, 1, 1).float() / 255)
    return 2 * n, works


def cutmix_row(n: int, size: int) -> tuple[int, Works]:
    images, labels = random_images(n, size), torch.randint(10, (n,))
    reference = v2.CutMix(num_classes=10)

    def ours() -> tuple[Tensor, Tensor]:
        boxes, keep = draw_cutmix(n, (size, size), 1.0)
        return cutmix(images, boxes), mix_labels(soft_labels(labels, 10), keep)

    return n, {"torchvision v2, one box per batch": lambda: reference(images, labels), "lit_cv": ours}


def step_row() -> tuple[int, Works]:
    network = resnet18(num_classes=128)
    network.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    network.maxpool = torch.nn.Identity()
    images = random_images(64, 32)
    callback = ContrastiveAugmentation()
    views = callback.views(images)

    def step() -> None:
        network.zero_grad()
        network(normalized(views.flatten(0, 1))).square().mean().backward()

    return 128, {"step on ready views": step, "lit_cv": lambda: callback.views(images)}


def measure(works: Works, rounds: int, seconds: float) -> dict[str, float]:
    """Return the median seconds of each function, measured in turn."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    start = time.perf_counter()
    for done in range(rounds):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - begin)
        if done >= 2 and time.perf_counter() - start > seconds:
            break
    return {name: statistics.median(taken) for name, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=15, help="maximum runs of each function")
    parser.add_argument("--seconds", type=float, default=20.0, help="time limit of a row, after three rounds")
    parser.add_argument("--rows", nargs="+", help="rows to measure; all by default")
    args = parser.parse_args()
    peers = {name: optional(name) for name in ("albumentations", "kornia.augmentation", "lightly.transforms")}
    rows: dict[str, Callable[[], tuple[int, Works]]] = {
        "crop": lambda: crop_row(peers),
        "simclr32": lambda: simclr_row(peers, 128, 32, 32, 0.0),
        "simclr224": lambda: simclr_row(peers, 16, 256, 224, 0.5),
        "cutmix32": lambda: cutmix_row(256, 32),
        "cutmix224": lambda: cutmix_row(64, 224),
        "step": step_row,
    }
    print(f"{'row':10} {'threads':>7}  {'work':32} {'us/image':>9} {'images/s':>9} {'ratio':>7}")
    for row in args.rows or rows:
        for threads in args.threads:
            torch.manual_seed(0)
            torch.set_num_threads(threads)
            if peers["albumentations"]:
                import_module("cv2").setNumThreads(threads)
            n, works = rows[row]()
            taken = measure(works, args.rounds, args.seconds)
            first = next(iter(taken.values()))
            for name, seconds in taken.items():
                rate = f"{first / seconds:6.1f}x" if row != "step" else f"{100 * seconds / first:6.1f}%"
                print(f"{row:10} {threads:7}  {name:32} {seconds / n * 1e6:9.1f} {n / seconds:9.0f} {rate}", flush=True)


if __name__ == "__main__":
    main()
