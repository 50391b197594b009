"""Predictions as a table, or as annotations to correct."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L
import torch
from torch import Tensor

from lit_cv.atomic_files import describe_path, next_free_path
from lit_cv.callbacks.prediction_drafts import BoxDrafts, MaskDrafts
from lit_cv.callbacks.prediction_embeddings import EmbeddingFile
from lit_cv.callbacks.prediction_table import ClassTable
from lit_cv.callbacks.prediction_values import ValueTable
from lit_cv.callbacks.run_output import class_names

__all__ = ["PredictionWriter"]

log = logging.getLogger("lit_cv")

_FILE = "predictions.csv"
_DRAFTS = "predictions"
_EMBEDDINGS = "embeddings.npz"
_LEAST = 0.3  # score from which a box is worth a draft
_ALSO: dict[str, dict[str, tuple[str, ...]]] = {  # what is predicted, and what comes with it by which names
    "probabilities": {},
    "boxes": {"box_labels": ("box_labels", "labels"), "scores": ("scores",)},
    "masks": {"confidence": ("confidence",)},
    "embedding": {},
    "values": {},
}


class PredictionWriter(L.Callback):
    """Writes what `predict` finds: classes as a table, boxes and masks as drafts to correct, embeddings as an array.

    Classes go to `predictions.csv`: for each image its class and how probable it is. The columns are `image` (the
    name that the dataset's `sample_name(index)` gives) or `index` (its position in the dataset), `predicted`,
    `probability`, and `p_CLASS` for every class; above 20 classes `top2`, `top2_probability` and so on up to `top5`
    instead. For a module with `multi_label` the predicted classes, those of probability 0.5 or more, are joined by
    `|`, and `probability` is the highest one. `CSVDataModule` reads the table (`--data.path_column image
    --data.label_columns '[predicted]'`), corrected or not.

    Boxes go to a folder `predictions`, in pixels of the files, as COCO JSON, VOC XML or YOLO text files with their
    scores, masks to PNG files of the files' sizes in `predictions/masks`. `AnnotatedImagesDataModule` reads the folder
    (`--data.root predictions --data.images FOLDER`; YOLO's `labels` belong beside `images`). `order.csv` in it says
    how unsure the model is of each image.

    Embeddings go to `embeddings.npz`, for `numpy.load`: `embedding` (N, D) float32, `image` with the N names, and the
    labels that the data know as `label`.

    Quantities, of regression, go to a table, too: for each image its value, or several as `value_0` and so on.

    Files and folders that are there already, perhaps corrected by hand, are left as they are: the next are
    `predictions_1.csv`, `predictions_1`, `embeddings_1.npz`.

    `predict_step` returns a dict with `probabilities` (N, K); or `values` or `embedding` (N, D); or lists `boxes`,
    `box_labels` and `scores`, in pixels of the batch's images; or `masks` (N, H, W), and perhaps their `confidence`,
    (N,) or (N, H, W); and where the order is not the dataset's, `index` (N,). A module with several tasks puts `TASK_`
    before these names, and its tables are `predictions_TASK.csv`. Over several processes, each image is written once.

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
        self._tables: dict[str, ClassTable] = {}  # by task, "" for a module with one
        self._values: dict[str, ValueTable] = {}  # likewise
        self._boxes, self._masks, self._embeddings = BoxDrafts(), MaskDrafts(), EmbeddingFile()
        self._seen = 0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the predictions before, and take a folder for drafts that holds none yet: they may be corrected."""
        self._forget()
        self._drafts: Path = trainer.strategy.broadcast(next_free_path(self.folder / _DRAFTS))

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in a batch: probabilities, boxes, masks and embeddings, whichever there are."""
        found = _by_task(outputs)
        if not found:
            raise TypeError(
                f"{type(pl_module).__name__}.predict_step must return a dict with `probabilities` (N, K), or `boxes`, "
                "`box_labels` and `scores`, or `masks` (N, H, W), or `values` or `embedding` (N, D) "
                f"for predictions to be written, but it returned {_describe(outputs)}."
            )
        index = self._positions(trainer, outputs, found)
        for task, said in found.items():
            if "probabilities" in said:
                self._tables.setdefault(task, ClassTable()).add(said["probabilities"], index)
            if "values" in said:
                self._values.setdefault(task, ValueTable()).add(said["values"], index)
            if "boxes" in said:
                self._boxes.add(said, batch, index)
            if "masks" in said:
                self._masks.add(said, batch, index, _names(trainer, index.tolist()), self._drafts)
            if "embedding" in said:
                self._embeddings.add(said["embedding"], index)

    def _positions(self, trainer: L.Trainer, outputs: Mapping[str, Any], found: Mapping[str, Any]) -> Tensor:
        count = len(next(value for said in found.values() for value in said.values()))
        index = outputs.get("index")
        if index is None:
            # Lightning's sampler deals the images out to the processes in turn.
            own = torch.arange(self._seen, self._seen + count)
            index = own * trainer.world_size + trainer.global_rank
        self._seen += count
        return cast(Tensor, index).cpu()

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Bring the predictions of all processes together and write them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        own: dict[str, Any] = {"boxes": self._boxes.parts, "masks": self._masks.parts}
        own["embeddings"] = self._embeddings.parts
        own |= {f"table_{task}": table.parts for task, table in self._tables.items()}
        own |= {f"values_{task}": table.parts for task, table in self._values.items()}
        part = self.folder / f".{_FILE}.{trainer.global_rank}.pt"
        if trainer.world_size > 1:
            torch.save(own, part)
            trainer.strategy.barrier()
        if trainer.is_global_zero:
            files = [part.with_name(f".{_FILE}.{rank}.pt") for rank in range(1, trainer.world_size)]
            everything: list[dict[str, Any]] = [own, *(torch.load(file, weights_only=True) for file in files)]
            self._write(
                trainer, pl_module, {key: [p for parts in everything for p in parts.get(key, [])] for key in own}
            )
        if trainer.world_size > 1:
            trainer.strategy.barrier()
            part.unlink(missing_ok=True)
        self._forget()

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, parts: Mapping[str, list[Any]]) -> None:
        if not any(parts.values()):
            log.warning("There were no images to predict.")
            return
        dataset = getattr(trainer.predict_dataloaders, "dataset", None)
        head = "image" if hasattr(dataset, "sample_name") else "index"
        for task in self._values:
            own = parts[f"values_{task}"]
            path, where = self._free(f"predictions_{task}.csv" if task else _FILE)
            samples = _names(trainer, [index for part in own for index in part[0].tolist()])
            log.info("Values for %d images: %s", ValueTable.write(path, own, samples, task or "value", head), where)
        for task, table in self._tables.items():
            own = parts[f"table_{task}"]
            path, where = self._free(f"predictions_{task}.csv" if task else _FILE)
            count = table.write(
                path,
                own,
                _names(trainer, [index for part in own for index in part[0].tolist()]),
                class_names(trainer, pl_module, table.classes),
                bool(pl_module.hparams.get("multi_label")),
                self.threshold,
                self.order == "uncertainty",
                head,
            )
            log.info("Predictions for %d images: %s", count, where)
        if found := parts["embeddings"]:
            path, where = self._free(_EMBEDDINGS)
            labels = getattr(dataset, "labels", None)
            names = _names(trainer, [index for part in found for index in part[0].tolist()])
            log.info(
                "Embeddings of %d images, %d numbers each: %s",
                *self._embeddings.write(path, found, names, labels),
                where,
            )
        if self.format != "coco" and not parts["boxes"]:
            log.warning("--predictions.format %s has no effect: it is for boxes, and this model has none.", self.format)
        if parts["boxes"] or parts["masks"]:
            self._write_drafts(trainer, parts["boxes"], parts["masks"])

    def _free(self, name: str) -> tuple[Path, str]:
        """Return where to write a file, and how to say so."""
        wanted = self.folder / name
        return (path := next_free_path(wanted)), describe_path(path, wanted)

    def _write_drafts(self, trainer: L.Trainer, boxes: Sequence[Any], masks: Sequence[Any]) -> None:
        data = getattr(trainer, "datamodule", None)
        images = Path(getattr(getattr(trainer.predict_dataloaders, "dataset", None), "root", "."))
        unsure_first = self.order != "dataset"
        self._drafts.mkdir(parents=True, exist_ok=True)
        if boxes:
            least = _LEAST if self.threshold is None else self.threshold
            names = _names(trainer, [part[0] for part in boxes])
            classes = list(getattr(data, "box_classes", None) or [])
            count, objects = self._boxes.write(
                boxes, names, images, classes, self._drafts, self.format, least, unsure_first
            )
            where = describe_path(self._drafts, self.folder / _DRAFTS)
            log.info("%d boxes in %d images, from a score of %g on: %s", objects, count, least, where)
        if masks:
            names = _names(trainer, [part[0] for part in masks])
            classes = list(getattr(data, "mask_classes", None) or [])
            count = self._masks.write(masks, names, classes, self._drafts, unsure_first)
            log.info("Masks of %d images: %s", count, describe_path(self._drafts, self.folder / _DRAFTS))
        if boxes and self.format == "yolo":
            log.info("They belong beside the folder `images`: %s", images)
        else:
            log.info("Read with --data AnnotatedImagesDataModule --data.root %s --data.images %s", self._drafts, images)


def _by_task(outputs: Any) -> dict[str, dict[str, Any]]:
    """Return what was predicted by the prefix of its names: `TASK_probabilities` and so on, "" without a prefix."""
    if not isinstance(outputs, Mapping):
        return {}
    found: dict[str, dict[str, Any]] = {}
    for key, value in outputs.items():
        for kind, others in _ALSO.items():
            task = str(key).removesuffix(kind)
            fits = isinstance(value, list | tuple) if kind == "boxes" else isinstance(value, Tensor)
            if task == key or (task and not task.endswith("_")) or not fits:
                continue
            said = {kind: value}
            said |= {
                n: outputs[task + alias] for n, names in others.items() for alias in names if task + alias in outputs
            }
            if kind != "boxes" or len(said) == 3:
                found.setdefault(task.removesuffix("_"), {}).update(said)
    return found


def _describe(outputs: Any) -> str:
    return f"a dict with {sorted(outputs)}" if isinstance(outputs, Mapping) else f"a {type(outputs).__name__}"


def _names(trainer: L.Trainer, indices: Sequence[int]) -> dict[int, str]:
    """Return the names of images by their positions in the dataset; the positions where they have none."""
    dataset = getattr(trainer.predict_dataloaders, "dataset", None)
    sample_name = getattr(dataset, "sample_name", str)
    return {index: str(sample_name(index)) for index in indices}
