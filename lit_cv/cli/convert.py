"""`lit-cv convert`: annotations from one format to another."""

import re
from typing import NoReturn

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
    """

    def __init__(self, verb: str) -> None:
        super().__init__(prog=f"lit-cv {verb}", allow_abbrev=False)
        self.verb = verb

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, and end."""
        from lit_cv.cli.errors import explain_value

        text = " ".join(message.split())
        options = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        if match := re.search(r"unrecognized arguments: (\S+)", text):
            token = match[1].partition("=")[0]
            known = [option[2:] for option in options]
            wrong = (
                f"no option {token}{nearest_option(token[2:], known)}"
                if token.startswith("-")
                else (f"there is no argument {token!r}: options start with --.")
            )
        elif match := re.search(r"arguments are required: (.+)", text):
            needed = [f"--{name.strip().lstrip('-')}" for name in match[1].split(",")]
            wrong = f"{self.verb} needs {' and '.join(needed)}."
        else:
            wrong = explain_value(text) or text
            wrong = wrong if wrong.endswith((".", "?")) else f"{wrong}."
        raise SystemExit(f"lit-cv: error: {wrong} `lit-cv {self.verb} --help` lists the options.")


def run(args: list[str]) -> None:
    """Run the verb.

    Args:
        args: Its options.
    """
    parser = OneLineParser("convert")
    parser.add_function_arguments(convert, as_positional=False)
    options = parser.parse_args(args)
    show_messages()
    announce_parts([Part("", object, vars(options))])
    convert(**vars(options))
