"""Random sets of class masks with the values, bit depths and colors of various tools."""

import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.annotations.test_mask_values import save_gray
from tests.random_sets.formats import encoding_of, in_any_case, line_end, split_names, write
from tests.random_sets.images import CLASSES, Photo, Thing, draw_photos, save

IGNORED = 255
_PALETTES = {"labelmap.txt": "{}:{},{},{}::", "class_dict.csv": "{},{},{},{}", "label_colors.txt": "{1} {2} {3}\t{0}"}


def masks(rng: random.Random, root: Path) -> tuple[list[Photo], list[str]]:
    """Write images and masks, and return them with the class names."""
    photos = draw_photos(rng)
    names = rng.sample([name for name in CLASSES if "," not in name], rng.randint(2, 6))
    way = rng.choice(["numbers", "numbers", "colors", "binary"])
    names = names[:2] if way == "binary" else names
    parts = in_any_case(rng, split_names(rng, photos))
    places, ending = _places(rng, parts)
    colors = [tuple(rng.sample(range(256), 3)) for _ in names]
    suffix = rng.choice(["png", "png", "PNG", "bmp", "tif", "gif"]) if way == "numbers" else "png"
    ignores = way == "numbers" and suffix != "gif"  # Pillow renumbers the colors of a GIF, dropping unused ones
    bits = rng.choice([bits for bits in (1, 2, 4, 8, 16) if 2**bits > len(names)] if suffix.lower() == "png" else [8])
    for photo in photos:
        path = _save_photo(rng, root, photo, places[photo.split], f"{ending}.{suffix}")
        photo.classes = _draw(rng, photo, len(names), ignored=ignores and bits >= 8)
        if way == "colors":
            Image.fromarray(np.array(colors, dtype=np.uint8)[photo.classes]).save(path)
        else:
            _save(rng, path, photo.classes * (255 if way == "binary" else 1), 8 if way == "binary" else bits)
    end = line_end(rng)
    if way == "colors":
        file = rng.choice(list(_PALETTES))
        lines = [_PALETTES[file].format(name, *color) for name, color in zip(names, colors, strict=True)]
        head = {"class_dict.csv": ["name,r,g,b"], "labelmap.txt": ["# label:color_rgb:parts:actions"]}.get(file, [])
        write(root / file, end.join([*head, *lines]) + end, encoding_of(rng))
    elif rng.random() < 0.7:
        write(root / "classes.txt", end.join(names) + end, encoding_of(rng))
    else:
        names = ["0", "255"] if way == "binary" else [str(number) for number in range(len(names))]
    return photos, names


def instances(rng: random.Random, root: Path) -> list[Photo]:
    """Write images and masks with a value for each object, all of one class."""
    photos = draw_photos(rng)
    name = rng.choice(CLASSES)
    places, ending = _places(rng, in_any_case(rng, split_names(rng, photos)))
    bits, step = rng.choice([(8, 1), (8, 20), (16, 1), (16, 90)])
    for photo in photos:
        values = np.zeros((photo.height, photo.width), dtype=np.uint16)
        for number in range(1, rng.randint(1, 6)):
            top, left = rng.randrange(photo.height), rng.randrange(photo.width)
            values[top : top + rng.randint(1, 20), left : left + rng.randint(1, 20)] = number * step
        for number in np.unique(values[values > 0]):
            y, x = np.nonzero(values == number)
            photo.things.append(Thing(name, (int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)))
        path = _save_photo(rng, root, photo, places[photo.split], f"{ending}.png")
        Image.fromarray(values.astype(np.uint8) if bits == 8 else values).save(path)
    write(root / "classes.txt", line_end(rng).join(rng.choice([[name], ["background", name]])), encoding_of(rng))
    return photos


def _places(rng: random.Random, parts: Mapping[str, str]) -> tuple[dict[str, tuple[str, str]], str]:
    """Return the folders of images and masks of each split, and the suffix of mask names."""
    ways = ["images/{}|masks/{}", "{}/images|{}/masks", "img_dir/{}|ann_dir/{}", "{}/imgs|{}/mask"]
    ways += ["{}|{}annot", "{}|{}_labels", "{}_images|{}_masks"] if parts else []
    images, masks = rng.choice(ways).split("|")
    places = {split: (images.format(name), masks.format(name)) for split, name in (parts or {"all": ""}).items()}
    return {split: (a.strip("/"), b.strip("/")) for split, (a, b) in places.items()}, rng.choice(
        ["", "", "_mask", "_L"]
    )


def _save_photo(rng: random.Random, root: Path, photo: Photo, places: tuple[str, str], suffix: str) -> Path:
    """Write an image, and return the path of its mask."""
    save(rng, root / places[0] / photo.name, photo)
    stem = (root / places[1] / photo.name).with_suffix("")
    stem.parent.mkdir(parents=True, exist_ok=True)
    return stem.with_name(stem.name + suffix)


def _draw(rng: random.Random, photo: Photo, count: int, ignored: bool) -> NDArray[np.uint8]:
    """Return the classes of the pixels; each class occurs, as there are at least 64 pixels."""
    classes = np.random.RandomState(rng.randrange(1 << 30)).randint(0, count, (photo.height, photo.width))
    classes.flat[:count] = range(count)
    if ignored and rng.random() < 0.5:
        classes[-1, -1] = IGNORED
    return classes.astype(np.uint8)


def _save(rng: random.Random, path: Path, values: NDArray[np.uint8], bits: int) -> None:
    if bits < 8:
        save_gray(path, values.tolist(), bits, rng.choice([0, 3]))
    elif bits == 16:
        Image.fromarray(values.astype(np.uint16)).save(path)
    else:
        image = Image.fromarray(values)
        if path.suffix == ".gif" or rng.random() < 0.3:
            image.putpalette(bytes(rng.randrange(256) for _ in range(768)))
        elif path.suffix.lower() == ".png" and rng.random() < 0.3:
            image = image.convert(rng.choice(["RGB", "RGBA", "LA"]))
        image.save(path, format={".tif": "TIFF"}.get(path.suffix, path.suffix[1:].upper()))
