"""What a comparison is made of: approaches as chains of stages, numbers of labels, seeds, lengths of training."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from lit_cv.cli.arguments import read_configuration
from lit_cv.suggest import nearest

__all__ = ["Approach", "Budget", "Comparison", "Stage", "budget_words", "comparison_names", "read_comparison"]

CENTROID = "nearest_centroid"
GIVEN = "given"
_PRETRAINING_SHARE = 0.75  # of an approach's minutes, where it does not say


@dataclass(frozen=True)
class Stage:
    """One training of a chain; it starts from the weights of the stage before.

    Attributes:
        config: Recipe, or configuration file, or a configuration.
        model: Arguments of the model in place of those of the configuration.
        trainer: Likewise options of the Trainer.
        batch_size: Images in a batch.
        steps: Optimizer steps; `None` takes those of the comparison.
        share: Share of the approach's minutes, where the budget is one of minutes.
        warmup: Share of the steps in which the learning rate rises; `None` takes the configuration's epochs.
        shared: Whether the stage looks at no labels, and is trained once for all numbers of labels and seeds.
        weights: `given` starts from the weights that the comparison is given.
        classifier: `nearest_centroid` in place of a training: class means of the features of the stage before.
    """

    config: str | Mapping[str, Any] | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    steps: int | None = None
    share: float | None = None
    warmup: float | None = None
    shared: bool = False
    weights: str | None = None
    classifier: str | None = None

    @property
    def name(self) -> str:
        """Short name of what is trained."""
        return self.config if isinstance(self.config, str) else self.classifier or "own"

    def fingerprint(self, *more: Any) -> str:
        """Return six characters that tell this stage, and more, from all others."""
        text = json.dumps([asdict(self), *more], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:6]


@dataclass(frozen=True)
class Approach:
    """A way of learning: a chain of stages, the last of which classifies."""

    name: str
    title: str
    stages: tuple[Stage, ...]

    @property
    def needs_weights(self) -> bool:
        """Whether it starts from weights that are given."""
        return any(stage.weights == GIVEN for stage in self.stages)


@dataclass(frozen=True)
class Budget:
    """How many labels there are: some of each class, a share of all, or all."""

    per_class: int | None = None
    fraction: float | None = None

    @classmethod
    def parse(cls, text: Any) -> "Budget":
        """Read `10` (of each class), `0.01` (of all) or `all`.

        Raises:
            ValueError: If it is none of them.
        """
        if str(text) == "all":
            return cls()
        try:
            number = float(text)
        except (TypeError, ValueError):
            number = -1.0
        if number >= 1 and number == int(number):
            return cls(per_class=int(number))
        if 0 < number < 1:
            return cls(fraction=number)
        raise ValueError(f"labels {text!r}: give a number for each class, a share such as 0.01, or all (--labels).")

    def __str__(self) -> str:
        return "all" if self == Budget() else str(self.per_class if self.per_class is not None else self.fraction)


def budget_words(budget: str) -> str:
    """Return a budget for people.

    Example:
        >>> [budget_words(text) for text in ("10", "0.05", "all")]
        ['10 labels a class', '5 % of the labels', 'all labels']
    """
    if budget == "all":
        return "all labels"
    return f"{budget} labels a class" if float(budget) >= 1 else f"{100 * float(budget):g} % of the labels"


@dataclass(frozen=True)
class Comparison:
    """What is compared on what.

    Attributes:
        data: The DataModule: `class_path` and `init_args`.
        labels: The budgets.
        seeds: Seed of the choice of labels, the weights and the order of training with labels.
        approaches: The approaches.
        steps: Optimizer steps of training with labels.
        minutes: Minutes of training for each approach, pretraining included, in place of steps.
        trainer: Options of every Trainer.
        weights: Weights for approaches that start from given ones.
        backbone: Network of those weights where they do not tell.
        pretraining_seeds: `one` pretraining with the first seed for all, or one for `each` seed.
        metric: Metric of the test that counts.
    """

    data: Mapping[str, Any]
    labels: tuple[Budget, ...]
    seeds: tuple[int, ...]
    approaches: tuple[Approach, ...]
    steps: int = 200
    minutes: float | None = None
    trainer: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    backbone: str | None = None
    pretraining_seeds: str = "one"
    metric: str = "test_acc"

    def identity(self) -> dict[str, Any]:
        """Return what makes it the same comparison at the next start."""
        content = asdict(self)
        for approach in content["approaches"]:
            del approach["title"]
        return content

    def with_steps(self, pretraining: int) -> "Comparison":
        """Return the comparison with another length of the stages that are shared."""
        approaches = tuple(
            replace(a, stages=tuple(replace(s, steps=pretraining) if s.shared else s for s in a.stages))
            for a in self.approaches
        )
        return replace(self, approaches=approaches)

    def share(self, approach: Approach, position: int) -> float:
        """Return the share of an approach's minutes that a stage gets."""
        trained = [k for k, stage in enumerate(approach.stages) if stage.classifier is None]
        given = approach.stages[position].share
        if given is not None:
            return given
        if len(trained) == 1:
            return 1.0
        return 1 - _PRETRAINING_SHARE if position == trained[-1] else _PRETRAINING_SHARE / (len(trained) - 1)


