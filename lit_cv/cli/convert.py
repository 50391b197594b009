"""`lit-cv convert`: annotations from one format to another."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from lit_cv.annotations.convert import convert
from lit_cv.errors import Part, announce_parts
from lit_cv.running.messages import show_messages
from lit_cv.suggest import nearest_option

__all__ = ["OneLineParser", "run"]


class OneLineParser(ArgumentParser):
    """A parser of a verb without a model, whose errors take one line.

    Args:
        verb: The verb.
        function: What it calls, whose arguments are its options.
    """

    def __init__(self, verb: str, function: Callable[..., Any]) -> None:
        super().__init__(prog=f"lit-cv {verb}", allow_abbrev=False)
        self.add_function_arguments(function, as_positional=False)
        self.verb, self._parameters = verb, inspect.signature(function).parameters
        self._typed: list[str] = []

    def read(self, args: Sequence[str]) -> dict[str, Any]:
        """Return the options of the verb by their names, and let messages name them.

        Args:
            args: The arguments, as typed.
        """
        self._typed = list(args)
        options = vars(self.parse_args(self._typed))
        announce_parts([Part("", object, options)])
        return options

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, and end."""
        wrong = self._problem() or " ".join(message.split())
        wrong = wrong if wrong.endswith((".", "?")) else f"{wrong}."
        raise SystemExit(f"lit-cv: error: {wrong} `lit-cv {self.verb} --help` lists the options.")

    def _problem(self) -> str | None:
        """Return which argument the function does not take."""
        from lit_cv.cli.diagnosis import misfit

        given = set()
        tokens = iter(self._typed)
        for token in tokens:
            option, equals, value = token.removeprefix("--").partition("=")
            if not token.startswith("--"):
                return f"there is no argument {token!r}: options start with --."
            value = value if equals else next(tokens, "")
            name, _, deeper = option.rstrip("+").partition(".")
            given.add(name)
            if name not in self._parameters:
                return f"no option --{option}{nearest_option(option, self._parameters)}"
            if not deeper and (problem := misfit(name, value, self._parameters[name].annotation)):
                return problem
        needed = [name for name, each in self._parameters.items() if each.default is each.empty and name not in given]
        return f"{self.verb} needs {' and '.join(f'--{name}' for name in needed)}." if needed else None


def run(args: list[str]) -> None:
    """Run the verb.

    Args:
        args: Its options.
    """
    options = OneLineParser("convert", convert).read(args)
    show_messages()
    convert(**options)
