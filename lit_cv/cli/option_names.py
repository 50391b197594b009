"""The option that an error about a value is about."""

import inspect
import re
from collections.abc import Iterator, Sequence
from types import TracebackType

import lightning as L

from lit_cv import callbacks
from lit_cv.cli.errors import arguments_of, is_of_trainer

__all__ = ["with_option"]

_CALLBACKS = "trainer.callbacks"
_OTHER_OPTIONS = ("convert", "agreement", "compare", "curves", "export")  # verbs whose options are not those of fit
_GROUPS: tuple[tuple[type, str], ...] = (
    (callbacks.RunCheckpoint, "checkpoint"),
    (callbacks.MonitorEarlyStopping, "early_stopping"),
    (callbacks.EMA, "ema"),
    (callbacks.NonFiniteGuard, "non_finite"),
    (callbacks.PredictionWriter, "predictions"),
    (L.Callback, _CALLBACKS),
    (L.LightningModule, "model"),
    (L.LightningDataModule, "data"),
)


def with_option(error: BaseException, typed: Sequence[str] = ()) -> str:
    """Return what an error says, with the option to change where it begins with a value and names none.

    A class says `decay=2.0: give ...`, for it may be built without the command line; whose argument that is, is seen
    from where it was raised.

    Args:
        error: The error, raised.
        typed: The arguments of the process.

    Example:
        >>> try:
        ...     callbacks.EMA(decay=2.0)
        ... except ValueError as error:
        ...     print(with_option(error))
        decay=2.0: give a number between 0 and 1, such as 0.999 (--ema.decay).
    """
    said = str(error) or type(error).__name__
    if typed[:1] and typed[0] in _OTHER_OPTIONS:
        return said
    if "--" in said:
        return re.sub(r"--(model|data)\.(\w+)", lambda found: f"--{_as_typed(found[1], found[2], typed)}", said)
    if is_of_trainer(error):
        said = " ".join(said.split())  # some take several lines
        option = _of_trainer(said)
    else:
        option = _of_class(error, said, typed)
    if option is None:
        return said
    return f"{said.removesuffix('.')} (--{option})" + "." * said.endswith(".")


def _of_class(error: BaseException, said: str, typed: Sequence[str]) -> str | None:
    match = re.match(r"(?:there is no )?(\w+)(?:=| ')", said)
    if match is None:
        return None
    for owner in _owners(error.__traceback__):
        known = set(arguments_of(owner))
        group = next(group for base, group in _GROUPS if issubclass(owner, base))
        for name in (match[1], f"{match[1]}s"):
            if name in known:
                return _as_typed(group, name, typed)
    return None


def _owners(trace: TracebackType | None) -> Iterator[type]:
    """Yield the classes of modules, data and callbacks on the way to where an error was raised, the nearest first."""
    found = []
    while trace is not None:
        own = trace.tb_frame.f_locals.get("self")
        if isinstance(own, tuple(base for base, _ in _GROUPS)):
            found.append(type(own))
        trace = trace.tb_next
    yield from reversed(found)


def _as_typed(group: str, name: str, typed: Sequence[str]) -> str:
    """Return the option that was typed: a class within another has one that is longer (`data.source.root`)."""
    given = [token[2:].partition("=")[0] for token in typed if token.startswith("--")]
    groups = (f"{group}.",) if group in ("model", "data") else (f"{group}.", f"{_CALLBACKS}.")
    own = [option for option in given if option.startswith(groups) and option.endswith(f".{name}")]
    return own[0] if own and f"{group}.{name}" not in own else f"{group}.{name}"


def _of_trainer(said: str) -> str | None:
    known = inspect.signature(L.Trainer).parameters
    for name in re.findall(r"\w+", said):
        if name in known and ("_" in name or f"{name}=" in said or f"`{name}`" in said):
            return f"trainer.{name}"
    return None
