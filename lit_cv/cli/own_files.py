"""What the user's own files define, and why one of them cannot be imported."""

import ast
import re
import traceback
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

__all__ = ["OwnFiles", "own_classes", "why_not"]


class OwnFiles:
    """The folder that the user's own files lie in.

    Attributes:
        folder: The working directory at the start; the parser changes it while it reads a configuration.
    """

    folder: Path = Path()


def own_classes() -> list[str]:
    """Return the names of the classes that the files of the working directory define, as far as they can be read."""
    return [node.name for _, tree in _readable() for node in tree.body if isinstance(node, ast.ClassDef)]


def why_not(name: str) -> str | None:
    """Say why a class of the user's own is not to be had, `None` where it is not for want of its file.

    Args:
        name: `module.Class`, or the name alone of a class in a file of the working directory.
    """
    if not re.fullmatch(r"(\w+\.)*[A-Za-z_]\w*", name) or name.endswith((".yaml", ".yml", ".json")):
        return None
    module = name.rpartition(".")[0] or _unreadable_home(name)
    if not module:
        return None
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            return _place(error)
        top = module.partition(".")[0]
        if error.name != top and find_spec(top) is not None:
            return None  # a misspelt part of a package that is there
        return (
            f"{name} is not to be found: run where {top}.py lies, or set PYTHONPATH to that folder "
            f"(PYTHONPATH=FOLDER lit-cv ...)."
        )
    except Exception as error:
        return _place(error)
    return None


def _readable() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(OwnFiles.folder.glob("*.py")):
        try:
            yield path, ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError, OSError):
            continue


def _unreadable_home(name: str) -> str | None:
    """Return the module of the working directory that would define a class, were it valid Python."""
    readable = {path for path, _ in _readable()}
    for path in sorted(set(OwnFiles.folder.glob("*.py")) - readable):
        if re.search(rf"^class\s+{name}\b", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE):
            return path.stem
    return None


def _place(error: Exception) -> str:
    """Return where in the user's files an import failed, and the error."""
    if isinstance(error, SyntaxError):
        file, line, said = error.filename, error.lineno, error.msg
    else:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
        own = [frame for frame in frames if OwnFiles.folder in Path(frame.filename).parents]
        last = (own or frames)[-1]
        file, line, said = last.filename, last.lineno, str(error)
    path = Path(file or "?")
    path = path.relative_to(OwnFiles.folder) if path.is_relative_to(OwnFiles.folder) else path
    said = said if said.endswith((".", "?", "!")) else f"{said}."
    return f"{path}, line {line}: {type(error).__name__}: {said}"
