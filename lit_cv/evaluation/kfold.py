"""Cross-validation: a fresh model for each fold, judged on the images that it has not seen."""

import csv
import io
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lit_cv.cli.study_run import StudyRun, quietly
from lit_cv.evaluation.folds import Fold, groups_by_pattern, groups_from_table, make_folds
from lit_cv.evaluation.study import PlannedRun, Row, Study, read_table, write_atomically
from lit_cv.figures import render, save_png
from lit_cv.figures.kfold import kfold_figure

__all__ = ["CrossValidation", "FoldOptions", "fold_table"]

_NOT_METRICS = ("key", "repeat", "fold", "train_images", "val_images", "steps", "seconds", "wall_seconds", "error")


@dataclass(frozen=True)
class FoldOptions:
    """How the images are divided and the models judged.

    Attributes:
        folds: Number of folds.
        repeats: Number of divisions into folds, each by another seed.
        stratified: Whether folds hold the classes in proportion; `None` where images have one label.
        groups: CSV file with the group of each image.
        group_pattern: Regular expression that finds the group in the name of an image.
        seed: Seed of the division.
        checkpoint: Which weights are judged: the `last`, or the `best` of the epochs, which were chosen by the
            images of the fold and therefore flatter.
    """

    folds: int = 5
    repeats: int = 1
    stratified: bool | None = None
    groups: str | None = None
    group_pattern: str | None = None
    seed: int = 0
    checkpoint: Literal["last", "best"] = "last"


