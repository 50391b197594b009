"""Prepare the arguments for LightningCLI.

LightningCLI 2.6 lets the hyperparameters of `ckpt_path` override the command line, keeps the arguments of one class
when another is chosen, and looks for `last` only in the run that is about to start. Here recipes, configuration files
and the checkpoint are merged into one configuration, which the options on the command line override.
"""

import logging
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import yaml

from lit_cv.checkpoint_file import INITIAL_WEIGHTS
from lit_cv.errors import COMMAND, DATA, FIT, MODULE, TRAINER, argument, setting
from lit_cv.hub import is_hub_name
from lit_cv.plain_values import read_yaml
from lit_cv.registry import resolve_class
from lit_cv.running.import_policy import untrusted_classes
from lit_cv.running.merging import class_of, merge_configurations, merge_into, short_name, switch_class
from lit_cv.running.precision import has_bfloat16
from lit_cv.running.recipe_options import (
    RecipeOptions,
    named_options,
    options_of_recipes,
    scale_train_image_size,
    take_backbone_of_weights,
)
from lit_cv.running.recipes import recipe_path
from lit_cv.running.renamed_options import rename_in_configuration, rename_typed_options
from lit_cv.running.run_configuration import read_run_configuration
from lit_cv.running.runs import Checkpoint, find_checkpoint
from lit_cv.running.user_files import UserFiles, qualify_class
from lit_cv.trust import untrusted_error

__all__ = ["Prepared", "prepare", "prepare_run", "read_configuration"]

log = logging.getLogger("lit_cv")

_CONFIG = ("--config", "-c")
_GROUPS = ("trainer", "checkpoint", "early_stopping", "ema", "non_finite", "predictions", "find_lr")
_RUN_ONLY = ("ckpt_path", "weights_only", "verbose", "return_predictions")


class Prepared(NamedTuple):
    """A command, prepared for parsing.

    Attributes:
        args: Arguments for LightningCLI.
        checkpoint: The checkpoint that `ckpt_path` names.
        recipe: Options set only by recipes, not by the user.
    """

    args: list[str]
    checkpoint: Checkpoint | None
    recipe: RecipeOptions


def prepare(args: list[str]) -> tuple[list[str], Checkpoint | None]:
    """Return the arguments and the checkpoint of `prepare_run`."""
    prepared = prepare_run(args)
    return prepared.args, prepared.checkpoint


def prepare_run(args: list[str]) -> Prepared:
    """Merge recipes, configurations and the checkpoint, and put the result before the other options.

    Args:
        args: The verb and its options, as typed.

    Raises:
        ValueError: If a recipe is unknown, or the checkpoint holds another class than requested.
        FileNotFoundError: If the checkpoint or a configuration does not exist.
    """
    UserFiles.folder = Path.cwd()
    verb, options = args[0], args[1:]
    configs, options = _pop_values(options, _CONFIG)
    typed_classes = {name: _last_value(options, name) for name in ("model", "data")}
    ckpt_paths, options = _pop_values(options, ("--ckpt_path",))
    root = _last_value(options, "trainer.default_root_dir")
    checkpoint = _resolve_checkpoint(verb, ckpt_paths[-1], root) if ckpt_paths else None
    accelerator = _last_value(options, "trainer.accelerator") or "auto"
    layers = [read_configuration(config, accelerator) for config in configs]
    files = [read_configuration(config) for config in configs if Path(config).is_file()]
    classes = {name: typed_classes[name] or _last_class(layers, name) for name in typed_classes}
    for configuration in (*layers, *files):
        rename_in_configuration(configuration, classes)
    requested = merge_configurations(layers)
    set_here = {token[2:].partition("=")[0] for token in options if token.startswith("--")} | {*requested}
    merged = _merge_run_config(requested, files, checkpoint, verb, set_here)
    if verb == "fit" and not checkpoint and "trainer.precision" not in set_here:
        _log_replaced_precision(merged, files, accelerator)
    for key in _RUN_ONLY:
        merged.pop(key, None)
    for key, name in typed_classes.items():
        if name and not name.endswith((".yaml", ".yml", ".json")):
            path = qualify_class(key, name)
            switch_class(merged, key, path)
            switch_class(requested, key, path)
    options = rename_typed_options(options, {name: class_of(merged.get(name)) for name in typed_classes})
    if checkpoint:
        if verb == "fit":
            _check_same_data(requested, checkpoint, "data" if typed_classes["data"] else "config")
        _merge_checkpoint(merged, checkpoint, class_of(requested.get("model")), bool(typed_classes["model"]))
        _merge_files(merged, files)
        options = [*options, "--ckpt_path", str(checkpoint.path)]
    if names := untrusted_classes(merged):
        raise untrusted_error(names[0], " and ".join(configs) or "the configuration")
    options = _qualify_classes(options)
    if not merged:
        return Prepared([verb, *options], checkpoint, {})
    recipe = {} if checkpoint else _recipe_options(configs, accelerator, files, merged, options)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", prefix="lit_cv_", delete=False) as file:
        yaml.safe_dump(merged, file, sort_keys=False)
    return Prepared([verb, "--config", file.name, *options], checkpoint, recipe)


