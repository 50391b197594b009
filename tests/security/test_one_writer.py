"""Files are written only by `lit_cv.atomic_files`, and read only by loaders that run no code."""

import ast
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_cv.atomic_files import atomic_write, create_folder, open_for_update, write_text

ROOT = Path(__file__).parent.parent.parent
SOURCES = [path for package in ("lit_cv", "datamodules") for path in sorted((ROOT / package).rglob("*.py"))]
WRITERS = {
    "write_text",
    "write_bytes",
    "savez",
    "savez_compressed",
    "save",
    "touch",
    "symlink_to",
    "rename",
    "copyfile",
}
HOME = {"atomic_files.py", "file_lock.py"}
# Calls with such a name that write no file, or a file with an unpredictable name.
ALLOWED = {
    ("augment/memory.py", "write_bytes"), ("augment/chain.py", "write_bytes"),  # tensors
    ("lit_cv/running/export.py", "save"),  # the bytes of safetensors
    ("figures/canvas.py", "save"),  # bytes for notebooks
    ("annotations/atomic_folder.py", "rename"),  # a folder with an unpredictable name
    ("metrics_csv.py", "save"), ("callbacks/run_output.py", "save"),  # methods of loggers
    ("datamodules/cache.py", "open"), ("datamodules/shard_index.py", "open"),  # files opened by `stored_file`
    ("datamodules/shard_index.py", "savez"), ("running/arguments.py", "NamedTemporaryFile"),
    ("running/tensorboard_log.py", "save"),
}  # fmt: skip


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def writes(call: ast.Call) -> bool:
    """Return whether a call writes a file, judged by its name and mode."""
    name = name_of(call)
    if name == "open" and not (isinstance(call.func, ast.Attribute) and call.func.attr != "open"):
        modes = [argument for argument in call.args[1:2] if isinstance(argument, ast.Constant)]
        modes += [word.value for word in call.keywords if word.arg == "mode" and isinstance(word.value, ast.Constant)]
        return any(set("wax+") & set(str(mode.value)) for mode in modes)
    return name in WRITERS or name == "NamedTemporaryFile"


def outside(tree: ast.AST, within: bool = False) -> Iterator[ast.Call]:
    """Yield the calls that write a file outside of `with atomic_write(...)`."""
    if isinstance(tree, ast.With):
        within = within or any(
            isinstance(item.context_expr, ast.Call) and name_of(item.context_expr) == "atomic_write"
            for item in tree.items
        )
    if isinstance(tree, ast.Call) and not within and writes(tree) and ast.unparse(tree.func) != "write_text":
        yield tree
    for child in ast.iter_child_nodes(tree):
        yield from outside(child, within)


def test_only_atomic_write_writes_files() -> None:
    violations = []
    for path in SOURCES:
        if path.name in HOME:
            continue
        for call in outside(ast.parse(path.read_text(encoding="utf-8"))):
            where = path.relative_to(ROOT).as_posix()
            if not any(where.endswith(file) and name_of(call) == name for file, name in ALLOWED):
                violations.append(f"{where}:{call.lineno}: {name_of(call)}")
    assert violations == []


@pytest.mark.slow
def test_no_unsafe_loaders() -> None:
    violations = []
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        where = path.relative_to(ROOT).as_posix()
        for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
            source = ast.unparse(call.func)
            words = {word.arg: ast.unparse(word.value) for word in call.keywords}
            unsafe = (
                (source == "torch.load" and words.get("weights_only") != "True")
                or (source == "np.load" and words.get("allow_pickle", "False") != "False")
                or source in ("eval", "exec", "pickle.load", "pickle.loads", "yaml.unsafe_load", "yaml.full_load")
                or source == "Image.open"
            )
            if unsafe and not where.endswith("lit_cv/image_formats.py"):
                violations.append(f"{where}:{call.lineno}: {source}")
    assert violations == []


def test_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("years of work")
    (tmp_path / "table.csv").symlink_to("victim")
    write_text(tmp_path / "table.csv", "1", "the table")
    assert not (tmp_path / "table.csv").is_symlink()
    assert (tmp_path / "table.csv").read_text() == "1"
    assert (tmp_path / "victim").read_text() == "years of work"


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "pipe", "folder"])
def test_open_for_update_refuses_special_files(tmp_path: Path, kind: str) -> None:
    victim, path = tmp_path / "victim", tmp_path / "log"
    victim.write_text("years of work")
    if kind == "link":
        path.symlink_to("victim")
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "hard link":
        os.link(victim, path)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(OSError, match=r"log"):
        open_for_update(path)
    assert victim.read_text() == "years of work"
    assert not (tmp_path / "nowhere").exists()


def test_create_folder_refuses_link(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "checkpoints").symlink_to("victim")
    with pytest.raises(OSError, match="is a link") as error:
        create_folder(tmp_path / "checkpoints")
    assert error.value.errno == errno.ELOOP
    assert create_folder(tmp_path / "made" / "here").is_dir()


def test_written_files_respect_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "table.csv", "1", "the table")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "table.csv").stat().st_mode) == 0o644


def test_atomic_write_with_long_name(tmp_path: Path) -> None:
    path = tmp_path / ("試" * 84)
    write_text(path, "1", "the table")
    with atomic_write(path, "the table") as part:
        part.write_text("2")
    assert path.read_text() == "2"