class CrossValidation:
    """Trains a fresh model for each fold of the training images, and judges it on the fold.

    The folds divide the training images of the DataModule (its test images, and validation images of its own, take
    no part). Each run is a whole `fit`, with its checkpoints and pictures; at its end the model is judged on all images
    of the fold, whatever `--trainer.limit_val_batches` was for the validations on the way. `folder` gets `kfold.csv`
    (a row for each fold), `kfold.md` (the table that is printed), `predictions.csv` (every image, predicted by the
    model that has not seen it) and `kfold.png`.

    Args:
        args: Options of `fit`.
        options: How to divide and judge.
        folder: Where it goes, and where an earlier start is continued.
        command: How to continue it.
    """

    def __init__(self, args: Sequence[str], options: FoldOptions, folder: Path, command: str) -> None:
        self.args, self.options, self.folder = list(args), options, folder
        with quietly():
            built = StudyRun(self.args, folder, only_build=True)
        if not hasattr(built.datamodule, "training_pool"):
            raise ValueError(
                f"kfold needs a DataModule made on datamodules.BaseDataModule, not {type(built.datamodule).__name__}."
            )
        pool = built.datamodule.training_pool()
        self.names = [pool.sample_name(index) for index in range(len(pool))]
        self.labels, self.class_names = pool.labels, pool.class_names
        self.folds = make_folds(
            pool.labels.numpy(), options.folds, options.repeats, options.stratified, self._groups(), options.seed
        )
        seed = built.config[built.subcommand].seed_everything
        self.seed = int(seed) if not isinstance(seed, bool) else 0
        self.epochs = built.trainer.max_epochs
        self._batch_size = getattr(built.datamodule, "batch_size", 1)
        self._max_steps = built.trainer.max_steps
        identity = {"kfold": asdict(options), "options": self.args, "images": len(pool)}
        self.study = Study(folder, identity, [self._plan(fold) for fold in self.folds], "kfold.csv", command)

    def run(self) -> None:
        """Perform the folds that are not done, and report."""
        with quietly():
            self.study.execute(self._perform, shown=self._shown())
        self.report()

    def time_a_step(self, steps: int = 8) -> dict[str, tuple[float, float]]:
        """Return the seconds of a step and those beside steps, from a short run that is thrown away."""
        if self.study.finished:
            return {}
        start = time.monotonic()
        with quietly(logging.ERROR), tempfile.TemporaryDirectory() as folder:
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
        trainer.loggers = []  # what follows is no part of the training's log
        trainer.limit_val_batches = trainer.limit_predict_batches = (
            1.0  # limits are for training: a fold is judged whole
        )
        best = folder / "checkpoints" / "best.ckpt"
        if self.options.checkpoint == "best" and best.is_file():
            model.load_state_dict(torch.load(best, map_location="cpu", weights_only=True)["state_dict"])
        found = trainer.validate(model, datamodule=data, verbose=False)
        metrics = {name: round(value, 6) for name, value in (found[0] if found else {}).items()}
        self._predict(fitted, fold, folder)
        sizes = {"train_images": len(data.train_dataset), "val_images": len(fold.held_out)}
        seconds = round(fitted.clock.seconds, 3)
        return {"repeat": fold.repeat, "fold": fold.number, **sizes, **metrics, "seconds": seconds}

    def _predict(self, fitted: StudyRun, fold: Fold, folder: Path) -> None:
        """Write what the model says of the images of its fold, if it says probabilities."""
        try:
            batches: Any = fitted.trainer.predict(fitted.model, fitted.datamodule.val_dataloader())
        except ValueError:  # modules that learn features predict nothing
            return
        if not batches or not isinstance(batches[0], Mapping) or "probabilities" not in batches[0]:
            return
        probabilities = torch.cat([batch["probabilities"].float().cpu() for batch in batches])
        index = torch.cat([batch["index"].cpu() for batch in batches])
        positions = torch.from_numpy(fold.held_out)[index]
        torch.save({"positions": positions, "probabilities": probabilities}, folder / "predictions.pt")

    def report(self) -> None:
        """Print and write the table, the picture and the predictions of all folds that are done."""
        rows = [row for row in read_table(self.study.table) if not row["error"]]
        failed = [row for row in read_table(self.study.table) if row["error"]]
        if rows:
            text = fold_table(rows)
            write_atomically(self.folder / "kfold.md", text + "\n")
            print(text)
        confusion = self._write_predictions()
        if rows:
            metrics = {name: [float(row[name]) for row in rows if row[name]] for name in metric_names(rows)}
            figure = kfold_figure(metrics, confusion, self.class_names, f"{len(rows)} folds")
            save_png(render(figure), self.folder / "kfold.png")
        for row in failed:
            print(f"{row['key']} failed: {row['error']}")
        print(f"Table, predictions and picture: {self.folder}")

    def _write_predictions(self) -> torch.Tensor | None:
        """Write `predictions.csv`, and return the confusion matrix where images have one label."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        several = self.labels.ndim == 2
        names = list(self.class_names)
        confusion = torch.zeros(len(names), len(names), dtype=torch.int64)
        written = 0
        for run, fold in zip(self.study.runs, self.folds, strict=True):
            path = self.study.run_folder(run) / "predictions.pt"
            if run.key not in self.study.finished or not path.is_file():
                continue
            content = torch.load(path, weights_only=True)
            if not written:
                names = names or [str(k) for k in range(content["probabilities"].shape[1])]
                writer.writerow(["image", "repeat", "fold", "label", "predicted", *(f"p_{name}" for name in names)])
            for position, p in zip(content["positions"].tolist(), content["probabilities"], strict=True):
                label, answer = self.labels[position], _chosen(p, several)
                if not several and fold.repeat == 1:
                    confusion[int(label), answer[0]] += 1
                true = label.nonzero()[:, 0].tolist() if several else [int(label)]
                words = ["|".join(names[k] for k in chosen) for chosen in (true, answer)]
                cells = [f"{value:.6f}" for value in p.tolist()]
                writer.writerow([self.names[position], fold.repeat, fold.number, *words, *cells])
                written += 1
        if written:
            write_atomically(self.folder / "predictions.csv", text.getvalue())
        return confusion if confusion.any() else None

    def _groups(self) -> list[str] | None:
        if self.options.groups and self.options.group_pattern:
            raise ValueError("--groups and --group_pattern were both given: leave one of them out.")
        if self.options.groups:
            return groups_from_table(self.names, self.options.groups)
        return groups_by_pattern(self.names, self.options.group_pattern) if self.options.group_pattern else None

    def _plan(self, fold: Fold) -> PlannedRun:
        several = f"repeat {fold.repeat}, " if self.options.repeats > 1 else ""
        images = len(self.names) - len(fold.held_out)
        steps = max(1, images // self._batch_size) * max(self.epochs or 1, 1)
        steps = min(steps, self._max_steps) if self._max_steps > 0 else steps
        key = f"repeat_{fold.repeat}_fold_{fold.number}"
        title = f"{several}fold {fold.number} of {self.options.folds}"
        return PlannedRun(key, title, "fold", steps, details={"fold": fold})

    def _shown(self) -> str:
        rows = list(self.study.finished.values())
        names = metric_names(rows) if rows else ["val_acc"]
        return next((name for name in ("val_acc", "val_knn_acc", "val_loss") if name in names), names[0])


def metric_names(rows: Sequence[Row]) -> list[str]:
    """Return the names of the metrics in a table of folds."""
    return list(dict.fromkeys(name for row in rows for name in row if name not in _NOT_METRICS))


def fold_table(rows: Sequence[Row]) -> str:
    """Return a Markdown table of the folds, with mean and standard deviation (of a sample) in its last row.

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
    several = len({row["repeat"] for row in rows}) > 1
    lines = ["| " + " | ".join(["fold", *names]) + " |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        name = f"{row['repeat']}.{row['fold']}" if several else str(row["fold"])
        cells = [f"{float(row[metric]):.4f}" if row.get(metric) not in (None, "") else "" for metric in names]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    last = ["mean ± std"]
    for metric in names:
        values = [float(row[metric]) for row in rows if row.get(metric) not in (None, "")]
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        last.append(f"{statistics.mean(values):.4f}{spread}")
    return "\n".join([*lines, "| " + " | ".join(last) + " |"])


def _chosen(probabilities: torch.Tensor, several: bool) -> list[int]:
    if several:
        return [int(k) for k in (probabilities >= 0.5).nonzero()[:, 0]]
    return [int(probabilities.argmax())]
