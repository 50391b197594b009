"""Make the target of a pair of domains: digits blended over patches of photographs.

Each image is the absolute difference of a gray digit and a colored patch, 28 x 28 pixels, as in the usual benchmark of
adaptation from plain digits (Ganin and Lempitsky 2015, section 4). Training and test images have different digits and
patches of different photographs. The result is a folder `train` and a folder `test` with a folder of PNG files for each
digit.

    python scripts/make_digits_over_photographs.py --mnist data --photographs data/clothing --output data/digits_over
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import MNIST
from torchvision.transforms.functional import pil_to_tensor

SIDE = 28
SUFFIXES = (".jpg", ".jpeg", ".png")


def photographs(root: Path) -> list[Path]:
    """Return the photographs below a folder, in the same order on every machine."""
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(found) < 2:
        raise SystemExit(f"{root} has {len(found)} photographs: give a folder with at least two .jpg or .png files.")
    return found


def patch(path: Path, generator: torch.Generator) -> Tensor:
    """Return a random patch (3, 28, 28) uint8 of a photograph, at half its resolution or less."""
    with Image.open(path) as image:
        image = image.convert("RGB")
        factor = max(SIDE / min(image.size), 0.5)
        image = image.resize((max(SIDE, round(image.width * factor)), max(SIDE, round(image.height * factor))))
        pixels = pil_to_tensor(image)
    top, left = (
        int(torch.randint(size - SIDE + 1, (1,), generator=generator)) for size in (pixels.shape[1], pixels.shape[2])
    )
    return pixels[:, top : top + SIDE, left : left + SIDE]


def blend(digit: Tensor, background: Tensor) -> Tensor:
    """Return the absolute difference of a digit (28, 28) and a patch (3, 28, 28), uint8."""
    return (digit.int() - background.int()).abs().byte()


def write(digits: Tensor, labels: Tensor, files: list[Path], folder: Path, generator: torch.Generator) -> None:
    """Write one blended image for each digit."""
    chosen = torch.randint(len(files), (len(digits),), generator=generator).tolist()
    for number, (digit, label, file) in enumerate(zip(digits, labels.tolist(), chosen, strict=True)):
        path = folder / str(label) / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        blended = blend(digit, patch(files[file], generator))
        Image.fromarray(blended.permute(1, 2, 0).numpy()).save(path)
        if (number + 1) % 1000 == 0:
            print(f"{folder.name}: {number + 1:,} of {len(digits):,}", flush=True)


def main() -> None:
    """Write both folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, default=Path("data"), help="folder of MNIST")
    parser.add_argument("--photographs", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--output", type=Path, required=True, help="new folder")
    parser.add_argument("--train", type=int, default=6000, help="number of training images")
    parser.add_argument("--test", type=int, default=4000, help="number of test images")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.output.exists() and any(args.output.iterdir()):
        raise SystemExit(f"{args.output} is not empty: give a new folder.")
    generator = torch.Generator().manual_seed(args.seed)
    files = photographs(args.photographs)
    order = torch.randperm(len(files), generator=generator).tolist()
    half = len(files) // 2
    for name, count, part in (("train", args.train, order[:half]), ("test", args.test, order[half:])):
        digits = MNIST(args.mnist, train=name == "train", download=True)
        rows = torch.randperm(len(digits), generator=generator)[:count]
        write(digits.data[rows], digits.targets[rows], [files[k] for k in part], args.output / name, generator)


if __name__ == "__main__":
    main()
