"""Predictions as tables, arrays, or annotation drafts."""

import logging
import secrets
from collections.abc import Mapping, Sequence, Sized
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L
import torch
from torch import Tensor

from lit_cv.annotations.atomic_folder import atomic_folder, remove_stale_folders, root_cause
from lit_cv.annotations.layout import inside
from lit_cv.atomic_files import atomic_write, create_folder, describe_path, next_free_path
from lit_cv.callbacks.predicted_parts import describe_outputs, parts_by_task
from lit_cv.callbacks.prediction_drafts import BoxDrafts, MaskDrafts
from lit_cv.callbacks.prediction_embeddings import EmbeddingFile
from lit_cv.callbacks.prediction_names import check_voc_names, image_names, listed_classes
from lit_cv.callbacks.prediction_rows import RowFile
from lit_cv.callbacks.prediction_table import ClassTable
from lit_cv.callbacks.prediction_values import ValueTable
from lit_cv.callbacks.run_output import class_names
from lit_cv.contracts import as_dataset, dataset_of, module_extras
from lit_cv.errors import OptionError, argument, setting
from lit_cv.printable import printable
from lit_cv.spreadsheet import escape_formula
from lit_cv.tasks import MultiLabelTask

__all__ = ["PredictionWriter"]

log = logging.getLogger("lit_cv")

_FILE = "predictions.csv"
_DRAFTS = "predictions"
_EMBEDDINGS = "embeddings.npz"
_MIN_BOX_SCORE = 0.3  # default minimum score of a box in a draft


