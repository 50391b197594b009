"""matplotlib with its defaults, regardless of a `matplotlibrc` in the working directory."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

__all__ = ["default_look", "import_matplotlib"]

_KEPT = ("backend", "backend_fallback")  # not used: figures are drawn without a display


def import_matplotlib() -> None:
    """Import matplotlib without the `matplotlibrc` of the working directory, which is not trusted.

    That file could name a module to import, or break the import of matplotlib, which torchmetrics needs, too. The
    user's configuration (`MATPLOTLIBRC`, `~/.config/matplotlib`) is read.
    """
    if "matplotlib" in sys.modules:
        return
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a deleted working directory, or a full disk
            working_directory = os.open(".", os.O_RDONLY)
            stack.callback(os.close, working_directory)
            os.chdir(stack.enter_context(tempfile.TemporaryDirectory(prefix="lit_cv_")))
            stack.callback(os.fchdir, working_directory)
        import matplotlib  # noqa: F401


@contextlib.contextmanager
def default_look() -> Iterator[None]:
    """Use matplotlib's defaults: no configuration file changes a figure or enables LaTeX."""
    import_matplotlib()
    from matplotlib import rc_context, rcParamsDefault

    with rc_context({name: value for name, value in rcParamsDefault.items() if name not in _KEPT}):
        yield
