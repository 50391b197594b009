"""Read comparisons from files, and check their contents."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from lit_cv.errors import COMMAND, DATA, argument
from lit_cv.nn.weight_files import find_file
from lit_cv.plain_values import require_plain
from lit_cv.printable import printable
from lit_cv.running.arguments import read_configuration
from lit_cv.running.recipes import comparison_names
from lit_cv.running.training_options import kept_options
from lit_cv.studies.comparison_plan import CLASSIFIERS, GIVEN, LONGEST_NAME, Approach, ApproachStage, Budget, Comparison
from lit_cv.suggest import nearest

__all__ = ["read_comparison"]

_MAX_STEPS = 10**9


def read_comparison(name: str, **overrides: Any) -> Comparison:
    """Read a comparison from a file, or a shipped one by its name.

    Args:
        name: Path or name.
        overrides: Values that override the file, unless they are `None`. `approaches` selects approaches by name,
            `data` replaces the class of the data, `data_args` its arguments.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the comparison is unknown, or an entry of it is unknown, invalid or missing.
    """
    if name not in comparison_names() and Path(name).suffix not in (".yaml", ".yml"):
        raise ValueError(f"unknown comparison {name!r}{nearest(name, comparison_names())} Choose one of "
                         f"{', '.join(comparison_names())}, or give a file ({argument('comparison')}).")  # fmt: skip
    path = str(files("lit_cv") / "comparisons" / f"{name}.yaml") if name in comparison_names() else name
    content = read_configuration(path)
    require_plain(content, path)
    _check_names(content, (*(f.name for f in fields(Comparison)),), path)
    _require_training(content.get("trainer"), path)
    chosen, data_args = overrides.pop("approaches", None), overrides.pop("data_args", None)
    content |= {key: value for key, value in overrides.items() if value is not None and key != "data"}
    _check_comparison(content, path)
    approaches = _choose([_approach(key, value, path) for key, value in content["approaches"].items()], chosen)
    weights = content.get("weights")
    if chosen and weights is None and (missing := [a.name for a in approaches if a.needs_weights]):
        raise ValueError(f"{missing[0]} needs initial weights: set {argument('weights')}.")
    content["approaches"] = tuple(a for a in approaches if weights is not None or not a.needs_weights)
    content["labels"] = tuple(dict.fromkeys(Budget.parse(text) for text in content.get("labels", ("all",))))
    content["seeds"] = tuple(dict.fromkeys(content.get("seeds", (0,))))
    content["data"] = _data(content.get("data"), overrides.get("data"), data_args or {}, path)
    if weights is not None and (file := find_file(weights)) is not None and file.path.is_file():
        content["weights"] = str(file._replace(path=file.path.absolute()))
    return Comparison(**content)


def _is_number(value: Any, minimum: float, maximum: float) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and minimum <= value <= maximum


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _is_list(value: Any, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and all(
        isinstance(entry, kinds) and not isinstance(entry, bool) for entry in value
    )  # fmt: skip


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value, 1, _MAX_STEPS)


def _is_seed(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value, 0, 2**32 - 1)


_Check = tuple[Callable[[Any], bool], str, bool]  # test of a value; its description; whether null is allowed

_MAPPING: _Check = (_is_mapping, "a mapping of names to values", False)
_TEXT: _Check = (_is_text, "a string", True)
_STEPS: _Check = (_is_count, f"an integer from 1 to {_MAX_STEPS:,}", True)

_OF_COMPARISON: dict[str, _Check] = {
    "data": (lambda value: _is_text(value) or _is_mapping(value), "a class, or class_path and init_args", True),
    "labels": (lambda value: _is_list(value, (int, float, str)), "a list such as [10, 0.1, all]", False),
    "seeds": (
        lambda value: _is_list(value, int) and all(map(_is_seed, value)),
        "a list of seeds such as [0, 1]",
        False,
    ),
    "approaches": (lambda value: isinstance(value, Mapping) and bool(value), "a mapping of names to approaches", False),
    "steps": (_is_count, _STEPS[1], False),
    "minutes": (lambda value: _is_number(value, 1e-6, 1e9), "a number above 0", True),
    "trainer": _MAPPING,
    "weights": _TEXT,
    "backbone": _TEXT,
    "pretraining_seeds": (lambda value: value in ("one", "each"), "one or each", False),
    "metric": (_is_text, "a string", False),
    "choose_by": (lambda value: _is_text(value) and value.startswith("val_"), "a validation metric, val_NAME", True),
}
_OF_APPROACH: dict[str, _Check] = {
    "title": (lambda value: isinstance(value, str | int | float), "a string", False),
    "stages": (lambda value: _is_list(value, Mapping), "a list of stages", False),
}
_OF_STAGE: dict[str, _Check] = {
    "config": (lambda value: _is_text(value) or _is_mapping(value), "a recipe, a file or a configuration", True),
    "model": _MAPPING,
    "trainer": _MAPPING,
    "batch_size": _STEPS,
    "steps": _STEPS,
    "share": (lambda value: _is_number(value, 0, 1), "a number from 0 to 1", True),
    "warmup": (lambda value: _is_number(value, 0, 1), "a number from 0 to 1", True),
    "shared": (lambda value: isinstance(value, bool), "true or false", False),
    "unlabeled": (lambda value: isinstance(value, bool), "true or false", False),
    "weights": (lambda value: value == GIVEN, GIVEN, True),
    "classifier": _TEXT,
}


def _check_values(content: Mapping[str, Any], checks: Mapping[str, _Check], where: str) -> None:
    for name, value in content.items():
        fits, allowed, optional = checks[name]
        if not fits(value) and not (optional and value is None):
            shown = printable(repr(value)[:60], lines=False)
            raise ValueError(f"{where}, {name}: {shown} is invalid: give {allowed}.")


def _check_comparison(content: Mapping[str, Any], path: str) -> None:
    if "approaches" not in content:
        raise ValueError(f"{path}: `approaches` is missing.")
    _check_values(content, _OF_COMPARISON, path)
    for name in content["approaches"]:
        if not re.fullmatch(r"\w[\w.-]*", str(name)) or len(str(name)) > LONGEST_NAME:
            shown = printable(repr(str(name)[:80]), lines=False)
            raise ValueError(
                f"{path}: invalid approach name {shown}: use at most {LONGEST_NAME} letters, digits, . _ - and start "
                "with a letter or digit, since folders get this name. Put other text into its title."
            )
    if len({str(name).casefold() for name in content["approaches"]}) < len(content["approaches"]):
        raise ValueError(f"{path}: two approach names differ only in upper and lower case: rename one.")


def _configured_trainer(config: Any) -> Any:
    """Return the Trainer options of a configuration, or of the file or recipe that it names."""
    content = read_configuration(config) if isinstance(config, str) else config
    return content.get("trainer") if isinstance(content, Mapping) else None


def _require_training(trainer: Any, where: str) -> None:
    """Refuse Trainer options that write outside the folder of the comparison, or start or import things."""
    if not isinstance(trainer, Mapping | str):  # wrong types are reported where the value is used
        return
    if isinstance(trainer, str) or not all(str(name).isidentifier() for name in trainer):
        raise ValueError(f"{where}: trainer must be a mapping of option names to values.")
    left_out = kept_options(trainer, ranks=True)[1]
    if left_out:
        shown = printable(left_out[0][:200], lines=False)
        raise ValueError(
            f"{where}: {shown} is not allowed: a comparison writes only to its own folder ({argument('output')})."
        )


def _approach(name: Any, content: Any, path: str) -> Approach:
    name, where = str(name), f"{path}, approach {name}"
    if not _is_mapping(content):
        shown = printable(repr(content)[:60], lines=False)
        raise ValueError(f"{where}: {shown} is invalid: give a mapping with stages.")
    _check_names(content, ("title", "stages"), where)
    _check_values(content, _OF_APPROACH, where)
    stages = []
    for number, stage in enumerate(content.get("stages", ()), 1):
        _check_names(stage, tuple(f.name for f in fields(ApproachStage)), where)
        _check_values(stage, _OF_STAGE, f"{where}, stage {number}")
        _require_training(stage.get("trainer"), f"{where}, stage {number}")
        _require_training(_configured_trainer(stage.get("config")), f"{where}, stage {number}, config")
        stages.append(ApproachStage(**stage))
    if not stages or any(s.config is None and s.classifier is None for s in stages):
        raise ValueError(f"{where}: each stage needs a config; the last may have a classifier instead.")
    if stages[-1].shared:
        raise ValueError(f"{where}: the last stage learns from labels, so it cannot be shared.")
    if (
        any(s.classifier not in (None, *CLASSIFIERS) for s in stages)
        or stages[0].classifier
        or any(s.classifier for s in stages[:-1])
    ):
        raise ValueError(f"{where}: classifier: must be {' or '.join(CLASSIFIERS)}, in the last of several stages.")
    return Approach(name, str(content.get("title", name.replace("_", " "))), tuple(stages))


def _choose(approaches: Sequence[Approach], names: Sequence[str] | None) -> list[Approach]:
    by_name = {approach.name: approach for approach in approaches}
    for name in names or ():
        if name not in by_name:
            raise ValueError(f"unknown approach {name!r}{nearest(name, by_name)} Choose from: {', '.join(by_name)}.")
    return [by_name[name] for name in names] if names else list(approaches)


def _data(section: Any, class_path: str | None, arguments: Mapping[str, Any], path: str) -> dict[str, Any]:
    section = {"class_path": section} if isinstance(section, str) else dict(section or {})
    if not _is_text(section.get("class_path", "")) or not _is_mapping(section.get("init_args", {})):
        raise ValueError(f"{path}, data: class_path must be a string, and init_args a mapping of names to values.")
    if class_path is not None and class_path.rpartition(".")[2] != section.get("class_path", "").rpartition(".")[2]:
        section = {"class_path": class_path}
    if "class_path" not in section:
        raise ValueError(f"no data: give the class of a DataModule ({argument('data', COMMAND)}).")
    init_args = {**section.get("init_args", {}), **arguments}
    if varied := [name for name in ("labels_per_class", "label_fraction", "label_seed") if name in init_args]:
        name = argument(varied[0], DATA) if varied[0] in arguments else f"{path}, data: {varied[0]}"
        raise ValueError(
            f"{name} is varied by the comparison: set {argument('labels')} and {argument('seeds')} instead."
        )
    return {"class_path": section["class_path"], "init_args": init_args}


def _check_names(content: Mapping[str, Any], valid: Sequence[str], where: str) -> None:
    for name in content:
        if name not in valid:
            shown = printable(repr(name)[:60], lines=False)
            raise ValueError(f"{where}: unknown key {shown}{nearest(str(name), valid)} Valid keys: {', '.join(valid)}.")
