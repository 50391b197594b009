"""Options of the verbs that are not Lightning's."""

import argparse
import errno
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from lit_cv.errors import Part, announce_parts
from lit_cv.suggest import nearest_option

__all__ = ["OwnParser", "command_line", "flag", "output_folder"]

_OF_FIT = ("config", "model", "data", "trainer", "seed_everything", "checkpoint", "early_stopping", "ema", "non_finite")


class OwnParser(argparse.ArgumentParser):
    """A parser whose errors take one line, with the nearest valid option.

    Args:
        verb: The verb.
        purpose: What it does.
        example: How it is called.
        usage: What comes after the verb.
    """

    def __init__(self, verb: str, purpose: str, example: str, usage: str = "[options]") -> None:
        super().__init__(
            prog=f"lit-cv {verb}",
            usage=f"lit-cv {verb} {usage}",
            description=purpose,
            epilog=f"example:\n{example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.verb = verb

    def error(self, message: str) -> NoReturn:
        """End with the one line that matters."""
        raise SystemExit(f"lit-cv: error: {message}")

    def parse(self, args: Sequence[str]) -> argparse.Namespace:
        """Parse all arguments."""
        found, rest = self.parse_known_args(list(args))
        if rest:
            raise SystemExit(self._unknown(rest[0]))
        announce_parts([Part("", object, vars(found))])
        return found

    def parse_before_fit(self, args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """Parse the own options, and return those of `fit` beside them."""
        found, rest = self.parse_known_args(list(args))
        for token in rest:
            name = token[2:].partition("=")[0]
            if token.startswith("--") and name.rstrip("+").partition(".")[0] not in _OF_FIT:
                raise SystemExit(self._unknown(token))
        announce_parts([Part("", object, vars(found))])
        return found, rest

    def _unknown(self, token: str) -> str:
        own = [option[2:] for action in self._actions for option in action.option_strings if option.startswith("--")]
        name = token.lstrip("-").partition("=")[0]
        return f"lit-cv: error: no option {token}{nearest_option(name, own)} `lit-cv {self.verb} --help` lists them."


def flag(text: str) -> bool:
    """Return what `true` or `false` says, for an option."""
    values = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return values[text.lower()]


def command_line(verb: str, args: Sequence[Any]) -> str:
    """Return a command as it would be typed."""
    return shlex.join(["lit-cv", verb, *map(str, args)])


def output_folder(given: str, default: str) -> Path:
    """Return the folder that a verb writes to; one that nobody named may not be a link to another.

    Raises:
        OSError: If it is.
    """
    folder = Path(given)
    if given == default and folder.is_symlink():
        raise OSError(errno.ELOOP, f"{folder} is a link to {folder.resolve()}: name the folder to write to (--output)")
    return folder
