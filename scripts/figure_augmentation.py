"""Draw figures of every augmentation: a row for each, with the original first, then one draw per column.

The images are the two photographs of scikit-learn (china.jpg and flower.jpg), or those of a folder.

    python scripts/figure_augmentation.py --out lightning_logs/figures
    python scripts/figure_augmentation.py --images my_photographs --out .
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_images
from torch import Tensor

from datamodules import read_image
from lit_cv.augment import (
    OPERATIONS,
    POLICIES,
    build_operations,
    cutmix,
    draw_cutmix,
    draw_mixup,
    mixup,
    policy_operations,
)
from lit_cv.callbacks.augmentation import augment
from lit_cv.callbacks.contrastive import ContrastiveAugmentation

DRAWS = 8
OPTIONS: dict[str, dict[str, Any]] = {
    "random_crop": {"padding": 24},
    "affine": {"degrees": 20, "translate": 0.1, "scale": [0.8, 1.2], "shear": 15},
    "rotation": {"degrees": 30},
    "scaling": {"scale": [0.6, 1.4]},
    "color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    "gaussian_blur": {"kernel_size": 31, "sigma": [0.5, 5.0]},
    "gaussian_noise": {"std": [0.0, 0.2]},
    "cutout": {"size": 0.4},
}
SINGLE = ("brightness", "contrast", "saturation", "hue")


def photographs(folder: str | None, size: int) -> list[Tensor]:
    """Return square uint8 images (3, size, size)."""
    if folder is None:
        images = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]
    else:
        paths = [path for path in sorted(Path(folder).iterdir()) if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
        if not paths:
            raise SystemExit(f"no .jpg or .png images in {folder}")
        images = [read_image(path) for path in paths[:2]]
    squares = []
    for image in images:
        side = min(image.shape[1:])
        top, left = ((length - side) // 2 for length in image.shape[1:])
        square = image[None, :, top : top + side, left : left + side]
        squares.append(F.interpolate(square, size=(size, size), mode="bilinear", antialias=True)[0])
    return squares


def row(name: str, options: dict[str, Any], image: Tensor) -> Tensor:
    """Return the original and `DRAWS` draws of one operation."""
    chain = build_operations([{"name": name, **options}])
    return torch.cat([image[None], chain(image.expand(DRAWS, -1, -1, -1).contiguous())])


def operation_rows(image: Tensor) -> dict[str, Tensor]:
    rows = {}
    for name in OPERATIONS:
        rows[name] = row(name, ({"p": 1.0} if takes_chance(name) else {}) | OPTIONS.get(name, {}), image)
        if name == "color_jitter":
            for single in SINGLE:
                rows[f"  {single}"] = row(name, {single: 0.5 if single == "hue" else 0.8}, image)
    return rows


def takes_chance(name: str) -> bool:
    return name not in ("random_crop", "random_resized_crop", "horizontal_flip", "vertical_flip")


def policy_rows(image: Tensor, other: Tensor) -> dict[str, Tensor]:
    """Return rows of the policies, the views of contrastive learning, and the mixtures."""
    rows = {}
    small = F.interpolate(image[None], size=(32, 32), mode="bilinear", antialias=True)[0]
    for name in POLICIES:
        source = small if "small" in name else image
        chain = build_operations(policy_operations(name, None if "small" in name else image.shape[1]))
        rows[name] = torch.cat([source[None], chain(source.expand(DRAWS, -1, -1, -1).contiguous())])
    views = ContrastiveAugmentation(blur=[1.0, 0.1], solarize=[0.0, 0.2]).views(image.expand(DRAWS // 2, -1, -1, -1))
    rows["BYOL's two views, in turn"] = torch.cat([image[None], views.transpose(0, 1).flatten(0, 1)])
    pair = torch.stack([image, other]).repeat(DRAWS // 2, 1, 1, 1)
    size = (image.shape[1], image.shape[2])
    rows["cutmix"] = torch.cat([image[None], cutmix(pair, draw_cutmix(DRAWS, size, 1.0)[0])])
    rows["mixup"] = torch.cat([image[None], mixup(pair, draw_mixup(DRAWS, 1.0))])
    return rows


def scene_rows() -> dict[str, Tensor]:
    """Return rows that show how a mask (red) and a box (white) follow the pixels."""
    size = 128
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    disc = ((y - 50) ** 2 + (x - 70) ** 2 < 22**2).long()
    background = ((x // 16 + y // 16) % 2 * 60 + 90).to(torch.uint8)
    image = torch.where(disc.bool(), 220, background).to(torch.uint8).expand(3, -1, -1)
    rows = {}
    moves = ("random_crop", "random_resized_crop", "horizontal_flip", "affine", "trivial_augment")
    for name in moves:
        options = OPTIONS.get(name, {}) | ({"scale": [0.4, 1.0]} if name == "random_resized_crop" else {})
        box = torch.tensor([[48.0, 28.0, 93.0, 73.0]])
        batch: dict[str, Any] = {"image": image.expand(DRAWS, -1, -1, -1).contiguous(), "boxes": [box] * DRAWS}
        batch["mask"] = disc.expand(DRAWS, -1, -1)
        augment(build_operations([{"name": name, **options}]), batch, mask_fill=0)
        shown = [marked(image, disc, box), *map(marked, batch["image"], batch["mask"], batch["boxes"])]
        rows[name] = torch.stack(shown)
    return rows


def marked(image: Tensor, mask: Tensor, boxes: Tensor) -> Tensor:
    """Return an image with its mask in red and its boxes in white."""
    image = image.clone()
    image[1:] = torch.where(mask == 1, image[1:] // 3, image[1:])
    for left, top, right, bottom in boxes.round().long().tolist():
        right, bottom = min(right, image.shape[2] - 1), min(bottom, image.shape[1] - 1)
        image[:, top : bottom + 1, [left, right]] = 255
        image[:, [top, bottom], left : right + 1] = 255
    return image


def draw(rows: dict[str, Tensor], path: Path) -> None:
    figure = Figure(figsize=(1.05 * (DRAWS + 1) + 1.9, 1.05 * len(rows)), layout=None)
    axes = figure.subplots(len(rows), DRAWS + 1, squeeze=False)
    left = 1.9 / figure.get_figwidth()
    figure.subplots_adjust(left=left, right=0.995, top=0.995, bottom=0.005, wspace=0.04, hspace=0.04)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image.permute(1, 2, 0).numpy())
            axis.set_axis_off()
        line[0].text(-0.08, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 85, "optimize": True})
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="folder of images to use instead of scikit-learn's")
    parser.add_argument("--out", default="lightning_logs/figures", help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    first, *others = photographs(args.images, 128)
    draw(operation_rows(first), Path(args.out) / "augmentation_operations.jpg")
    draw(policy_rows(first, (others or [first.flip(1)])[0]), Path(args.out) / "augmentation_policies.jpg")
    draw(scene_rows(), Path(args.out) / "augmentation_masks_boxes.jpg")


if __name__ == "__main__":
    main()
