"""The command line `lit-cv`: `fit`, `validate`, `test`, `predict` on Lightning's CLI, and this project's own verbs."""

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from lit_cv.cli.overview import VERBS, overview, recipe_table
from lit_cv.suggest import nearest

if TYPE_CHECKING:
    from lit_cv.cli.training import LitCLI

__all__ = ["console", "main"]


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
        >>> main(["recipes"])  # doctest: +ELLIPSIS
        conv4...
    """
    args = sys.argv[1:] if args is None else list(args)
    if not args or args[0] in ("-h", "--help", "help"):
        print(overview())
        return None
    if args[0] == "--version":
        from lit_cv import __version__

        print(__version__)
        return None
    if args[0] == "recipes":
        print(recipe_table())
        return None
    if args[0] not in VERBS:
        raise SystemExit(f"lit-cv: error: no verb {args[0]!r}{nearest(args[0], VERBS)} `lit-cv --help` lists them.")
    from lit_cv.cli.training import run

    return run(args)


def console() -> None:
    """Run as a program: an error that this project raised on purpose ends in one line, any other in its trace."""
    try:
        main()
    except (ValueError, TypeError, OSError, ImportError) as error:
        if isinstance(error, ModuleNotFoundError) or not raised_here(error):
            raise
        sys.exit(f"lit-cv: error: {error}")


def raised_here(error: BaseException) -> bool:
    """Whether an error was raised by this project's code, on purpose."""
    import lit_cv

    frames = traceback.extract_tb(error.__traceback__)
    package = Path(lit_cv.__file__).parent
    homes = (package, package.parent / "datamodules")
    return any(home in Path(frames[-1].filename).parents for home in homes)
