"""What happens to the arguments before LightningCLI parses them.

LightningCLI 2.6 would take the hyperparameters of `ckpt_path` over those on the command line, keep the
arguments of one class for another, and look for `last` only in the run that is about to start. Here
recipes, configuration files and the checkpoint are merged into one configuration that every option on the
command line overrides.
"""

import logging
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import yaml

from lit_cv.errors import COMMAND, FIT, MODULE, TRAINER, argument, setting
from lit_cv.plain_values import read_yaml
from lit_cv.registry import resolve_class
from lit_cv.running.import_policy import untrusted_classes
from lit_cv.running.own_files import OwnFiles, in_own_file
from lit_cv.running.precision import has_bfloat16
from lit_cv.running.recipe_options import RecipeOptions, named_options, options_of_recipes
from lit_cv.running.recipes import recipe_path
from lit_cv.running.renamed_options import rename_in_configuration, rename_typed_options
from lit_cv.running.run_configuration import read_run_configuration
from lit_cv.running.runs import Checkpoint, find_checkpoint
from lit_cv.trust import untrusted_error

__all__ = ["Prepared", "prepare", "prepare_run", "read_configuration"]

log = logging.getLogger("lit_cv")

_CONFIG = ("--config", "-c")
_GROUPS = ("trainer", "checkpoint", "early_stopping", "ema", "non_finite", "predictions", "find_lr")
_RUN_ONLY = ("ckpt_path", "weights_only", "verbose", "return_predictions")


class Prepared(NamedTuple):
    """What a command comes to before it is parsed.

    Attributes:
        args: Arguments for LightningCLI.
        checkpoint: The checkpoint that `ckpt_path` names.
        recipe: What recipes alone give, and the user has not chosen.
    """

    args: list[str]
    checkpoint: Checkpoint | None
    recipe: RecipeOptions


def prepare(args: list[str]) -> tuple[list[str], Checkpoint | None]:
    """Return the arguments for LightningCLI and the checkpoint that `prepare_run` finds."""
    prepared = prepare_run(args)
    return prepared.args, prepared.checkpoint


def prepare_run(args: list[str]) -> Prepared:
    """Merge recipes, configurations and the checkpoint, and put the result before the other options.

    Args:
        args: The verb and its options as given.

    Raises:
        ValueError: For an unknown recipe, or a checkpoint that holds another class than asked for.
        FileNotFoundError: If the checkpoint or a configuration is not there.
    """
    OwnFiles.folder = Path.cwd()
    verb, rest = args[0], args[1:]
    configs, rest = _take(rest, _CONFIG)
    given = {name: _value(rest, name) for name in ("model", "data")}
    found, rest = _take(rest, ("--ckpt_path",))
    checkpoint = _checkpoint(verb, found[-1], _value(rest, "trainer.default_root_dir")) if found else None
    accelerator = _value(rest, "trainer.accelerator") or "auto"
    layers = [read_configuration(config, accelerator) for config in configs]
    files = [read_configuration(config) for config in configs if Path(config).is_file()]
    classes = {name: given[name] or _last_class(layers, name) for name in given}
    for configuration in (*layers, *files):
        rename_in_configuration(configuration, classes)
    asked = _merged(layers)
    given_here = {token[2:].partition("=")[0] for token in rest if token.startswith("--")} | {*asked}
    merged = _over_run(asked, files, checkpoint, verb, given_here)
    if verb == "fit" and not checkpoint and "trainer.precision" not in given_here:
        _log_replaced_precision(merged, files, accelerator)
    for key in _RUN_ONLY:
        merged.pop(key, None)
    for key, name in given.items():
        if name and not name.endswith((".yaml", ".yml", ".json")):
            path = in_own_file(key, name)
            _switch_class(merged, key, path)
            _switch_class(asked, key, path)
    rest = rename_typed_options(rest, {name: _class_of(merged.get(name)) for name in given})
    if checkpoint:
        if verb == "fit":
            _check_same_data(asked, checkpoint, "data" if given["data"] else "config")
        _take_from_checkpoint(merged, checkpoint, _class_of(asked.get("model")), bool(given["model"]))
        _lay_files_over(merged, files)
        rest = [*rest, "--ckpt_path", str(checkpoint.path)]
    if names := untrusted_classes(merged):
        raise untrusted_error(names[0], " and ".join(configs) or "the configuration")
    rest = _with_own_classes(rest)
    if not merged:
        return Prepared([verb, *rest], checkpoint, {})
    recipe = {} if checkpoint else _recipe_options(configs, accelerator, files, merged, rest)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", prefix="lit_cv_", delete=False) as file:
        yaml.safe_dump(merged, file, sort_keys=False)
    return Prepared([verb, "--config", file.name, *rest], checkpoint, recipe)


