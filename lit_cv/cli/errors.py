"""One line for what the parser says in sixty."""

import inspect
import re
import traceback
from collections.abc import Iterable
from pathlib import Path

import lightning as L
from lightning.pytorch.cli import LightningArgumentParser

from lit_cv.suggest import nearest

__all__ = ["explain", "raised_here"]

_CLASSES: dict[str, type] = {
    "model": L.LightningModule,
    "data": L.LightningDataModule,
    "trainer.callbacks": L.Callback,
}


def explain(message: str, parser: LightningArgumentParser) -> str:
    """Say in one line what is wrong with the arguments, with the nearest valid name.

    Args:
        message: What jsonargparse says.
        parser: The parser that said it, which knows the valid options.
    """
    text = " ".join(message.split())
    if match := re.search(r"unrecognized arguments: --([\w.]+)", text):
        names = [name for name in _options(parser) if "." in name or "." not in match[1]]
        return f"no option --{match[1]}{nearest(match[1], names)} `--help` lists them."
    if match := re.search(r"[Oo]ption '([\w.]+)'", text):
        name = match[1].removesuffix(".class_path").removesuffix(".init_args")
        return f"no option {name!r}{nearest(name, _options(parser))}"
    if "Expected a dot import path string" in text or "not a subclass" in text.lower():
        key = _key(text)
        name = _given(text)
        classes = [cls.__name__ for cls in _subclasses(_CLASSES.get(key, object))] if key in _CLASSES else []
        return f"--{key}: no class {name!r}{nearest(name, classes)}"
    if match := re.search(r"required: \w+\.(\w+)", text):
        return f"no {match[1]}: give --config RECIPE (`lit-cv recipes` lists them) or --{match[1]} CLASS."
    key, value = _key(text), _given(text)
    if "." not in key:  # the arguments of a class come without the option's first part
        key = next((name for name in _options(parser) if name.endswith(f".{key}")), key)
    expected = dict.fromkeys(re.findall(r"Expected an? (.+?)(?= - |\. Got| Given|$)", text))
    if key and expected:
        allowed = " or ".join(map(_readable, expected))
        hint = nearest(value, re.findall(r"'([^']+)'", allowed)).removesuffix(".")
        return f"--{key} {value} does not fit: expected {allowed}{hint}"
    return text


def raised_here(error: BaseException) -> bool:
    """Tell whether this project raised an error, rather than a library that it calls."""
    frames = traceback.extract_tb(error.__traceback__)
    package = Path(__file__).parent.parent
    homes = (package, package.parent / "datamodules")
    return bool(frames) and any(home in Path(frames[-1].filename).parents for home in homes)


def _key(text: str) -> str:
    match = re.search(r'Parser key "([\w.]+)"', text)
    return match[1] if match else ""


def _given(text: str) -> str:
    match = re.search(r"(?:Given value|Got value): (?:\{'class_path': '([\w.]+)'|(.+?)$)", text)
    return (match[1] or match[2]).strip() if match else ""


def _readable(expected: str) -> str:
    expected = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", expected)
    expected = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", expected)
    return expected.replace("NoneType", "null").rstrip(". ")


def _options(parser: LightningArgumentParser) -> list[str]:
    """Return the names of all options: the parser's own, and the arguments of every class that it can build."""
    names = [action.dest for action in parser._actions if action.dest not in ("help", "==SUPPRESS==")]
    for prefix, base in _CLASSES.items():
        names += [f"{prefix}.{argument}" for cls in _subclasses(base) for argument in _arguments(cls)]
    return list(dict.fromkeys([*names, *(name.rpartition(".")[2] for name in names)]))


def _subclasses(base: type[object]) -> Iterable[type]:
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)


def _arguments(cls: type) -> Iterable[str]:
    for base in inspect.getmro(cls):
        if "__init__" in vars(base):
            for name, parameter in inspect.signature(base).parameters.items():
                if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                    yield name
