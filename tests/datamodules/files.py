from pathlib import Path

import numpy as np
from PIL import Image


def save_images(folder: Path, count: int, seed: int = 0, suffix: str = "png") -> list[Path]:
    """Write small images of different shapes, each with a unique color."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(seed)
    paths = []
    for index in range(count):
        color = tuple(random.randint(0, 256, 3).tolist())
        path = folder / f"{index:02}.{suffix}"
        Image.new("RGB", (12 + index % 3, 10 + index % 2), color).save(path)
        paths.append(path)
    return paths
