"""`lit-cv convert`: annotations from one format to another."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from jsonargparse import ArgumentParser

from lit_cv.annotations.convert import convert
from lit_cv.cli.messages import show_messages

__all__ = ["OneLineParser", "own_options", "run"]


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


@contextmanager
def own_options() -> Iterator[None]:
    """Name the options of the DataModules, which messages speak of, as those of a verb without a model."""
    try:
        yield
    except Exception as error:
        error.args = tuple(part.replace("--data.", "--") if isinstance(part, str) else part for part in error.args)
        raise


def run(args: list[str]) -> None:
    """Run the verb.

    Args:
        args: Its options.
    """
    parser = OneLineParser("convert")
    parser.add_function_arguments(convert, as_positional=False)
    options = parser.parse_args(args)
    show_messages()
    with own_options():
        convert(**vars(options))