def _recipe_options(
    configs: list[str], accelerator: str, files: list[dict[str, Any]], merged: dict[str, Any], options: list[str]
) -> RecipeOptions:
    """Return the options set only by recipes, see `options_of_recipes`; files count as the user's choice."""
    recipes = [read_configuration(config, accelerator) for config in configs if not Path(config).is_file()]
    typed = [token[2:].partition("=")[0] for token in options if token.startswith("--")]
    in_files = [name for file in files for name, _ in named_options(file)]
    recipe = options_of_recipes(recipes, merged, [*typed, *in_files])
    if size := scale_train_image_size(recipes, merged, recipe, _last_value(options, "data.image_size")):
        scaled = setting("train_image_size", size, DATA)
        log.info("Training images, before a crop: %s, in the recipe's proportion to the new image size.", scaled)
    weights = merged.get("model", {}).get("init_args", {}).get("weights") if "model.weights" not in recipe else None
    if backbone := take_backbone_of_weights(merged, recipe, _last_value(options, "model.weights") or weights):
        log.info("Network: %s, that of the weights instead of the recipe's.", setting("backbone", backbone, MODULE))
    return recipe


def _log_replaced_precision(config: dict[str, Any], files: list[dict[str, Any]], accelerator: str) -> None:
    chosen = any((file.get("trainer") or {}).get("precision") for file in files)
    if (config.get("trainer") or {}).get("precision") == "32-true" and not chosen and not has_bfloat16(accelerator):
        mixed = setting("precision", "bf16-mixed", TRAINER)
        log.info("Precision 32-true: this device only emulates bfloat16 (%s uses it anyway).", mixed)


def _merge_run_config(
    requested: dict[str, Any], files: list[dict[str, Any]], checkpoint: Checkpoint | None, verb: str, set_here: set[str]
) -> dict[str, Any]:
    """Merge the configuration of the checkpoint's run: it overrides recipes, and configuration files override it.

    Args:
        requested: Recipes and configuration files, merged.
        files: The configuration files.
        checkpoint: The checkpoint.
        verb: The verb.
        set_here: Names of the options and sections that this command sets.
    """
    if checkpoint is None or checkpoint.config is None:
        return requested
    run = read_run_configuration(checkpoint, verb, set_here)
    for configuration in (run, *files):
        rename_in_configuration(configuration, {name: class_of(run.get(name)) for name in ("model", "data")})
    data, trained_on = class_of(requested.get("data")), class_of(run.get("data"))
    if verb != "fit" and data and trained_on and short_name(data) != short_name(trained_on):
        run["data"] = requested["data"]  # evaluate on other data
    return merge_configurations([run, *files])


def _merge_files(config: dict[str, Any], files: list[dict[str, Any]]) -> None:
    """Let the configuration files of this command override the checkpoint's hyperparameters.

    Two kinds of values are skipped: null, which the checkpoint filled in from the data, and `INITIAL_WEIGHTS`,
    since the checkpoint holds later ones.
    """
    for file in files:
        section = file.get("model")
        arguments = section.get("init_args") if isinstance(section, dict) else None
        pairs = arguments.items() if isinstance(arguments, dict) else ()
        overrides = {name: value for name, value in pairs if value is not None and name not in INITIAL_WEIGHTS}
        merge_into(config, {"model": {"init_args": overrides}})


def _resolve_checkpoint(verb: str, name: str, root: str | None) -> Checkpoint | None:
    """Find the checkpoint of this name; for `auto`, return `None` if no run has a checkpoint yet."""
    if verb == "fit" and is_hub_name(name):
        raise ValueError(
            f"{name} holds no state of training to resume from: start a new run from its weights "
            f"({setting('weights', name, MODULE)})."
        )
    if name != "auto":
        return find_checkpoint(name, root)
    if verb != "fit":
        auto = setting("ckpt_path", "auto", FIT)
        raise ValueError(f"{auto} works only with `fit`: give {verb} a file, `last` or `best`.")
    try:
        return find_checkpoint("last", root)
    except FileNotFoundError:
        return None


