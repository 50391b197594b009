"""Compare learning approaches on the same images, labels, seeds and training length."""

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datamodules.splits import keep_labels
from lit_cv import callbacks
from lit_cv.contracts import as_data, data_extras
from lit_cv.errors import OptionError
from lit_cv.modules.loading import load_module
from lit_cv.signatures import parameters
from lit_cv.studies.comparison_classifiers import classify
from lit_cv.studies.comparison_plan import Approach, ApproachStage, Budget, Comparison, budget_words
from lit_cv.studies.comparison_tasks import ENDLESS, RunTask, TaskConfigurations
from lit_cv.studies.study import PlannedRun, Study
from lit_cv.studies.study_files import Row, damaged, read_json, write_json, write_study_table
from lit_cv.studies.study_run import StudyRun, quiet_runs

__all__ = ["TABLE", "ComparisonRun"]

TABLE = "compare.csv"
_LENGTHS = "lengths.json"
_TIMED_STEPS = 8  # to measure the time per step of a stage


class ComparisonRun:
    """Runs a comparison, and writes its table.

    Each run trains with one label budget and one seed for a number of steps, and is tested once, at its end, on the
    test images: no validation labels are used to choose an epoch. Pretraining uses all training images without
    labels; it runs once and is shared, and its time counts in full for each approach that starts from it.

    Args:
        comparison: The comparison.
        folder: Output folder; an interrupted comparison in it is resumed.
        command: The command that resumes it, for messages.
        escape_formulas: Whether to escape names in the tables that a spreadsheet would evaluate as formulas.

    Raises:
        ValueError: If the data have no test images, or the DataModule does not derive from `BaseDataModule`.
    """

    def __init__(self, comparison: Comparison, folder: Path, command: str, escape_formulas: bool = False) -> None:
        self.comparison, self.folder, self.escape_formulas = comparison, folder, escape_formulas
        self._configurations = TaskConfigurations(comparison, folder / "runs")
        self._inspect_data()
        self.seconds_a_step: dict[str, tuple[float, float]] = {}
        self._tasks: dict[str, RunTask] = {}
        self._equal: dict[tuple[str, int, str, int], str] = {}  # keys of runs with labels, by all that they depend on
        self._lengths: dict[str, int] = self._read_lengths()
        runs: dict[str, PlannedRun] = {}
        for seed in comparison.seeds:
            for budget in comparison.labels:
                all_have_labels = self.labels[str(budget)] == self.images
                for approach in comparison.approaches:
                    if all_have_labels and any(stage.unlabeled for stage in approach.stages):
                        continue
                    self._plan_chain(runs, approach, budget, seed)
        if not runs:
            names = ", ".join(approach.name for approach in comparison.approaches)
            raise ValueError(
                f"{names}: needs images without labels, but here all have one: give fewer labels per class."
            )
        identity = comparison.identity()
        self.study = Study(folder, identity, list(runs.values()), "runs.csv", command, escape_formulas)

    def run(self) -> None:
        """Run everything that is not done yet."""
        if self._lengths:
            write_json(self.folder / _LENGTHS, self._lengths, "the lengths of the runs")
        self._check_choice()
        with quiet_runs():
            self.study.execute(self._perform, self.write, self.comparison.metric)
        self.write()

    def write(self) -> None:
        """Write `compare.csv`: one row per approach, label budget and seed that is done or has failed."""
        rows = [self._row(run) for run in self.study.runs if self._tasks[run.key].last and run.key in self.study.rows]
        write_study_table(self.folder / TABLE, rows, last=("error",), escape_formulas=self.escape_formulas)

    def time_steps(self) -> dict[str, tuple[float, float]]:
        """Measure, for each kind of run without a finished one, the seconds per step and the seconds outside steps."""
        done = {run.kind for run in self.study.runs if run.key in self.study.finished}
        for run in self.study.runs:
            task = self._tasks[run.key]
            if run.kind not in done and run.kind not in self.seconds_a_step and task.stage.classifier is None:
                self._time(run.kind, task)
        return self.seconds_a_step

    def _inspect_data(self) -> None:
        first = next((a for a in self.comparison.approaches if a.stages[0].config is not None), None)
        if first is None:
            raise ValueError("the comparison has no approaches: list at least one with a config.")
        task = RunTask(first, first.stages[0], Budget(), self.comparison.seeds[0], None, False)
        with quiet_runs(), tempfile.TemporaryDirectory() as folder:
            for _ in range(2):  # once to know the class of the data, then with all arguments that it has
                options = self._configurations.write(task, Path(folder), 1, build=True)
                data: Any = StudyRun(options, Path(folder), only_build=True).datamodule
                self._configurations.data_arguments = parameters(type(data)).keys()
        if "labels_per_class" not in self._configurations.data_arguments and set(self.comparison.labels) != {Budget()}:
            raise OptionError(
                None, "labels", [*map(str, self.comparison.labels)], f"{type(data).__name__} cannot hide labels, so "
                "only [all] is possible",
            )  # fmt: skip
        if as_data(data).training_pool is None:
            raise ValueError(f"a comparison needs a subclass of datamodules.BaseDataModule, not {type(data).__name__}.")
        data.prepare_data()
        data.setup()
        if data.test_dataset is None:
            raise ValueError(
                f"{type(data).__name__} has no test images here: a comparison needs them to measure accuracy."
            )
        self._configurations.images = self.images = len(data.train_dataset)
        two_domains = data_extras(data).source_val_dataset is not None
        self.target_images = len(data.unlabeled_dataset) if two_domains else 0
        self._training_labels = data.train_dataset.labels
        seed = self.comparison.seeds[0]
        self._configurations.labels = self.labels = {
            str(budget): len(keep_labels(self._training_labels, budget.per_class, budget.fraction, seed))
            for budget in self.comparison.labels
        }

    def _plan_chain(self, runs: dict[str, PlannedRun], approach: Approach, budget: Budget, seed: int) -> None:
        """Plan the runs of an approach that are not planned yet, each after the run that it starts from.

        A stage before the last one uses an equal run of an earlier approach.
        """
        c = self.comparison
        before, fingerprint, chain = None, "", ""
        for position, stage in enumerate(approach.stages):
            last = position == len(approach.stages) - 1
            run_seed = c.seeds[0] if stage.shared and c.pretraining_seeds == "one" else seed
            task = RunTask(approach, stage, budget, run_seed, before, last)
            kind = self._kind(task)
            chain = stage.fingerprint(chain)
            steps = 1 if stage.classifier else self._length(kind, task, position)
            if stage.shared:
                fingerprint = stage.fingerprint(fingerprint, c.data, c.minutes and c.share(approach, position))
                key = f"pretraining-{stage.name}-{fingerprint}-seed{run_seed}"
                title = f"pretraining {stage.name}"
                title += f", seed {run_seed}" if c.pretraining_seeds == "each" else ""
            else:
                key = f"{approach.name}-{budget}-seed{seed}" + ("" if last else f"-stage{position + 1}")
                title = f"{approach.name}, {budget_words(str(budget))}, seed {seed}"
                title += "" if last else f", stage {position + 1}"
                equal = self._equal.setdefault((chain, steps, str(budget), run_seed), key)
                key = key if last else equal
            if key not in runs:
                self._tasks[key] = task
                runs[key] = PlannedRun(key, title, kind, steps, (before,) if before else ())
            before = key

    def _kind(self, task: RunTask) -> str:
        # Steps of one stage take equally long, unless there are fewer images than in a batch.
        images = self.images if task.stage.shared else self.labels.get(str(task.budget), self.images)
        return (
            f"{task.stage.name}-{task.stage.fingerprint()}-{min(images, self._configurations.batch_size(task.stage))}"
        )

    def _length(self, kind: str, task: RunTask, position: int) -> int:
        """Return the number of steps of a run; minutes are converted once, by timing a few steps."""
        c = self.comparison
        if c.minutes is None:
            return task.stage.steps or c.steps
        share = c.share(task.approach, position)
        name = f"{kind}-{share:g}"
        if name not in self._lengths:
            if kind not in self.seconds_a_step:
                self._time(kind, task)
            self._lengths[name] = max(1, round(c.minutes * 60 * share / self.seconds_a_step[kind][0]))
        return self._lengths[name]

    def _read_lengths(self) -> dict[str, int]:
        lengths = read_json(self.folder / _LENGTHS) or {}
        if wrong := [steps for steps in lengths.values() if type(steps) is not int or not 0 < steps <= ENDLESS * 1000]:
            raise damaged(self.folder / _LENGTHS, f"{str(wrong[0])[:40]!r} is not a number of steps")
        return lengths

    def _time(self, kind: str, task: RunTask) -> None:
        start = time.monotonic()
        with quiet_runs(logging.ERROR), tempfile.TemporaryDirectory() as folder:
            options = self._configurations.write(task, Path(folder), _TIMED_STEPS, timing=True)
            run = StudyRun(options, Path(folder), lean=True)
        step = max(run.clock.step_seconds, 1e-4)
        self.seconds_a_step[kind] = (step, max(time.monotonic() - start - _TIMED_STEPS * step, 0.0))

    def _perform(self, run: PlannedRun, folder: Path, report: Callable[[int], None]) -> Row:
        task = self._tasks[run.key]
        if task.stage.classifier is not None:
            return self._classify(task, folder)
        check = _check_labels_unseen if task.stage.shared else None
        options = self._configurations.write(task, folder, run.steps)
        fitted = StudyRun(options, folder, lean=True, report=report, check_model=check)
        row: Row = {"taken": fitted.trainer.global_step, "seconds": round(fitted.clock.seconds, 3)}
        row["parameters"] = sum(p.numel() for p in fitted.model.parameters())
        if task.last:
            fitted.trainer.loggers = []
            for metrics in fitted.trainer.test(fitted.model, datamodule=fitted.datamodule, verbose=False):
                row |= {name: round(value, 6) for name, value in metrics.items()}
            row |= self._choice(fitted)
        return row

    def _choice(self, fitted: StudyRun, batches: int | float = 1.0) -> Row:
        """Return the value of the metric that chooses an approach, on validation images."""
        name = self.comparison.choose_by
        if name is None:
            return {}
        fitted.trainer.limit_val_batches = batches
        if name in callbacks.ReverseValidation.metrics:
            fitted.trainer.callbacks += [callbacks.ReverseValidation()]  # type: ignore[attr-defined]
        metrics: dict[str, float] = {}
        for of_loader in fitted.trainer.validate(fitted.model, datamodule=fitted.datamodule, verbose=False):
            metrics |= of_loader
        if name not in metrics:
            raise ValueError(f"choose_by: {type(fitted.model).__name__} logs no {name}, but {', '.join(metrics)}.")
        return {name: round(metrics[name], 6)}

    def _check_choice(self) -> None:
        """Refuse a metric that the first approach does not log, before it trains."""
        name = self.comparison.choose_by
        first = next((run for run in self.study.runs if self._tasks[run.key].stage.classifier is None), None)
        if name is None or name in callbacks.ReverseValidation.metrics or first is None or self.study.finished:
            return
        with quiet_runs(logging.ERROR), tempfile.TemporaryDirectory() as folder:
            options = self._configurations.write(self._tasks[first.key], Path(folder), 1, timing=True)
            self._choice(StudyRun(options, Path(folder), lean=True), batches=1)

    def _classify(self, task: RunTask, folder: Path) -> Row:
        """Classify the test images by the features of the previous run."""
        if task.before is None or task.stage.classifier is None:
            raise ValueError(f"{task.approach.name}: a classifier needs an earlier stage that learns features.")
        before = self._tasks[task.before]
        source = RunTask(before.approach, before.stage, task.budget, task.seed, None, False)
        built = StudyRun(self._configurations.write(source, folder, 1, build=True), folder, only_build=True)
        data = built.datamodule
        data.prepare_data()
        data.setup()
        module = load_module(self._configurations.last_checkpoint(task.before))
        return classify(task.stage.classifier, module.to(built.trainer.strategy.root_device), data)

    def _row(self, run: PlannedRun) -> Row:
        """Return the row of `compare.csv` for the last run of a chain."""
        task, done = self._tasks[run.key], self.study.rows[run.key]
        chain, key = [], task.before
        while key is not None:
            chain.append(key)
            key = self._tasks[key].before
        earlier = [self.study.rows.get(key, {}) for key in chain]
        pretraining = sum(float(row.get("seconds") or 0) for row in earlier)
        shared = any(self._tasks[key].stage.shared for key in chain)
        unlabeled = shared or task.stage.unlabeled or task.stage.classifier == "label_propagation"
        images = self.images if unlabeled else self.labels[str(task.budget)]
        if any(_sees_target(self._tasks[key].stage) for key in (run.key, *chain)):
            images += self.target_images
        seconds = float(done.get("seconds") or 0)
        choice = self.comparison.choose_by
        metrics = {name: value for name, value in done.items() if name.startswith("test_") or name == choice}
        return {
            "approach": task.approach.name,
            "title": task.approach.title,
            "data": self.comparison.data["class_path"].rpartition(".")[2],
            "budget": str(task.budget),
            "labels": self.labels[str(task.budget)],
            "images": images,
            "seed": task.seed,
            "metric": self.comparison.metric,
            **({} if choice is None else {"choose_by": choice}),
            **metrics,
            "parameters": done.get("parameters", ""),
            "pretraining_steps": sum(int(row.get("taken") or 0) for row in earlier),
            "pretraining_seconds": round(pretraining, 3),
            "pretraining_seeds": self.comparison.pretraining_seeds if shared else "",
            "steps": done.get("taken", ""),
            "seconds": round(seconds, 3),
            "total_seconds": round(pretraining + seconds, 3),
            "error": done["error"],
        }


def _sees_target(stage: ApproachStage) -> bool:
    """Return whether a stage uses images of the target if there are two domains."""
    return not stage.model.get("source_only") or bool(stage.model.get("target_statistics"))


def _check_labels_unseen(model: Any) -> None:
    """Refuse to share a model that learns from labels: it would see more labels than the budget allows."""
    if not model.uses_unlabeled or model.hparams.get("supervised"):
        raise ValueError(
            f"{type(model).__name__} learns from labels, so label budgets cannot share it: leave `shared` out."
        )
