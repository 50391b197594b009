"""Imports go one way: no cycles between files, and each package imports only from lower levels."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEVELS = [  # from the top; packages of one level do not import each other
    {"lit_cv.__main__"},
    {"lit_cv.cli"},
    {"lit_cv.studies"},
    {"lit_cv.running"},
    {"lit_cv"},  # the short names of modules and callbacks
    {"lit_cv.callbacks", "lit_cv.modules", "datamodules"},
    {"lit_cv.tasks"},
    {"lit_cv.metrics", "lit_cv.figures"},
    {"lit_cv.losses"},
    {"lit_cv.nn", "lit_cv.optim", "lit_cv.augment", "lit_cv.annotations"},
    {"files of lit_cv"},
]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("lit_cv", "datamodules")
    for path in (ROOT / folder).rglob("*.py")
}


def package(name: str) -> str:
    first = ".".join(name.split(".")[: 1 if name.startswith("datamodules") else 2])
    return first if FILES[first].name == "__init__.py" or first == "lit_cv.__main__" else "files of lit_cv"


def imports(name: str) -> Iterator[str]:
    """Yield the files that a file imports, including imports in functions and for type checking."""
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}, line {node.lineno}: use an absolute import"
            paths = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (path if path in FILES else node.module for path in paths if node.module in FILES)


GRAPH = {name: {other for other in imports(name) if other != name} for name in FILES}


def test_no_import_cycles() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" > ".join(error.args[1]))


def test_imports_go_one_way() -> None:
    level = {name: depth for depth, names in enumerate(LEVELS) for name in names}
    wrong = [
        f"{name} > {other}"
        for name, others in GRAPH.items()
        for other in others
        if (a := package(name)) != (b := package(other)) and level[a] >= level[b]
    ]
    assert not wrong


@pytest.mark.parametrize("name", ["losses", "nn", "augment", "optim", "annotations"])
def test_packages_without_lightning(name: str) -> None:
    texts = {file: path.read_text() for file, path in FILES.items() if file.startswith(f"lit_cv.{name}.")}
    assert texts
    assert not [file for file, text in texts.items() if "import lightning" in text or "from lightning" in text]
