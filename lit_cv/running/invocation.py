"""Process-wide settings of a command, made before its configuration is read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lit_cv.running.messages import quiet_lightning, show_messages
from lit_cv.running.parts import Parser
from lit_cv.running.user_files import UserFiles, importable, named_modules
from lit_cv.trust import names_of_files, trusted_modules

__all__ = ["invocation"]


@contextmanager
def invocation(args: list[str]) -> Iterator[None]:
    """Set up messages, trust the modules that the typed arguments name, and make them importable."""
    show_messages()
    quiet_lightning()
    Parser.typed, UserFiles.folder = list(args), Path.cwd()
    with names_of_files(named_modules(args)), importable(trusted_modules()):
        yield
