"""Options set only by a recipe, which yield to conflicting choices of the user."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

import lightning as L

from lit_cv.errors import VoidOptionError, setting
from lit_cv.nn import checkpoint_options
from lit_cv.running.built_parts import GROUPS, class_named
from lit_cv.signatures import parameters

__all__ = [
    "RecipeOptions",
    "drop_option",
    "named_options",
    "options_of_recipes",
    "scale_train_image_size",
    "take_backbone_of_weights",
]

RecipeOptions = dict[str, Any]
"""Option values by dotted names such as `model.backbone_lr`."""

_CALLBACKS = "trainer.callbacks"


def options_of_recipes(
    recipes: Iterable[Mapping[str, Any]], merged: Mapping[str, Any], chosen: Iterable[str]
) -> RecipeOptions:
    """Return the options that recipes set, that are still in effect, and that the user has not set.

    Args:
        recipes: The contents of the recipes; later ones override earlier ones.
        merged: The merged configuration of recipes and the user's files.
        chosen: Names of the options on the command line and in files; the `+` of appending options is kept.

    Example:
        >>> recipe = {"model": {"class_path": "A", "init_args": {"lr": 0.1, "betas": [0.9, 0.95]}}}
        >>> options_of_recipes([recipe], recipe, ["model.lr"])
        {'model.betas': [0.9, 0.95]}
    """
    set_by_recipes = {name: value for recipe in recipes for name, value in named_options(recipe)}
    names = [name.replace(".init_args", "") for name in chosen]
    names = [name for name in names if name != f"{_CALLBACKS}+"]
    in_effect = dict(named_options(merged))
    return {
        option: value
        for option, value in set_by_recipes.items()
        if option in in_effect
        and in_effect[option] == value
        and not any(_within(option, name) or _within(name, option) for name in names)
    }


def scale_train_image_size(
    recipes: Iterable[Mapping[str, Any]], merged: MutableMapping[str, Any], recipe: RecipeOptions, image_size: object
) -> int | None:
    """Keep the proportion of a recipe's `train_image_size` to its `image_size` where the user changes the latter.

    Args:
        recipes: The contents of the recipes; later ones override earlier ones.
        merged: The merged configuration of recipes and the user's files; changed in place.
        recipe: The options set only by recipes; changed in place.
        image_size: The value on the command line, `None` for that of the configuration.

    Returns:
        The new `train_image_size`, `None` if it stays as it is.

    Example:
        >>> recipe = {"data": {"init_args": {"image_size": 224, "train_image_size": 256}}}
        >>> scale_train_image_size([recipe], recipe, {"data.train_image_size": 256}, image_size="112")
        128
    """
    size = recipe.get("data.train_image_size")
    if size is None or "data.image_size" in recipe:
        return None
    published = dict(option for each in recipes for option in named_options(each)).get("data.image_size")
    arguments = merged["data"]["init_args"]
    chosen = arguments.get("image_size") if image_size is None else image_size
    if not (isinstance(chosen, int) or (isinstance(chosen, str) and chosen.isdecimal())) or not published:
        return None
    scaled: int = round(float(size) * int(chosen) / published)
    recipe["data.train_image_size"] = arguments["train_image_size"] = scaled
    return scaled


def take_backbone_of_weights(merged: MutableMapping[str, Any], recipe: RecipeOptions, weights: object) -> str | None:
    """Replace a recipe's network by that of the checkpoint from which the user starts training.

    Args:
        merged: The merged configuration of recipes and the user's files; changed in place.
        recipe: The options set only by recipes; changed in place.
        weights: The initial weights that the user chose, `None` if there are none.

    Returns:
        The name of the network, `None` if it stays as it is.
    """
    if "model.backbone" not in recipe or not isinstance(weights, str):
        return None
    with suppress(ValueError, OSError):  # the model reports what is wrong with the file
        backbone = checkpoint_options(weights).get("backbone")
        if isinstance(backbone, str) and backbone != recipe["model.backbone"]:
            recipe["model.backbone"] = merged["model"]["init_args"]["backbone"] = backbone
            return backbone
    return None


def named_options(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the options of a configuration by dotted names; a list is one value."""
    for key, value in section.items():
        if key == "class_path":
            continue
        name = prefix if key == "init_args" else f"{prefix}.{key}".lstrip(".")
        if isinstance(value, Mapping) and value:
            yield from named_options(value, name)
        elif key != "init_args":
            yield name, value


def drop_option(config: MutableMapping[str, Any], recipe: RecipeOptions, error: VoidOptionError) -> str | None:
    """Reset an option that only a recipe sets, and that an error rejects, to the default of its class.

    Args:
        config: The parsed options of a verb by sections; changed in place.
        recipe: The options set only by recipes; the dropped one is removed.
        error: The error.

    Returns:
        The dropped option as messages spell it, `None` if no recipe sets one that could be dropped.
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
    """Remove rejected callbacks of a recipe from the Trainer's, if these start with the recipe's."""
    callbacks, names = config["trainer"]["callbacks"], refused if isinstance(refused, list) else []
    of_recipe = [_short(entry) for entry in recipe]
    count = len(of_recipe)
    if not isinstance(callbacks, list) or [_short(entry) for entry in callbacks[:count]] != of_recipe:
        return None
    if not any(name in names for name in of_recipe):
        return None
    kept = [entry for entry in callbacks[:count] if _short(entry) not in names]
    config["trainer"]["callbacks"] = [*kept, *callbacks[count:]]
    return " and ".join(name for name in of_recipe if name in names)


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
    if last == name:  # an argument of the class, not an entry in the value of one
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