def _recipe_options(
    configs: list[str], accelerator: str, files: list[dict[str, Any]], merged: dict[str, Any], rest: list[str]
) -> RecipeOptions:
    """Return what recipes alone give, see `options_of_recipes`; a file is the user's word, as what was typed."""
    recipes = [read_configuration(config, accelerator) for config in configs if not Path(config).is_file()]
    typed = [token[2:].partition("=")[0] for token in rest if token.startswith("--")]
    in_files = [name for file in files for name, _ in named_options(file)]
    return options_of_recipes(recipes, merged, [*typed, *in_files])


def _log_replaced_precision(config: dict[str, Any], files: list[dict[str, Any]], accelerator: str) -> None:
    chosen = any((file.get("trainer") or {}).get("precision") for file in files)
    if (config.get("trainer") or {}).get("precision") == "32-true" and not chosen and not has_bfloat16(accelerator):
        mixed = setting("precision", "bf16-mixed", TRAINER)
        log.info("Precision 32-true: this device imitates bfloat16 (%s uses it anyway).", mixed)


def _over_run(
    asked: dict[str, Any], files: list[dict[str, Any]], checkpoint: Checkpoint | None, verb: str, given: set[str]
) -> dict[str, Any]:
    """Return the configuration of the checkpoint's run, over that of recipes and below that of configuration files.

    Args:
        asked: Recipes and configuration files together.
        files: The configuration files.
        checkpoint: The checkpoint.
        verb: The verb.
        given: Names of options and sections that this command gives.
    """
    if checkpoint is None or checkpoint.config is None:
        return asked
    run = read_run_configuration(checkpoint, verb, given)
    for configuration in (run, *files):
        rename_in_configuration(configuration, {name: _class_of(run.get(name)) for name in ("model", "data")})
    data, own = _class_of(asked.get("data")), _class_of(run.get("data"))
    if verb != "fit" and data and own and _short(data) != _short(own):
        run["data"] = asked["data"]  # to be evaluated on
    return _merged([run, *files])


def _lay_files_over(config: dict[str, Any], files: list[dict[str, Any]]) -> None:
    """Let configuration files, which were given for this run, win over the checkpoint's hyperparameters.

    But for what they leave open, which the checkpoint knows from the data, and the weights to start from: it has later
    ones.
    """
    for file in files:
        section = file.get("model")
        given = section.get("init_args") if isinstance(section, dict) else None
        pairs = given.items() if isinstance(given, dict) else ()
        known = {name: value for name, value in pairs if value is not None and name != "weights"}
        _merge(config, {"model": {"init_args": known}})


def _checkpoint(verb: str, name: str, root: str | None) -> Checkpoint | None:
    """Return the checkpoint of this name; for `auto` none where no run has left one yet."""
    if name != "auto":
        return find_checkpoint(name, root)
    if verb != "fit":
        asked = setting("ckpt_path", "auto", FIT)
        raise ValueError(f"{asked} works only with `fit`: give {verb} a file, `last` or `best`.")
    try:
        return find_checkpoint("last", root)
    except FileNotFoundError:
        return None


