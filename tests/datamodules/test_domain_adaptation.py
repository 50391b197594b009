"""Two domains: content, order and format of training batches."""

import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import (
    BaseDataModule,
    DigitsDataModule,
    DomainAdaptationDataModule,
    ImageFolderDataModule,
    InMemoryDataset,
    ShapesDataModule,
)
from datamodules.domain_pairs import ConvertedDataset, PairSampler, convert_images
from lit_cv.modules import SimCLRModule, SupervisedModule


class Squares(BaseDataModule):
    """Return constant images with their number as brightness and the number modulo 3 as label."""

    def __init__(self, n: int, channels: int = 1, side: int = 8, known: bool = True, names: str = "abc", **kw: Any):
        super().__init__(**{"val_fraction": 0.0, **kw})
        self.n, self.channels, self.side, self.known, self.names = n, channels, side, known, names

    def load(self, split: str) -> InMemoryDataset | None:
        if split not in ("train", "val", "test"):
            return None
        images = np.arange(self.n, dtype=np.uint8)[:, None, None, None]
        images = np.broadcast_to(images, (self.n, self.channels, self.side, self.side))
        labels = np.arange(self.n) % 3 if self.known else np.full(self.n, -1)
        return InMemoryDataset(images.copy(), labels, list(self.names) if self.known else [])


def joined(source: BaseDataModule | None = None, target: BaseDataModule | None = None, **kwargs: Any) -> Any:
    data = DomainAdaptationDataModule(source or Squares(20), target or Squares(7), **{"batch_size": 4} | kwargs)
    data.setup()
    return data


def test_batch_has_no_target_labels() -> None:
    for data in (joined(), joined(target=Squares(7, known=False))):
        for batch in data.train_dataloader():
            assert set(batch) == {"source", "target"}
            assert set(batch["source"]) == {"image", "label", "index"}
            assert set(batch["target"]) == {"image", "index"}
            assert torch.equal(batch["source"]["label"], batch["source"]["index"] % 3)
            assert torch.equal(batch["source"]["image"][:, 0, 0, 0], batch["source"]["index"])
            assert torch.equal(batch["target"]["image"][:, 0, 0, 0], batch["target"]["index"])
        assert set(data.unlabeled_dataset.labels.tolist()) == {-1}


@pytest.mark.parametrize("sizes", [(20, 7), (7, 20), (9, 9)])
def test_epoch_is_one_pass_over_larger_domain(sizes: tuple[int, int]) -> None:
    batches = list(joined(Squares(sizes[0]), Squares(sizes[1])).train_dataloader())
    assert len(batches) == max(sizes) // 4
    for domain, size in zip(("source", "target"), sizes, strict=True):
        seen = torch.cat([batch[domain]["index"] for batch in batches]).tolist()
        counts = np.bincount(seen, minlength=size)
        assert counts.max() - counts.min() <= 1
        passes = [seen[start : start + size] for start in range(0, len(seen) - size + 1, size)]
        assert all(sorted(one) == list(range(size)) for one in passes)
        assert all(a != b for a, b in itertools.pairwise(passes))


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = PairSampler((9, 9), seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert [s for s, _ in order(0, 0)] != [t for _, t in order(0, 0)]


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("sizes", [(24, 7), (7, 24)])
def test_ranks_get_different_shares(sizes: tuple[int, int], ranks: int) -> None:
    whole = PairSampler(sizes, seed=3).order()
    shares = [PairSampler(sizes, 3, ranks, rank, drop_last=True).order() for rank in range(ranks)]
    assert [len(share) for share in shares] == [24 // ranks] * ranks
    dealt = np.stack(shares, 1).reshape(-1, 2)
    assert np.array_equal(dealt, whole)  # alternating, so no pair is repeated or missing
    large = int(np.argmax(sizes))
    assert not set(shares[0][:, large]) & set(shares[1][:, large])


def test_resume_in_the_middle_of_an_epoch() -> None:
    loader = joined().train_dataloader()
    batches = iter(loader)
    next(batches), next(batches)
    state = loader.state_dict()
    rest = [(b["source"]["index"].tolist(), b["target"]["index"].tolist()) for b in batches]
    again = joined().train_dataloader()
    again.load_state_dict(state)
    assert [(b["source"]["index"].tolist(), b["target"]["index"].tolist()) for b in again] == rest
    assert len(rest) == 3


def test_conversion_to_common_format_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="lit_cv"):
        data = joined(Squares(20, channels=3, side=8), Squares(7, channels=1, side=12))
    assert "source's images (Squares) are converted from 3 x 8 x 8 to 3 x 12 x 12" in caplog.text
    assert "target's images (Squares) are converted from 1 x 12 x 12 to 3 x 12 x 12" in caplog.text
    assert (data.in_channels, data.image_size) == (3, (12, 12))
    batch = next(iter(data.train_dataloader()))
    for part in batch.values():
        assert part["image"].dtype == torch.uint8
        assert part["image"].shape == (4, 3, 12, 12)
        assert torch.equal(part["image"][:, 0, 0, 0], part["index"])  # the value range is kept
    gray = joined(Squares(20, channels=3), Squares(7), channels=1, image_size=5)
    assert next(iter(gray.train_dataloader()))["source"]["image"].shape == (4, 1, 5, 5)


def test_conversions() -> None:
    color = torch.randint(0, 256, (2, 3, 6, 6), dtype=torch.uint8)
    gray = convert_images(color, 1, (6, 6))
    red, green, blue = color.double().unbind(1)
    assert torch.equal(gray[:, 0], (0.299 * red + 0.587 * green + 0.114 * blue).round().byte())
    assert torch.equal(convert_images(gray, 3, (6, 6))[:, 2], gray[:, 0])
    wide = torch.zeros(1, 1, 4, 8, dtype=torch.uint8)
    wide[..., 2:6] = 200  # the centered square
    assert convert_images(wide, 1, (8, 8)).eq(200).all()
    with pytest.raises(ValueError, match="2 channels"):
        convert_images(torch.zeros(1, 2, 4, 4, dtype=torch.uint8), 3, (4, 4))


def test_common_normalization() -> None:
    data = joined(Squares(20), Squares(200))
    pixels = [np.arange(n) / 255 for n in (20, 200)]
    mean = (pixels[0].mean() + pixels[1].mean()) / 2
    variance = sum((part**2).mean() for part in pixels) / 2 - mean**2
    assert data.mean == pytest.approx([mean])
    assert data.std == pytest.approx([variance**0.5])


def test_evaluation_covers_both_domains() -> None:
    data = joined()
    for loaders in (data.val_dataloader(), data.test_dataloader()):
        assert len(loaders) == 2
        for loader, domain, size in zip(loaders, (1, 0), (7, 20), strict=True):
            batches = list(loader)
            assert torch.cat([b["index"] for b in batches]).tolist() == list(range(size))
            assert all(b["domain"].eq(domain).all() for b in batches)
            assert all(torch.equal(b["label"], b["index"] % 3) for b in batches)
    assert sum(len(batch["label"]) for batch in data.predict_dataloader()) == 7


def test_modules_that_do_not_adapt_train_on_one_domain() -> None:
    class Fake:
        global_rank, world_size, num_devices = 0, 1, 1

    data = joined()
    data.trainer = Fake()
    Fake.lightning_module = SupervisedModule(backbone="conv4")
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch["label"], batch["index"] % 3)
    assert batch["domain"].eq(0).all()
    assert [len(loader.dataset) for loader in data.val_dataloader()] == [7]
    Fake.lightning_module = SimCLRModule(backbone="conv4")
    batch = next(iter(data.train_dataloader()))
    assert batch["domain"].eq(1).all()
    assert batch["label"].eq(-1).all()


