"""A conversion is atomic, follows no link, does not block on a pipe and starts no program."""

import contextlib
import errno
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules import CSVDataModule
from lit_cv.annotations import (
    AnnotationError,
    Problems,
    convert,
    inspect_mask,
    read_annotations,
    save_mask,
    write_coco,
    write_masks,
    write_voc,
    write_yolo,
)
from lit_cv.annotations.atomic_folder import atomic_folder, remove_stale_folders
from lit_cv.annotations.classes import write_class_table
from lit_cv.annotations.convert import place_images
from lit_cv.cli import main
from tests.annotations.sets import content, example, save_image
from tests.processes import run_code

# Kills its own process after a few images.
HALF = """
import os, shutil, signal, sys
from lit_cv.annotations import convert
copyfile, done = shutil.copyfile, []
def copy(*args, **kwargs):
    done.append(args)
    if len(done) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return copyfile(*args, **kwargs)
shutil.copyfile = copy
convert(sys.argv[1], sys.argv[2], "yolo")
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_coco(example(tmp_path / "source"), tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def _no_hang() -> Iterator[None]:
    """Fail the test if it blocks on a pipe."""

    def stop(*_: Any) -> None:
        raise TimeoutError("waited for a pipe")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a small disk, or skip the test if this user may not."""
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fails_after(count: int, function: Callable[..., Any]) -> Callable[..., Any]:
    calls: list[Any] = []

    def full(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) > count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return function(*args, **kwargs)

    return full


def test_killed_conversion_leaves_no_output(source: Path, tmp_path: Path) -> None:
    assert run_code(HALF, str(source), str(tmp_path / "out"), folder=tmp_path).returncode == -signal.SIGKILL
    assert len([name for name in names(tmp_path) if name.startswith(".out.")]) == 2  # the folder and its lock
    assert not (tmp_path / "out").exists()
    convert(str(source), str(tmp_path / "out"), "yolo")
    assert names(tmp_path) == ["out", "source"]
    assert content(read_annotations(tmp_path / "out", Problems())) == content(read_annotations(source, Problems()))


def test_folder_being_written_is_kept(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "a.txt").touch()
        remove_stale_folders(tmp_path / "out")
        assert names(folder) == ["a.txt"]
    assert names(tmp_path) == ["out"]
    (tmp_path / ".out.0123456789abcdef.unfinished").symlink_to(tmp_path / "out")
    (tmp_path / ".out.mine.unfinished").mkdir()
    remove_stale_folders(tmp_path / "out")
    assert names(tmp_path / "out") == ["a.txt"]
    assert (tmp_path / ".out.mine.unfinished").is_dir()


@pytest.mark.parametrize("to", ["yolo", "voc", "coco"])
def test_full_disk_leaves_no_output(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Any) -> None:
    monkeypatch.setattr(shutil, "copyfile", fails_after(3, shutil.copyfile))
    with pytest.raises(OSError, match=r"nothing was written to .*out \(No space left on device\).*`out`") as caught:
        convert(str(source), str(tmp_path / "out"), to)
    assert caught.value.errno == errno.ENOSPC
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["source"]


def test_full_disk_with_real_mount(source: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "24k") as disk:
        for out in (disk, disk / "out"):
            with pytest.raises(OSError, match=r"nothing was written to .* \(No space left on device\)"):
                convert(str(source), str(out), "yolo")
            assert names(disk) == []
    (tmp_path / "disk").rmdir()
    with small_disk(
        tmp_path / "disk", "10m"
    ) as disk:  # a mount point cannot be replaced, and hard links cannot cross it
        convert(str(source), str(disk), "yolo", place="link")
        assert names(disk) == ["data.yaml", "images", "labels"]
        assert content(read_annotations(disk, Problems())) == content(read_annotations(source, Problems()))


def test_empty_output_folder_is_replaced(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o700)
    convert(str(source), str(tmp_path / "out"), "coco")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700
    assert names(tmp_path) == ["out", "source"]


