"""Measure images per second from the data set to a normalized, augmented float batch, compared with torchvision.

Peers read one image at a time: PIL and torchvision.transforms.v2 in a DataLoader. lit_cv fetches a complete uint8 batch
and augments it at once. Each is measured in turn, with the same number of threads and workers; medians over rounds.

    python scripts/benchmark_data.py --threads 1

It also compares the installed libraries that can decode the images:

    pip install torchcodec opencv-python-headless
    python scripts/benchmark_data.py --decoders
"""

import argparse
import contextlib
import importlib.util
import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from datamodules import ImageFolderDataModule, InMemoryDataset, ResumableLoader
from datamodules.decoding import decode
from datamodules.images import fit
from lit_cv.augment import build_operations
from lit_cv.nn import create_backbone

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BATCH = 128
BYTE = torch.uint8


class PILDataset(Dataset[Any]):
    """Converts an array to a PIL image and applies the transforms, like torchvision's CIFAR10."""

    def __init__(self, images: np.ndarray[Any, Any], transform: Callable[[Any], Tensor]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), 0


def rate(batches: Iterable[Any], finish: Callable[[Any], Any], seconds: float) -> float:
    """Return images per second, measured for about `seconds` after a warm-up of two batches."""
    count, start = 0, 0.0
    iterator = iter(batches)
    for step in range(10**6):
        batch = next(iterator, None)
        if batch is None:
            iterator = iter(batches)
            continue
        images = finish(batch)
        if step < 2:
            start = time.perf_counter()
            continue
        count += len(images)
        if time.perf_counter() - start > seconds:
            break
    return count / (time.perf_counter() - start)


def ours(operations: list[dict[str, Any]]) -> Callable[[Any], Tensor]:
    """Return the batched augmentation followed by normalization."""
    augment = build_operations(operations)
    normalize = create_backbone("conv4").normalize
    return lambda batch: normalize(augment(batch["image"]))


def compare(name: str, peers: dict[str, Callable[[], float]], rounds: int) -> None:
    """Measure peers in turn, and print the median of each and its ratio to the first."""
    rates: dict[str, list[float]] = {peer: [] for peer in peers}
    for _ in range(rounds):
        for peer, measure in peers.items():
            rates[peer].append(measure())
    medians = {peer: statistics.median(values) for peer, values in rates.items()}
    base = next(iter(medians.values()))
    for peer, value in medians.items():
        print(f"{name:<28}{peer:<34}{value:>12,.0f} images/s{value / base:>9.2f}x", flush=True)


def in_memory(rounds: int, seconds: float) -> None:
    """Measure fetching, padded crop, flip and normalization of 32x32 images in memory."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (20_000, 32, 32, 3), dtype=np.uint8)
    transform = v2.Compose(
        [
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    peer = DataLoader(PILDataset(images, transform), BATCH, shuffle=True)
    dataset = InMemoryDataset(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.zeros(20_000).long())
    loader = ResumableLoader(dataset, batch_size=BATCH, shuffle=True)
    finish = ours([{"name": "random_crop", "padding": 4}, {"name": "horizontal_flip"}])
    compare(
        "in memory, 32 px",
        {
            "PIL + v2, one image at a time": lambda: rate(peer, lambda batch: batch[0], seconds),
            "lit_cv": lambda: rate(loader, finish, seconds),
            "lit_cv, fetch only": lambda: rate(loader, lambda batch: batch["image"], seconds),
        },
        rounds,
    )


def photograph(generator: np.random.Generator, width: int, height: int) -> Image.Image:
    """Return an image with edges and texture, like a photograph."""
    coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    image = image + generator.normal(0, 12, image.shape).astype(np.int16)
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def write_photographs(folder: Path, count: int) -> None:
    """Write JPEG files of about 256 pixels."""
    generator = np.random.default_rng(0)
    for index in range(count):
        target = folder / "train" / f"class{index % 4}"
        target.mkdir(parents=True, exist_ok=True)
        photograph(generator, 341, 256).save(target / f"{index:05}.jpg", quality=90)


def photographs(rounds: int, seconds: float, workers: int) -> None:
    """Measure reading JPEG files into augmented batches of 224 pixels."""
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(224),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    finish = ours([{"name": "random_resized_crop", "size": 224}, {"name": "horizontal_flip"}])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photographs(folder, 1280)
        peer = DataLoader(ImageFolder(folder / "train", transform), 64, shuffle=True, num_workers=workers)

        def loader(cache: bool) -> Iterable[Any]:
            data = ImageFolderDataModule(
                str(folder), image_size=224, train_image_size=256, batch_size=64, num_workers=workers, cache=cache
            )
            data.prepare_data()
            data.setup("fit")
            return data.train_dataloader()

        plain, cached = loader(cache=False), loader(cache=True)
        compare(
            f"JPEG to 224 px, {workers} workers",
            {
                "ImageFolder + PIL + v2": lambda: rate(peer, lambda batch: batch[0], seconds),
                "lit_cv": lambda: rate(plain, finish, seconds),
                "lit_cv, cached": lambda: rate(cached, finish, seconds),
            },
            rounds,
        )


Decoder = Callable[[bytearray, int | None], Tensor]
"""Function from the content of a file and the side that it will be resized to, to (3, H, W) uint8."""


def decoders() -> dict[str, Decoder]:
    """Return the decoders of installed libraries, each in its fastest form."""

    def pillow(data: bytearray, side: int | None) -> Tensor:
        image = Image.open(io.BytesIO(data))
        if side is not None:
            image.draft(None, (2 * side, 2 * side))
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)

    by_name: dict[str, Decoder] = {
        "Pillow": pillow,
        "lit_cv": lambda data, side: decode(data, side and (side, side), 3),
    }
    if importlib.util.find_spec("simplejpeg"):
        import simplejpeg

        def fast(data: bytearray, side: int | None) -> Tensor:
            sides: dict[str, int] = {}
            if side is not None:
                height, width = simplejpeg.decode_jpeg_header(data)[:2]
                part = next((k for k in (8, 4, 2) if min(height, width) >= 2 * k * side), 1)
                sides = {"min_height": -(-height // part), "min_width": -(-width // part)}
            return torch.from_numpy(simplejpeg.decode_jpeg(data, **sides)).permute(2, 0, 1)

        by_name["simplejpeg"] = fast
    if importlib.util.find_spec("torchcodec"):
        import torchcodec.decoders

        by_name["TorchCodec"] = lambda data, side: torchcodec.decoders.decode_image(torch.frombuffer(data, dtype=BYTE))
    if importlib.util.find_spec("cv2"):
        import cv2

        cv2.setNumThreads(1)

        def opencv(data: bytearray, side: int | None) -> Tensor:
            content = np.frombuffer(data, np.uint8)
            reduced = side is not None and min(Image.open(io.BytesIO(data)).size) >= 4 * side
            pixels = cv2.imdecode(content, cv2.IMREAD_REDUCED_COLOR_2 if reduced else cv2.IMREAD_COLOR)
            if pixels is None:
                raise ValueError("OpenCV returns nothing")
            return torch.from_numpy(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)

        by_name["OpenCV"] = opencv
    if importlib.util.find_spec("torchvision.io") and hasattr(torchvision.io, "decode_image"):
        by_name["torchvision.io"] = lambda data, side: torchvision.io.decode_image(
            torch.frombuffer(data, dtype=BYTE), torchvision.io.ImageReadMode.RGB, apply_exif_orientation=True
        )
    return by_name


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytearray:
    """Return the content of an image file."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return bytearray(content.getvalue())


