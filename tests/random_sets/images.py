"""Images with random names, formats and bit depths, and typical other files beside them."""

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MODES = {
    "png": ("RGB", "L", "P", "1", "RGBA", "LA", "I;16"),
    "jpg": ("RGB", "L", "CMYK"),
    "bmp": ("RGB", "L", "P", "1"),
    "tif": ("RGB", "L", "1", "I;16", "CMYK"),
    "gif": ("P", "L"),
    "webp": ("RGB", "RGBA"),
    "ppm": ("RGB",),
    "pgm": ("L",),
    "tga": ("RGB", "L"),
}
FORMATS = {"jpg": "JPEG", "jpeg": "JPEG", "jfif": "JPEG", "tif": "TIFF", "tiff": "TIFF", "pgm": "PPM"}
SUFFIXES = [
    "png", "PNG", "Png", "jpg", "JPG", "jpeg", "Jpeg", "jfif", "bmp", "BMP", "tif", "TIF", "tiff", "gif", "GIF", "webp",
    "WebP", "ppm", "pgm", "tga",
]  # fmt: skip
TURNED = (1, 3, 5, 6, 8)  # camera orientations
STEMS = [
    "a", "IMG_0001", "photo 1", "photo", "a.b", "v1.2.final", "café", "cafe\u0301", "日本", "it's", "100%", "a#b",
    "x,y", "-1", "0", "train", "images", "mask", "(1)", "a&b", "[x]", "two  spaces", "A", "q;r", "=1+1", "@x", "+5",
]  # fmt: skip
BYTES = [os.fsdecode(b"caf\xe9"), os.fsdecode(b"\xff\xfe1")]
FOLDERS = ["deep", "sub dir", "v1.2", "images", "labels", "2024-01", "Ünder", "x'y", "z.png"]
CLASSES = [
    "cat", "dog", "7", "0", "12", "Kätzchen", "two words", "a,b", "it's", "x:y", "#1", "true", "null", "1e3", "-",
    "C++", "cat 2", "=x", "~", "no", "猫", "a;b", "[x]", "{y}", "&z", "*s", "!t", "100%", "Cat",
]  # fmt: skip
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


@dataclass
class Thing:
    """An object: its class, box, outline, and whether it is a crowd."""

    name: str
    box: tuple[float, float, float, float]
    outline: list[float] | None = None
    crowd: bool = False


@dataclass
class Photo:
    """An image: its path relative to its split folder, its size after rotation, its content, and its file."""

    name: str
    height: int
    width: int
    split: str = "all"
    things: list[Thing] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    classes: NDArray[np.uint8] | None = None
    path: Path = field(default_factory=Path)


def draw_photos(rng: random.Random) -> list[Photo]:
    """Return images with random names and sizes, in one set or in splits, with stems unique ignoring case."""
    splits = rng.choice([("all",), ("train", "val"), ("train", "val", "test"), ("train", "test")])
    photos: list[Photo] = []
    taken: set[str] = set()
    for position in range(rng.randint(len(splits), 7)):
        split = splits[position] if position < len(splits) else rng.choice(splits)
        stem = rng.choice(STEMS + BYTES)
        parts = [rng.choice(FOLDERS) for _ in range(rng.choice([0, 0, 0, 1, 2]))]
        stem = "/".join([*parts, stem + rng.choice(["", "", f"_{position}"])])
        if (key := os.path.normcase(stem).lower()) in taken or any(key.startswith(f"{other}.") for other in taken):
            stem, key = f"{position}_{parts[0] if parts else ''}x", f"{position}_x"
        taken.add(key)
        height, width = rng.randint(8, 40), rng.randint(8, 40)
        photos.append(Photo(f"{stem}.{rng.choice(SUFFIXES)}", height, width, split))
    return photos


def add_things(rng: random.Random, photos: list[Photo], outlines: bool, crowds: bool) -> list[str]:
    """Add objects to images and return their class names; each training split has every class."""
    classes = rng.sample(CLASSES, rng.randint(1, 4))
    for photo in photos:
        chosen = [rng.choice(classes) for _ in range(rng.choice([0, 1, 1, 2, 4]))]
        things = [_thing(rng, photo, name, outlines, crowds) for name in chosen]
        photo.things = list({(thing.name, thing.box): thing for thing in things}.values())  # no duplicates in YOLO
    first = next(photo for photo in photos if photo.split in ("all", "train"))
    there = {thing.name for thing in first.things}
    first.things += [_thing(rng, first, name, outlines, False) for name in classes if name not in there]
    return classes


def _thing(rng: random.Random, photo: Photo, name: str, outlines: bool, crowds: bool) -> Thing:
    digits = rng.choice([0, 0, 2])
    sides = []
    for side in (photo.width, photo.height):
        low = round(rng.uniform(0, side - 2), digits)
        sides.append((low, min(float(side), round(low + rng.uniform(1, side - low), digits))))
    (left, right), (top, bottom) = sides
    box = (left, top, right, bottom)
    outline = [left, top, right, top, right, bottom, left, bottom] if outlines and rng.random() < 0.4 else None
    return Thing(name, box, outline, crowds and rng.random() < 0.2)


def save(rng: random.Random, path: Path, photo: Photo) -> None:
    """Write an image in its format, in a random mode and EXIF orientation."""
    suffix = path.suffix[1:].lower()
    kind = {"jpeg": "jpg", "jfif": "jpg", "tiff": "tif"}.get(suffix, suffix)
    mode = rng.choice(MODES[kind])
    orientation = rng.choice(TURNED) if kind in ("jpg", "png", "tif", "webp") and rng.random() < 0.3 else 1
    shape = (photo.width, photo.height) if orientation >= 5 else (photo.height, photo.width)
    pixels = np.random.RandomState(rng.randrange(1 << 30)).randint(0, 256, (*shape, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {}
    if orientation != 1:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    photo.path = path
    image.save(path, format=FORMATS.get(suffix, suffix.upper()), **options)


def add_junk(rng: random.Random, folder: Path) -> None:
    """Add unrelated files of systems and users to the folders of a set."""
    folders = [Path(place) for place, _, _ in os.walk(folder)]
    for place in rng.sample(folders, min(len(folders), rng.randint(0, 3))):
        names = [entry.name for entry in os.scandir(place) if entry.is_file()]
        beside = f"._{rng.choice(names)}" if names else "._x.png"
        names = [beside, ".DS_Store", "Thumbs.db", "desktop.ini", ".cache/x.png", "@eaDir/x.jpg"]
        for name in rng.sample(names, 2):
            path = place / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(bytes(rng.randrange(256) for _ in range(20)))
