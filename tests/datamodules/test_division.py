"""No image is in two splits: neither under two names nor after files were added."""

import os
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import (
    AnnotatedImagesDataModule,
    BaseDataModule,
    CSVDataModule,
    DomainAdaptationDataModule,
    ImageFolderDataModule,
)
from datamodules.separation import equal_contents, file_states, first_positions
from datamodules.split_record import UNKNOWN, SplitRecord
from lit_cv import SupervisedModule
from tests.datamodules.files import save_images

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False, "num_sanity_val_steps": 0,
}  # fmt: skip
SMALL: dict[str, Any] = {"image_size": 8, "batch_size": 4, "num_workers": 0}


def folders(root: Path, count: int = 20) -> Path:
    for seed, name in enumerate(("cat", "dog")):
        save_images(root / name, count, seed)
    return root


def names_of(data: BaseDataModule) -> dict[str, set[str]]:
    parts = {"train": data.unlabeled_dataset, "val": data.val_dataset, "test": data.test_dataset}
    return {
        split: {part.sample_name(index) for index in range(len(part))}
        for split, part in parts.items()
        if part is not None
    }


def trained(data: L.LightningDataModule, path: Path) -> Path:
    trainer = L.Trainer(**QUIET, max_epochs=1)
    trainer.fit(SupervisedModule(backbone="conv4"), data)
    trainer.save_checkpoint(path)
    return path


def resumed(data: Any, path: Path, verb: str = "validate") -> Any:
    getattr(L.Trainer(**QUIET, max_epochs=2), verb)(SupervisedModule(backbone="conv4"), datamodule=data, ckpt_path=path)
    return data


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["validate", "test", "fit"])
@pytest.mark.parametrize("cache", [False, True])
def test_images_stay_in_their_splits_when_files_are_added(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, verb: str, cache: bool
) -> None:
    root = folders(tmp_path / "pets")
    data = ImageFolderDataModule(str(root), cache=cache, val_fraction=0.25, **SMALL)
    path = trained(data, tmp_path / "a.ckpt")
    before = names_of(data)
    for number in range(40):
        shutil.copy(root / "cat" / f"{number % 20:02}.png", root / "cat" / f"1{number:02}.png")
    (root / "dog" / "07.png").unlink()
    after = names_of(resumed(ImageFolderDataModule(str(root), cache=cache, val_fraction=0.25, **SMALL), path, verb))
    for split, names in before.items():
        assert names - {"dog/07.png"} <= after[split]
        assert len(after[split]) > len(before[split])  # new images are divided, too
    assert "40 are new" in caplog.text
    assert "1 is missing" in caplog.text
    without = ImageFolderDataModule(str(root), val_fraction=0.25, **SMALL)
    without.setup()
    assert names_of(without)["test"] & before["train"]  # would have been validation images


def test_record_is_small_and_splits_are_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folders(tmp_path / "pets")
    data = ImageFolderDataModule(str(root), **SMALL)
    path = trained(data, tmp_path / "a.ckpt")
    state = torch.load(path, weights_only=True)["ImageFolderDataModule"]["splits"]
    assert sum(state[name].numel() * state[name].element_size() for name in ("keys", "splits")) == 9 * 40
    other = resumed(ImageFolderDataModule(str(root), **SMALL), path, "fit")
    assert names_of(other) == names_of(data)
    assert "changed" not in caplog.text
    moved = tmp_path / "elsewhere"
    shutil.move(root, moved)
    assert names_of(resumed(ImageFolderDataModule(str(moved), **SMALL), path)) == names_of(data)


