"""Predictions as a table, or as annotations to correct."""

import logging
import secrets
from collections.abc import Mapping, Sequence, Sized
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L
import torch
from torch import Tensor

from lit_cv.annotations.aside import innermost, remove_dead, written_aside
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
_LEAST = 0.3  # score from which a box is worth a draft


class PredictionWriter(L.Callback):
    """Writes what `predict` finds: classes as a table, boxes and masks as drafts to correct, embeddings as an array.

    Classes go to `predictions.csv`: for each image its class and how probable it is. The columns are `image` (the
    name that the dataset's `sample_name(index)` gives) or `index` (its position in the dataset), `predicted`,
    `probability`, and `p_CLASS` for every class; above 20 classes `top2`, `top2_probability` and so on up to `top5`
    instead. For a module with `multi_label` the predicted classes, those of probability 0.5 or more, are joined by
    `|`, and `probability` is the highest one. `CSVDataModule` reads the table (`path_column="image"`,
    `label_columns=["predicted"]`), corrected or not.

    Boxes go to a folder `predictions`, in pixels of the files, as COCO JSON, VOC XML or YOLO text files with their
    scores, masks to PNG files of the files' sizes in `predictions/masks`. `AnnotatedImagesDataModule` reads the folder
    (`root="predictions"`, `images=FOLDER`; YOLO's `labels` belong beside `images`). `order.csv` in it says
    how unsure the model is of each image.

    Embeddings go to `embeddings.npz`, for `numpy.load`: `embedding` (N, D) float32, `image` with the N names, and the
    labels that the data know as `label`.

    Quantities, of regression, go to a table, too: for each image its value, or several as `value_0` and so on.

    Files and folders that are there already, perhaps corrected by hand, are left as they are: the next are
    `predictions_1.csv`, `predictions_1`, `embeddings_1.npz`.

    Rows of tables and masks are written as they are made. A run that is stopped, or finds the disk full, leaves them in
    `predictions.unfinished.csv` and in the folder of the masks. Names of files that are not UTF-8 keep their bytes in
    tables; VOC has no place for them, which is an error before anything is predicted.

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
        escape_formulas: Whether names of files and classes that a spreadsheet would compute (`=...`, `+...`, `-...`,
            `@...`) get an apostrophe before them. `CSVDataModule` reads them as they were.
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
            raise OptionError(self, "threshold", threshold, "give a probability from 0 to 1")
        self.folder = Path(folder or ".")
        self.format = format
        self.threshold = threshold
        self.order = order
        self.escape_formulas = escape_formulas
        self._tables: dict[str, tuple[RowFile, ClassTable]] = {}  # by task, "" for a module with one
        self._values: dict[str, tuple[RowFile, ValueTable]] = {}  # likewise
        self._forget()

    def _forget(self) -> None:
        for file, _ in (*self._tables.values(), *self._values.values()):
            file.close()
        self._tables, self._values = {}, {}
        self._told = False
        self._boxes, self._masks, self._embeddings = BoxDrafts(), MaskDrafts(), EmbeddingFile()
        self._seen = 0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the predictions before, and take a folder for drafts that holds none yet: they may be corrected."""
        self._forget()
        if self.format == "voc":
            check_voc_names(trainer)
        self._drafts: Path
        drafts = next_free_path(self.folder / _DRAFTS)
        if trainer.is_global_zero:
            remove_dead(drafts)
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
        """Take in a batch: probabilities, boxes, masks and embeddings, whichever there are."""
        found = parts_by_task(outputs)
        if not found:
            raise TypeError(
                f"{type(pl_module).__name__}.predict_step must return a dict with `probabilities` (N, K), or `boxes`, "
                "`box_labels` and `scores`, or `masks` (N, H, W), or `values` or `embedding` (N, D) "
                f"for predictions to be written, but it returned {describe_outputs(outputs)}."
            )
        index = self._positions(trainer, outputs, found)
        names = image_names(trainer, index.tolist())
        try:
            for task, said in found.items():
                self._take(trainer, pl_module, task, said, batch, index, names)
        except OSError as error:
            raise self._incomplete(trainer, error) from error

    def _take(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        task: str,
        said: Mapping[str, Any],
        batch: Any,
        index: Tensor,
        names: Mapping[int, str],
    ) -> None:
        """Write what a task has found in a batch, or keep it for the end."""
        positions = index.tolist()
        samples = [names[position] for position in positions]
        if "probabilities" in said:
            if task not in self._tables:
                classes = said["probabilities"].shape[1]
                tasks = module_extras(pl_module).tasks
                kind = tasks.get(task) if isinstance(tasks, Mapping) else None
                several = bool(pl_module.hparams.get("multi_label")) or isinstance(kind, MultiLabelTask)
                attribute = getattr(kind, "class_attribute", None)
                known = listed_classes(trainer, attribute) if attribute else class_names(trainer, pl_module, classes)
                known = known if known and len(known) == classes else None
                table = ClassTable(classes, known, several, self.threshold, self._shown)
                self._tables[task] = (self._begin(trainer, task, table), table)
            file, table = self._tables[task]
            rows, certainties = table.rows(said["probabilities"], samples)
            file.add(positions, rows, certainties if self.order == "uncertainty" else ())
        if "values" in said:
            if task not in self._values:
                quantities = ValueTable(task or "value", said["values"].flatten(1).shape[1], self._shown)
                self._values[task] = (self._begin(trainer, task, quantities), quantities)
            file, quantities = self._values[task]
            file.add(positions, quantities.rows(said["values"], samples))
        if "boxes" in said:
            self._boxes.add(said, batch, index)
        if "masks" in said:
            self._masks.add(said, batch, index, names, self._drafts)
        if "embedding" in said:
            self._embeddings.add(said["embedding"], index)

    def _shown(self, name: str) -> str:
        return escape_formula(name) if self.escape_formulas else name

    def _wanted(self, task: str) -> Path:
        return inside(self.folder, f"predictions_{task}.csv" if task else _FILE)

    def _begin(self, trainer: L.Trainer, task: str, kind: ClassTable | ValueTable) -> RowFile:
        """Begin the table of a task."""
        self.folder.mkdir(parents=True, exist_ok=True)
        dataset = dataset_of(trainer.predict_dataloaders)
        head = "image" if as_dataset(dataset).sample_name is not None else "index"
        return RowFile(self._wanted(task), kind.columns(head), trainer.global_rank)

    def _kept(self, trainer: L.Trainer) -> str:
        """Return in words what is on the disk of predictions that are not complete."""
        dataset = dataset_of(trainer.predict_dataloaders)
        total = f" of {len(dataset)}" if isinstance(dataset, Sized) else ""
        files = [file for file, _ in (*self._values.values(), *self._tables.values()) if file.images]
        kept = [f"the rows of {file.images}{total} images in {_said(file.path)}" for file in files]
        if masks := len(self._masks.parts):
            kept.append(f"the masks of {masks}{total} images in {_said(self._drafts)}")
        return " and ".join(kept)

    def _incomplete(self, trainer: L.Trainer, error: OSError) -> OSError:
        cause = innermost(error)
        reason = printable(cause.strerror or str(cause), lines=False)
        kept, self._told = self._kept(trainer), True
        return OSError(
            cause.errno or 0,
            f"predictions could not be written to {_said(self.folder)} ({reason}), "
            f"{f'kept are {kept}' if kept else 'none are kept'}: free some space, or write elsewhere "
            f"({argument('folder', self)}).",
        )

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
        """Bring the predictions of all processes together and finish the files."""
        try:
            self._finish(trainer)
        except OSError as error:
            raise self._incomplete(trainer, error) from error
        self._forget()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Say what is kept of predictions that have been stopped."""
        if trainer.state.fn == "predict" and not self._told and (kept := self._kept(trainer)):
            log.warning("The predictions are not complete: kept are %s.", kept)
        self._forget()

    def _finish(self, trainer: L.Trainer) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        own: dict[str, Any] = {"boxes": self._boxes.parts, "masks": self._masks.parts}
        own["embeddings"] = self._embeddings.parts
        own["tables"] = {task: file.record() for task, (file, _) in self._tables.items()}
        own["values"] = {task: file.record() for task, (file, _) in self._values.items()}
        if trainer.world_size == 1:
            self._write(trainer, own, [])
            return
        part = self._part(trainer.global_rank)
        with atomic_write(part, "the predictions of a process", sync=False) as unfinished, open(unfinished, "wb") as f:
            torch.save(own, f)
        try:
            trainer.strategy.barrier()
            if trainer.is_global_zero:
                self._write(trainer, own, [self._load(rank) for rank in range(1, trainer.world_size)])
            trainer.strategy.barrier()
        finally:
            part.unlink(missing_ok=True)

    def _part(self, rank: int) -> Path:
        """Return the file through which a process hands over what it has found: nobody can know its name before."""
        return self.folder / f".predictions.{self._token}.{rank}.pt"

    def _load(self, rank: int) -> dict[str, Any]:
        with open(self._part(rank), "rb") as file:
            found: dict[str, Any] = torch.load(file, weights_only=True)
        return found

    def _write(self, trainer: L.Trainer, own: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> None:
        parts = {key: [p for part in (own, *others) for p in part[key]] for key in ("boxes", "masks", "embeddings")}
        if not any((*parts.values(), own["tables"], own["values"])):
            log.warning("There were no images to predict.")
            return
        dataset = dataset_of(trainer.predict_dataloaders)
        for task, (file, _) in self._values.items():
            path = file.finish(self._wanted(task), _of_task(others, "values", task))
            log.info("Values for %d images: %s", file.images, _said(path, self._wanted(task)))
        for task, (file, _) in self._tables.items():
            unsure_first = self.order == "uncertainty"
            path = file.finish(self._wanted(task), _of_task(others, "tables", task), unsure_first)
            log.info("Predictions for %d images: %s", file.images, _said(path, self._wanted(task)))
        if found := parts["embeddings"]:
            path = next_free_path(self.folder / _EMBEDDINGS)
            labels = as_dataset(dataset).labels
            names = image_names(trainer, [index for part in found for index in part[0].tolist()])
            log.info(
                "Embeddings of %d images, %d numbers each: %s",
                *self._embeddings.write(path, found, names, labels),
                _said(path, self.folder / _EMBEDDINGS),
            )
        if self.format != "coco" and not parts["boxes"]:
            chosen = setting("format", self.format, self)
            log.warning("%s has no effect: it is for boxes, and this model has none.", chosen)
        if parts["boxes"] or parts["masks"]:
            self._write_drafts(trainer, parts["boxes"], parts["masks"])

    def _write_drafts(self, trainer: L.Trainer, boxes: Sequence[Any], masks: Sequence[Any]) -> None:
        images = Path(as_dataset(dataset_of(trainer.predict_dataloaders)).root)
        unsure_first = self.order != "dataset"
        if boxes:
            least = _LEAST if self.threshold is None else self.threshold
            names = image_names(trainer, [part[0] for part in boxes])
            classes = listed_classes(trainer, "box_classes")
            # Without masks, which are written as they come, the folder appears when it is complete.
            place = nullcontext(create_folder(self._drafts)) if masks else written_aside(self._drafts)
            with place as folder:
                count, objects = self._boxes.write(
                    boxes, names, images, classes, folder, self.format, least, unsure_first, self._shown
                )
            where = _said(self._drafts, self.folder / _DRAFTS)
            log.info("%d boxes in %d images, from a score of %g on: %s", objects, count, least, where)
        if masks:
            names = image_names(trainer, [part[0] for part in masks])
            classes = listed_classes(trainer, "mask_classes")
            count = self._masks.write(masks, names, classes, self._drafts, unsure_first, self._shown)
            log.info("Masks of %d images: %s", count, _said(self._drafts, self.folder / _DRAFTS))
        if boxes and self.format == "yolo":
            log.info("They belong beside the folder `images`: %s", _said(images))
        else:
            log.info("Read with AnnotatedImagesDataModule: root %s, images %s", _said(self._drafts), _said(images))


def _said(path: Path, wanted: Path | None = None) -> str:
    return printable(describe_path(path, path if wanted is None else wanted), lines=False)


def _of_task(parts: Sequence[Mapping[str, Any]], key: str, task: str) -> list[Mapping[str, Any]]:
    return [part[key][task] for part in parts if task in part[key]]
