"""Predict a folder of images with an exported ONNX program: Python, numpy, Pillow and onnxruntime, no torch.

The command, after `lit-cv export best --output export`; it takes programs of classifiers and of detectors:

    python examples/predict_folder.py export/model.onnx photos

It prints a table: the file, the class, its score, and for detectors the corners of the box in pixels of the image.
"""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def crop(image: Image.Image, width: int, height: int) -> Image.Image:
    """Return the largest centered part with the shape of the program's images, as in training."""
    scale = min(image.width / width, image.height / height)
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (image.width - w) // 2, (image.height - h) // 2
    return image.crop((left, top, left + w, top + h))


def predict(program: Path, folder: Path, least: float = 0.5) -> Iterator[list[Any]]:
    """Yield a row for each image, or for each detected object with a score of at least `least`."""
    session = onnxruntime.InferenceSession(str(program))
    description = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    channels, height, width = description["input"]["image"][1:]
    outputs = [output.name for output in session.get_outputs()]
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB" if channels == 3 else "L")
        part = image if "boxes" in outputs else crop(image, width, height)  # objects may be anywhere
        pixels = np.asarray(part.resize((width, height), Image.Resampling.BILINEAR)).reshape(height, width, channels)
        values = session.run(outputs, {"image": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])})
        named = {name: value[0] for name, value in zip(outputs, values, strict=True)}
        if "boxes" in named:
            scale = np.array([image.width / width, image.height / height] * 2)
            for row in np.flatnonzero(named["scores"] >= least):
                box = (named["boxes"][row] * scale).round(1).tolist()
                yield [path, description["classes"][named["labels"][row]], round(float(named["scores"][row]), 4), *box]
        else:
            odds = np.exp(named["logits"] - named["logits"].max())
            best = int(odds.argmax())
            yield [path, description["classes"][best], round(float(odds[best] / odds.sum()), 4)]


if __name__ == "__main__":
    csv.writer(sys.stdout).writerows(predict(Path(sys.argv[1]), Path(sys.argv[2])))
