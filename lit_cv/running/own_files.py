"""What the user's own files define, which of them this command names, and why one cannot be imported."""

import ast
import functools
import multiprocessing
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lit_cv.errors import setting
from lit_cv.trust import is_trusted, names_of_files, untrusted_error

__all__ = [
    "OwnFiles",
    "import_trusted",
    "importable",
    "in_own_file",
    "named_modules",
    "own_classes",
    "take_trusted",
    "why_not",
]

_MOST_FILES = 1_000  # of a package
_MOST = 1 << 20  # bytes of a file that is looked through for classes
_NAME = r"[A-Za-z_]\w*"
_SECTIONS = re.compile(
    r"(model|data|model\.(backbone|optimizer)|trainer\.(callbacks|logger|plugins|strategy|profiler|accelerator)"
    r"|.*\.class_path)(\.help)?\+?"
)
_DOTTED = re.compile(rf"{_NAME}(\.{_NAME})+")
_TAKE_NAMES = (  # last parts of options, and keys within YAML in an option, whose value may name something of a file
    "class_path", "type", "name", "backbone", "optimizer", "schedule", "metrics", "operations", "weak", "strong",
    "format", "source",
)  # fmt: skip
_FILES = (".yaml", ".yml", ".json")
_BARE = ("help", "dry_run", "redraw", "escape_formulas")  # options without a value


class OwnFiles:
    """The folder that the user's own files lie in.

    Attributes:
        folder: The working directory at the start; the parser changes it while it reads a configuration.
    """

    folder: Path = Path()


def takes_class(option: str, value: str) -> bool:
    """Tell whether an option, without dashes, takes a class: one of a DataModule may take another DataModule."""
    if _SECTIONS.fullmatch(option):
        return True
    return option.startswith("data.") and re.fullmatch(rf"({_NAME}\.)*[A-Z]\w*DataModule", value) is not None


def in_own_file(option: str, value: str) -> str:
    """Turn the short name of a class that a file of the working directory defines into `module.Class`.

    Args:
        option: The option that it is a value of, without dashes.
        value: The value. What is no such name, or of an option that takes no class, stays as it is.
    """
    if not takes_class(option, value) or not re.fullmatch(r"[A-Z]\w+", value):
        return value
    for path, tree in _readable():
        if any(isinstance(node, ast.ClassDef) and node.name == value for node in tree.body):
            return f"{path.stem}.{value}"
    return value


def take_trusted(args: Sequence[str]) -> tuple[list[str], set[str]]:
    """Separate the modules that `--trust` names, with commas or repeated, from all other arguments.

    Raises:
        ValueError: If it has no value, or one that is no name of a module.
    """
    rest: list[str] = []
    named: set[str] = set()
    tokens = iter(args)
    for token in tokens:
        name, equals, value = token.partition("=")
        if name != "--trust":
            rest.append(token)
            continue
        value = value if equals else next(tokens, "")
        modules = [part.strip() for part in value.split(",") if part.strip()]
        names = all(re.fullmatch(rf"{_NAME}(\.{_NAME})*", part) and not part.endswith(".py") for part in modules)
        if not modules or not names:
            given = setting("trusted", value, names_of_files)
            raise ValueError(f"{given}: give the name of a Python module, such as my_callbacks, without .py.")
        named.update(modules)
    return rest, named


def named_modules(args: Sequence[str]) -> set[str]:
    """Return the modules that arguments name, in options that take names: `--model file.Class`."""
    found: set[str] = set()
    for option, value in _options(args):
        if takes_class(option, value):
            path = in_own_file(option, value)
            if _is_dotted(path):
                found.add(path.partition(".")[0])
        found.update(_modules_within(option.rpartition(".")[2], value))
    return found


def _modules_within(key: str, text: str) -> Iterator[str]:
    """Yield the modules of names in the value of an option, which may be YAML."""
    content: Any = text
    if set("[{:") & set(text):
        from lit_cv.plain_values import load_yaml  # which takes longer to import than most commands need

        try:
            content = load_yaml(text, "an option")
        except ValueError:
            return
    yield from _modules_of(key, content)


