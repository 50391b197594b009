"""Cross-validation: train a fresh model for each fold, and evaluate it on the held-out images."""

import hashlib
import logging
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lit_cv.atomic_files import atomic_write, write_text
from lit_cv.checkpoint_file import load_tensors
from lit_cv.contracts import as_data
from lit_cv.csv_tables import csv_text
from lit_cv.errors import argument
from lit_cv.figures import render, save_png
from lit_cv.figures.kfold import kfold_figure
from lit_cv.printable import printable
from lit_cv.spreadsheet import escape_formula
from lit_cv.studies.folds import Fold, groups_by_pattern, groups_from_table, make_folds
from lit_cv.studies.markdown import escape_markdown
from lit_cv.studies.study import PlannedRun, Study
from lit_cv.studies.study_files import Row, damaged
from lit_cv.studies.study_run import StudyRun, quiet_runs

__all__ = ["CrossValidation", "FoldOptions", "fold_table"]

_NOT_METRICS = ("key", "repeat", "fold", "train_images", "val_images", "steps", "seconds", "wall_seconds", "error")
_PREDICTIONS = "predictions.pt"
_MAX_CLASSES = 1_000_000


@dataclass(frozen=True)
class FoldOptions:
    """How to split the images and evaluate the models.

    Attributes:
        folds: Number of folds.
        repeats: Number of splits into folds, each with another seed.
        stratified: Whether each fold keeps the class proportions; `None` does so if images have one label each.
        groups: CSV file with the group of each image.
        group_pattern: Regular expression that finds the group in the name of an image.
        seed: Seed of the split.
        checkpoint: Weights to evaluate: those of the `last` epoch, or of the `best`. The best epoch is chosen on the
            held-out images, so its score is optimistic.
    """

    folds: int = 5
    repeats: int = 1
    stratified: bool | None = None
    groups: str | None = None
    group_pattern: str | None = None
    seed: int = 0
    checkpoint: Literal["last", "best"] = "last"


