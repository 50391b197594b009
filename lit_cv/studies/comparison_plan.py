"""What a comparison is made of: approaches as chains of stages, numbers of labels, seeds, lengths of training."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lit_cv.errors import OptionError

__all__ = ["CENTROID", "GIVEN", "LONGEST_NAME", "Approach", "Budget", "Comparison", "Stage", "budget_words"]

CENTROID = "nearest_centroid"
"""Classifier of a stage that trains nothing."""

GIVEN = "given"
"""Weights of a stage that starts from those that the comparison is given."""

LONGEST_NAME = 48
"""Characters of a name that is a part of file names."""

_YAML = (".yaml", ".yml", ".json")
_MOST_LABELS = 10**9  # of a class
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
        """Short name of what is trained, which is a part of file names."""
        if not isinstance(self.config, str):
            return self.classifier or "own"
        name = Path(self.config).stem if Path(self.config).suffix in _YAML else self.config
        return re.sub(r"[^\w.-]", "_", name).lstrip(".-")[:LONGEST_NAME] or "own"

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
        if 1 <= number <= _MOST_LABELS and number == int(number):
            return cls(per_class=int(number))
        if 0 < number < 1:
            return cls(fraction=number)
        raise OptionError(None, "labels", text, "give a number for each class, a share such as 0.01, or all")

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
