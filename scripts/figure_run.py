"""Assemble the README's figure of a run from the figures in its folder.

python scripts/figure_run.py lightning_logs/version_0 docs/run.png
"""

import sys
from pathlib import Path

from PIL import Image

WIDTH, GAP = 1400, 20


def beside(images: list[Image.Image], width: int) -> Image.Image:
    """Return images side by side, scaled to the same height and a total width of `width` pixels."""
    height = int((width - GAP * (len(images) - 1)) / sum(image.width / image.height for image in images))
    row, x = Image.new("RGB", (width, height), "white"), 0
    for image in images:
        scaled = image.convert("RGB").resize(
            (round(image.width * height / image.height), height), Image.Resampling.LANCZOS
        )
        row.paste(scaled, (x, 0))
        x += scaled.width + GAP
    return row


def main() -> None:
    """Read the figures of a run and write them as one image."""
    run, target = Path(sys.argv[1]), Path(sys.argv[2])
    names = [["training_curves"], ["confusion_matrix", "train_batch"], ["most_wrong"]]
    rows = [beside([Image.open(run / f"{name}.png") for name in row], WIDTH) for row in names]
    page = Image.new("RGB", (WIDTH, sum(row.height for row in rows) + GAP * (len(rows) - 1)), "white")
    y = 0
    for row in rows:
        page.paste(row, (0, y))
        y += row.height + GAP
    target.parent.mkdir(parents=True, exist_ok=True)
    page.save(target, optimize=True)


if __name__ == "__main__":
    main()
