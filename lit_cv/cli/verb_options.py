"""Option parsing of the verbs that Lightning's CLI does not run."""

import argparse
import errno
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from lit_cv.errors import Part, announce_parts
from lit_cv.suggest import nearest_option

__all__ = ["VerbParser", "command_line", "flag", "output_folder"]

_OF_FIT = ("config", "model", "data", "trainer", "seed_everything", "checkpoint", "early_stopping", "ema", "non_finite")


class VerbParser(argparse.ArgumentParser):
    """Parser whose errors take one line, with the nearest valid option.

    Args:
        verb: The verb.
        purpose: Description in the help text.
        example: Example calls in the help text.
        usage: Usage after the verb.
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
        """Exit with a one-line message."""
        raise SystemExit(f"lit-cv: error: {message}")

    def parse(self, args: Sequence[str]) -> argparse.Namespace:
        """Parse all arguments."""
        options, unknown = self.parse_known_args(list(args))
        if unknown:
            raise SystemExit(self._unknown(unknown[0]))
        announce_parts([Part("", object, vars(options))])
        return options

    def parse_before_fit(self, args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """Parse the options of the verb, and return them with the remaining options of `fit`."""
        options, fit_args = self.parse_known_args(list(args))
        for token in fit_args:
            name = token[2:].partition("=")[0]
            if token.startswith("--") and name.rstrip("+").partition(".")[0] not in _OF_FIT:
                raise SystemExit(self._unknown(token))
        announce_parts([Part("", object, vars(options))])
        return options, fit_args

    def _unknown(self, token: str) -> str:
        valid = [option[2:] for action in self._actions for option in action.option_strings if option.startswith("--")]
        name = token.lstrip("-").partition("=")[0]
        hint = nearest_option(name, valid)
        return f"lit-cv: error: unknown option {token}{hint} `lit-cv {self.verb} --help` lists them."


def flag(text: str) -> bool:
    """Parse `true` or `false`, as the type of an option."""
    values = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r}: give true or false")
    return values[text.lower()]


def command_line(verb: str, args: Sequence[Any]) -> str:
    """Return a command as text to type into a shell."""
    return shlex.join(["lit-cv", verb, *map(str, args)])


def output_folder(output: str, default: str) -> Path:
    """Return the folder that a verb writes to; the default folder must not be a link.

    Raises:
        OSError: If the default folder is a link to another folder.
    """
    folder = Path(output)
    if output == default and folder.is_symlink():
        raise OSError(errno.ELOOP, f"{folder} is a link to {folder.resolve()}: name the folder to write to (--output)")
    return folder
