"""Measure the CPU time of reading annotated images, compared with torchvision.

Run `python scripts/benchmark_annotations.py --root $LIT_CV_DATA/BCCD` (364 photographs of 640 x 480 pixels, in batches
of 8 at 320 x 240). It prints the time of one epoch of the training split: decoded every time, from the cache, and with
torchvision's `VOCDetection`, `tv_tensors` and transforms v2. It also prints the time to read a COCO file of 200,000
boxes.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from datamodules import AnnotatedImagesDataModule
from lit_cv.annotations import Problems, read_coco, read_voc


def seconds(work: Callable[[], Any], times: int = 3) -> float:
    """Return the minimum CPU time over some runs."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def consume(batches: Iterable[Any]) -> None:
    for _ in batches:
        pass


def torchvision_epoch(root: Path, names: list[str], boxes: list[torch.Tensor]) -> None:
    transform = v2.Compose([v2.ToImage(), v2.Resize((240, 320), antialias=True)])
    batch = []
    for name, corners in zip(names, boxes, strict=True):
        with Image.open(root / "JPEGImages" / name) as image:
            size = (image.height, image.width)
            wrapped = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=size)
            batch.append(transform(image.convert("RGB"), {"boxes": wrapped})[0])
        if len(batch) == 8:
            torch.stack(batch)
            batch = []


def big_coco(folder: Path) -> Path:
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 480, "width": 640} for i in range(25_000)]
    boxes = [
        {"id": i, "image_id": i // 8, "category_id": 1 + i % 80, "bbox": [i % 300, i % 200, 50.5, 60.25]}
        for i in range(200_000)
    ]
    categories = [{"id": i + 1, "name": f"class {i}"} for i in range(80)]
    path = folder / "instances_train.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    (folder / "0.jpg").touch()
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of BCCD")
    root = parser.parse_args().root
    torch.set_num_threads(1)

    def module(cache: bool) -> AnnotatedImagesDataModule:
        data = AnnotatedImagesDataModule(str(root), image_size=[240, 320], batch_size=8, num_workers=0, cache=cache)
        data.prepare_data()
        data.setup()
        return data

    train = read_voc(root, Problems())["train"].images
    boxes = [torch.tensor([item.box for item in image.objects]).reshape(-1, 4) for image in train]
    names = [image.name for image in train]
    print(f"reading and checking the annotations   {seconds(lambda: module(False)):7.3f} s")
    print(f"epoch, torchvision                     {seconds(lambda: torchvision_epoch(root, names, boxes)):7.3f} s")
    for cache, title in ((False, "decoded every time"), (True, "from the cache")):
        data = module(cache)
        print(f"epoch, {title:<31} {seconds(lambda data=data: consume(data.train_dataloader())):7.3f} s")
    with tempfile.TemporaryDirectory() as folder:
        files = {"train": big_coco(Path(folder))}
        taken = seconds(lambda: read_coco(Path(folder), Problems(), files), 1)
        print(f"COCO file of 200,000 boxes             {taken:7.3f} s")


if __name__ == "__main__":
    main()
