"""Predictions averaged over several views of each image."""

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, Literal

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.errors import argument
from lit_cv.suggest import nearest

__all__ = ["TestTimeAugmentation"]

_SHIFT = 16  # images are shifted by their side divided by this
_CROP = 7 / 8  # side of a crop, as a fraction of the image's side


class TestTimeAugmentation(L.Callback):
    """Averages the `probabilities` of `predict` over views of each image (Krizhevsky et al. 2012, section 4.1).

    The unchanged image is always one of the views. The probabilities of all views, after softmax or sigmoid, are
    averaged with equal weights. Choose views that preserve the class: a mirrored digit is another symbol.

    Args:
        views: `flip` adds a mirrored copy of every view, `shift` the image shifted by a sixteenth in four directions
            (with its border repeated), `crop` crops of 7/8 of the side at the center and the corners, resized back.

    Raises:
        ValueError: If a view is unknown, or the list is empty.

    Example:
        >>> TestTimeAugmentation(["flip", "shift"]).count
        10
    """

    __test__ = False  # not a test class for pytest

    def __init__(self, views: list[Literal["flip", "shift", "crop"]] | None = None) -> None:
        chosen: list[str] = list(views) if views is not None else ["flip"]
        if not chosen:
            raise ValueError("views is empty: use flip, shift or crop, or leave the callback out.")
        for name in chosen:
            if name not in ("flip", *_VIEWS):
                raise ValueError(f"no view {name!r}{nearest(name, ('flip', *_VIEWS))} Views: flip, shift, crop.")
        self.views = chosen

    @property
    def count(self) -> int:
        """Number of views per image."""
        return len(list(self.augmented(torch.zeros(1, 1, 16, 16)))) + 1

    def augmented(self, images: Tensor) -> Iterator[Tensor]:
        """Yield all views of images (N, C, H, W), uint8 or float in [0, 1], except the unchanged ones."""
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
        """Predict the other views and replace the probabilities by the mean."""
        if not isinstance(outputs, MutableMapping) or not isinstance(outputs.get("probabilities"), Tensor):
            raise TypeError(
                f"{type(pl_module).__name__}.predict_step returns no `probabilities` to average over views. Leave out "
                f"{argument('tta')}."
            )
        total, count = outputs["probabilities"].float(), 1
        for view in self.augmented(batch["image"]):
            with trainer.precision_plugin.predict_step_context():
                outputs_of_view: Any = pl_module.predict_step({**batch, "image": view}, batch_idx)
            total, count = total + outputs_of_view["probabilities"].float(), count + 1
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
