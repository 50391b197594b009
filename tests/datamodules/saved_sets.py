"""Folders as `save_to_disk` of Hugging Face `datasets` writes them."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

CLASSES = ["cat", "dog"]
LABEL = {"names": CLASSES, "_type": "ClassLabel"}
IMAGE = {"_type": "Image"}


def image(number: int) -> dict[str, Any]:
    """Return an image with this red value, as `datasets` stores it."""
    content = io.BytesIO()
    Image.new("RGB", (12, 10), (number, 255 - number, 7)).save(content, "png")
    return {"bytes": content.getvalue(), "path": f"{number}.png"}


def save_set(
    folder: Path, images: Sequence[Any], labels: Sequence[Any], label: Any = LABEL, files: int = 2, **more: Any
) -> None:
    """Write a folder as `Dataset.save_to_disk` does, in several Arrow files, each of batches of three rows."""
    import pyarrow as pa

    folder.mkdir(parents=True, exist_ok=True)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    columns = {"image": pa.array(images, kind), "label": pa.array(labels)}
    columns |= {name: pa.array(images, kind) for name, feature in more.items() if feature == IMAGE}
    table = pa.table(columns)
    names = [f"data-{number:05}-of-{files:05}.arrow" for number in range(files)]
    ends = [round(len(images) * number / files) for number in range(files + 1)]
    for name, start, end in zip(names, ends, ends[1:], strict=False):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table.slice(start, end - start), max_chunksize=3)
    info = {"features": {"image": IMAGE, "label": label, **more}, "citation": ""}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))


def save_splits(root: Path, numbers: dict[str, range]) -> None:
    """Write the splits of a `DatasetDict`, with the number of an image as its red value and its parity as its label."""
    for split, part in numbers.items():
        save_set(root / split, [image(number) for number in part], [number % 2 for number in part])
    (root / "dataset_dict.json").write_text(json.dumps({"splits": list(numbers)}))
