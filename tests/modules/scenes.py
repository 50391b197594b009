"""A small dataset with boxes and masks for dense tasks."""

from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from datamodules.loader import collate

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False, "num_sanity_val_steps": 0,
}  # fmt: skip


class Rectangles(L.LightningDataModule):
    """Gray images with none, one or two red or blue rectangles: 48 x 64, every other one 40 x 50 with padding."""

    box_classes = ("red", "blue")
    mask_classes = ("ground", "red", "blue")
    in_channels, image_size = 3, (48, 64)

    def __init__(self, n: int = 16, crowds: bool = False) -> None:
        super().__init__()
        self.box_classes, self.mask_classes = list(self.box_classes), list(self.mask_classes)
        random = torch.Generator().manual_seed(0)

        def draw(low: int, high: int) -> int:
            return int(torch.randint(low, high, (), generator=random))

        self.items = []
        for i in range(n):
            height, width = (48, 64) if i % 2 else (40, 50)
            image = torch.zeros(3, 48, 64, dtype=torch.uint8)
            mask = torch.full((48, 64), 255)
            image[:, :height, :width], mask[:height, :width] = 90, 0
            boxes, labels = [], []
            for k in range(i % 3):
                y, x, kind = draw(0, 20), draw(0, 6) + 25 * k, draw(0, 2)
                h, w = draw(12, 20), draw(12, 18)
                image[:, y : y + h, x : x + w] = torch.tensor([255, 0, 0] if kind == 0 else [0, 0, 255])[:, None, None]
                mask[y : y + h, x : x + w] = kind + 1
                boxes.append([x, y, x + w, y + h])
                labels.append(kind)
            item = {
                "image": image, "mask": mask, "boxes": torch.tensor(boxes).float().view(-1, 4),
                "box_labels": torch.tensor(labels, dtype=torch.int64), "size": torch.tensor([height, width]),
                "index": i,
            }  # fmt: skip
            if crowds:
                item["iscrowd"] = torch.arange(len(labels)) == 1
            self.items.append(item)

    def train_dataloader(self) -> Any:
        return DataLoader(self.items, batch_size=8, collate_fn=collate)  # type: ignore[arg-type]

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader
