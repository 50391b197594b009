"""Python files of the user: their classes, the modules that a command names, and why an import fails."""

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
    "UserFiles",
    "explain_missing_class",
    "import_trusted",
    "importable",
    "named_modules",
    "qualify_class",
    "split_trusted",
    "user_class_names",
]

_MAX_FILES = 1_000  # of a package
_MAX_BYTES = 1 << 20  # of a file that is searched for classes
_NAME = r"[A-Za-z_]\w*"
_SECTIONS = re.compile(
    r"(model|data|model\.(backbone|optimizer)|trainer\.(callbacks|logger|plugins|strategy|profiler|accelerator)"
    r"|.*\.class_path)(\.help)?\+?"
)
_DOTTED = re.compile(rf"{_NAME}(\.{_NAME})+")
_NAME_OPTIONS = (  # last parts of options, and keys in the YAML of an option, whose value may name an object of a file
    "class_path", "type", "name", "backbone", "optimizer", "schedule", "metrics", "operations", "weak", "strong",
    "format", "source",
)  # fmt: skip
_CONFIG_SUFFIXES = (".yaml", ".yml", ".json")
_BARE = ("help", "dry_run", "redraw", "escape_formulas")  # options without a value


class UserFiles:
    """The folder of the user's files.

    Attributes:
        folder: The initial working directory; the parser changes the directory while it reads a configuration.
    """

    folder: Path = Path()


def takes_class(option: str, value: str) -> bool:
    """Return whether an option (without dashes) names a class; options of a DataModule may name another DataModule."""
    if _SECTIONS.fullmatch(option):
        return True
    return option.startswith("data.") and re.fullmatch(rf"({_NAME}\.)*[A-Z]\w*DataModule", value) is not None


def qualify_class(option: str, value: str) -> str:
    """Replace the short name of a class in a file of the working directory by `module.Class`.

    Args:
        option: The option, without dashes.
        value: The value of the option. Other values, and values of options that name no class, are returned unchanged.
    """
    if not takes_class(option, value) or not re.fullmatch(r"[A-Z]\w+", value):
        return value
    for path, tree in _readable():
        if any(isinstance(node, ast.ClassDef) and node.name == value for node in tree.body):
            return f"{path.stem}.{value}"
    return value


def split_trusted(args: Sequence[str]) -> tuple[list[str], set[str]]:
    """Separate the modules of `--trust` (comma-separated or repeated) from all other arguments.

    Raises:
        ValueError: If its value is missing or not a module name.
    """
    other: list[str] = []
    trusted: set[str] = set()
    tokens = iter(args)
    for token in tokens:
        name, equals, value = token.partition("=")
        if name != "--trust":
            other.append(token)
            continue
        value = value if equals else next(tokens, "")
        modules = [part.strip() for part in value.split(",") if part.strip()]
        valid = all(re.fullmatch(rf"{_NAME}(\.{_NAME})*", part) and not part.endswith(".py") for part in modules)
        if not modules or not valid:
            typed = setting("trusted", value, names_of_files)
            raise ValueError(f"{typed}: give the name of a Python module, such as my_callbacks, without .py.")
        trusted.update(modules)
    return other, trusted


def named_modules(args: Sequence[str]) -> set[str]:
    """Return the modules that the arguments name in options for classes and functions, as in `--model file.Class`."""
    modules: set[str] = set()
    for option, value in _options(args):
        if takes_class(option, value):
            path = qualify_class(option, value)
            if _is_dotted(path):
                modules.add(path.partition(".")[0])
        modules.update(_modules_within(option.rpartition(".")[2], value))
    return modules


def _modules_within(key: str, text: str) -> Iterator[str]:
    """Yield the modules named in the value of an option, which may be YAML."""
    content: Any = text
    if set("[{:") & set(text):
        from lit_cv.plain_values import load_yaml  # a slow import that most commands do not need

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
    elif isinstance(content, str) and key in _NAME_OPTIONS and _is_dotted(content):
        yield content.partition(".")[0]


def _is_dotted(name: str) -> bool:
    return _DOTTED.fullmatch(name) is not None and not name.endswith(_CONFIG_SUFFIXES)


class _UserModules(MetaPathFinder):
    """Import finder for certain modules of a folder, asked after all other finders.

    Args:
        folder: The folder.
        names: Names of the modules to find; others in the folder are ignored.
    """

    def __init__(self, folder: Path, names: set[str]) -> None:
        self.folder, self.names = folder, names

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Return the location of a module, `None` for other modules."""
        return PathFinder.find_spec(fullname, [str(self.folder)]) if path is None and fullname in self.names else None


@contextmanager
def importable(modules: Iterable[str]) -> Iterator[None]:
    """Make modules of the working directory importable, with the modules there that they import.

    They come last on the import path, so that they shadow no installed package, and no other file of the directory
    becomes importable. If worker processes are spawned rather than forked, they need the directory on `sys.path`
    itself; it is then appended there for good.

    Args:
        modules: Names of the modules.
    """
    folder = UserFiles.folder.absolute()
    names = _with_imports(folder, {module.partition(".")[0] for module in modules})
    if not names or str(folder) in sys.path or "" in sys.path:
        yield
        return
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    if method != "fork":
        sys.path.append(str(folder))
        yield
        return
    finder = _UserModules(folder, names)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _with_imports(folder: Path, modules: set[str]) -> set[str]:
    """Return those of the modules that exist in a folder, and the modules there that they import."""
    existing: set[str] = set()
    seen, queue = set(modules), list(modules)
    while queue:
        name = queue.pop()
        files = [folder / f"{name}.py", *sorted((folder / name).rglob("*.py"))[:_MAX_FILES]]
        files = [path for path in files if path.is_file() and path.stat().st_size <= _MAX_BYTES]
        if files:
            existing.add(name)
        imported = {each for path in files for each in _imports_of(path, path.stat().st_mtime_ns)} - seen
        seen |= imported
        queue += imported
    return existing


@functools.lru_cache(10_000)
def _imports_of(path: Path, changed: int) -> list[str]:
    """Return the top-level names that a Python file imports; `changed` is its modification time, for the cache."""
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
    """Import the modules of `--trust`, so that their classes are found by their short names.

    Raises:
        ValueError: If a module does not exist or cannot be imported; the message names the line in the user's file.
    """
    for module in sorted(modules):
        try:
            import_module(module)
        except Exception as error:
            typed = setting("trusted", module, names_of_files)
            if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
                raise ValueError(f"{typed}: module not found: run from the folder that contains {module}.py, "
                                 "or set PYTHONPATH to it.") from None  # fmt: skip
            raise ValueError(f"{typed}: {_locate(error)}") from error


def user_class_names() -> list[str]:
    """Return the names of the classes in the readable Python files of the working directory."""
    return [node.name for _, tree in _readable() for node in tree.body if isinstance(node, ast.ClassDef)]


def explain_missing_class(name: str) -> str | None:
    """Explain why a class of the user cannot be imported.

    Args:
        name: `module.Class`, or the short name of a class in a file of the working directory. A module that the user
            has not named is not imported.

    Returns:
        The explanation, `None` if the file of the class is not the reason.
    """
    if not re.fullmatch(r"(\w+\.)*[A-Za-z_]\w*", name) or name.endswith(_CONFIG_SUFFIXES):
        return None
    module = name.rpartition(".")[0]
    if not module:
        return _syntax_error(name)
    if not is_trusted(f"{module}.{name.rpartition('.')[2]}"):
        return str(untrusted_error(name, "the configuration"))
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            return _locate(error)
        top = module.partition(".")[0]
        if error.name != top and find_spec(top) is not None:
            return None  # a misspelled part of an existing package
        return (
            f"{name} not found: run from the folder that contains {top}.py, or set PYTHONPATH to it "
            "(PYTHONPATH=FOLDER lit-cv ...)."
        )
    except Exception as error:
        return _locate(error)
    return None


def _options(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the options, without dashes, with their values; a value that starts with dashes is not an option."""
    tokens = iter(args)
    for token in tokens:
        if not token.startswith("--"):
            continue
        name, equals, value = token[2:].partition("=")
        if not equals and name not in _BARE:
            value = next(tokens, "")
        yield name.rstrip("+"), value


def _texts() -> Iterator[tuple[Path, str]]:
    """Yield the readable Python files of the working directory with their text."""
    for path in sorted(UserFiles.folder.glob("*.py")):
        try:
            if path.is_file() and path.stat().st_size <= _MAX_BYTES:
                yield path, path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue


def _readable() -> Iterator[tuple[Path, ast.Module]]:
    for path, text in _texts():
        try:
            yield path, ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue


def _syntax_error(name: str) -> str | None:
    """Describe the syntax error in the file of the working directory that defines a class."""
    for path, text in _texts():
        if not re.search(rf"^class\s+{name}\b", text, re.MULTILINE):
            continue
        try:
            ast.parse(text, str(path))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return _locate(error)
    return None


def _locate(error: Exception) -> str:
    """Return the location of an import error in the user's files, and the error."""
    if isinstance(error, SyntaxError):
        file, line, text = error.filename, error.lineno, error.msg
    else:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
        in_user_files = [frame for frame in frames if UserFiles.folder in Path(frame.filename).parents]
        last = (in_user_files or frames)[-1]
        file, line, text = last.filename, last.lineno, str(error)
    path = Path(file or "?")
    path = path.relative_to(UserFiles.folder) if path.is_relative_to(UserFiles.folder) else path
    text = text if text.endswith((".", "?", "!")) else f"{text}."
    return f"{path}, line {line}: {type(error).__name__}: {text}"
