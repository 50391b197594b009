"""Learning approaches measured against each other: the same images, labels, seeds and length of training."""

import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from datamodules.splits import keep_labels
from lit_cv.atomic_files import write_text
from lit_cv.contracts import as_data
from lit_cv.metrics.centroid import centroid_predictions
from lit_cv.modules.loading import load_module
from lit_cv.running.arguments import read_configuration
from lit_cv.studies.comparison_plan import GIVEN, Approach, Budget, Comparison, Stage, budget_words
from lit_cv.studies.study import PlannedRun, Study
from lit_cv.studies.study_files import Row, damaged, read_json, write_json, write_table
from lit_cv.studies.study_run import StudyRun, quietly

__all__ = ["TABLE", "ComparisonRun"]

TABLE = "compare.csv"
_LENGTHS = "lengths.json"
_ENDLESS = 1_000_000  # epochs: the number of steps ends a run
_TIMED = 8  # steps by which a stage is timed


@dataclass(frozen=True)
class _Work:
    """What a run trains: a stage for some labels, with the run before it."""

    approach: Approach
    stage: Stage
    budget: Budget
    seed: int
    before: str | None
    last: bool


class ComparisonRun:
    """Performs a comparison, and keeps its table.

    Each run trains on some labels with one seed for a number of steps, and is tested once, at its end, on the test
    images: no validation labels are spent on choosing an epoch. All training images are there without labels for
    pretraining, which is done once and shared; its time is counted in full for each approach that starts from it.

    Args:
        comparison: What to compare.
        folder: Where it goes, and where an earlier start is continued.
        command: How to continue it.
        escape_formulas: Whether names in the tables that a spreadsheet would compute are escaped.

    Raises:
        ValueError: If the data have no test images, or are not of this project's kind.
    """

    def __init__(self, comparison: Comparison, folder: Path, command: str, escape_formulas: bool = False) -> None:
        self.comparison, self.folder, self.escape_formulas = comparison, folder, escape_formulas
        self._inspect_data()
        self.seconds_a_step: dict[str, tuple[float, float]] = {}
        self._work: dict[str, _Work] = {}
        self._lengths: dict[str, int] = self._read_lengths()
        runs: dict[str, PlannedRun] = {}
        for seed in comparison.seeds:
            for budget in comparison.labels:
                for approach in comparison.approaches:
                    self._plan_chain(runs, approach, budget, seed)
        identity = comparison.identity()
        self.study = Study(folder, identity, list(runs.values()), "runs.csv", command, escape_formulas)

    def run(self) -> None:
        """Perform what is left."""
        if self._lengths:
            write_json(self.folder / _LENGTHS, self._lengths, "the lengths of the runs")
        with quietly():
            self.study.execute(self._perform, self.write, self.comparison.metric)
        self.write()

    def write(self) -> None:
        """Write `compare.csv`: a row for each approach, number of labels and seed that is done or has failed."""
        rows = [self._row(run) for run in self.study.runs if self._work[run.key].last and run.key in self.study.rows]
        write_table(self.folder / TABLE, rows, last=("error",), escape_formulas=self.escape_formulas)

    def time_steps(self) -> dict[str, tuple[float, float]]:
        """Return seconds a step, and seconds beside its steps, of the kinds of runs of which none is done."""
        done = {run.kind for run in self.study.runs if run.key in self.study.finished}
        for run in self.study.runs:
            work = self._work[run.key]
            if run.kind not in done and run.kind not in self.seconds_a_step and work.stage.classifier is None:
                self._time(run.kind, work)
        return self.seconds_a_step

    def _inspect_data(self) -> None:
        first = next((a for a in self.comparison.approaches if a.stages[0].config is not None), None)
        if first is None:
            raise ValueError("there is no approach to compare.")
        work = _Work(first, first.stages[0], Budget(), self.comparison.seeds[0], None, False)
        with quietly(), tempfile.TemporaryDirectory() as folder:
            data = StudyRun(self._options(work, Path(folder), 1, build=True), Path(folder), only_build=True).datamodule
        if as_data(data).training_pool is None:
            raise ValueError(f"a comparison needs a DataModule made on BaseDataModule, not {type(data).__name__}.")
        data.prepare_data()
        data.setup()
        if data.test_dataset is None:
            raise ValueError(f"{type(data).__name__} has no test images here, which a comparison is measured on.")
        self.images = len(data.train_dataset)
        self._training_labels = data.train_dataset.labels
        seed = self.comparison.seeds[0]
        self.labels = {
            str(budget): len(keep_labels(self._training_labels, budget.per_class, budget.fraction, seed))
            for budget in self.comparison.labels
        }

    def _plan_chain(self, runs: dict[str, PlannedRun], approach: Approach, budget: Budget, seed: int) -> None:
        """Add the runs of an approach that are not planned yet, each after the one that it starts from."""
        c = self.comparison
        before, prints = None, ""
        for position, stage in enumerate(approach.stages):
            last = position == len(approach.stages) - 1
            own_seed = c.seeds[0] if stage.shared and c.pretraining_seeds == "one" else seed
            work = _Work(approach, stage, budget, own_seed, before, last)
            kind = self._kind(work)
            if stage.shared:
                prints = stage.fingerprint(prints, c.data, c.minutes and c.share(approach, position))
                key = f"pretraining-{stage.name}-{prints}-seed{own_seed}"
                title = f"pretraining {stage.name}"
                title += f", seed {own_seed}" if c.pretraining_seeds == "each" else ""
            else:
                key = f"{approach.name}-{budget}-seed{seed}" + ("" if last else f"-stage{position + 1}")
                title = f"{approach.name}, {budget_words(str(budget))}, seed {seed}"
                title += "" if last else f", stage {position + 1}"
            if key not in runs:
                self._work[key] = work
                steps = 1 if stage.classifier else self._length(key, kind, work, position)
                runs[key] = PlannedRun(key, title, kind, steps, (before,) if before else ())
            before = key

    def _kind(self, work: _Work) -> str:
        # Runs of one stage take as long a step unless there are fewer labels than a batch holds.
        images = self.images if work.stage.shared else self.labels.get(str(work.budget), self.images)
        return f"{work.stage.name}-{work.stage.fingerprint()}-{min(images, self._batch_size(work.stage))}"

    def _length(self, key: str, kind: str, work: _Work, position: int) -> int:
        """Return the steps of a run; a budget of minutes is turned into steps by timing a few, once."""
        c = self.comparison
        if c.minutes is None:
            return work.stage.steps or c.steps
        if kind not in self._lengths:
            if kind not in self.seconds_a_step:
                self._time(kind, work)
            seconds = c.minutes * 60 * c.share(work.approach, position)
            self._lengths[kind] = max(1, round(seconds / self.seconds_a_step[kind][0]))
        return self._lengths[kind]

    def _read_lengths(self) -> dict[str, int]:
        lengths = read_json(self.folder / _LENGTHS) or {}
        if wrong := [steps for steps in lengths.values() if type(steps) is not int or not 0 < steps <= _ENDLESS * 1000]:
            raise damaged(self.folder / _LENGTHS, f"{str(wrong[0])[:40]!r} is no number of steps")
        return lengths

    def _time(self, kind: str, work: _Work) -> None:
        start = time.monotonic()
        with quietly(logging.ERROR), tempfile.TemporaryDirectory() as folder:
            run = StudyRun(self._options(work, Path(folder), _TIMED, timing=True), Path(folder), lean=True)
        step = max(run.clock.step_seconds, 1e-4)
        self.seconds_a_step[kind] = (step, max(time.monotonic() - start - _TIMED * step, 0.0))

    def _batch_size(self, stage: Stage) -> int:
        given = self.comparison.data["init_args"].get("batch_size")
        return int(given or stage.batch_size or 64)

    def _options(self, work: _Work, folder: Path, steps: int, build: bool = False, timing: bool = False) -> list[str]:
        """Write what differs from the recipe into the run's folder, and return the options of its fit.

        Args:
            work: What is trained.
            folder: Folder of the run.
            steps: Optimizer steps.
            build: Whether nothing is trained: the data then have the labels of `work`, whatever the stage.
            timing: Whether the weights of the stage before are not there yet.
        """
        c, stage = self.comparison, work.stage
        budget = Budget() if stage.shared and not build else work.budget
        batch_size = self._batch_size(stage)
        model: dict[str, Any] = dict(stage.model)
        if stage.warmup is not None and not build:
            images = self.images if stage.shared else self.labels[str(work.budget)]
            model["warmup_epochs"] = stage.warmup * steps / max(1, images // batch_size)
        if stage.weights == GIVEN:
            model |= {"weights": c.weights} | ({"backbone": c.backbone} if c.backbone else {})
        elif work.before is not None and not timing:
            model["weights"] = str((self._folder(work.before) / "checkpoints" / "last.ckpt").absolute())
        elif work.before is not None:
            model |= self._untrained(work)
        data = {
            "batch_size": batch_size, "val_fraction": 0.0, **c.data["init_args"], "labels_per_class": budget.per_class,
            "label_fraction": budget.fraction, "label_seed": work.seed,
        }  # fmt: skip
        trainer = {
            "max_epochs": _ENDLESS, "max_steps": steps, "max_time": None, "limit_val_batches": 0,
            "num_sanity_val_steps": 0, **stage.trainer, **c.trainer,
        }  # fmt: skip
        content = {
            "seed_everything": work.seed,
            "model": {"init_args": model},
            "data": {"class_path": c.data["class_path"], "init_args": data},
            "trainer": trainer,
        }
        folder.mkdir(parents=True, exist_ok=True)
        configs = [stage.config if isinstance(stage.config, str) else None, "stage.yaml"]
        if not isinstance(stage.config, str):
            configs[0] = "own.yaml"
            write_text(folder / "own.yaml", yaml.safe_dump(dict(stage.config or {})), "the configuration")
        write_text(folder / "stage.yaml", yaml.safe_dump(content, sort_keys=False), "the configuration")
        paths = [str(folder / name) if name in ("own.yaml", "stage.yaml") else name for name in configs]
        return [f"--config={path}" for path in paths]

    def _untrained(self, work: _Work) -> dict[str, Any]:
        """Return the network of the stage before, for a few timed steps without its weights."""
        position = work.approach.stages.index(work.stage)
        earlier = work.approach.stages[position - 1]
        model = dict(earlier.model)
        if "backbone" not in model and earlier.config is not None:
            content = read_configuration(earlier.config) if isinstance(earlier.config, str) else earlier.config
            model = {**content.get("model", {}).get("init_args", {}), **model}
        return {"backbone": model["backbone"]} if "backbone" in model else {}

    def _folder(self, key: str) -> Path:
        return self.folder / "runs" / key

    def _perform(self, run: PlannedRun, folder: Path, report: Callable[[int], None]) -> Row:
        work = self._work[run.key]
        if work.stage.classifier is not None:
            return self._classify(work, folder)
        check = _check_labels_unseen if work.stage.shared else None
        options = self._options(work, folder, run.steps)
        fitted = StudyRun(options, folder, lean=True, report=report, check_model=check)
        row: Row = {"taken": fitted.trainer.global_step, "seconds": round(fitted.clock.seconds, 3)}
        row["parameters"] = sum(p.numel() for p in fitted.model.parameters())
        if work.last:
            fitted.trainer.loggers = []
            found = fitted.trainer.test(fitted.model, datamodule=fitted.datamodule, verbose=False)[0]
            row |= {name: round(value, 6) for name, value in found.items()}
        return row

    def _classify(self, work: _Work, folder: Path) -> Row:
        """Classify the test images by the class means of the features of the run before."""
        if work.before is None:
            raise ValueError(f"{work.approach.name}: a classifier needs a stage before it that learns features.")
        before = self._work[work.before]
        source = _Work(before.approach, before.stage, work.budget, work.seed, None, False)
        options = self._options(source, folder, 1, build=True)
        built = StudyRun(options, folder, only_build=True)
        data = built.datamodule
        data.prepare_data()
        data.setup()
        module = load_module(self._folder(work.before) / "checkpoints" / "last.ckpt")
        module = module.to(built.trainer.strategy.root_device)
        start = time.monotonic()
        bank, labels = _embed(module, data, data.train_dataset)
        seconds = time.monotonic() - start
        queries, truth = _embed(module, data, data.test_dataset)
        if labels.ndim != 1:
            raise ValueError("nearest_centroid is for images with one label each.")
        known = truth >= 0
        if not known.any():
            raise ValueError("nearest_centroid needs test images with labels: none has one.")
        answers = centroid_predictions(queries[known], bank[labels >= 0], labels[labels >= 0], data.num_classes)
        accuracy = float((answers == truth[known]).float().mean())
        parameters = sum(p.numel() for p in module.backbone.parameters())
        return {"taken": 0, "seconds": round(seconds, 3), "parameters": parameters, "test_acc": round(accuracy, 6)}

    def _row(self, run: PlannedRun) -> Row:
        """Return the row of `compare.csv` for a run that ends a chain."""
        work, done = self._work[run.key], self.study.rows[run.key]
        chain, key = [], work.before
        while key is not None:
            chain.append(key)
            key = self._work[key].before
        earlier = [self.study.rows.get(key, {}) for key in chain]
        pretraining = sum(float(row.get("seconds") or 0) for row in earlier)
        unlabelled = any(self._work[key].stage.shared for key in chain)
        seconds = float(done.get("seconds") or 0)
        metrics = {name: value for name, value in done.items() if name.startswith("test_")}
        return {
            "approach": work.approach.name,
            "title": work.approach.title,
            "data": self.comparison.data["class_path"].rpartition(".")[2],
            "budget": str(work.budget),
            "labels": self.labels[str(work.budget)],
            "images": self.images if unlabelled else self.labels[str(work.budget)],
            "seed": work.seed,
            "metric": self.comparison.metric,
            **metrics,
            "parameters": done.get("parameters", ""),
            "pretraining_steps": sum(int(row.get("taken") or 0) for row in earlier),
            "pretraining_seconds": round(pretraining, 3),
            "pretraining_seeds": self.comparison.pretraining_seeds if unlabelled else "",
            "steps": done.get("taken", ""),
            "seconds": round(seconds, 3),
            "total_seconds": round(pretraining + seconds, 3),
            "error": done["error"],
        }


def _check_labels_unseen(model: Any) -> None:
    """Refuse to share what learns from labels: it would have seen more of them than the comparison says."""
    if not model.uses_unlabeled or model.hparams.get("supervised"):
        raise ValueError(
            f"{type(model).__name__} learns from labels, and cannot be shared by all numbers of them: leave `shared` "
            "out."
        )


@torch.no_grad()
def _embed(module: Any, data: Any, dataset: Any) -> tuple[Tensor, Tensor]:
    """Return features (N, D) and labels of a dataset, in its order."""
    features = [module.embed(batch["image"].to(module.device)).float().cpu() for batch in data.ordered_loader(dataset)]
    return torch.cat(features), dataset.labels
