"""The command line `lit-cv`: `fit`, `validate`, `test`, `predict` on Lightning's CLI, and other verbs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from lit_cv.cli.option_names import OptionNames, with_trainer_option
from lit_cv.cli.overview import VERBS, overview
from lit_cv.cli.termination import Terminated, sigterm_raises
from lit_cv.errors import spelled_by
from lit_cv.figures.matplotlib_defaults import import_matplotlib
from lit_cv.light_torchmetrics import import_torchmetrics
from lit_cv.printable import printable
from lit_cv.running.recipes import recipe_table
from lit_cv.running.refused_arguments import RefusedArguments
from lit_cv.running.user_files import UserFiles, import_trusted, importable, named_modules, split_trusted
from lit_cv.suggest import nearest
from lit_cv.trust import names_of_files

if TYPE_CHECKING:
    from lit_cv.running.training import LitCLI

__all__ = ["console", "main"]

# Verbs without Lightning's CLI, by the file and the function that run them.
STANDALONE_VERBS = {
    "kfold": ("kfold", "run_kfold"),
    "compare": ("compare", "run_compare"),
    "curves": ("curves", "run_curves"),
    "export": ("export", "run_export"),
    "push": ("push", "run_push"),
    "convert": ("convert", "run"),
    "agreement": ("agreement", "run"),
}
_MAX_MESSAGE = 3_000  # characters


def main(args: list[str] | None = None) -> "LitCLI | None":
    """Run the command line in this process.

    Args:
        args: Arguments after the program's name; `None` uses `sys.argv[1:]`.

    Returns:
        The CLI with its `trainer`, `model` and `datamodule` for a verb that trains or evaluates, else `None`.

    Raises:
        SystemExit: If an option, class or recipe is unknown; its code is the one-line message.
        ValueError: If a value is invalid, for example a checkpoint of another class.

    Example:
        >>> main(["--version"])
        0.2.0
    """
    args = sys.argv[1:] if args is None else list(args)
    with spelled_by(OptionNames(args)):
        return _run(args)


def _run(args: list[str]) -> "LitCLI | None":
    args, trusted_names = split_trusted(args)
    if not args or args[0] in ("-h", "--help", "help"):
        print(overview())
        return None
    if args[0] == "--version":
        from lit_cv import __version__

        print(__version__)
        return None
    if args[0] == "recipes":
        if args[1:] and not {"-h", "--help"} & set(args):
            raise SystemExit(
                f"lit-cv: error: recipes takes no arguments, but {args[1]!r} was given: see `lit-cv recipes`."
            )
        print(recipe_table())
        return None
    if args[0] not in VERBS:
        raise SystemExit(
            f"lit-cv: error: unknown verb {args[0]!r}{nearest(args[0], VERBS)} `lit-cv --help` lists them."
        )
    UserFiles.folder = Path.cwd()
    modules = {*trusted_names, *named_modules(args)}
    with names_of_files(modules), importable(modules), _explained_arguments():
        import_matplotlib()
        import_trusted(trusted_names)
        if args[0] in STANDALONE_VERBS:
            module, function = STANDALONE_VERBS[args[0]]
            getattr(import_module(f"lit_cv.cli.{module}"), function)(args[1:])
            return None
        import_torchmetrics()
        from lit_cv.cli.trainer_verbs import run

        return run(args)


@contextmanager
def _explained_arguments() -> Iterator[None]:
    """Replace the parser's error about invalid arguments by a one-line message."""
    try:
        yield
    except RefusedArguments as refused:
        from lit_cv.cli.diagnosis import diagnose

        text = diagnose(refused.typed, refused.configuration)
        raise (refused if text is None else SystemExit(f"lit-cv: error: {text}")) from None


def console() -> None:
    """Run as a program: user errors print one line; anything else prints a traceback."""
    try:
        with sigterm_raises():
            main()
    except Terminated as end:
        print("lit-cv: stopped.", file=sys.stderr)
        sys.exit(end.code)
    except SystemExit as end:
        sys.exit(_shorten(printable(end.code)) if isinstance(end.code, str) else end.code)
    except KeyboardInterrupt:
        print("lit-cv: stopped.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        from lit_cv.cli.errors import is_trainer_error, is_user_error
        from lit_cv.cli.remedies import remedy

        advice = remedy(error, sys.argv[1:])
        if advice is None and not is_user_error(error):
            raise
        text = str(error) or type(error).__name__
        if advice is not None:
            text = f"{_first_line(text)} {advice}"
        elif is_trainer_error(error):
            text = with_trainer_option(text)
        sys.exit(_shorten(printable(f"lit-cv: error: {text}")))


def _shorten(text: str) -> str:
    """Cut the middle out of a message that would fill the screen."""
    return text if len(text) <= _MAX_MESSAGE else f"{text[: _MAX_MESSAGE // 2]} ... {text[-_MAX_MESSAGE // 2 :]}"


def _first_line(text: str) -> str:
    """Return the first line as a sentence; torch may append a stack trace to its messages."""
    line = text.strip().splitlines()[0]
    return line if line.endswith((".", "!", "?")) else f"{line}."