def judge(decoder: Decoder, data: bytearray, expected: Tensor) -> str:
    """Return the largest difference of a decoder's pixels from the expected ones, or that it refuses the file."""
    try:
        pixels = decoder(data, None)
    except Exception as error:
        return f"refused ({type(error).__name__})"
    if pixels.shape != expected.shape:
        return f"{pixels.shape[2]} x {pixels.shape[1]}"
    return f"differs by {int((pixels.int() - expected.int()).abs().max())}"


def compare_decoders(rounds: int, seconds: float) -> None:
    """Measure images per second of CPU time, and report the pixels that each library decodes from unusual files."""
    generator = np.random.default_rng(0)
    warnings.filterwarnings("ignore", category=FutureWarning)  # from torchvision.io
    small, large = photograph(generator, 500, 375), photograph(generator, 1600, 1200)
    files = {
        "JPEG 500 x 375": (encode(small, quality=90), None),
        "JPEG 1600 x 1200 to 224": (encode(large, quality=90), 224),
        "PNG 500 x 375": (encode(small, "PNG"), None),
    }
    libraries = decoders()
    for name, (data, side) in files.items():
        rates: dict[str, list[float]] = {library: [] for library in libraries}
        for _ in range(rounds):
            for library, decoder in libraries.items():
                with contextlib.suppress(Exception):  # simplejpeg decodes no PNG
                    rates[library].append(decode_rate(decoder, data, side, seconds))
        medians = {library: statistics.median(values) for library, values in rates.items() if values}
        for library, value in medians.items():
            print(f"{name:<28}{library:<34}{value:>12,.0f} images/s{value / medians['Pillow']:>9.2f}x", flush=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    values = generator.integers(0, 65536, (40, 30)).astype(np.uint16)
    scaled = torch.from_numpy(np.round(values / 257).astype(np.uint8)).expand(3, -1, -1)
    plain = {kind: encode(small.convert(kind), quality=90) for kind in ("RGB", "CMYK")}
    special = {
        "JPEG": (plain["RGB"], pixels_of(plain["RGB"])),
        "CMYK": (plain["CMYK"], pixels_of(plain["CMYK"])),
        "EXIF": (rotated := encode(small, quality=90, exif=exif), pixels_of(rotated, upright=True)),
        "16-bit PNG": (encode(Image.fromarray(values), "PNG"), scaled),
        "truncated": (plain["RGB"][: len(plain["RGB"]) // 2], pixels_of(plain["RGB"])),
    }
    for name, (data, expected) in special.items():
        for library, decoder in libraries.items():
            print(f"{name:<28}{library:<34}{judge(decoder, data, expected)}", flush=True)


def pixels_of(data: bytearray, upright: bool = False) -> Tensor:
    """Return the pixels that Pillow decodes."""
    image = Image.open(io.BytesIO(data))
    image = ImageOps.exif_transpose(image) if upright else image
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def decode_rate(decoder: Decoder, data: bytearray, side: int | None, seconds: float) -> float:
    """Return images per second of CPU time; each image is resized if a side is given, and made contiguous."""
    size = None if side is None else (side, side)
    fit(decoder(data, side), size).contiguous()
    count, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        fit(decoder(data, side), size).contiguous()
        count += 1
    return count / (time.process_time() - start)


def main() -> None:
    """Run all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    parser.add_argument("--decoders", action="store_true", help="only compare the decoders")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.threads} thread(s), median of {args.rounds} rounds of {args.seconds} s, in turn")
    compare_decoders(args.rounds, args.seconds / 4)
    if args.decoders:
        return
    in_memory(args.rounds, args.seconds)
    for workers in (0, 2):
        photographs(args.rounds, args.seconds, workers)


if __name__ == "__main__":
    main()
