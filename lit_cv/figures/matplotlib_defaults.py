"""matplotlib with its own defaults, whatever a `matplotlibrc` in the working directory says."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

__all__ = ["default_look", "import_matplotlib"]

_KEPT = ("backend", "backend_fallback")  # which no figure here uses: they are drawn without a display


def import_matplotlib() -> None:
    """Import matplotlib without the `matplotlibrc` of the working directory, which came with someone's files.

    That file may name a module to import, or stop the import of matplotlib, which torchmetrics imports, too. The
    user's own (`MATPLOTLIBRC`, `~/.config/matplotlib`) is read.
    """
    if "matplotlib" in sys.modules:
        return
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a working directory that is gone, or no room for another
            here = os.open(".", os.O_RDONLY)
            stack.callback(os.close, here)
            os.chdir(stack.enter_context(tempfile.TemporaryDirectory(prefix="lit_cv_")))
            stack.callback(os.fchdir, here)
        import matplotlib  # noqa: F401


@contextlib.contextmanager
def default_look() -> Iterator[None]:
    """Draw with matplotlib's defaults: no configuration file changes a figure, or has it drawn by LaTeX."""
    import_matplotlib()
    from matplotlib import rc_context, rcParamsDefault

    with rc_context({name: value for name, value in rcParamsDefault.items() if name not in _KEPT}):
        yield
