"""`lit-cv convert`: convert annotations from one format to another."""

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
    """Parser of a verb that calls a function; its errors take one line.

    Args:
        verb: The verb.
        function: The function, whose arguments are the options.
    """

    def __init__(self, verb: str, function: Callable[..., Any]) -> None:
        super().__init__(prog=f"lit-cv {verb}", allow_abbrev=False)
        self.add_function_arguments(function, as_positional=False)
        self.verb, self._parameters = verb, inspect.signature(function).parameters
        self._typed: list[str] = []

    def read(self, args: Sequence[str]) -> dict[str, Any]:
        """Parse the options into a dict, and announce them so that messages can name them.

        Args:
            args: The options, as typed.
        """
        self._typed = list(args)
        options = vars(self.parse_args(self._typed))
        announce_parts([Part("", object, options)])
        return options

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with a one-line message."""
        problem = self._problem() or " ".join(message.split())
        problem = problem if problem.endswith((".", "?")) else f"{problem}."
        raise SystemExit(f"lit-cv: error: {problem} `lit-cv {self.verb} --help` lists the options.")

    def _problem(self) -> str | None:
        """Describe the first option that the function does not accept."""
        from lit_cv.cli.misfit import misfit

        typed_names = set()
        tokens = iter(self._typed)
        for token in tokens:
            option, equals, value = token.removeprefix("--").partition("=")
            if not token.startswith("--"):
                return f"unexpected argument {token!r}: options start with --."
            value = value if equals else next(tokens, "")
            name, _, deeper = option.rstrip("+").partition(".")
            typed_names.add(name)
            if name not in self._parameters:
                return f"unknown option --{option}{nearest_option(option, self._parameters)}"
            if not deeper and (problem := misfit(name, value, self._parameters[name].annotation)):
                return problem
        missing = [
            name for name, each in self._parameters.items() if each.default is each.empty and name not in typed_names
        ]
        return f"{self.verb} needs {' and '.join(f'--{name}' for name in missing)}." if missing else None


def run(args: list[str]) -> None:
    """Run the verb.

    Args:
        args: The options, as typed.
    """
    options = OneLineParser("convert", convert).read(args)
    show_messages()
    convert(**options)