def comparison_names() -> list[str]:
    """Return the names of the shipped comparisons."""
    folder = files("lit_cv") / "comparisons"
    return sorted(entry.name[: -len(".yaml")] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_comparison(name: str, **given: Any) -> Comparison:
    """Read a comparison from a file, or a shipped one by its name.

    Args:
        name: Path or name.
        given: Attributes in place of those in the file; `None` leaves them. `approaches` are names of those to take,
            `data` replaces the class, `data_args` its arguments.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no such comparison, or something in it is unknown or missing.
    """
    if name not in comparison_names() and Path(name).suffix not in (".yaml", ".yml"):
        raise ValueError(f"no comparison is named {name!r}{nearest(name, comparison_names())} There are: "
                         f"{', '.join(comparison_names())}; or name a file (--comparison).")  # fmt: skip
    path = str(files("lit_cv") / "comparisons" / f"{name}.yaml") if name in comparison_names() else name
    content = read_configuration(path)
    _check_names(content, (*(f.name for f in fields(Comparison)),), path)
    chosen, data_args = given.pop("approaches", None), given.pop("data_args", None)
    content |= {key: value for key, value in given.items() if value is not None and key != "data"}
    approaches = _choose([_approach(key, value, path) for key, value in content["approaches"].items()], chosen)
    weights = content.get("weights")
    if chosen and weights is None and (missing := [a.name for a in approaches if a.needs_weights]):
        raise ValueError(f"{missing[0]} starts from given weights: name them (--weights).")
    content["approaches"] = tuple(a for a in approaches if weights is not None or not a.needs_weights)
    content["labels"] = tuple(dict.fromkeys(Budget.parse(text) for text in content.get("labels", ("all",))))
    content["seeds"] = tuple(dict.fromkeys(int(seed) for seed in content.get("seeds", (0,))))
    content["data"] = _data(content.get("data"), given.get("data"), data_args or {})
    if weights is not None and Path(weights).is_file():
        content["weights"] = str(Path(weights).absolute())
    return Comparison(**content)


def _approach(name: str, content: Mapping[str, Any], path: str) -> Approach:
    _check_names(content, ("title", "stages"), f"{path}, approach {name}")
    stages = []
    for stage in content.get("stages", ()):
        _check_names(stage, tuple(f.name for f in fields(Stage)), f"{path}, approach {name}")
        stages.append(Stage(**stage))
    if not stages or any(s.config is None and s.classifier is None for s in stages):
        raise ValueError(f"{path}, approach {name}: each of its stages needs a config, or the last a classifier.")
    if stages[-1].shared:
        raise ValueError(f"{path}, approach {name}: the last stage learns from labels, and cannot be shared.")
    if (
        any(s.classifier not in (None, CENTROID) for s in stages)
        or stages[0].classifier
        or any(s.classifier for s in stages[:-1])
    ):
        raise ValueError(f"{path}, approach {name}: classifier: {CENTROID} is allowed in the last of several stages.")
    return Approach(name, str(content.get("title", name.replace("_", " "))), tuple(stages))


def _choose(approaches: Sequence[Approach], names: Sequence[str] | None) -> list[Approach]:
    known = {approach.name: approach for approach in approaches}
    for name in names or ():
        if name not in known:
            raise ValueError(f"no approach is named {name!r}{nearest(name, known)} There are: {', '.join(known)}.")
    return [known[name] for name in names] if names else list(approaches)


def _data(section: Any, class_path: str | None, arguments: Mapping[str, Any]) -> dict[str, Any]:
    section = {"class_path": section} if isinstance(section, str) else dict(section or {})
    if class_path is not None and class_path.rpartition(".")[2] != section.get("class_path", "").rpartition(".")[2]:
        section = {"class_path": class_path}
    if "class_path" not in section:
        raise ValueError("no data: give --data CLASS.")
    if own := [name for name in ("labels_per_class", "label_fraction", "label_seed") if name in arguments]:
        raise ValueError(f"--data.{own[0]} is what a comparison varies: give --labels and --seeds.")
    return {"class_path": section["class_path"], "init_args": {**section.get("init_args", {}), **arguments}}


def _check_names(content: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for name in content:
        if name not in known:
            raise ValueError(f"{where}: no setting {name!r}{nearest(str(name), known)} Known are {', '.join(known)}.")
