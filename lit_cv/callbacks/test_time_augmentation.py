"""Predictions averaged over several views of each image."""

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, Literal

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.suggest import nearest

__all__ = ["TestTimeAugmentation"]

_SHIFT = 16  # a shift moves an image by this part of its side
_CROP = 7 / 8  # side of a crop, as a share of the image's


class TestTimeAugmentation(L.Callback):
    """Averages the `probabilities` of `predict` over views of each image (Krizhevsky et al. 2012, section 4.1).

    The image as it is always counts as one view. All others are averaged with it, each with the same weight, after
    softmax or sigmoid. Choose views that leave a class what it is: a mirrored digit is another sign.

    Args:
        views: `flip` adds every view mirrored, `shift` the image moved by a sixteenth to the four sides (its border
            repeated), `crop` the crops of 7/8 of the side at the center and the four corners, enlarged again.

    Raises:
        ValueError: If a view is unknown, or there is none.

    Example:
        >>> TestTimeAugmentation(["flip", "shift"]).count
        10
    """

    __test__ = False  # no test of pytest

    def __init__(self, views: list[Literal["flip", "shift", "crop"]] | None = None) -> None:
        chosen: list[str] = list(views) if views is not None else ["flip"]
        if not chosen:
            raise ValueError("views is empty: give flip, shift or crop, or leave the callback out.")
        for name in chosen:
            if name not in ("flip", *_VIEWS):
                raise ValueError(f"no view {name!r}{nearest(name, ('flip', *_VIEWS))} There are flip, shift and crop.")
        self.views = chosen

    @property
    def count(self) -> int:
        """Number of views of an image."""
        return len(list(self.augmented(torch.zeros(1, 1, 16, 16)))) + 1

    def augmented(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the views of images (N, C, H, W), uint8 or float in [0, 1], but for the images as they are."""
        flip = "flip" in self.views
        if flip:
            yield images.flip(-1)
        for name in self.views:
            for view in _VIEWS[name](images) if name in _VIEWS else ():
                yield view
                if flip:
                    yield view.flip(-1)

    @torch.no_grad()
    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Predict the other views, and put the mean in the place of the probabilities."""
        if not isinstance(outputs, MutableMapping) or not isinstance(outputs.get("probabilities"), Tensor):
            raise TypeError(
                f"{type(pl_module).__name__}.predict_step returns no `probabilities` to average over views: leave "
                "test-time augmentation out (--tta)."
            )
        total, count = outputs["probabilities"].float(), 1
        for view in self.augmented(batch["image"]):
            with trainer.precision_plugin.predict_step_context():
                found: Any = pl_module.predict_step({**batch, "image": view}, batch_idx)
            total, count = total + found["probabilities"].float(), count + 1
        outputs["probabilities"] = total / count


def _shifts(images: Tensor) -> Iterator[Tensor]:
    height, width = images.shape[-2:]
    by = max(1, height // _SHIFT), max(1, width // _SHIFT)
    rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
    for sign in (-1, 1):
        yield images.index_select(-2, (rows + sign * by[0]).clamp(0, height - 1))
        yield images.index_select(-1, (columns + sign * by[1]).clamp(0, width - 1))


def _crops(images: Tensor) -> Iterator[Tensor]:
    height, width = images.shape[-2:]
    h, w = max(1, round(_CROP * height)), max(1, round(_CROP * width))
    pixels = images.float() / 255 if images.dtype == torch.uint8 else images
    corners = [(top, left) for top in (0, height - h) for left in (0, width - w)]
    for top, left in (((height - h) // 2, (width - w) // 2), *corners):
        part = pixels[..., top : top + h, left : left + w]
        yield F.interpolate(part, (height, width), mode="bilinear", align_corners=False).clamp(0, 1)


_VIEWS: dict[str, Callable[[Tensor], Iterator[Tensor]]] = {"shift": _shifts, "crop": _crops}
