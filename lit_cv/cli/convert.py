"""`lit-cv convert`: annotations from one format to another."""

from typing import NoReturn

from jsonargparse import ArgumentParser

from lit_cv.annotations.convert import convert
from lit_cv.cli.messages import show_messages

__all__ = ["OneLineParser", "run"]


class OneLineParser(ArgumentParser):
    """A parser of a verb without a model, whose errors take one line.

    Args:
        verb: The verb.
    """

    def __init__(self, verb: str) -> None:
        super().__init__(prog=f"lit-cv {verb}")
        self.verb = verb

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, and end."""
        text = " ".join(message.split())
        raise SystemExit(f"lit-cv: error: {text} `lit-cv {self.verb} --help` lists the options.")


def run(args: list[str]) -> None:
    """Run the verb.

    Args:
        args: Its options.
    """
    parser = OneLineParser("convert")
    parser.add_function_arguments(convert, as_positional=False)
    options = parser.parse_args(args)
    show_messages()
    convert(**vars(options))
