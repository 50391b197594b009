"""Small generated data sets in the formats of the recipes that need a folder."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from datamodules import torchvision_sets

__all__ = ["DATA_OPTIONS", "install_generated_sets"]

_SHAPES = {
    "CIFAR10": (32, 32, 3), "MNIST": (28, 28), "FashionMNIST": (28, 28), "USPS": (16, 16), "SVHN": (3, 32, 32),
}  # fmt: skip
_COUNT = 2048  # images of a set


def install_generated_sets() -> None:
    """Replace torchvision's sets by random images of the same shapes."""
    torchvision_sets.open_set = _open_set


def _open_set(name: str, folder: Path, download: bool, **arguments: Any) -> Any:
    generator = np.random.default_rng(0)
    labels = np.arange(_COUNT) % 10
    return SimpleNamespace(
        data=generator.integers(0, 256, (_COUNT, *_SHAPES[name]), dtype=np.uint8),
        targets=labels.tolist(),
        classes=[f"class {number}" for number in range(10)],
    )


def _image_folder(folder: Path) -> dict[str, Any]:
    return {"data.root": _written_photographs(folder / "photographs"), "data.batch_size": 8}


def _omniglot(folder: Path) -> dict[str, Any]:
    return {"data.base.root": _written_characters(folder / "characters")}


def _cells(folder: Path) -> dict[str, Any]:
    return {"data.root": _written_cells(folder / "cells")}


DATA_OPTIONS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "imagefolder_": _image_folder,
    "omniglot_": _omniglot,
    "bccd_": _cells,
    **dict.fromkeys(("cifar10_", "mnist_", "fashion_mnist_", "svhn_", "usps_"), lambda folder: {}),
}
"""Functions that write the data of recipes with a prefix to a folder, and return the options that name it."""


def _write_once(write: Callable[[Path], None]) -> Callable[[Path], str]:
    """Return a function that writes a folder unless it exists, for several processes."""

    @cache
    def written(folder: Path) -> str:
        if not folder.exists():
            import os
            import tempfile

            part = Path(tempfile.mkdtemp(dir=folder.parent))
            write(part)
            try:
                os.rename(part, folder)
            except OSError:  # another process was faster
                if not folder.exists():
                    raise
        return str(folder)

    return written


def _save(path: Path, size: tuple[int, int], seed: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(small).convert(mode).resize(size).save(path)


@_write_once
def _written_photographs(folder: Path) -> None:
    """Three classes of 32 photographs each, and 96 without a label."""
    for number in range(192):
        place = f"class_{number % 3}" if number < 96 else "unlabeled"
        _save(folder / place / f"{number}.jpg", (288, 272), number)


@_write_once
def _written_characters(folder: Path) -> None:
    """Twelve alphabets of twelve characters with twenty drawings each."""
    for number in range(12 * 12 * 20):
        alphabet, character = divmod(number // 20, 12)
        place = folder / "images_background" / f"Alphabet_{alphabet:02}" / f"character{character + 1:02}"
        _save(place / f"{number}.png", (28, 28), number, "L")


@_write_once
def _written_cells(folder: Path) -> None:
    """Twenty-four photographs with a box of each of three classes, in the layout of Pascal VOC."""
    names = ("platelet", "red", "white")
    for number in range(24):
        _save(folder / "JPEGImages" / f"{number}.jpg", (320, 240), number)
        objects = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{20 + 80 * i}</xmin><ymin>{30 + number}</ymin>"
            f"<xmax>{80 + 80 * i}</xmax><ymax>{90 + number}</ymax></bndbox></object>"
            for i, name in enumerate(names)
        )
        size = "<size><width>320</width><height>240</height><depth>3</depth></size>"
        text = f"<annotation><filename>{number}.jpg</filename>{size}{objects}</annotation>"
        (folder / "Annotations").mkdir(exist_ok=True)
        (folder / "Annotations" / f"{number}.xml").write_text(text)
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split, numbers in {"train": range(16), "val": range(16, 20), "test": range(20, 24)}.items():
        (lists / f"{split}.txt").write_text("".join(f"{number}\n" for number in numbers))
