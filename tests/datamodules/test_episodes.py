"""Episodes have the documented content, are a function of their number, and use only classes of their split."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from datamodules import (
    BaseDataModule,
    CSVDataModule,
    DigitsDataModule,
    EpisodicDataModule,
    ImageFolderDataModule,
    InMemoryDataset,
    OmniglotDataModule,
    ShapeClassesDataModule,
)
from datamodules.class_pool import ClassPool
from datamodules.class_splits import split_classes
from datamodules.episodes import EpisodeDataset, EpisodeSampler, Setting
from tests.datamodules.files import save_images


class Numbered(BaseDataModule):
    """Return images that encode their class (first row) and their number in it (second row), except in the corners."""

    def __init__(self, counts: list[int], mark: int = 0, **kwargs: Any) -> None:
        super().__init__(val_fraction=kwargs.pop("val_fraction", 0.2), **kwargs)
        self.counts, self.mark = counts, mark

    def load(self, split: str) -> InMemoryDataset | None:  # type: ignore[override]
        if split != "train":
            return None
        labels = np.repeat(np.arange(len(self.counts)), self.counts)
        images = np.zeros((len(labels), 1, 4, 4), dtype=np.uint8)
        images[:, :, 0, 1:3] = labels[:, None, None]
        images[:, :, 1, 1] = np.concatenate([np.arange(count) for count in self.counts])[:, None]
        images[:, :, 3, 3] = self.mark
        shuffled = np.random.RandomState(0).permutation(len(labels))
        return InMemoryDataset(
            images[shuffled], labels[shuffled], [f"{i // 3}/{i:02}" for i in range(len(self.counts))]
        )


def episodic(base: BaseDataModule | None = None, **kwargs: Any) -> EpisodicDataModule:
    options: dict[str, Any] = {"way": 3, "shot": 2, "query": 3, "evaluate": ["2w1s"], "val_episodes": 5}
    data = EpisodicDataModule(base or Numbered([8] * 15), **options | kwargs)
    data.setup()
    return data


def batches(data: EpisodicDataModule, epoch: int = 0) -> list[dict[str, Any]]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


def test_episode_content() -> None:
    data = episodic(batch_size=4, episodes_per_epoch=20)
    for batch in batches(data):
        assert batch["classes"].shape == (4, 3)
        assert batch["support"]["image"].shape == (4, 6, 1, 4, 4)
        assert batch["query"]["image"].shape == (4, 9, 1, 4, 4)
        assert batch["support"]["image"].dtype == torch.uint8
        for episode in range(4):
            names = [data.pools["train"].names[c] for c in batch["classes"][episode]]
            assert len(set(names)) == 3
            seen = set()
            for part in ("support", "query"):
                images, labels = batch[part]["image"][episode], batch[part]["label"][episode]
                assert labels.bincount().tolist() == [2 if part == "support" else 3] * 3
                for image, label in zip(images, labels, strict=True):
                    assert int(names[label].partition("/")[2]) == int(image[0, 0, 1])
                    seen.add((int(image[0, 0, 1]), int(image[0, 1, 1])))
            assert len(seen) == 15  # no repeated image in either part


def test_classes_and_images_are_drawn_uniformly() -> None:
    pool = ClassPool(torch.zeros(45, 1, 1, 1, dtype=torch.uint8), torch.tensor([0] * 5 + [1] * 10 + [2] * 30), "abc")
    data = EpisodeDataset(pool, None, way=2, shot=1, queries=2)
    batch = data.__getitems__(list(EpisodeSampler(6000, seed=3)))
    rows = torch.cat([batch[part]["index"].flatten() for part in ("support", "query")]).bincount(minlength=45)
    assert batch["classes"].flatten().bincount().numpy() == pytest.approx([4000] * 3, rel=0.05)
    for part, count in zip(rows.split([5, 10, 30]), (5, 10, 30), strict=True):
        assert part.numpy() == pytest.approx([12000 / count] * count, rel=0.2)
    first = batch["classes"][:, 0].bincount()
    assert first.numpy() == pytest.approx([2000] * 3, rel=0.1)  # no class prefers a label


def test_splits_have_disjoint_classes_and_images() -> None:
    for options in ({}, {"split_by": "group", "val_classes": 1, "test_classes": ["0"]}, {"split_seed": 3}):
        data = episodic(**options)  # type: ignore[arg-type]
        found = [set(pool.images[:, 0, 0, 1].tolist()) for pool in data.pools.values()]
        assert len(set.union(*found)) == sum(map(len, found)) == 15
        assert sum(len(pool.images) for pool in data.pools.values()) == 15 * 8  # all splits of the base, merged
    assert {name.partition("/")[0] for name in data.pools["test"].names} != {"4"}  # the seed chooses others


def test_last_groups_are_test_groups() -> None:
    names = ["b/1", "a/1", "d/1", "c/2", "c/1", "e/1"]
    splits = split_classes(names, "group", 1, 2, None)
    assert {split: [names[c] for c in classes] for split, classes in splits.items()} == {
        "train": ["b/1", "a/1"],
        "val": ["c/2", "c/1"],
        "test": ["d/1", "e/1"],
    }
    assert split_classes(names, "class", ["e/1"], ["a/1", "b/1"], None)["train"].tolist() == [2, 3, 4]


def test_episodes_are_a_function_of_seed_epoch_step_and_rank() -> None:
    def indices(seed: int | None = 0, epoch: int = 0, rank: int = 0, world: int = 1) -> list[int]:
        sampler = EpisodeSampler(12, seed, world, rank)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert indices() == indices()
    assert not set(indices()) & set(indices(seed=1))
    assert not set(indices()) & set(indices(epoch=1))
    ranks = [indices(rank=rank, world=2) for rank in (0, 1)]
    assert not set(ranks[0]) & set(ranks[1])
    assert sorted(ranks[0] + ranks[1]) == sorted(indices())  # the same episodes on any number of ranks
    data = episodic()
    one, again = batches(data, epoch=1), batches(data, epoch=1)
    assert all(torch.equal(a["query"]["image"], b["query"]["image"]) for a, b in zip(one, again, strict=True))


def test_resume_in_the_middle_of_an_epoch() -> None:
    data = episodic(batch_size=2, episodes_per_epoch=10)
    loader = data.train_dataloader()
    taken = iter(loader)
    next(taken), next(taken)
    state, rest = loader.state_dict(), [batch["query"]["index"] for batch in taken]
    resumed = episodic(batch_size=2, episodes_per_epoch=10).train_dataloader()
    resumed.load_state_dict(state)
    again = [batch["query"]["index"] for batch in resumed]
    assert len(again) == 3
    assert all(torch.equal(a, b) for a, b in zip(again, rest, strict=True))


def test_evaluation_episodes_are_fixed() -> None:
    def episodes(**kwargs: Any) -> dict[str, torch.Tensor]:
        found: dict[str, list[torch.Tensor]] = {}
        for batch in episodic(**kwargs).val_dataloader():
            way = batch["classes"].shape[1]
            name = Setting(way, batch["support"]["label"].shape[1] // way).name
            found.setdefault(name, []).append(batch["query"]["index"])
        return {name: torch.cat(parts) for name, parts in found.items()}

    several = episodes(evaluate=["2w1s", "3w2s"], batch_size=3)
    assert {name: part.shape for name, part in several.items()} == {"2w1s": (5, 6), "3w2s": (5, 9)}
    assert episodes(eval_query=6)["2w1s"].shape == (5, 12)
    assert torch.equal(several["3w2s"], episodes(evaluate=["3w2s"], way=2)["3w2s"])


def test_rotated_classes_are_new_classes() -> None:
    data = episodic(rotations=True, way=9, episodes_per_epoch=30)
    assert len(data.pools["train"].names) == 36
    assert len(data.pools["test"].names) == 3
    turned = set()
    for batch in batches(data):
        for image, label in zip(batch["query"]["image"][0], batch["query"]["label"][0], strict=True):
            turns, plain = divmod(int(batch["classes"][0, label]), 9)
            upright = torch.rot90(image, -turns, (1, 2))
            assert int(upright[0, 0, 1]) == int(data.pools["train"].names[plain].partition("/")[2])
            turned.add(turns)
    assert turned == {0, 1, 2, 3}


def test_queries_from_another_domain() -> None:
    data = episodic(Numbered([8] * 15, mark=1), query_base=Numbered([9] * 15, mark=2))
    batch = batches(data)[0]
    assert (batch["support"]["image"][..., 3, 3] == 1).all()
    assert (batch["query"]["image"][..., 3, 3] == 2).all()
    for label in range(3):
        kinds = {
            int(i) for p in ("support", "query") for i in batch[p]["image"][batch[p]["label"] == label][:, 0, 0, 1]
        }
        assert len(kinds) == 1
    images = data.evaluation_images("val")
    assert images["support"] is not images["query"]
    with pytest.raises(ValueError, match=r"query_base has the classes .* with the same classes"):
        episodic(Numbered([8] * 15), query_base=Numbered([8] * 14))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"way": 10}, r"an episode of 10 classes \(`way`\) cannot be drawn from the 9 classes of train"),
        ({"evaluate": ["5w1s"]}, r"an episode of 5 classes \(`evaluate`\) .* the 3 classes of"),
        ({"query": 7}, r"needs 9 images per class .* 0/00 \(8\).* and \d more. Reduce `query`"),
        ({"evaluate": ["2w6s"]}, r"needs 9 images per class"),
        ({"evaluate": ["5-way"]}, r"evaluate='5-way': must be settings such as \[5w1s"),
        ({"val_classes": ["9/99"]}, r"unknown class '9/99' \(`val_classes`\)"),
        ({"test_classes": 15}, r"test_classes=15: 15 of 15 classes would leave none for training"),
        ({"val_classes": ["0/00"], "test_classes": ["0/00"]}, r"0/00: used for both validation and test"),
        ({"way": 1}, r"way=1: must be at least 2"),
        ({"episodes_per_epoch": 2, "batch_size": 3}, r"too few for a batch of 3 episodes"),
    ],
)
def test_too_few_classes_or_images_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        episodic(**options).train_dataloader()


def test_error_names_missing_base() -> None:
    with pytest.raises(ValueError, match=r"choose one \(`base='OmniglotDataModule'`\)"):
        EpisodicDataModule().setup()


def test_hidden_labels_are_excluded_and_multi_label_refused(tmp_path: Path) -> None:
    data = episodic(Numbered([20] * 15, labels_per_class=9, val_fraction=0.0))
    assert data.pools["train"].counts.tolist() == [9] * 9
    (path,) = save_images(tmp_path, 1)
    table = tmp_path / "several.csv"
    table.write_text("path,a,b\n" + f"{path.name},1,1\n" * 20)
    several = CSVDataModule(str(table), label_columns=["a", "b"], image_size=8, val_fraction=0.0)
    with pytest.raises(ValueError, match="several labels"):
        episodic(several)


def test_nested_folders_become_grouped_classes(tmp_path: Path) -> None:
    for seed, group in enumerate(("north", "south", "west")):
        for name in ("x", "y"):
            save_images(tmp_path / group / name, 6, seed)
    base = ImageFolderDataModule(str(tmp_path), class_depth=2, image_size=8, num_workers=0)
    data = episodic(base, split_by="group", way=2, shot=1, query=3)
    assert {split: pool.names for split, pool in data.pools.items()} == {
        "train": ["north/x", "north/y"],
        "val": ["south/x", "south/y"],
        "test": ["west/x", "west/y"],
    }
    assert data.pools["train"].counts.tolist() == [6, 6]
    assert (data.in_channels, data.image_size) == (3, (8, 8))


def test_shapes_in_colors_and_textures() -> None:
    base = ShapeClassesDataModule(image_size=24, images_per_class=6)
    data = episodic(base, split_by="group", val_classes=1, test_classes=2, way=20, shot=1, query=3)
    assert {name.partition("/")[0] for name in data.pools["test"].names} == {"star", "triangle"}
    pool = data.pools["train"]
    red = [c for c, name in enumerate(pool.names) if name.endswith("red_plain")]
    images = pool.images.view(len(pool.names), 6, 3, 24, 24)[red].float()
    middle = images.flatten(3).topk(40, dim=3).values.mean((1, 3))  # the maximum of each channel
    assert images.shape[0] == 5
    assert (images[:, :, 0] - images[:, :, 1]).flatten(2).amax(2).min() > 60  # something red in every image
    assert middle.shape == (5, 3)
    again = ShapeClassesDataModule(image_size=24, images_per_class=6)
    again.setup()
    assert torch.equal(torch.from_numpy(again.train_dataset.images), torch.from_numpy(base.train_dataset.images))


def test_omniglot_in_folders(tmp_path: Path) -> None:
    for place in ("omniglot-py/images_background", "omniglot_evaluation"):
        for alphabet in ("Greek", "Latin"):
            for number in (1, 2):
                save_images(tmp_path / place / f"{alphabet}{place[-2:]}" / f"character{number:02}", 4, number)
    base = OmniglotDataModule(str(tmp_path), subset="both", image_size=12)
    base.prepare_data()
    base.setup()
    assert base.class_names[:2] == ["Greeknd/character01", "Greeknd/character02"]
    assert (base.num_classes, base.in_channels, base.image_size) == (8, 1, (12, 12))
    kept = OmniglotDataModule(str(tmp_path), alphabets=["Latinnd"], image_size=12)
    kept.setup()
    assert kept.class_names == ["Latinnd/character01", "Latinnd/character02"]
    with pytest.raises(ValueError, match=r"unknown alphabet 'Latinn' .*did you mean 'Latinnd'"):
        OmniglotDataModule(str(tmp_path), alphabets=["Latinn"], image_size=12).setup()
    with pytest.raises(FileNotFoundError, match=r"`download=True`|set `root`"):
        OmniglotDataModule(str(tmp_path / "nothing"), download=False).prepare_data()


@pytest.mark.slow
def test_omniglot_download(data_root: Path) -> None:
    data = EpisodicDataModule(
        OmniglotDataModule(str(data_root), download=False), split_by="group", val_classes=5, test_classes=5, way=20
    )
    data.prepare_data()
    data.setup()
    assert sum(len(pool.images) for pool in data.pools.values()) == 19280
    alphabets = sorted({name.partition("/")[0] for name in data.pools["test"].names})
    assert [name[:6] for name in alphabets] == ["Ojibwe", "Sanskr", "Syriac", "Tagalo", "Tifina"]
    assert (data.pools["train"].counts == 20).all()


def test_episodes_of_digits() -> None:
    data = EpisodicDataModule(DigitsDataModule(), way=3, query=4, evaluate=["2w1s", "2w5s"])
    data.setup()
    assert [pool.names for pool in data.pools.values()] == [list("012345"), ["6", "7"], ["8", "9"]]


def test_checkpoint_classes_stay_in_their_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = episodic()
    torch.save({"EpisodicDataModule": first.state_dict()}, tmp_path / "a.ckpt")
    names = [f"{i // 3}/{i:02}" for i in range(15)]

    class Renamed(Numbered):
        names: ClassVar[list[str]] = []

        def load(self, split: str) -> InMemoryDataset | None:
            dataset = super().load(split)
            if dataset is not None:
                dataset.class_names = self.names
            return dataset

    def resumed(new_names: list[str], stage: str | None = None, **kwargs: Any) -> EpisodicDataModule:
        base = Renamed([8] * len(new_names))
        base.names = new_names
        data = EpisodicDataModule(base, way=3, shot=2, query=3, evaluate=["2w1s"], **kwargs)
        data.checkpoint_path = tmp_path / "a.ckpt"
        data.setup(stage)
        return data

    more = resumed([*names, "6/90", "6/91"])
    for split, classes in first.classes.items():
        kept = {names[number] for number in classes}
        assert {more.pools[split].names[i] for i in range(len(more.pools[split].names))} >= kept
    assert {"6/90", "6/91"} <= set(more.pools["test"].names)
    assert "2 classes are new since the checkpoint" in caplog.text
    new = [f"new {i}" for i in range(6)]
    given: list[dict[str, Any]] = [{}, {"test_classes": 6}, {"test_classes": names[:3]}]
    for options in given:
        data = resumed(new, "test", **options)
        assert data.pools.keys() == {"test"}
        assert data.pools["test"].names == new
        assert len(list(data.test_dataloader())) == 1000
    known = first.pools["train"].names[0]
    mixed = resumed([known, *new], TrainerFn.TESTING)  # too few training classes do not matter here
    assert (mixed.pools["train"].names, mixed.pools["test"].names) == ([known], new)
    late = EpisodicDataModule(Numbered([8] * 15), way=3, shot=2, query=3, evaluate=["2w1s"], split_seed=5)
    late.setup("test")
    assert late.classes["train"].tolist() != first.classes["train"].tolist()
    late.load_state_dict(first.state_dict())
    assert late.classes["train"].tolist() == first.classes["train"].tolist()
    resumed(names, val_classes=0, test_classes=names[:3])
    assert "was trained on 3 of the 3 classes of test (`test_classes`)" in caplog.text


def test_all_classes_can_be_tested() -> None:
    data = EpisodicDataModule(
        Numbered([8] * 4), way=3, shot=2, query=3, evaluate=["2w1s"], val_classes=0, test_classes=4
    )
    data.setup("test")
    assert data.pools.keys() == {"test"}
    with pytest.raises(ValueError, match=r"test_classes=4: 4 of 4 classes"):
        EpisodicDataModule(Numbered([8] * 4), val_classes=0, test_classes=4).setup("fit")


def test_fit_logs_class_counts(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "lit_cv"):
        episodic()
    assert "classes: 9 to train on, 3 to validate, 3 to test; 1x4x4" in caplog.text
