"""The command line `lit-cv`: `fit`, `validate`, `test`, `predict` on Lightning's CLI, and this project's own verbs."""

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
from lit_cv.printable import printable
from lit_cv.running.own_files import OwnFiles, import_trusted, importable, named_modules, take_trusted
from lit_cv.running.recipes import recipe_table
from lit_cv.running.refused_arguments import RefusedArguments
from lit_cv.suggest import nearest
from lit_cv.trust import names_of_files

if TYPE_CHECKING:
    from lit_cv.running.training import LitCLI

__all__ = ["console", "main"]

# Verbs that Lightning's CLI does not run: the file and the function of each.
OWN_VERBS = {
    "kfold": ("kfold", "run_kfold"),
    "compare": ("compare", "run_compare"),
    "curves": ("curves", "run_curves"),
    "export": ("export", "run_export"),
    "convert": ("convert", "run"),
    "agreement": ("agreement", "run"),
}
_MOST = 3_000  # characters of a message


def main(args: list[str] | None = None) -> "LitCLI | None":
    """Run the command line in this process.

    Args:
        args: Arguments after the program's name; `None` takes those of the process.

    Returns:
        The CLI with its `trainer`, `model` and `datamodule` for a verb that trains or evaluates, else `None`.

    Raises:
        SystemExit: With status 2 if an option, class or recipe is unknown, after one line on standard error.
        ValueError: If a value does not fit, a checkpoint of another class for example.

    Example:
        >>> main(["--version"])
        0.2.0
    """
    args = sys.argv[1:] if args is None else list(args)
    with spelled_by(OptionNames(args)):
        return _run(args)


def _run(args: list[str]) -> "LitCLI | None":
    args, trusted = take_trusted(args)
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
        raise SystemExit(f"lit-cv: error: no verb {args[0]!r}{nearest(args[0], VERBS)} `lit-cv --help` lists them.")
    OwnFiles.folder = Path.cwd()
    named = {*trusted, *named_modules(args)}
    with names_of_files(named), importable(named), _explained_arguments():
        import_matplotlib()
        import_trusted(trusted)
        if args[0] in OWN_VERBS:
            module, function = OWN_VERBS[args[0]]
            getattr(import_module(f"lit_cv.cli.{module}"), function)(args[1:])
            return None
        from lit_cv.cli.trainer_verbs import run

        return run(args)


@contextmanager
def _explained_arguments() -> Iterator[None]:
    """Say in one line what is wrong with arguments that the parser refuses."""
    try:
        yield
    except RefusedArguments as refused:
        from lit_cv.cli.diagnosis import diagnose

        text = diagnose(refused.typed, refused.configuration)
        raise (refused if text is None else SystemExit(f"lit-cv: error: {text}")) from None


def console() -> None:
    """Run as a program: an error that the user can mend ends in one line, any other in its trace."""
    try:
        with sigterm_raises():
            main()
    except Terminated as end:
        print("lit-cv: stopped.", file=sys.stderr)
        sys.exit(end.code)
    except SystemExit as end:
        sys.exit(_shortened(printable(end.code)) if isinstance(end.code, str) else end.code)
    except KeyboardInterrupt:
        print("lit-cv: stopped.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        from lit_cv.cli.errors import is_for_the_user, is_of_trainer
        from lit_cv.cli.remedies import remedy

        what_to_do = remedy(error, sys.argv[1:])
        if what_to_do is None and not is_for_the_user(error):
            raise
        text = str(error) or type(error).__name__
        if what_to_do is not None:
            text = f"{_line(text)} {what_to_do}"
        elif is_of_trainer(error):
            text = with_trainer_option(text)
        sys.exit(_shortened(printable(f"lit-cv: error: {text}")))


def _shortened(text: str) -> str:
    """Return a message without the middle of a value that would fill the screen."""
    return text if len(text) <= _MOST else f"{text[: _MOST // 2]} ... {text[-_MOST // 2 :]}"


def _line(text: str) -> str:
    """Return the first line, which in a message of torch's may be followed by its own stack."""
    line = text.strip().splitlines()[0]
    return line if line.endswith((".", "!", "?")) else f"{line}."
