"""The definition of a comparison: approaches as chains of stages, label budgets, seeds and training length."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lit_cv.errors import OptionError

__all__ = ["CLASSIFIERS", "GIVEN", "LONGEST_NAME", "Approach", "ApproachStage", "Budget", "Comparison", "budget_words"]

CLASSIFIERS = ("nearest_centroid", "label_propagation")
"""Classifiers of stages that train nothing."""

GIVEN = "given"
"""Value of `weights` in a stage that starts from the weights of the comparison."""

LONGEST_NAME = 48
"""Maximum length of a name that becomes part of file names."""

_YAML = (".yaml", ".yml", ".json")
_MAX_LABELS = 10**9  # per class
_PRETRAINING_SHARE = 0.75  # default fraction of an approach's minutes


@dataclass(frozen=True)
class ApproachStage:
    """One step of an approach; it starts from the weights of the previous stage.

    Attributes:
        config: Recipe, configuration file, or a configuration.
        model: Arguments of the model that override the configuration.
        trainer: Options of the Trainer that override the configuration.
        batch_size: Batch size.
        steps: Optimizer steps; `None` uses those of the comparison.
        share: Fraction of the approach's minutes, if the training length is set in minutes.
        warmup: Fraction of the steps with learning rate warmup; `None` uses the configuration's `warmup_epochs`.
        shared: Whether the stage uses no labels, and is trained once for all label budgets and seeds.
        unlabeled: Whether the stage learns from images without labels, too. An approach with such a stage has no runs
            where all images have labels.
        weights: `given` starts from the weights of the comparison.
        classifier: Classifies the previous stage's features without training: by class means (`nearest_centroid`) or by
            neighbors along which labels are propagated over all training images (`label_propagation`).
    """

    config: str | Mapping[str, Any] | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    steps: int | None = None
    share: float | None = None
    warmup: float | None = None
    shared: bool = False
    unlabeled: bool = False
    weights: str | None = None
    classifier: str | None = None

    @property
    def name(self) -> str:
        """Short name of the stage, used in file names."""
        if not isinstance(self.config, str):
            return self.classifier or "own"
        name = Path(self.config).stem if Path(self.config).suffix in _YAML else self.config
        return re.sub(r"[^\w.-]", "_", name).lstrip(".-")[:LONGEST_NAME] or "own"

    def fingerprint(self, *context: Any) -> str:
        """Return a hash of six characters of this stage and its context."""
        text = json.dumps([asdict(self), *context], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:6]


@dataclass(frozen=True)
class Approach:
    """A learning approach: a chain of stages, the last of which classifies."""

    name: str
    title: str
    stages: tuple[ApproachStage, ...]

    @property
    def needs_weights(self) -> bool:
        """Whether a stage starts from the weights of the comparison."""
        return any(stage.weights == GIVEN for stage in self.stages)


@dataclass(frozen=True)
class Budget:
    """A label budget: a number per class, a fraction of all labels, or all labels."""

    per_class: int | None = None
    fraction: float | None = None

    @classmethod
    def parse(cls, text: Any) -> "Budget":
        """Parse `10` (labels per class), `0.01` (of all labels) or `all`.

        Raises:
            ValueError: If the text is none of these.
        """
        if str(text) == "all":
            return cls()
        try:
            number = float(text)
        except (TypeError, ValueError):
            number = -1.0
        if 1 <= number <= _MAX_LABELS and number == int(number):
            return cls(per_class=int(number))
        if 0 < number < 1:
            return cls(fraction=number)
        raise OptionError(None, "labels", text, "must be a number per class, a fraction such as 0.01, or all")

    def __str__(self) -> str:
        return "all" if self == Budget() else str(self.per_class if self.per_class is not None else self.fraction)


def budget_words(budget: str) -> str:
    """Return a readable description of a label budget.

    Example:
        >>> [budget_words(text) for text in ("10", "0.05", "all")]
        ['10 labels per class', '5 % of the labels', 'all labels']
    """
    if budget == "all":
        return "all labels"
    return f"{budget} labels per class" if float(budget) >= 1 else f"{100 * float(budget):g} % of the labels"


@dataclass(frozen=True)
class Comparison:
    """A comparison of approaches on one data set.

    Attributes:
        data: The DataModule: `class_path` and `init_args`.
        labels: The label budgets.
        seeds: Seeds of label choice, weights and data order in training with labels.
        approaches: The approaches.
        steps: Optimizer steps of training with labels.
        minutes: Minutes of training per approach, pretraining included, instead of steps.
        trainer: Options of every Trainer.
        weights: Initial weights for stages with `weights: given`.
        backbone: Backbone of these weights, if they do not name it.
        pretraining_seeds: `one` pretraining with the first seed for all seeds, or one for `each` seed.
        metric: Test metric to compare.
        choose_by: Validation metric, better when greater, that would choose an approach where test labels are missing,
            as in domain adaptation; the report says what this choice costs.
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
    choose_by: str | None = None

    def identity(self) -> dict[str, Any]:
        """Return the content that a resumed comparison must share; titles may change."""
        content = asdict(self)
        if self.choose_by is None:
            del content["choose_by"]  # comparisons of earlier versions have none
        for approach in content["approaches"]:
            del approach["title"]
        return content

    def with_steps(self, pretraining: int) -> "Comparison":
        """Return a copy with another number of steps in the stages that learn from images without labels."""
        approaches = [
            replace(a, stages=tuple(replace(s, steps=pretraining) if s.shared or s.unlabeled else s for s in a.stages))
            for a in self.approaches
        ]
        return replace(self, approaches=tuple(approaches))

    def share(self, approach: Approach, position: int) -> float:
        """Return the fraction of an approach's minutes that a stage gets."""
        trained = [k for k, stage in enumerate(approach.stages) if stage.classifier is None]
        share = approach.stages[position].share
        if share is not None:
            return share
        if len(trained) == 1:
            return 1.0
        return 1 - _PRETRAINING_SHARE if position == trained[-1] else _PRETRAINING_SHARE / (len(trained) - 1)
