"""Predictions as a table, or as annotations to correct."""

import csv
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

from lit_cv.callbacks.prediction_drafts import BoxDrafts, MaskDrafts
from lit_cv.callbacks.run_output import class_names, plain_names

__all__ = ["PredictionWriter"]

log = logging.getLogger("lit_cv")

_ALL = 20  # classes up to which the probabilities of all are written
_TOP = 5  # otherwise those of the likeliest
_FILE = "predictions.csv"
_DRAFTS = "predictions"
_LEAST = 0.3  # score from which a box is worth a draft


class PredictionWriter(L.Callback):
    """Writes what `predict` finds: classes as a table, boxes and masks as annotations that people can correct.

    Classes go to `predictions.csv`: for each image its class and how probable it is. The columns are `image` (the
    name that the dataset's `sample_name(index)` gives) or `index` (its position in the dataset), `predicted`,
    `probability`, and `p_CLASS` for every class; above 20 classes `top2`, `top2_probability` and so on up to `top5`
    instead. For a module with `multi_label` the predicted classes, those of probability 0.5 or more, are joined by
    `|`, and `probability` is the highest one. `CSVDataModule` reads the table (`--data.path_column image
    --data.label_columns '[predicted]'`), corrected or not.

    Boxes go to a folder `predictions`, in pixels of the files, as COCO JSON, VOC XML or YOLO text files with their
    scores, masks to PNG files of the files' sizes in `predictions/masks`. `AnnotatedImagesDataModule` reads the folder
    (`--data.root predictions --data.images FOLDER`; YOLO's `labels` belong beside `images`). `order.csv` in it says
    how unsure the model is of each image. A folder that is there already is left alone: the next one is
    `predictions_1`.

    `predict_step` returns a dict with `probabilities` (N, K); or lists `boxes`, `box_labels` and `scores`, in pixels of
    the batch's images; or `masks` (N, H, W), and perhaps their `uncertainty` (N,); and where the order is not the
    dataset's, `index` (N,). Over several processes, each image is written once.

    Args:
        folder: Folder to write to, made if it is missing; `None` takes that of the run.
        format: Format of boxes: `coco`, `voc` or `yolo`.
        threshold: Least probability of a class, which else is left empty, and least score of a box; `None` takes any
            class, and boxes from 0.3 on.
        order: Order of the images: that of the `dataset`, or by `uncertainty`, so that people begin where their time
            is worth most: at the least probable class, or at the boxes with scores nearest to 0.5. `None` takes
            `dataset` for the table, `uncertainty` for boxes and masks.
    """

    def __init__(
        self,
        folder: str | None = None,
        format: Literal["coco", "voc", "yolo"] = "coco",
        threshold: float | None = None,
        order: Literal["dataset", "uncertainty"] | None = None,
    ) -> None:
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold}: give a probability from 0 to 1 (--predictions.threshold).")
        self.folder = Path(folder or ".")
        self.format = format
        self.threshold = threshold
        self.order = order
        self._forget()

    def _forget(self) -> None:
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []
        self._boxes, self._masks = BoxDrafts(), MaskDrafts()
        self._seen = 0
        self._classes = 0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the predictions before, and take a folder for drafts that holds none yet: they may be corrected."""
        self._forget()
        names = [_DRAFTS, *(f"{_DRAFTS}_{number}" for number in range(1, 1000))]
        free = (path for name in names if not (path := self.folder / name).exists())
        self._drafts: Path = trainer.strategy.broadcast(next(free))

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in a batch: all its probabilities if there are few classes, otherwise the highest; boxes; masks."""
        found = plain_names(outputs) if isinstance(outputs, Mapping) else {}
        probabilities = found.get("probabilities")
        classes = isinstance(probabilities, Tensor) and probabilities.ndim == 2
        boxes, masks = {"boxes", "box_labels", "scores"} <= found.keys(), isinstance(found.get("masks"), Tensor)
        if not (classes or boxes or masks):
            raise TypeError(
                f"{type(pl_module).__name__}.predict_step must return a dict with `probabilities` (N, K), or `boxes`, "
                "`box_labels` and `scores`, or `masks` (N, H, W) "
                f"for predictions to be written, but it returned {_describe(outputs)}."
            )
        count = len(next(found[key] for key in ("probabilities", "boxes", "masks") if key in found))
        index = self._positions(trainer, found, count)
        if classes:
            self._add_classes(found["probabilities"], index)
        if boxes:
            self._boxes.add(found, batch, index)
        if masks:
            self._masks.add(found, batch, index, _names(trainer, index.tolist()), self._drafts)

    def _positions(self, trainer: L.Trainer, outputs: Mapping[str, Any], count: int) -> Tensor:
        index = outputs.get("index")
        if index is None:
            # Lightning's sampler deals the images out to the processes in turn.
            own = torch.arange(self._seen, self._seen + count)
            index = own * trainer.world_size + trainer.global_rank
        self._seen += count
        return index.cpu()

    def _add_classes(self, probabilities: Tensor, index: Tensor) -> None:
        self._classes = probabilities.shape[1]
        kept = self._classes if self._classes <= _ALL else _TOP
        values, classes = probabilities.float().topk(kept)
        self._parts.append((index, values.cpu(), classes.cpu()))

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Bring the predictions of all processes together and write them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        own = (self._parts, self._boxes.parts, self._masks.parts)
        part = self.folder / f".{_FILE}.{trainer.global_rank}.pt"
        if trainer.world_size > 1:
            torch.save(own, part)
            trainer.strategy.barrier()
        if trainer.is_global_zero:
            files = [part.with_name(f".{_FILE}.{rank}.pt") for rank in range(1, trainer.world_size)]
            all_parts = [own, *(torch.load(file, weights_only=True) for file in files)]
            tables, boxes, masks = ([item for parts in kind for item in parts] for kind in zip(*all_parts, strict=True))
            if tables or not (boxes or masks):
                self._write(trainer, pl_module, tables)
            if boxes or masks:
                self._write_drafts(trainer, boxes, masks)
        if trainer.world_size > 1:
            trainer.strategy.barrier()
            part.unlink(missing_ok=True)
        self._forget()

    def _write_drafts(self, trainer: L.Trainer, boxes: Sequence[Any], masks: Sequence[Any]) -> None:
        data = getattr(trainer, "datamodule", None)
        dataset = getattr(trainer.predict_dataloaders, "dataset", None)
        images = Path(getattr(dataset, "root", "."))
        unsure_first = self.order != "dataset"
        self._drafts.mkdir(parents=True, exist_ok=True)
        if boxes:
            least = _LEAST if self.threshold is None else self.threshold
            names = _names(trainer, [part[0] for part in boxes])
            classes = list(getattr(data, "box_classes", None) or [])
            count, objects = self._boxes.write(
                boxes, names, images, classes, self._drafts, self.format, least, unsure_first
            )
            log.info("%d boxes in %d images, from a score of %g on: %s", objects, count, least, self._drafts)
        if masks:
            names = _names(trainer, [part[0] for part in masks])
            classes = list(getattr(data, "mask_classes", None) or [])
            count = self._masks.write(masks, names, classes, self._drafts, unsure_first)
            log.info("Masks of %d images: %s", count, self._drafts / "masks")
        if boxes and self.format == "yolo":
            log.info("They belong beside the folder `images`: %s", images)
        else:
            log.info("Read with --data AnnotatedImagesDataModule --data.root %s --data.images %s", self._drafts, images)

    def _write(
        self, trainer: L.Trainer, pl_module: L.LightningModule, parts: list[tuple[Tensor, Tensor, Tensor]]
    ) -> None:
        if not parts:
            log.warning("There were no images to predict.")
            return
        # Images that pad the last batches of several processes fall together here.
        rows = {int(i): (v, c) for part in parts for i, v, c in zip(*part, strict=True)}
        names = class_names(trainer, pl_module, self._classes) or [str(i) for i in range(self._classes)]
        several = bool(pl_module.hparams.get("multi_label"))
        least = self.threshold if self.threshold is not None else 0.5 if several else 0.0
        order = sorted(rows)
        if self.order == "uncertainty":
            order.sort(key=lambda index: _certainty(rows[index][0], several))
        named = hasattr(getattr(trainer.predict_dataloaders, "dataset", None), "sample_name")
        samples = _names(trainer, order)
        path = self.folder / _FILE
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image" if named else "index", "predicted", "probability", *self._columns(names)])
            for index in order:
                values, classes = (t.tolist() for t in rows[index])
                chosen = [names[c] for v, c in zip(values, classes, strict=True) if v >= least]
                shown = "|".join(chosen if several else chosen[:1])
                writer.writerow([samples[index], shown, f"{values[0]:.6f}", *self._cells(values, classes, names)])
        log.info("Predictions for %d images: %s", len(rows), path)

    def _columns(self, names: list[str]) -> list[str]:
        if self._classes <= _ALL:
            return [f"p_{name}" for name in names]
        return [column for k in range(2, _TOP + 1) for column in (f"top{k}", f"top{k}_probability")]

    def _cells(self, values: list[float], classes: list[int], names: list[str]) -> Iterator[str]:
        if self._classes <= _ALL:
            by_class = dict(zip(classes, values, strict=True))
            yield from (f"{by_class[index]:.6f}" for index in range(self._classes))
        else:
            for value, index in zip(values[1:], classes[1:], strict=True):
                yield names[index]
                yield f"{value:.6f}"


def _describe(outputs: Any) -> str:
    return f"a dict with {sorted(outputs)}" if isinstance(outputs, Mapping) else f"a {type(outputs).__name__}"


def _certainty(values: Tensor, several: bool) -> float:
    """Return how certain a prediction is: the probability of its class, or of several the distance to 0.5."""
    return float((values - 0.5).abs().min()) if several else float(values[0])


def _names(trainer: L.Trainer, indices: Sequence[int]) -> dict[int, str]:
    """Return the names of images by their positions in the dataset; the positions where they have none."""
    dataset = getattr(trainer.predict_dataloaders, "dataset", None)
    sample_name = getattr(dataset, "sample_name", str)
    return {index: str(sample_name(index)) for index in indices}
