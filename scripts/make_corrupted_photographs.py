"""Make a pair of domains of photographs: clean ones with labels, and others that are corrupted.

Each corrupted photograph has one of four kinds of damage: noise, blur, little contrast or strong JPEG compression, with
the strengths of the usual benchmark (Hendrycks and Dietterich 2019, levels 1 to 5). Training photographs are divided
between the domains, so that no photograph is in both; test photographs are in both, clean and corrupted, which shows
how much accuracy the damage costs. The input is a folder with `train` and `test`, each with a folder for each class.

    python scripts/make_corrupted_photographs.py --photographs data/clothing --output data/corrupted --level 3

The output has `source` and `target`, each with `train` and `test`.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

SUFFIXES = (".jpg", ".jpeg", ".png")
SIDE = 224  # of the shorter side, to which strengths refer
NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)  # standard deviation, in [0, 1] units
BLUR = (1, 2, 3, 4, 6)  # pixels
CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)  # factor
QUALITY = (25, 18, 15, 10, 7)  # of JPEG


def add_noise(image: Image.Image, level: int, random: np.random.RandomState) -> Image.Image:
    pixels = np.asarray(image) / 255 + random.normal(0, NOISE[level], (*image.size[::-1], 3))
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))


def blur(image: Image.Image, level: int, random: np.random.RandomState) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(BLUR[level]))


def lower_contrast(image: Image.Image, level: int, random: np.random.RandomState) -> Image.Image:
    pixels = np.asarray(image).astype(np.float64)
    mean = pixels.mean((0, 1), keepdims=True)
    return Image.fromarray((mean + (pixels - mean) * CONTRAST[level]).round().astype(np.uint8))


def compress(image: Image.Image, level: int, random: np.random.RandomState) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY[level])
    return Image.open(buffer).convert("RGB")


KINDS: tuple[Callable[[Image.Image, int, np.random.RandomState], Image.Image], ...] = (
    add_noise,
    blur,
    lower_contrast,
    compress,
)


def write(files: list[Path], root: Path, folder: Path, level: int, random: np.random.RandomState) -> None:
    """Write copies of photographs with a shorter side of `SIDE` pixels; level 0 is clean."""
    for number, file in enumerate(files):
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        factor = SIDE / min(image.size)
        image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
        if level:
            image = KINDS[number % len(KINDS)](image, level - 1, random)
        target = (folder / file.relative_to(root)).with_suffix(".png" if level else ".jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        image.save(target, **({} if level else {"quality": 92}))


def main() -> None:
    """Write both domains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--photographs", type=Path, required=True, help="folder with `train` and `test` of class folders"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write; it must not exist")
    parser.add_argument("--level", type=int, choices=range(1, 6), default=3, help="strength of the damage")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.output.exists():
        raise SystemExit(f"{args.output} exists already: give another --output, or remove it.")
    random = np.random.RandomState(args.seed)
    for split in ("train", "test"):
        root = args.photographs / split
        files = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
        if len(files) < 2:
            raise SystemExit(
                f"{root} has {len(files)} photographs: give a folder with class folders in train and test."
            )
        shuffled = [files[i] for i in random.permutation(len(files))]
        parts = (files, files) if split == "test" else (shuffled[: len(files) // 2], shuffled[len(files) // 2 :])
        for name, part, level in zip(("source", "target"), parts, (0, args.level), strict=True):
            print(f"{name}/{split}: {len(part)} photographs", flush=True)
            write(part, root, args.output / name / split, level, random)


if __name__ == "__main__":
    main()
