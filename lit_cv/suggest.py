"""Suggestions of valid names for misspelled ones."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["nearest", "nearest_option"]


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return `: did you mean 'x'?` with the nearest other valid names, or `.` if none is near.

    Example:
        >>> nearest("fti", ["fit", "test"])
        ": did you mean 'fit'?"
        >>> nearest("zzzzz", ["fit", "test"]), nearest("fit", ["fit", "test"])
        ('.', '.')
    """
    names = [candidate for candidate in valid if candidate != name]
    by_lower = {candidate.lower(): candidate for candidate in names}
    close = get_close_matches(name.lower(), by_lower, n=2, cutoff=0.6)
    if not close:
        return "."
    return ": did you mean " + " or ".join(repr(by_lower[match]) for match in close) + "?"


def nearest_option(name: str, valid: Iterable[str]) -> str:
    """Return what `nearest` does for options, with their dashes; `name` may lack the group.

    Args:
        name: The option, without dashes.
        valid: The valid options, without dashes, with their groups.

    Example:
        >>> nearest_option("min_lr", ["model.lr", "model.min_lr"])
        ": did you mean '--model.min_lr'?"
        >>> nearest_option("ema.deca", ["ema.decay", "ema.ramp"])
        ": did you mean '--ema.decay'?"
        >>> nearest_option("model.learning_rate", ["model.lr", "model.lora_rank"])
        ": did you mean '--model.lr'?"
    """
    valid, (group, dot, last) = list(valid), name.rpartition(".")
    beside = {option.removeprefix(group + dot): option for option in valid if option.rpartition(".")[0] == group}
    abbreviation = "".join(word[:1] for word in last.split("_"))
    abbreviated = [abbreviation] if "_" in last and abbreviation in beside else []
    # compared without the group, which would make all similar
    if dot and (close := [*abbreviated, *get_close_matches(last, beside, n=2, cutoff=0.6)][:2]):
        return ": did you mean " + " or ".join(repr(f"--{beside[match]}") for match in close) + "?"
    named: dict[str, list[str]] = {}
    for option in (candidate for candidate in valid if candidate != name):
        named.setdefault(option if "." in name else option.rpartition(".")[2], []).append(f"--{option}")
    lowered = {last.lower(): options for last, options in named.items()}
    cutoff = 1.0 if name.lower() in lowered else 0.6
    close = get_close_matches(name.lower(), lowered, n=2, cutoff=cutoff)
    matches = [option for match in close for option in lowered[match]][:3]
    return ": did you mean " + " or ".join(map(repr, matches)) + "?" if matches else "."