def test_output_to_working_directory(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    moved: list[str] = []
    move = shutil.move

    def record(old: Path, new: Path) -> None:
        moved.append(old.name)
        move(old, new)

    monkeypatch.setattr(shutil, "move", record)
    before = os.stat(".").st_ino
    convert(str(source), ".", "voc")
    assert os.stat(".").st_ino == before == (tmp_path / "out").stat().st_ino
    assert moved == ["JPEGImages", "Annotations", "ImageSets", "labels.txt"]
    assert names(Path()) == sorted(moved)


def test_read_only_parent_folder(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed/out").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "closed")
    before = (tmp_path / "closed/out").stat().st_ino
    convert(str(source), str(tmp_path / "closed/out"), "voc")
    assert (tmp_path / "closed/out").stat().st_ino == before
    assert names(tmp_path / "closed/out") == ["Annotations", "ImageSets", "JPEGImages", "labels.txt"]


def test_link_as_output_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"out is a link: use the folder that it points to \(`out`\)"):
        convert(str(source), str(tmp_path / "out"), "coco")
    assert names(tmp_path / "elsewhere") == []


WRITERS: dict[str, tuple[Callable[..., Any], str, str]] = {
    "coco": (write_coco, "annotations", "annotations/instances_train.json"),
    "voc": (write_voc, "Annotations", "labels.txt"),
    "yolo": (write_yolo, "labels", "data.yaml"),
    "masks": (write_masks, "masks", "classes.txt"),
    "csv": (write_class_table, "", "images.csv"),
}


@pytest.mark.parametrize("format", sorted(WRITERS))
def test_planted_links_are_not_followed(tmp_path: Path, format: str) -> None:
    write, folder, file = WRITERS[format]
    sets = example(tmp_path / "source", ("train",))
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "out" / file).parent.mkdir(parents=True)
    (tmp_path / "out" / file).symlink_to(victim)
    write(sets, tmp_path / "out")
    assert victim.read_text() == "mine"
    assert not (tmp_path / "out" / file).is_symlink()
    if folder:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / folder).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="is a link"):
            write(sets, tmp_path / "other")
        assert names(tmp_path / "elsewhere") == []


def test_mask_replaces_planted_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "m.png").symlink_to(tmp_path / "victim")
    save_mask(np.zeros((3, 3), int), tmp_path / "m.png")
    assert (tmp_path / "victim").read_text() == "mine"
    assert inspect_mask(tmp_path / "m.png") == [3, 3, 0, 0, 9]


@pytest.mark.parametrize("way", ["function", "command"])
def test_hard_links_to_symlinked_images(source: Path, tmp_path: Path, way: str) -> None:
    image = next((source / "train").rglob("train_1.png"))
    image.rename(tmp_path / "real.png")
    image.symlink_to("../../real.png")  # a relative link breaks if it is moved
    if way == "function":
        convert(str(source), str(tmp_path / "deep/out"), "yolo", place="link")
    else:
        options = ["--root", str(source), "--out", str(tmp_path / "deep/out"), "--to", "yolo", "--place", "link"]
        main(["convert", *options])
    placed = tmp_path / "deep/out/images/train/train_1.png"
    assert not placed.is_symlink()
    assert placed.samefile(tmp_path / "real.png")