class PredictionWriter(L.Callback):
    """Writes predictions: classes as a table, boxes and masks as annotation drafts, embeddings as an array.

    Classes are written to `predictions.csv` with one row per image. Its columns are `image` (the dataset's
    `sample_name(index)`) or else `index` (the position in the dataset), `predicted`, `probability`, and `p_CLASS` for
    every class; with more than 20 classes `top2`, `top2_probability` and so on up to `top5` instead. For a module with
    `multi_label` the predicted classes, with probabilities of at least 0.5, are joined by `|`, and `probability` is the
    highest one. `CSVDataModule` reads the table (`path_column="image"`, `label_columns=["predicted"]`), also after
    corrections by hand.

    Boxes are written to a folder `predictions`, in file pixels, as COCO JSON, VOC XML or YOLO text files with their
    scores, and with the masks of the objects in COCO JSON; masks of classes to PNG files of the files' sizes in
    `predictions/masks`. `AnnotatedImagesDataModule` reads the folder (`root="predictions"`, `images=FOLDER`; YOLO's
    `labels` belong beside `images`). Its `order.csv` lists the uncertainty of each image.

    Embeddings are written to `embeddings.npz`, for `numpy.load`: `embedding` (N, D) float32, `image` with the N
    names, and `label` if the data have labels.

    Values of regression are written to a table: one value per image, or several as `value_0` and so on.

    Existing files and folders, which may contain corrections, are never overwritten: the next ones are
    `predictions_1.csv`, `predictions_1`, `embeddings_1.npz`.

    Table rows and masks are written immediately. If a run is stopped or the disk is full, finished rows remain in
    `predictions.unfinished.csv` and finished masks in their folder. File names that are not UTF-8 keep their bytes in
    tables; VOC cannot hold them, which is an error before anything is predicted.

    `predict_step` returns a dict with `probabilities` (N, K); or `values` or `embedding` (N, D); or lists `boxes`,
    `box_labels` and `scores`, in pixels of the batch's images, optionally with a list of `masks` (k, H, W) bool; or
    `masks` (N, H, W), optionally with `confidence` (N,) or (N, H, W). If images are not in dataset order, it also
    returns `index` (N,). A module with several tasks prefixes these names with `TASK_`, and its tables are
    `predictions_TASK.csv`. With several ranks each image is written once.

    Args:
        folder: Output folder, created if missing; `None` uses the run's folder.
        format: Format of boxes: `coco`, `voc` or `yolo`.
        threshold: Minimum probability of a predicted class, below which it is left empty, and minimum score of a box.
            `None` means no minimum for classes and 0.3 for boxes.
        order: Order of the images: `dataset`, or `uncertainty` to start with those that most need a correction: the
            least probable class, or boxes with scores nearest to 0.5. `None` uses `dataset` for tables and
            `uncertainty` for boxes and masks.
        escape_formulas: Whether to prefix file and class names that a spreadsheet would evaluate (`=...`, `+...`,
            `-...`, `@...`) with an apostrophe. `CSVDataModule` removes it when reading.
    """

    def __init__(
        self,
        folder: str | None = None,
        format: Literal["coco", "voc", "yolo"] = "coco",
        threshold: float | None = None,
        order: Literal["dataset", "uncertainty"] | None = None,
        escape_formulas: bool = False,
    ) -> None:
        if threshold is not None and not 0 <= threshold <= 1:
            raise OptionError(self, "threshold", threshold, "must be a probability from 0 to 1")
        self.folder = Path(folder or ".")
        self.format = format
        self.threshold = threshold
        self.order = order
        self.escape_formulas = escape_formulas
        self._tables: dict[str, tuple[RowFile, ClassTable]] = {}  # by task; key "" for a module with one task
        self._values: dict[str, tuple[RowFile, ValueTable]] = {}  # likewise
        self._reset()

    def _reset(self) -> None:
        for file, _ in (*self._tables.values(), *self._values.values()):
            file.close()
        self._tables, self._values = {}, {}
        self._reported = False
        self._boxes, self._masks, self._embeddings = BoxDrafts(), MaskDrafts(), EmbeddingFile()
        self._seen = 0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discard earlier predictions and choose a new folder for drafts, as existing ones may contain corrections."""
        self._reset()
        if self.format == "voc":
            check_voc_names(trainer)
        self._drafts: Path
        drafts = next_free_path(self.folder / _DRAFTS)
        if trainer.is_global_zero:
            remove_stale_folders(drafts)
        self._drafts, self._token = trainer.strategy.broadcast((drafts, secrets.token_hex(8)))

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Store or write the predictions of a batch."""
        by_task = parts_by_task(outputs)
        if not by_task:
            raise TypeError(
                f"{type(pl_module).__name__}.predict_step returned {describe_outputs(outputs)}: predictions can only "
                "be written from a dict with `probabilities` (N, K), or `boxes`, `box_labels` and `scores`, or `masks` "
                "(N, H, W), or `values` or `embedding` (N, D)."
            )
        index = self._positions(trainer, outputs, by_task)
        names = image_names(trainer, index.tolist())
        try:
            for task, predictions in by_task.items():
                self._add(trainer, pl_module, task, predictions, batch, index, names)
        except OSError as error:
            raise self._incomplete(trainer, error) from error

    def _add(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        task: str,
        predictions: Mapping[str, Any],
        batch: Any,
        index: Tensor,
        names: Mapping[int, str],
    ) -> None:
        """Write the predictions of a task for a batch, or keep them until the end."""
        positions = index.tolist()
        samples = [names[position] for position in positions]
        if "probabilities" in predictions:
            if task not in self._tables:
                classes = predictions["probabilities"].shape[1]
                tasks = module_extras(pl_module).tasks
                kind = tasks.get(task) if isinstance(tasks, Mapping) else None
                several = bool(pl_module.hparams.get("multi_label")) or isinstance(kind, MultiLabelTask)
                attribute = getattr(kind, "class_attribute", None)
                labels = listed_classes(trainer, attribute) if attribute else class_names(trainer, pl_module, classes)
                labels = labels if labels and len(labels) == classes else None
                table = ClassTable(classes, labels, several, self.threshold, self._shown)
                self._tables[task] = (self._begin(trainer, task, table), table)
            file, table = self._tables[task]
            rows, certainties = table.rows(predictions["probabilities"], samples)
            file.add(positions, rows, certainties if self.order == "uncertainty" else ())
        if "values" in predictions:
            if task not in self._values:
                quantities = ValueTable(task or "value", predictions["values"].flatten(1).shape[1], self._shown)
                self._values[task] = (self._begin(trainer, task, quantities), quantities)
            file, quantities = self._values[task]
            file.add(positions, quantities.rows(predictions["values"], samples))
        if "boxes" in predictions:
            self._boxes.add(predictions, batch, index)
        if "masks" in predictions:
            self._masks.add(predictions, batch, index, names, self._drafts)
        if "embedding" in predictions:
            self._embeddings.add(predictions["embedding"], index)

    def _shown(self, name: str) -> str:
        return escape_formula(name) if self.escape_formulas else name

    def _table_path(self, task: str) -> Path:
        return inside(self.folder, f"predictions_{task}.csv" if task else _FILE)

    def _begin(self, trainer: L.Trainer, task: str, kind: ClassTable | ValueTable) -> RowFile:
        """Create the unfinished table of a task."""
        self.folder.mkdir(parents=True, exist_ok=True)
        dataset = dataset_of(trainer.predict_dataloaders)
        head = "image" if as_dataset(dataset).sample_name is not None else "index"
        return RowFile(self._table_path(task), kind.columns(head), trainer.global_rank)

    def _describe_saved(self, trainer: L.Trainer) -> str:
        """Describe the incomplete predictions on disk for a message."""
        dataset = dataset_of(trainer.predict_dataloaders)
        total = f" of {len(dataset)}" if isinstance(dataset, Sized) else ""
        files = [file for file, _ in (*self._values.values(), *self._tables.values()) if file.images]
        saved = [f"the rows of {file.images}{total} images in {_describe(file.path)}" for file in files]
        if masks := len(self._masks.parts):
            saved.append(f"the masks of {masks}{total} images in {_describe(self._drafts)}")
        return " and ".join(saved)

    def _incomplete(self, trainer: L.Trainer, error: OSError) -> OSError:
        cause = root_cause(error)
        reason = printable(cause.strerror or str(cause), lines=False)
        saved, self._reported = self._describe_saved(trainer), True
        return OSError(
            cause.errno or 0,
            f"predictions could not be written to {_describe(self.folder)} ({reason}); "
            f"{f'saved so far: {saved}' if saved else 'nothing was saved'}. Free some space or choose another folder "
            f"({argument('folder', self)}).",
        )

    def _positions(self, trainer: L.Trainer, outputs: Mapping[str, Any], by_task: Mapping[str, Any]) -> Tensor:
        count = len(next(value for predictions in by_task.values() for value in predictions.values()))
        index = outputs.get("index")
        if index is None:
            # Lightning's sampler distributes the images to the ranks in turn.
            local = torch.arange(self._seen, self._seen + count)
            index = local * trainer.world_size + trainer.global_rank
        self._seen += count
        return cast(Tensor, index).cpu()

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Merge the predictions of all ranks and finish the files."""
        try:
            self._finish(trainer)
        except OSError as error:
            raise self._incomplete(trainer, error) from error
        self._reset()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Log which predictions are saved when prediction stops early."""
        if trainer.state.fn == "predict" and not self._reported and (saved := self._describe_saved(trainer)):
            log.warning("The predictions are incomplete. Saved: %s.", saved)
        self._reset()

    def _finish(self, trainer: L.Trainer) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content: dict[str, Any] = {"boxes": self._boxes.parts, "masks": self._masks.parts}
        content["embeddings"] = self._embeddings.parts
        content["tables"] = {task: file.record() for task, (file, _) in self._tables.items()}
        content["values"] = {task: file.record() for task, (file, _) in self._values.items()}
        if trainer.world_size == 1:
            self._write(trainer, content, [])
            return
        part = self._part(trainer.global_rank)
        with atomic_write(part, "the predictions of a rank", sync=False) as unfinished, open(unfinished, "wb") as f:
            torch.save(content, f)
        try:
            trainer.strategy.barrier()
            if trainer.is_global_zero:
                self._write(trainer, content, [self._load(rank) for rank in range(1, trainer.world_size)])
            trainer.strategy.barrier()
        finally:
            part.unlink(missing_ok=True)

    def _part(self, rank: int) -> Path:
        """Return the file through which a rank passes its predictions to rank 0, under an unpredictable name."""
        return self.folder / f".predictions.{self._token}.{rank}.pt"

    def _load(self, rank: int) -> dict[str, Any]:
        with open(self._part(rank), "rb") as file:
            content: dict[str, Any] = torch.load(file, weights_only=True)
        return content

    def _write(self, trainer: L.Trainer, content: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> None:
        ranks = (content, *others)
        parts = {key: [p for part in ranks for p in part[key]] for key in ("boxes", "masks", "embeddings")}
        if not any((*parts.values(), content["tables"], content["values"])):
            log.warning("There are no images to predict.")
            return
        dataset = dataset_of(trainer.predict_dataloaders)
        for task, (file, _) in self._values.items():
            path = file.finish(self._table_path(task), _of_task(others, "values", task))
            log.info("Values for %d images: %s", file.images, _describe(path, self._table_path(task)))
        for task, (file, _) in self._tables.items():
            unsure_first = self.order == "uncertainty"
            path = file.finish(self._table_path(task), _of_task(others, "tables", task), unsure_first)
            log.info("Predictions for %d images: %s", file.images, _describe(path, self._table_path(task)))
        if embeddings := parts["embeddings"]:
            path = next_free_path(self.folder / _EMBEDDINGS)
            labels = as_dataset(dataset).labels
            names = image_names(trainer, [index for part in embeddings for index in part[0].tolist()])
            log.info(
                "Embeddings of %d images, %d dimensions: %s",
                *self._embeddings.write(path, embeddings, names, labels),
                _describe(path, self.folder / _EMBEDDINGS),
            )
        if self.format != "coco" and not parts["boxes"]:
            chosen = setting("format", self.format, self)
            log.warning("%s has no effect: this model predicts no boxes.", chosen)
        if parts["boxes"] or parts["masks"]:
            self._write_drafts(trainer, parts["boxes"], parts["masks"])

    def _write_drafts(self, trainer: L.Trainer, boxes: Sequence[Any], masks: Sequence[Any]) -> None:
        images = Path(as_dataset(dataset_of(trainer.predict_dataloaders)).root)
        unsure_first = self.order != "dataset"
        if boxes:
            threshold = _MIN_BOX_SCORE if self.threshold is None else self.threshold
            names = image_names(trainer, [part[0] for part in boxes])
            classes = listed_classes(trainer, "box_classes")
            # Masks are written immediately. Without them, the folder appears only when it is complete.
            place = nullcontext(create_folder(self._drafts)) if masks else atomic_folder(self._drafts)
            with place as folder:
                count, objects = self._boxes.write(
                    boxes, names, images, classes, folder, self.format, threshold, unsure_first, self._shown
                )
            if self.format != "coco" and any(part[6] for part in boxes):
                chosen = setting("format", "coco", self)
                log.warning("Only the boxes are written: %s also stores the masks of objects.", chosen)
            where = _describe(self._drafts, self.folder / _DRAFTS)
            log.info("%d boxes in %d images, with scores of at least %g: %s", objects, count, threshold, where)
        if masks:
            names = image_names(trainer, [part[0] for part in masks])
            classes = listed_classes(trainer, "mask_classes")
            count = self._masks.write(masks, names, classes, self._drafts, unsure_first, self._shown)
            log.info("Masks of %d images: %s", count, _describe(self._drafts, self.folder / _DRAFTS))
        if boxes and self.format == "yolo":
            log.info("Move the folder `labels` beside the folder `images`: %s", _describe(images))
        else:
            drafts = _describe(self._drafts)
            log.info("Read with AnnotatedImagesDataModule: root %s, images %s", drafts, _describe(images))


def _describe(path: Path, wanted: Path | None = None) -> str:
    return printable(describe_path(path, path if wanted is None else wanted), lines=False)


def _of_task(parts: Sequence[Mapping[str, Any]], key: str, task: str) -> list[Mapping[str, Any]]:
    return [part[key][task] for part in parts if task in part[key]]