class CrossValidation:
    """Trains a fresh model for each fold of the training images, and evaluates it on the fold.

    The folds split the training images of the DataModule; its test images, and validation images that it lists
    separately, are not used. Each run is a complete `fit` with checkpoints and figures. At its end, the model is
    evaluated on all images of the fold, whatever `limit_val_batches` was in training. `folder` gets `kfold.csv` (one
    row per fold), `kfold.md` (the printed table), `predictions.csv` (each image, predicted by the model that has not
    seen it) and `kfold.png`.

    Args:
        args: Options of `fit`.
        options: How to split and evaluate.
        folder: Output folder; an interrupted cross-validation in it is resumed.
        command: The command that resumes it, for messages.
        escape_formulas: Whether to escape names in the tables that a spreadsheet would evaluate as formulas.
    """

    def __init__(
        self, args: Sequence[str], options: FoldOptions, folder: Path, command: str, escape_formulas: bool = False
    ) -> None:
        self.escape_formulas = escape_formulas
        self.args, self.options, self.folder = list(args), options, folder
        with quiet_runs():
            built = StudyRun(self.args, folder, only_build=True)
        training_pool = as_data(built.datamodule).training_pool
        if training_pool is None:
            raise ValueError(
                f"kfold needs a subclass of datamodules.BaseDataModule, not {type(built.datamodule).__name__}."
            )
        pool = training_pool()
        self.names = [pool.sample_name(index) for index in range(len(pool))]
        self.labels, self.class_names = pool.hard_labels().labels, pool.class_names
        self._files = pool.groups()
        strata = self.labels if (self.labels >= 0).any() else pool.strata  # for boxes and masks
        self.folds = make_folds(
            strata.numpy(), options.folds, options.repeats, options.stratified, self._groups(), options.seed
        )
        seed = built.config[built.subcommand].seed_everything
        self.seed = int(seed) if not isinstance(seed, bool) else 0
        self.epochs = built.trainer.max_epochs
        self._batch_size = as_data(built.datamodule).batch_size
        self._max_steps = built.trainer.max_steps
        names = hashlib.sha256("\0".join(self.names).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        identity = {"kfold": asdict(options), "options": self.args, "images": len(pool), "names": names}
        identity["classes"] = list(self.class_names)
        plan = [self._plan(fold) for fold in self.folds]
        self.study = Study(folder, identity, plan, "kfold.csv", command, escape_formulas)
        if any(name not in row for row in self.study.finished.values() for name in ("repeat", "fold")):
            raise damaged(self.study.table, "it lacks the columns repeat and fold")

    def run(self) -> None:
        """Run the folds that are not done, and write the report."""
        with quiet_runs():
            self.study.execute(self._perform, shown=self._shown())
        self.report()

    def time_a_step(self, steps: int = 8) -> dict[str, tuple[float, float]]:
        """Measure the seconds per step and the seconds outside steps, in a short run that leaves no files."""
        if self.study.finished:
            return {}
        start = time.monotonic()
        with quiet_runs(logging.ERROR), tempfile.TemporaryDirectory() as folder:
            short = [
                f"--trainer.{name}" for name in (f"max_steps={steps}", f"max_epochs={steps}", "limit_val_batches=0")
            ]
            run = StudyRun([*self.args, *short, "--trainer.limit_val_batches=0"], Path(folder), lean=True)
        step = run.clock.step_seconds
        return {"fold": (step, time.monotonic() - start - steps * step)}

    def _perform(self, run: PlannedRun, folder: Path, report: Callable[[int], None]) -> Row:
        fold: Fold = run.details["fold"]
        seed = f"--seed_everything={self.seed + fold.repeat - 1}"

        def hold_out(datamodule: Any) -> None:
            datamodule.validate_on(fold.held_out)

        fitted = StudyRun([*self.args, seed], folder, prepare_data=hold_out, report=report)
        trainer, model, data = fitted.trainer, fitted.model, fitted.datamodule
        trainer.loggers = []  # the evaluation does not belong into the training log
        trainer.limit_val_batches = trainer.limit_predict_batches = 1.0  # evaluate the complete fold
        best = folder / "checkpoints" / "best.ckpt"
        if self.options.checkpoint == "best" and best.is_file():
            model.load_state_dict({**model.state_dict(), **_weights_of(best)})  # it may lack frozen weights
        results = trainer.validate(model, datamodule=data, verbose=False)
        metrics = {name: round(value, 6) for name, value in (results[0] if results else {}).items()}
        self._predict(fitted, fold, folder)
        sizes = {"train_images": len(data.train_dataset), "val_images": len(fold.held_out)}
        seconds = round(fitted.clock.seconds, 3)
        return {"repeat": fold.repeat, "fold": fold.number, **sizes, **metrics, "seconds": seconds}

    def _predict(self, fitted: StudyRun, fold: Fold, folder: Path) -> None:
        """Write the predictions for the images of the fold, if the model predicts probabilities."""
        try:
            batches: Any = fitted.trainer.predict(fitted.model, fitted.datamodule.val_dataloader())
        except ValueError:  # modules that learn features predict nothing
            return
        if not batches or not isinstance(batches[0], Mapping) or "probabilities" not in batches[0]:
            return
        probabilities = torch.cat([batch["probabilities"].float().cpu() for batch in batches])
        index = torch.cat([batch["index"].cpu() for batch in batches])
        positions = torch.from_numpy(fold.held_out)[index]
        with atomic_write(folder / _PREDICTIONS, "the predictions") as part:
            torch.save({"positions": positions, "probabilities": probabilities}, part)

    def report(self) -> None:
        """Print the table, and write it with the figure and the predictions of all finished folds."""
        done = [self.study.rows[run.key] for run in self.study.runs if run.key in self.study.rows]
        rows = [row for row in done if not row["error"]]
        failed = [row for row in done if row["error"]]
        if rows:
            text = "\n".join([fold_table(rows), *(f"\n{note}" for note in not_finite(rows))])
            write_text(self.folder / "kfold.md", text + "\n", "the table")
            print(printable(text))
        confusion = self._write_predictions()
        if rows:
            metrics = {
                name: [float(row[name]) for row in rows if row.get(name) not in (None, "")]
                for name in metric_names(rows)
            }
            figure = kfold_figure(metrics, confusion, self.class_names, f"{len(rows)} folds")
            save_png(render(figure), self.folder / "kfold.png")
        for row in failed:
            print(printable(f"{row['key']} failed: {row['error']}", lines=False))
        print(printable(f"Table, predictions and figure: {self.folder}", lines=False))

    def _write_predictions(self) -> torch.Tensor | None:
        """Write `predictions.csv`, and return the confusion matrix if images have one label each."""
        table: list[list[Any]] = []
        multi_label = self.labels.ndim == 2
        names = list(self.class_names)
        confusion = torch.zeros(len(names), len(names), dtype=torch.int64)
        for run, fold in zip(self.study.runs, self.folds, strict=True):
            path = self.study.run_folder(run) / _PREDICTIONS
            if run.key not in self.study.finished or not path.is_file():
                continue
            positions, probabilities = _read_predictions(path, fold, len(names) or None)
            if not table:
                names = names or [str(k) for k in range(probabilities.shape[1])]
                table.append(["image", "repeat", "fold", "label", "predicted", *(f"p_{name}" for name in names)])
            for position, p in zip(positions, probabilities, strict=True):
                label, predicted = self.labels[position], _predicted_classes(p, multi_label)
                if not multi_label and fold.repeat == 1:
                    confusion[int(label), predicted[0]] += 1
                true = label.nonzero()[:, 0].tolist() if multi_label else [int(label)]
                classes = ["|".join(names[k] for k in indices) for indices in (true, predicted)]
                cells = [f"{value:.6f}" for value in p.tolist()]
                name, *classes = map(self._cell, [self.names[position], *classes])
                table.append([name, fold.repeat, fold.number, *classes, *cells])
        if table:
            write_text(self.folder / "predictions.csv", csv_text(table), "the predictions")
        return confusion if confusion.any() else None

    def _cell(self, name: str) -> str:
        return escape_formula(name) if self.escape_formulas else name

    def _groups(self) -> list[str] | None:
        if self.options.groups and self.options.group_pattern:
            raise ValueError(f"{argument('groups')} and {argument('group_pattern')} exclude each other: leave one out.")
        if self.options.groups:
            return groups_from_table(self.names, self.options.groups)
        return groups_by_pattern(self.names, self.options.group_pattern) if self.options.group_pattern else self._files

    def _plan(self, fold: Fold) -> PlannedRun:
        repeat = f"repeat {fold.repeat}, " if self.options.repeats > 1 else ""
        images = len(self.names) - len(fold.held_out)
        steps = max(1, images // self._batch_size) * max(self.epochs or 1, 1)
        steps = min(steps, self._max_steps) if self._max_steps > 0 else steps
        key = f"repeat_{fold.repeat}_fold_{fold.number}"
        title = f"{repeat}fold {fold.number} of {self.options.folds}"
        return PlannedRun(key, title, "fold", steps, details={"fold": fold})

    def _shown(self) -> str:
        rows = list(self.study.finished.values())
        names = metric_names(rows) if rows else ["val_acc"]
        return next((name for name in ("val_acc", "val_knn_acc", "val_loss") if name in names), names[0])


def _weights_of(path: Path) -> Mapping[str, torch.Tensor]:
    """Return the weights of a fold's checkpoint."""
    try:
        weights: Mapping[str, torch.Tensor] = load_tensors(path)["state_dict"]
    except Exception as error:  # other kinds of files may raise anything
        if isinstance(error, MemoryError | OSError):
            raise
        raise damaged(path, "it holds no weights") from None
    return weights


def _read_predictions(path: Path, fold: Fold, classes: int | None) -> tuple[list[int], torch.Tensor]:
    """Read the predictions for a fold: positions in the training pool, and (N, classes) probabilities.

    Raises:
        ValueError: If the file does not hold valid predictions for this fold.
    """
    try:
        content = load_tensors(path)
        positions, probabilities = content["positions"], content["probabilities"]
        shapes = len(positions), int(probabilities.shape[1])
        valid = probabilities.layout == positions.layout == torch.strided
        valid &= positions.dtype == torch.int64 and positions.shape == (len(probabilities),) and probabilities.ndim == 2
    except Exception as error:  # other kinds of files may raise anything
        if isinstance(error, MemoryError | OSError):
            raise
        raise damaged(path, "it holds no predictions") from None
    if not valid or not probabilities.is_floating_point() or shapes[0] > len(fold.held_out):
        raise damaged(path, "it holds no predictions of this fold")
    if not 0 < shapes[1] <= (classes or _MAX_CLASSES) or shapes[1] != (classes or shapes[1]):
        raise damaged(path, f"it holds predictions for {shapes[1]} classes instead of {classes or 'fewer'}")
    indices = positions.tolist()
    if len({*indices} & {*fold.held_out.tolist()}) != len(indices):
        raise damaged(path, "it holds predictions for images outside this fold")
    return indices, probabilities


def not_finite(rows: Sequence[Row]) -> list[str]:
    """Return a line for each metric that is not finite in some folds.

    Example:
        >>> not_finite([{"repeat": 1, "fold": k, "val_loss": v} for k, v in ((1, 0.5), (2, float("inf")))])
        ['val_loss is not finite in fold 2: its mean and spread are undefined.']
    """
    lines = []
    for metric in metric_names(rows):
        folds = [_fold_name(row, rows) for row in rows if not math.isfinite(float(row.get(metric) or 0))]
        if folds:
            where = f"fold{'s' * (len(folds) > 1)} {', '.join(folds)}"
            lines.append(f"{escape_markdown(metric)} is not finite in {where}: its mean and spread are undefined.")
    return lines


def _fold_name(row: Row, rows: Sequence[Row]) -> str:
    repeated = len({str(row["repeat"]) for row in rows}) > 1
    return f"{row['repeat']}.{row['fold']}" if repeated else str(row["fold"])


def metric_names(rows: Sequence[Row]) -> list[str]:
    """Return the names of the metrics in a table of folds."""
    return list(dict.fromkeys(name for row in rows for name in row if name not in _NOT_METRICS))


def fold_table(rows: Sequence[Row]) -> str:
    """Return a Markdown table of the folds, with mean and sample standard deviation in the last row.

    They are left out for a metric that is not finite in some fold.

    Args:
        rows: Rows of `kfold.csv`.

    Example:
        >>> print(fold_table([{"repeat": 1, "fold": k, "val_acc": a} for k, a in ((1, 0.9), (2, 0.8))]))
        | fold | val_acc |
        |---|---|
        | 1 | 0.9000 |
        | 2 | 0.8000 |
        | mean ± std | 0.8500 ± 0.0707 |
    """
    names = metric_names(rows)
    lines = ["| " + " | ".join(["fold", *map(escape_markdown, names)]) + " |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        cells = [f"{float(row[metric]):.4f}" if row.get(metric) not in (None, "") else "" for metric in names]
        lines.append("| " + " | ".join([_fold_name(row, rows), *cells]) + " |")
    last = ["mean ± std"]
    for metric in names:
        values = [float(row[metric]) for row in rows if row.get(metric) not in (None, "")]
        if not values or not all(map(math.isfinite, values)):
            last.append("not finite" if values else "")
            continue
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        last.append(f"{statistics.mean(values):.4f}{spread}")
    return "\n".join([*lines, "| " + " | ".join(last) + " |"])


def _predicted_classes(probabilities: torch.Tensor, multi_label: bool) -> list[int]:
    if multi_label:
        return [int(k) for k in (probabilities >= 0.5).nonzero()[:, 0]]
    return [int(probabilities.argmax())]