def test_images_are_copied_across_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_disk(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    save_image(tmp_path / "a.png", 9, 9)
    monkeypatch.setattr(os, "link", other_disk)
    place_images({tmp_path / "new/b.png": tmp_path / "a.png"}, "link")
    assert (tmp_path / "new/b.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    assert not (tmp_path / "new/b.png").samefile(tmp_path / "a.png")


def test_labels_without_image_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_yolo(example(tmp_path / "source"), tmp_path / "set")
    (tmp_path / "set/images").mkdir()
    for split in ("train", "val"):
        (tmp_path / "source" / split).rename(tmp_path / "set/images" / split)
    (tmp_path / "set/labels/classes.txt").write_text("zebra\n")
    for name in ("train_3", "val_2"):
        (tmp_path / f"set/images/{name[:-2]}/{name}.png").unlink()
    (tmp_path / "set/labels/test").mkdir()
    (tmp_path / "set/labels/test/z.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    problems = Problems()
    read_annotations(tmp_path / "set", problems, "yolo")
    assert sorted(Path(file).name for file, _, _ in problems.entries) == ["train_3.txt", "val_2.txt", "z.txt"]
    with pytest.raises(AnnotationError, match=r"3 problems(?s:.*)train_3\.txt: there is no image of that name in"):
        convert(str(tmp_path / "set"), str(tmp_path / "out"), "coco")
    caplog.set_level(logging.WARNING, "lit_cv")
    convert(str(tmp_path / "set"), str(tmp_path / "out"), "coco", on_error="skip")
    assert "3 invalid entries are skipped" in caplog.text


def test_labels_beside_images_and_unlisted_images(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_image(tmp_path / f"{name}.png", 9, 9)
        (tmp_path / f"{name}.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (tmp_path / "classes.txt").write_text("x\n")
    (tmp_path / "README.txt").write_text("A set of two images.\n")
    (tmp_path / "lost.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    problems = Problems()
    read_annotations(tmp_path, problems, "yolo")
    assert [Path(file).name for file, _, _ in problems.entries] == ["lost.txt"]
    (tmp_path / "lost.txt").unlink()
    (tmp_path / "list.txt").write_text("a.png\n")
    (tmp_path / "data.yaml").write_text("names: [x]\ntrain: list.txt\n")
    problems = Problems()
    assert len(read_annotations(tmp_path, problems, "yolo")["train"].images) == 1
    assert not problems.entries


@pytest.mark.usefixtures("_no_hang")
def test_pipes_do_not_block(tmp_path: Path) -> None:
    save_image(tmp_path / "coco/a.png", 9, 9)
    os.mkfifo(tmp_path / "coco/instances.json")
    with pytest.raises(AnnotationError, match=r"instances\.json is not a regular file"):
        read_annotations(tmp_path / "coco", Problems())
    save_image(tmp_path / "yolo/images/a.png", 9, 9)
    (tmp_path / "yolo/labels").mkdir()
    (tmp_path / "yolo/data.yaml").write_text("names: [x]\n")
    os.mkfifo(tmp_path / "yolo/other.yaml")
    os.mkfifo(tmp_path / "yolo/labels/a.txt")
    problems = Problems()
    read_annotations(tmp_path / "yolo", problems)
    assert "a.txt: is not a regular file" in str(problems)
    os.mkfifo(tmp_path / "yolo/list.txt")
    (tmp_path / "yolo/data.yaml").write_text("names: [x]\ntrain: list.txt\n")
    with pytest.raises(AnnotationError, match=r"list\.txt is not a regular file"):
        read_annotations(tmp_path / "yolo", Problems())
    save_image(tmp_path / "voc/JPEGImages/a.png", 9, 9)
    (tmp_path / "voc/Annotations").mkdir()
    os.mkfifo(tmp_path / "voc/Annotations/a.xml")
    problems = Problems()
    read_annotations(tmp_path / "voc", problems)
    assert "no such file" in str(problems)
    os.mkfifo(tmp_path / "m.png")
    assert "is not a regular file" in inspect_mask(tmp_path / "m.png")
    (tmp_path / "table").mkdir()
    os.mkfifo(tmp_path / "table/votes.csv")
    with pytest.raises(ValueError, match=r"votes\.csv is not a regular file"):
        convert(str(tmp_path / "table"), str(tmp_path / "out"), "folders", source="csv")
    with pytest.raises(FileNotFoundError, match=r"table .* not found"):
        CSVDataModule(str(tmp_path / "table/votes.csv"), annotator_column="who").read_votes()


@pytest.mark.usefixtures("_no_hang")
@pytest.mark.parametrize("place", ["copy", "link"])
def test_images_that_are_pipes_or_devices(tmp_path: Path, place: Any) -> None:
    save_image(tmp_path / "set/cat/a.png", 9, 9)
    os.mkfifo(tmp_path / "set/cat/b.png")
    (tmp_path / "zero/cat").mkdir(parents=True)
    (tmp_path / "zero/cat/a.png").symlink_to("/dev/zero")
    for root in ("set", "zero"):
        with pytest.raises(AnnotationError, match=r"png is not a regular file"):
            convert(str(tmp_path / root), str(tmp_path / "out"), "csv", place=place)
    assert names(tmp_path) == ["set", "zero"]


def test_huge_sparse_files_are_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "images/a.png", 9, 9)
    (tmp_path / "labels").mkdir()
    for name in ("classes.txt", "labels/a.txt"):
        (tmp_path / name).write_text("x\n")
    os.truncate(tmp_path / "labels/a.txt", 1 << 34)  # sparse: takes no disk space
    problems = Problems()
    read_annotations(tmp_path, problems, "yolo")
    assert "a.txt: has more than 16,777,216 bytes" in str(problems)
    os.truncate(tmp_path / "classes.txt", 1 << 34)
    with pytest.raises(AnnotationError, match=r"classes\.txt has more than 16,777,216 bytes"):
        read_annotations(tmp_path, Problems(), "yolo")


def test_yaml_bomb_is_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "images/a.png", 9, 9)
    bomb = "a0: &a0 [x]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 12))
    (tmp_path / "data.yaml").write_text(bomb + "names: [x]\n")
    with pytest.raises(AnnotationError, match=r"data\.yaml expands to more than") as caught:
        read_annotations(tmp_path, Problems(), "yolo")
    assert "\n" not in str(caught.value)


def test_postscript_mask_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*args: Any, **_: Any) -> Any:
        raise AssertionError(f"a program was started: {args}")

    monkeypatch.setattr(subprocess, "Popen", started)
    (tmp_path / "m.png").write_bytes(
        b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%ImageData: 9 9 8 1 0 1 1 "x"\n%%EndComments\nshowpage\n'
    )
    problem = inspect_mask(tmp_path / "m.png")
    assert isinstance(problem, str)
    assert "cannot identify image file" in problem