def _take(args: list[str], names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Separate the values of an option from all other arguments."""
    values, rest, tokens = [], [], iter(args)
    for token in tokens:
        name, equals, value = token.partition("=")
        if name not in names:
            rest.append(token)
        elif equals:
            values.append(value)
        else:
            following = next(tokens, None)
            if following is None:
                raise ValueError(f"{token} needs a value.")
            values.append(following)
    return values, rest


def _value(args: list[str], name: str) -> str | None:
    """Return the last value of `--name` or `--name.class_path`."""
    return ([None, *_take(args, (f"--{name}", f"--{name}.class_path"))[0]])[-1]


def read_configuration(config: str, accelerator: str = "auto") -> dict[str, Any]:
    """Read a configuration file, or a recipe by its name.

    Args:
        config: The file or the name.
        accelerator: What trains, as the Trainer takes it: where it imitates bfloat16, a recipe gets float32 instead.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no such recipe, or it holds no configuration.
    """
    path = Path(config)
    is_recipe = not path.is_file()
    if is_recipe:
        if path.suffix in (".yaml", ".yml", ".json") or len(path.parts) > 1:
            raise FileNotFoundError(f"there is no configuration file {config!r} ({argument('config', COMMAND)}).")
        path = Path(recipe_path(config))
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{config} holds no configuration: expected keys such as model, data and trainer.")
    for name in _GROUPS:
        if isinstance(content.get(name), str):  # the parser would read it as the name of a further file
            raise ValueError(f"{config}: {name} must hold options by their names.")
    _check_sections(content, config)
    if is_recipe and content.get("trainer", {}).get("precision") == "bf16-mixed" and not has_bfloat16(accelerator):
        content["trainer"]["precision"] = "32-true"
    return content


def _check_sections(value: Any, config: str, where: str = "") -> None:
    """Refuse arguments beside the name of their class, where the parser would not look for them."""
    if isinstance(value, list):
        for entry in value:
            _check_sections(entry, config, where)
    elif isinstance(value, dict):
        beside = [key for key in value if key not in ("class_path", "init_args", "dict_kwargs")]
        if beside and ("class_path" in value or where in ("model", "data")):
            raise ValueError(f"{config}: {where}.{beside[0]} must lie one step deeper: {where}.init_args.{beside[0]}.")
        for key, inner in value.items():
            _check_sections(inner, config, f"{where}.{key}".lstrip("."))


def _merged(configurations: list[dict[str, Any]]) -> dict[str, Any]:
    """Lay configurations over one another, the first undermost."""
    merged: dict[str, Any] = {}
    for configuration in configurations:
        _merge(merged, configuration)
    return merged


def _merge(base: dict[str, Any], top: dict[str, Any]) -> None:
    """Lay one configuration over another; lists are replaced, and a class brings only its own arguments."""
    for key, value in top.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            if "class_path" in value:
                _switch_class(base, key, value["class_path"])
            _merge(base[key], value)
        elif key in ("model", "data") and isinstance(value, str):
            _switch_class(base, key, value)
        else:
            base[key] = value


def _switch_class(config: dict[str, Any], key: str, class_path: str) -> None:
    """Name the class of the model or the data; another class than before starts from its own defaults."""
    if isinstance(class_path, str) and class_path.endswith((".yaml", ".yml", ".json")):
        raise ValueError(
            f"{key}: {class_path}: give class_path and init_args here, or the file itself by "
            f"{argument('config', COMMAND)}."
        )
    if not isinstance(class_path, str):
        raise ValueError(f"{key}.class_path={str(class_path)[:80]!r}: give the name of a class.")
    before = _class_of(config.get(key))
    if before is None or _short(before) != _short(class_path):
        config[key] = {"class_path": class_path}


def _check_same_data(config: dict[str, Any], checkpoint: Checkpoint, option: str) -> None:
    """Refuse to continue a run on other data: its best checkpoint would be compared with other images' scores."""
    if checkpoint.config is None:
        return
    before, now = _class_of(read_configuration(str(checkpoint.config)).get("data")), _class_of(config.get("data"))
    if before and now and _short(before) != _short(now):
        raise ValueError(
            f"{checkpoint.path} is of a run on {_short(before)}, but {_short(now)} was asked for. Leave "
            f"{argument(option, COMMAND)} out "
            f"to continue it, or start a new run from its weights with {argument('weights', MODULE)}."
        )


def _last_class(layers: list[dict[str, Any]], name: str) -> str | None:
    return next((path for layer in reversed(layers) if (path := _class_of(layer.get(name)))), None)


def _class_of(section: Any) -> str | None:
    found = section.get("class_path") if isinstance(section, dict) else section
    return found if isinstance(found, str) else None


def _take_from_checkpoint(config: dict[str, Any], checkpoint: Checkpoint, wanted: str | None, named: bool) -> None:
    section = config.get("model")
    given = section.get("init_args") if isinstance(section, dict) else None
    if checkpoint.class_path and wanted and _short(wanted) != _short(checkpoint.class_path):
        raise ValueError(
            f"{checkpoint.path} holds a {_short(checkpoint.class_path)}, but {_short(wanted)} was asked for. "
            f"Leave {argument('model' if named else 'config', COMMAND)} out, or start a new run from its weights with "
            f"{argument('weights', MODULE)}."
        )
    if checkpoint.class_path:
        if not wanted:
            resolve_class(checkpoint.class_path, L.LightningModule, str(checkpoint.path))
        class_path = wanted or checkpoint.class_path
        hyperparameters = dict(checkpoint.hyperparameters)
        rename_in_configuration({"model": {"class_path": class_path, "init_args": hyperparameters}}, {})
        init_args = {**(given if isinstance(given, dict) else {}), **hyperparameters}
        config["model"] = {"class_path": class_path, "init_args": init_args}


def _with_own_classes(args: list[str]) -> list[str]:
    """Return the arguments, with the classes of the working directory's files named with their file."""
    found, option = [], ""
    for token in args:
        name, equals, value = token.partition("=")
        if token.startswith("--"):
            option = name[2:].rstrip("+")
            found.append(f"{name}={in_own_file(option, value)}" if equals else token)
        else:
            found.append(in_own_file(option, token) if option else token)
            option = ""
    return found


def _short(class_path: str) -> str:
    return class_path.rpartition(".")[2]