def _modules_of(key: str, content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _modules_of(str(name), value)
    elif isinstance(content, list):
        for value in content:
            yield from _modules_of(key, value)
    elif isinstance(content, str) and key in _TAKE_NAMES and _is_dotted(content):
        yield content.partition(".")[0]


def _is_dotted(name: str) -> bool:
    return _DOTTED.fullmatch(name) is not None and not name.endswith(_FILES)


class _OwnModules(MetaPathFinder):
    """Finds modules in a folder that no other finder has: those of some names, and no others that lie there.

    Args:
        folder: The folder.
        names: Names of the modules.
    """

    def __init__(self, folder: Path, names: set[str]) -> None:
        self.folder, self.names = folder, names

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Return where a module is, `None` if it is none of these."""
        return PathFinder.find_spec(fullname, [str(self.folder)]) if path is None and fullname in self.names else None


@contextmanager
def importable(modules: Iterable[str]) -> Iterator[None]:
    """Let modules of the working directory that the user named be imported within, with what they import from there.

    They come last: no installed package is hidden by them, and what else lies there is not found. Where worker
    processes are not forked, they need the folder on the import path, and it is put there, last.

    Args:
        modules: The modules.
    """
    folder = OwnFiles.folder.absolute()
    names = _with_imports(folder, {module.partition(".")[0] for module in modules})
    if not names or str(folder) in sys.path or "" in sys.path:
        yield
        return
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    if method != "fork":
        sys.path.append(str(folder))
        yield
        return
    finder = _OwnModules(folder, names)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _with_imports(folder: Path, modules: set[str]) -> set[str]:
    """Return those of some modules that lie in a folder, and the modules there that they import by name."""
    found: set[str] = set()
    seen, left = set(modules), list(modules)
    while left:
        name = left.pop()
        files = [folder / f"{name}.py", *sorted((folder / name).rglob("*.py"))[:_MOST_FILES]]
        files = [path for path in files if path.is_file() and path.stat().st_size <= _MOST]
        if files:
            found.add(name)
        imported = {each for path in files for each in _imports_of(path, path.stat().st_mtime_ns)} - seen
        seen |= imported
        left += imported
    return found


@functools.lru_cache(10_000)
def _imports_of(path: Path, changed: int) -> list[str]:
    """Return the first parts of the names that a Python file, last changed at a time, imports."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
        return []
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.append(node.module)
    return [name.partition(".")[0] for name in names]


def import_trusted(modules: Iterable[str]) -> None:
    """Import the modules that `--trust` names, so that their classes are found by their short names.

    Raises:
        ValueError: If there is no such module, or it cannot be imported; with the place in the user's file.
    """
    for module in sorted(modules):
        try:
            import_module(module)
        except Exception as error:
            given = setting("trusted", module, names_of_files)
            if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
                raise ValueError(f"{given}: there is no such module here: run from the folder of {module}.py, "
                                 "or set PYTHONPATH to it.") from None  # fmt: skip
            raise ValueError(f"{given}: {_place(error)}") from error


def own_classes() -> list[str]:
    """Return the names of the classes that the files of the working directory define, as far as they can be read."""
    return [node.name for _, tree in _readable() for node in tree.body if isinstance(node, ast.ClassDef)]


def why_not(name: str) -> str | None:
    """Say why a class of the user's own is not to be had, `None` where it is not for want of its file.

    Args:
        name: `module.Class`, or the name alone of a class in a file of the working directory. A module that the user
            has not named is not imported.
    """
    if not re.fullmatch(r"(\w+\.)*[A-Za-z_]\w*", name) or name.endswith(_FILES):
        return None
    module = name.rpartition(".")[0]
    if not module:
        return _torn_file(name)
    if not is_trusted(f"{module}.{name.rpartition('.')[2]}"):
        return str(untrusted_error(name, "the configuration"))
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            return _place(error)
        top = module.partition(".")[0]
        if error.name != top and find_spec(top) is not None:
            return None  # a misspelt part of a package that is there
        return (
            f"{name} not found: run from the folder that contains {top}.py, or set PYTHONPATH to it "
            "(PYTHONPATH=FOLDER lit-cv ...)."
        )
    except Exception as error:
        return _place(error)
    return None


def _options(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the options of arguments, without dashes, with their values; a value is none, whatever it looks like."""
    tokens = iter(args)
    for token in tokens:
        if not token.startswith("--"):
            continue
        name, equals, value = token[2:].partition("=")
        if not equals and name not in _BARE:
            value = next(tokens, "")
        yield name.rstrip("+"), value


def _texts() -> Iterator[tuple[Path, str]]:
    """Yield the Python files of the working directory with their text, as far as it can be read."""
    for path in sorted(OwnFiles.folder.glob("*.py")):
        try:
            if path.is_file() and path.stat().st_size <= _MOST:
                yield path, path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue


def _readable() -> Iterator[tuple[Path, ast.Module]]:
    for path, text in _texts():
        try:
            yield path, ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue


def _torn_file(name: str) -> str | None:
    """Say what is wrong in the file of the working directory that would define a class, were it valid Python."""
    for path, text in _texts():
        if not re.search(rf"^class\s+{name}\b", text, re.MULTILINE):
            continue
        try:
            ast.parse(text, str(path))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return _place(error)
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