def test_warns_about_changed_split_options(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folders(tmp_path / "pets")
    data = ImageFolderDataModule(str(root), **SMALL)
    path = trained(data, tmp_path / "a.ckpt")
    other = resumed(ImageFolderDataModule(str(root), split_seed=7, **SMALL), path)
    assert names_of(other) == names_of(data)
    assert "`split_seed` has changed, but images of the checkpoint stay" in caplog.text


def test_other_data_gets_new_splits(tmp_path: Path) -> None:
    path = trained(ImageFolderDataModule(str(folders(tmp_path / "a")), **SMALL), tmp_path / "a.ckpt")
    other = folders(tmp_path / "b")
    for file in other.rglob("*.png"):
        file.rename(file.with_name(f"other_{file.name}"))
    expected = ImageFolderDataModule(str(other), **SMALL)
    expected.setup()
    assert names_of(resumed(ImageFolderDataModule(str(other), **SMALL), path)) == names_of(expected)


def test_chosen_labels_are_kept(tmp_path: Path) -> None:
    root = folders(tmp_path / "pets")
    data = ImageFolderDataModule(str(root), labels_per_class=3, **SMALL)
    path = trained(data, tmp_path / "a.ckpt")
    chosen = {data.train_dataset.sample_name(index) for index in range(len(data.train_dataset))}
    save_images(root / "cat" / "more", 9, seed=5)
    other = resumed(ImageFolderDataModule(str(root), labels_per_class=3, **SMALL), path, "fit")
    assert {other.train_dataset.sample_name(index) for index in range(len(other.train_dataset))} == chosen


def test_warns_about_training_images_in_test(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders(tmp_path)
    rows = [(f"{name}/{number:02}.png", name, "train" if number < 15 else "test")
            for name in ("cat", "dog") for number in range(20)]  # fmt: skip

    def table() -> CSVDataModule:
        lines = [",".join(row) for row in rows]
        (tmp_path / "images.csv").write_text("\n".join(["path,label,split", *lines]))
        return CSVDataModule(str(tmp_path / "images.csv"), **SMALL)

    path = trained(table(), tmp_path / "a.ckpt")
    rows = [
        (name, label, "test" if name == "cat/00.png" or split == "test" else "train") for name, label, split in rows
    ]
    resumed(table(), path, "test")
    assert "was trained on 1 of the 11 images of test" in caplog.text


def test_both_domains_keep_their_splits(tmp_path: Path) -> None:
    roots = [folders(tmp_path / name) for name in ("source", "target")]

    def data() -> DomainAdaptationDataModule:
        parts = [ImageFolderDataModule(str(root), val_fraction=0.25, **SMALL) for root in roots]
        return DomainAdaptationDataModule(*parts, batch_size=4, num_workers=0)

    first = data()
    path = trained(first, tmp_path / "a.ckpt")
    for number in range(30):
        shutil.copy(roots[1] / "cat" / "00.png", roots[1] / "cat" / f"{number}_new.png")
    second = resumed(data(), path)
    alone = ImageFolderDataModule(str(roots[1]), split_seed=4, **SMALL)
    alone.checkpoint_path = path
    alone.setup()
    for one, other in ((first.source, second.source), (first.target, second.target), (first.target, alone)):
        before, after = names_of(one), names_of(other)
        assert all(before[split] <= after[split] for split in before)


def yolo(root: Path, lists: dict[str, list[str]]) -> Path:
    save_images(root / "images", 12)
    (root / "labels").mkdir(exist_ok=True)
    for number in range(12):
        (root / "labels" / f"{number:02}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    yaml = ["names: [a]"]
    for split, names in lists.items():
        (root / f"{split}.txt").write_text("\n".join(f"./images/{name}.png" for name in names))
        yaml.append(f"{split}: {split}.txt")
    (root / "data.yaml").write_text("\n".join(yaml))
    return root


def test_annotated_images_stay_in_their_splits(tmp_path: Path) -> None:
    root = yolo(tmp_path / "a", {})
    path = tmp_path / "a.ckpt"
    data = AnnotatedImagesDataModule(str(root), image_size=32, batch_size=2, num_workers=0, test_fraction=0.25)
    data.setup()
    torch.save({"AnnotatedImagesDataModule": data.state_dict(), "state_dict": {}}, path)
    for number in range(12, 40):
        shutil.copy(root / "images" / "00.png", root / "images" / f"{number:02}.png")
        (root / "labels" / f"{number:02}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    other = AnnotatedImagesDataModule(str(root), image_size=32, batch_size=2, num_workers=0, test_fraction=0.25)
    other.restore_splits(torch.load(path, weights_only=True)["AnnotatedImagesDataModule"])
    other.setup()
    before, after = names_of(data), names_of(other)
    assert all(before[split] <= after[split] for split in before)


@pytest.mark.parametrize("spelling", ["cat/00.png", "./cat/00.png", "dog/../cat/00.png", "link.png", "hard.png"])
def test_error_names_image_in_two_splits(tmp_path: Path, spelling: str) -> None:
    folders(tmp_path)
    (tmp_path / "link.png").symlink_to(tmp_path / "cat" / "00.png")
    os.link(tmp_path / "cat" / "00.png", tmp_path / "hard.png")
    rows = [f"{name}/{number:02}.png,{name},train" for name in ("cat", "dog") for number in range(10)]
    (tmp_path / "images.csv").write_text("\n".join(["path,label,split", *rows, f"{spelling},cat,test"]))
    with pytest.raises(ValueError, match=r"1 of 1 images of test are also training images: .*`on_error='skip'`"):
        CSVDataModule(str(tmp_path / "images.csv"), **SMALL).setup()
    data = CSVDataModule(str(tmp_path / "images.csv"), on_error="skip", val_fraction=0.2, **SMALL)
    data.setup()
    names = names_of(data)
    assert names["test"] == {spelling}
    assert "cat/00.png" not in names["train"] | names["val"]


def test_paths_to_one_image_stay_together(tmp_path: Path) -> None:
    folders(tmp_path)
    rows = [f"{dots}{name}/{n:02}.png,{name}" for dots in ("", "./") for name in ("cat", "dog") for n in range(20)]
    (tmp_path / "images.csv").write_text("\n".join(["path,label", *rows]))
    data = CSVDataModule(str(tmp_path / "images.csv"), val_fraction=0.3, test_fraction=0.3, **SMALL)
    data.setup()
    plain = {split: {name.removeprefix("./") for name in names} for split, names in names_of(data).items()}
    assert len(plain["val"]) > 2
    assert not plain["train"] & plain["val"]
    assert not plain["train"] & plain["test"]
    assert not plain["val"] & plain["test"]


def test_annotated_images_in_two_splits(tmp_path: Path) -> None:
    numbers = [f"{number:02}" for number in range(12)]
    root = yolo(tmp_path, {"train": numbers[:9], "val": numbers[8:]})
    with pytest.raises(ValueError, match=r"1 of 4 images of val are also training images: .*08\.png"):
        AnnotatedImagesDataModule(str(root), image_size=32, batch_size=2, num_workers=0).setup()


def test_warns_about_copies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "test"):
        folders(tmp_path / split, 6)
    for file in (tmp_path / "test").rglob("*.png"):  # other images of the same sizes
        Image.fromarray(np.asarray(Image.open(file)) ^ 1).save(file)
    shutil.copy(tmp_path / "train" / "cat" / "03.png", tmp_path / "test" / "dog" / "copy.png")
    ImageFolderDataModule(str(tmp_path), val_fraction=0.0, **SMALL).setup()
    assert "1 of 13 images of test are exact copies of training images: " in caplog.text
    assert "test/dog/copy.png = train/cat/03.png" in caplog.text


def test_copies_are_searched_in_few_files(tmp_path: Path) -> None:
    for split, offset in (("train", 0), ("val", 3)):
        (tmp_path / split).mkdir()
        for number in range(40):
            (tmp_path / split / f"{number}").write_bytes(bytes([number + offset]) * 50_000)
    names = [[f"{split}/{number}" for number in range(40)] for split in ("train", "val")]
    files, states = [(tmp_path, part) for part in names], [file_states(tmp_path, part) for part in names]
    pairs, looked_at = equal_contents(files, states)
    assert looked_at == 40
    assert [(pair.first, pair.second) for pair in pairs] == [(number + 3, number) for number in range(37)]
    pairs, looked_at = equal_contents(files, states, most=50)
    assert looked_at == 10
    assert [pair.second for pair in pairs] == list(range(0, 37, 4))


def test_missing_files_differ(tmp_path: Path) -> None:
    states = file_states(tmp_path, ["a", "b", "./a", "c\0d"])
    assert first_positions(states).tolist() == [0, 1, 0, 3]
    assert states.size.tolist() == [-1] * 4


def test_record_in_checkpoint() -> None:
    names = ["café/1.png", "b\udcff.png", "c.png"]
    record = SplitRecord.of([(names, np.array([0, 1, 2], np.uint8))], {"split_seed": 0})
    again = SplitRecord.from_state(record.state_dict())
    assert again is not None
    assert again.look_up(["cafe\u0301/1.png", "b\udcff.png", "c.png", "d.png"]).tolist() == [0, 1, 2, UNKNOWN]
    assert SplitRecord.of([], {}).look_up(["a"]).tolist() == [UNKNOWN]
    broken: list[Any] = [None, {}, {"keys": torch.zeros(2), "splits": torch.zeros(2), "options": {}},
                         {**record.state_dict(), "splits": torch.zeros(1, dtype=torch.uint8)}]  # fmt: skip
    assert all(SplitRecord.from_state(state) is None for state in broken)


def test_file_with_several_names_is_held_out_once(tmp_path: Path) -> None:
    folders(tmp_path)
    rows = [
        f"{dots}{name}/{n:02}.png,{name}" for dots in ("", "./", ".//") for name in ("cat", "dog") for n in range(20)
    ]
    (tmp_path / "images.csv").write_text("\n".join(["path,label", *rows]))
    data = CSVDataModule(str(tmp_path / "images.csv"), val_fraction=0.25, test_fraction=0.2, **SMALL)
    data.setup()
    assert {split: len(names) for split, names in names_of(data).items()} == {"train": 72, "val": 24, "test": 24}


def test_warns_about_files_with_several_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders(tmp_path)
    for number in range(3):
        os.link(tmp_path / "cat" / f"{number:02}.png", tmp_path / "dog" / f"x{number}.png")
    data = ImageFolderDataModule(str(tmp_path), val_fraction=0.0, test_fraction=0.0, **SMALL)
    data.setup()
    assert "3 images are listed twice, with different labels: dog/x0.png = cat/00.png" in caplog.text


def test_checkpoint_splits_apply_to_another_listing(tmp_path: Path) -> None:
    data = ImageFolderDataModule(str(folders(tmp_path / "set")), val_fraction=0.2, split_seed=3, **SMALL)
    path = trained(data, tmp_path / "a.ckpt")
    rows = [f"{name}/{number:02}.png,{name}" for number in range(20) for name in ("dog", "cat")]
    (tmp_path / "set" / "images.csv").write_text("\n".join(["path,label", *rows]))
    table = CSVDataModule(str(tmp_path / "set" / "images.csv"), val_fraction=0.2, **SMALL)
    above = CSVDataModule(str(tmp_path / "images.csv"), val_fraction=0.2, **SMALL)
    (tmp_path / "images.csv").write_text("\n".join(["path,label", *(f"./set/{row}" for row in rows)]))
    for other in (table, above):
        other.checkpoint_path = path
        other.setup()
    assert names_of(table) == names_of(data)
    below = {split: {f"./set/{name}" for name in names} for split, names in names_of(data).items()}
    assert names_of(above) == below