def test_hyperparameters_are_plain_values() -> None:
    data = DomainAdaptationDataModule(ShapesDataModule(32, 100), ShapesDataModule(32, 100, domain="noisy"))
    assert data.hparams["target"]["class_path"] == "datamodules.shapes.ShapesDataModule"
    assert data.hparams["target"]["init_args"]["domain"] == "noisy"
    assert "labels_per_class" not in data.hparams


def test_invalid_domains() -> None:
    with pytest.raises(ValueError, match=r"the source \(Squares\) has 3 \(a, b, c\).*3 \(a, c, b\); their order"):
        joined(target=Squares(7, names="acb"))
    with pytest.raises(ValueError, match=r"; only the source has b, only the target has d, e\. Choose"):
        joined(target=Squares(7, names="acde"))
    with pytest.raises(ValueError, match="the same DataModule"):
        DomainAdaptationDataModule(*[Squares(5)] * 2)
    with pytest.raises(ValueError, match="has no classes"):
        joined(source=Squares(7, known=False))
    with pytest.raises(TypeError, match="source is a int"):
        DomainAdaptationDataModule(1, Squares(5))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"channels=2: must be 1 or 3"):
        joined(channels=2)


@pytest.mark.draws
def test_figure_and_summary() -> None:
    data = DomainAdaptationDataModule(DigitsDataModule(), Squares(7, names="0123456789"))
    assert "target: Squares: 7 train" in data.summary()
    assert "together: 1 x 8 x 8 pixels" in data.summary()
    figure = data.show_batch("train", n=6)
    titles = [text.get_text() for text in figure.axes[0].texts]
    assert titles[-1].startswith("Digits → Squares: train")
    assert titles[3:6] == ["unlabeled"] * 3


def test_lazy_datasets_are_converted_on_reading() -> None:
    base = ShapesDataModule(16, 50)
    base.setup()
    part = ConvertedDataset(base.train_dataset, 1, (20, 20), 1).subset([4, 2])
    batch = part.__getitems__([1, 0])
    expected = base.train_dataset.__getitems__([2, 4])
    assert torch.equal(batch["image"], convert_images(expected["image"], 1, (20, 20)))
    assert torch.equal(batch["label"], expected["label"])
    assert part.sample_name(0) == base.train_dataset.sample_name(4)


def test_messages_name_the_option_of_the_domain(tmp_path: Path) -> None:
    data = DomainAdaptationDataModule(Squares(20), ImageFolderDataModule(str(tmp_path / "nowhere")))
    with pytest.raises(FileNotFoundError, match=r"set `target\.root`"):
        data.setup()
