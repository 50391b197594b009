"""`lit-cv convert`: annotations from one format to another."""

import logging

from jsonargparse import ArgumentParser

from lit_cv.annotations.convert import convert

__all__ = ["run"]


class _Parser(ArgumentParser):
    """A parser whose errors take one line."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        """Say what is wrong, and end."""
        raise SystemExit(f"lit-cv: error: {' '.join(message.split())} `lit-cv convert --help` lists the options.")


def run(args: list[str]) -> None:
    """Run the verb.

    Args:
        args: Its options.
    """
    parser = _Parser(prog="lit-cv convert", description=(convert.__doc__ or "").partition("\n")[0], exit_on_error=True)
    parser.add_function_arguments(convert, as_positional=False)
    options = parser.parse_args(args)
    log = logging.getLogger("lit_cv")
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
        log.setLevel(logging.INFO)
    convert(**vars(options))
