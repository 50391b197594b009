"""Draw the average precision of a detection run over training, and test images with ground truth and predictions.

lit-cv fit --config bccd_detection --data.root $LIT_CV_DATA/BCCD
python scripts/figure_detection.py lightning_logs/version_0 --root $LIT_CV_DATA/BCCD --out docs/bccd_detection.jpg
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from datamodules import AnnotatedImagesDataModule
from lit_cv import DetectionModule
from lit_cv.figures import History, class_color, draw_objects, image_grid, render
from lit_cv.figures.canvas import INK, new_figure, style_axes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--root", required=True, help="folder of the annotated images")
    parser.add_argument("--image-size", type=int, nargs=2, default=[192, 256])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--min-score", type=float, default=0.4)
    parser.add_argument("--out", type=Path, required=True, help="JPEG file to write")
    args = parser.parse_args()

    grid = torch.from_numpy(render(predictions(args)))
    curve = torch.from_numpy(render(learning_curve(args.run, height=grid.shape[0] / 120)))
    height = min(len(grid), len(curve))
    figure = torch.cat([curve[:height], grid[:height]], 1)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(figure.numpy()).save(args.out, quality=70, optimize=True)
    print(f"{args.out}: {args.out.stat().st_size / 1024:.0f} KiB")


def learning_curve(run: Path, height: float) -> object:
    """Draw the average precision; classes are in alphabetical order, as in DataModules."""
    history = History.read(run / "metrics.csv")
    figure = new_figure(4.2, height, constrained=True)
    axes = figure.subplots()
    names = sorted(name for name in history.names if name.startswith("val_ap50_"))
    styles = [("val_map50", {"color": INK, "linewidth": 2.2}), ("val_map", {"color": INK, "linestyle": "--"})]
    styles += [
        (name, {"linewidth": 1.2, "color": [part / 255 for part in class_color(number)]})
        for number, name in enumerate(names)
    ]
    for name, style in styles:
        steps, values = history.series(name)
        axes.plot(history.epochs_at(steps), values, label=name.removeprefix("val_"), **style)
    style_axes(axes, "average precision, validation images")
    axes.set_xlabel("epoch", fontsize=8)
    axes.set_ylim(0, 1)
    axes.legend(fontsize=8, frameon=False)
    return figure


@torch.no_grad()
def predictions(args: argparse.Namespace) -> object:
    checkpoint = args.run / "checkpoints" / "best.ckpt"
    module = DetectionModule.load_from_checkpoint(checkpoint, weights_only=True, map_location="cpu").eval()
    data = AnnotatedImagesDataModule(root=args.root, image_size=args.image_size, num_workers=0)
    data.setup()
    places = torch.linspace(0, len(data.test_dataset) - 1, args.images).long().tolist()
    batch = data.test_dataset.__getitems__(places)
    detections = module.predict_step(batch, 0)
    confident = [scores >= args.min_score for scores in detections["scores"]]
    boxes, labels, scores = (
        [values[keep] for values, keep in zip(detections[key], confident, strict=True)]
        for key in ("boxes", "box_labels", "scores")
    )
    images = batch["image"]
    truth = draw_objects(images, batch["boxes"], batch["box_labels"], box_classes=data.box_classes)
    drawn = draw_objects(images, boxes, labels, box_classes=data.box_classes, scores=scores)
    heading = f"test images: ground truth above, predictions (score >= {args.min_score:g}) below"
    return image_grid(torch.cat([truth, drawn]), heading=heading, columns=args.images, cell=2.6)


if __name__ == "__main__":
    main()