def _pop_values(args: list[str], names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the values of an option, and all other arguments."""
    values, other, tokens = [], [], iter(args)
    for token in tokens:
        name, equals, value = token.partition("=")
        if name not in names:
            other.append(token)
        elif equals:
            values.append(value)
        else:
            following = next(tokens, None)
            if following is None:
                raise ValueError(f"{token} needs a value.")
            values.append(following)
    return values, other


def _last_value(args: list[str], name: str) -> str | None:
    """Return the last value of `--name` or `--name.class_path`."""
    return ([None, *_pop_values(args, (f"--{name}", f"--{name}.class_path"))[0]])[-1]


def read_configuration(config: str, accelerator: str = "auto") -> dict[str, Any]:
    """Read a configuration file, or a recipe by its name.

    Args:
        config: The file or the name.
        accelerator: `accelerator` of the Trainer; where it only emulates bfloat16, a recipe gets float32 instead.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the recipe is unknown, or the file holds no configuration.
    """
    path = Path(config)
    is_recipe = not path.is_file()
    if is_recipe:
        if path.suffix in (".yaml", ".yml", ".json") or len(path.parts) > 1:
            raise FileNotFoundError(f"configuration file {config!r} does not exist ({argument('config', COMMAND)}).")
        path = Path(recipe_path(config))
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{config} is not a configuration: expected keys such as model, data and trainer.")
    for name in _GROUPS:
        if isinstance(content.get(name), str):  # the parser would take it for the name of another file
            raise ValueError(f"{config}: {name} must be a mapping of option names to values.")
    _check_sections(content, config)
    if is_recipe and content.get("trainer", {}).get("precision") == "bf16-mixed" and not has_bfloat16(accelerator):
        content["trainer"]["precision"] = "32-true"
    return content


def _check_sections(value: Any, config: str, where: str = "") -> None:
    """Refuse arguments next to `class_path` that belong under `init_args`, where the parser looks for them."""
    if isinstance(value, list):
        for entry in value:
            _check_sections(entry, config, where)
    elif isinstance(value, dict):
        misplaced = [key for key in value if key not in ("class_path", "init_args", "dict_kwargs")]
        if misplaced and ("class_path" in value or where in ("model", "data")):
            key = misplaced[0]
            raise ValueError(f"{config}: {where}.{key} must be one level deeper: {where}.init_args.{key}.")
        for key, inner in value.items():
            _check_sections(inner, config, f"{where}.{key}".lstrip("."))


def _check_same_data(config: dict[str, Any], checkpoint: Checkpoint, option: str) -> None:
    """Refuse to resume a run on other data: its best score would be compared with scores on other images."""
    if checkpoint.config is None:
        return
    before, now = class_of(read_configuration(str(checkpoint.config)).get("data")), class_of(config.get("data"))
    if before and now and short_name(before) != short_name(now):
        raise ValueError(
            f"{checkpoint.path} belongs to a run on {short_name(before)}, but {short_name(now)} was requested. Leave "
            f"{argument(option, COMMAND)} out "
            f"to resume it, or start a new run from its weights with {argument('weights', MODULE)}."
        )


def _last_class(layers: list[dict[str, Any]], name: str) -> str | None:
    return next((path for layer in reversed(layers) if (path := class_of(layer.get(name)))), None)


def _merge_checkpoint(config: dict[str, Any], checkpoint: Checkpoint, requested: str | None, typed: bool) -> None:
    section = config.get("model")
    arguments = section.get("init_args") if isinstance(section, dict) else None
    if checkpoint.class_path and requested and short_name(requested) != short_name(checkpoint.class_path):
        raise ValueError(
            f"{checkpoint.path} holds a {short_name(checkpoint.class_path)}, but {short_name(requested)} was "
            f"requested. Leave {argument('model' if typed else 'config', COMMAND)} out, or start a new run from its "
            f"weights with {argument('weights', MODULE)}."
        )
    if checkpoint.class_path:
        if not requested:
            resolve_class(checkpoint.class_path, L.LightningModule, str(checkpoint.path))
        init_args = {**(arguments if isinstance(arguments, dict) else {}), **checkpoint.hyperparameters}
        config["model"] = {"class_path": requested or checkpoint.class_path, "init_args": init_args}


def _qualify_classes(args: list[str]) -> list[str]:
    """Replace short names of classes in the working directory by `module.Class`."""
    qualified, option = [], ""
    for token in args:
        name, equals, value = token.partition("=")
        if token.startswith("--"):
            option = name[2:].rstrip("+")
            qualified.append(f"{name}={qualify_class(option, value)}" if equals else token)
        else:
            qualified.append(qualify_class(option, token) if option else token)
            option = ""
    return qualified
