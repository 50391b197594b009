"""What a run has from a recipe alone, and how it gives way to what the user chose."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import lightning as L

from lit_cv.errors import VoidOptionError, setting
from lit_cv.running.built_parts import GROUPS, class_named
from lit_cv.signatures import parameters

__all__ = ["RecipeOptions", "drop_option", "named_options", "options_of_recipes"]

RecipeOptions = dict[str, Any]
"""Values of options by their dotted names, such as `model.backbone_lr`."""

_CALLBACKS = "trainer.callbacks"


def options_of_recipes(
    recipes: Iterable[Mapping[str, Any]], merged: Mapping[str, Any], chosen: Iterable[str]
) -> RecipeOptions:
    """Return the options that recipes give, as far as they hold and the user has not chosen them.

    Args:
        recipes: The contents of the recipes, in the order in which they lie over one another.
        merged: The configuration that recipes and the user's files make together.
        chosen: Names of the options that were typed or stand in files, with the `+` of those that are added to.

    Example:
        >>> recipe = {"model": {"class_path": "A", "init_args": {"lr": 0.1, "betas": [0.9, 0.95]}}}
        >>> options_of_recipes([recipe], recipe, ["model.lr"])
        {'model.betas': [0.9, 0.95]}
    """
    given = {name: value for recipe in recipes for name, value in named_options(recipe)}
    names = [name.replace(".init_args", "") for name in chosen]
    names = [name for name in names if name != f"{_CALLBACKS}+"]
    holding = dict(named_options(merged))
    return {
        option: value
        for option, value in given.items()
        if option in holding
        and holding[option] == value
        and not any(_within(option, name) or _within(name, option) for name in names)
    }


def named_options(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the options of a configuration by their dotted names; lists are one value."""
    for key, value in section.items():
        if key == "class_path":
            continue
        name = prefix if key == "init_args" else f"{prefix}.{key}".lstrip(".")
        if isinstance(value, Mapping) and value:
            yield from named_options(value, name)
        elif key != "init_args":
            yield name, value


def drop_option(config: MutableMapping[str, Any], recipe: RecipeOptions, error: VoidOptionError) -> str | None:
    """Give an option of a recipe up that an error refuses: it gets the default of its class.

    Args:
        config: The parsed options of a verb by their sections; changed in place.
        recipe: What recipes give alone; what is dropped is taken out.
        error: The error.

    Returns:
        The option as a message names it, `None` where the recipe gives none of those that could be dropped.
    """
    for name in (error.name, *error.others):
        for option in [each for each in recipe if each.rpartition(".")[2] == name]:
            value = recipe[option]
            if option == _CALLBACKS:
                dropped = _drop_callbacks(config, value, error.value)
            elif name != error.name or error.value is ... or error.value == value:
                dropped = _reset(config, option, value)
            else:
                continue
            if dropped is not None:
                del recipe[option]
                return dropped
    return None


def _drop_callbacks(config: MutableMapping[str, Any], recipe: Sequence[Any], refused: object) -> str | None:
    """Take callbacks of a recipe out of the Trainer's, where these begin with them."""
    given, names = config["trainer"]["callbacks"], refused if isinstance(refused, list) else []
    own = [_short(entry) for entry in recipe]
    if not isinstance(given, list) or [_short(entry) for entry in given[: len(own)]] != own:
        return None
    if not any(name in names for name in own):
        return None
    kept = [entry for entry in given[: len(own)] if _short(entry) not in names]
    config["trainer"]["callbacks"] = [*kept, *given[len(own) :]]
    return " and ".join(name for name in own if name in names)


def _reset(config: MutableMapping[str, Any], option: str, value: object) -> str | None:
    part, _, name = option.partition(".")
    section: Any = config.get(part)
    cls: type | None = GROUPS.get(part, L.Trainer if part == "trainer" else None)
    path = name.split(".")
    for position, key in enumerate(path):
        if "class_path" in section:
            cls, section = class_named(section["class_path"]), section.get("init_args")
            part, name = ".".join((option.partition(".")[0], *path[:position])), ".".join(path[position:])
        if position < len(path) - 1:
            section = section.get(key)
        if section is None:
            return None
    last = path[-1]
    if last == name:  # an argument of the class itself, not an entry of one
        parameter = parameters(cls).get(last) if cls is not None else None
        if parameter is None or parameter.default is inspect.Parameter.empty:
            return None
        section[last] = parameter.default
    elif last in section:
        del section[last]
    else:
        return None
    return setting(name, value, cls)


def _within(name: str, outer: str) -> bool:
    return name == outer or name.startswith(f"{outer}.")


def _short(entry: Any) -> str:
    path = entry if isinstance(entry, str) else entry["class_path"]
    return str(path).rpartition(".")[2]
