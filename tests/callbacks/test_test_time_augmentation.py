"""Test-time augmentation: its views, and the mean over them."""

from pathlib import Path

import pytest
import torch
from torchvision.utils import save_image

from datamodules import read_image
from lit_cv import SimCLRModule, TestTimeAugmentation
from lit_cv.cli import main
from lit_cv.modules.loading import load_module
from tests.callbacks.tiny import trainer


def test_views_match_direct_computation() -> None:
    images = torch.arange(2 * 8 * 8, dtype=torch.uint8).view(1, 2, 8, 8)
    mirrored, up, up_mirrored, left, *_ = TestTimeAugmentation(["flip", "shift"]).augmented(images)
    assert torch.equal(mirrored, torch.flip(images, [3]))
    assert torch.equal(up[:, :, 1:], images[:, :, :-1])
    assert torch.equal(up[:, :, 0], images[:, :, 0])
    assert torch.equal(up_mirrored, torch.flip(up, [3]))
    assert torch.equal(left[..., 1:], images[..., :-1])
    counts = {views: TestTimeAugmentation(list(views)).count for views in (("flip",), ("shift",), ("crop",))}
    assert counts == {("flip",): 2, ("shift",): 5, ("crop",): 6}
    assert TestTimeAugmentation(["flip", "shift", "crop"]).count == 2 * (1 + 4 + 5)


def test_crops_are_resized() -> None:
    ramp = torch.arange(32.0).repeat(32, 1)[None, None] / 32
    center, top_left, top_right, bottom_left, _ = TestTimeAugmentation(["crop"]).augmented(ramp)
    assert center.shape == ramp.shape
    assert torch.allclose(center.mean(), ramp.mean(), atol=1e-3)
    assert top_left.mean() < center.mean() < top_right.mean()
    assert torch.allclose(top_left, bottom_left)
    image = (ramp * 255).round().to(torch.uint8)
    assert torch.allclose(next(TestTimeAugmentation(["crop"]).augmented(image)), center, atol=1 / 255)


def test_error_names_views() -> None:
    with pytest.raises(ValueError, match="no view 'flipp': did you mean 'flip'"):
        TestTimeAugmentation(["flipp"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="views is empty"):
        TestTimeAugmentation([])


@pytest.fixture
def photos(in_tmp: Path) -> Path:
    torch.manual_seed(0)
    for place in ("a.png", "below/b.jpg", "below/deeper/c.png"):
        path = in_tmp / "photos" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(torch.rand(3, 20, 30), path)
    (in_tmp / "photos" / "notes.txt").write_text("no image")
    return in_tmp


@pytest.mark.slow
def test_predict_folder_with_tta(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--trainer.limit_val_batches", "1"]
    quiet = ["--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
    model = ["--model", "SupervisedModule", "--model.backbone", "conv4", "--data", "ShapesDataModule"]
    main(["fit", *model, "--data.num_images", "60", "--data.image_size", "24", *limits, *quiet])
    predict = ["predict", "--ckpt_path", "checkpoints/last.ckpt", "--images", "photos", "--tta", "flip"]
    main([*predict, "--dry_run"])
    assert "3 images in photos" in capsys.readouterr().out
    main([*predict, "--data.batch_size", "2", *limits[2:4], *quiet[2:]])
    head, *rows = [line.split(",") for line in (photos / "predictions.csv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["a.png", "below/b.jpg", "below/deeper/c.png"]
    module = load_module("checkpoints/last.ckpt")
    images = torch.stack([read_image(photos / "photos" / row[0], 24) for row in rows])
    with torch.no_grad():
        views = torch.stack([module(view).softmax(1) for view in (images, images.flip(-1))])
    assert not torch.allclose(views[0], views[1], atol=1e-5)
    probabilities = torch.tensor([[float(cell) for cell in row[3:]] for row in rows])
    assert torch.allclose(probabilities, views.mean(0), atol=2e-6)
    assert [name.removeprefix("p_") for name in head[3:]] != [
        str(k) for k in range(len(head) - 3)
    ]  # columns have class names
    assert {row[1] for row in rows} <= {name.removeprefix("p_") for name in head[3:]}


def test_error_without_checkpoint_or_folder(photos: Path) -> None:
    with pytest.raises(ValueError, match="--images needs a trained model"):
        main(["predict", "--images", "photos"])
    with pytest.raises(FileNotFoundError, match="'photoss' does not exist"):
        main(["predict", "--ckpt_path", "x.ckpt", "--images", "photoss"])


def test_error_for_module_without_probabilities(tmp_path: Path) -> None:
    callback = TestTimeAugmentation()
    module = SimCLRModule(backbone="conv4", in_channels=1)
    with pytest.raises(TypeError, match=r"SimCLRModule\.predict_step returns no `probabilities`"):
        callback.on_predict_batch_end(trainer(tmp_path), module, None, {}, 0)
