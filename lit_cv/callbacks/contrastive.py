"""Random views of each training image, for contrastive learning."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_cv.augment import Chain, build_operations, simclr_operations
from lit_cv.callbacks.augmentation import image_size, unviewed_batches
from lit_cv.errors import OptionError
from lit_cv.randomness import fixed_seed

__all__ = ["ContrastiveAugmentation"]


class ContrastiveAugmentation(L.Callback):
    """Adds random views of each training image to the batch, for contrastive learning.

    `batch["views"]` is (n_views, N, C, size, size), of the images' dtype, so that `views.flatten(0, 1)` is
    encoded in one pass. Each view of each image gets its own random draw of SimCLR's operations (Chen et al., 2020,
    appendix A): resized crop, horizontal flip, color distortion, grayscale, blur. Validation and test views are the
    same in every epoch, so that losses can be compared between epochs.

    Args:
        size: Size of the views in pixels; None for the image size of the data. With `operations`, the last crop also
            uses the image size of the data unless it has a size.
        n_views: Number of views per image.
        strength: Strength of the color distortion; the paper uses 1 for ImageNet, 0.5 for CIFAR-10.
        min_scale: Minimum area of the crop, as a fraction of the image.
        blur: Probability of a Gaussian blur, or a list with one probability per view. None means 0.5, or 0 for views
            smaller than 64 pixels, as in the paper.
        solarize: Probability of solarization, or a list with one probability per view. BYOL's two views have blur
            [1.0, 0.1] and solarize [0.0, 0.2].
        exact: Whether colors are changed exactly, or faster by one matrix per image: see `augment.ColorJitter`.
        operations: Operations of all views instead of SimCLR's, in the format of `Augmentation`; or a list of such
            lists, one per view.

    Raises:
        TypeError: If a batch is not a dict with "image".
        ValueError: If a list does not have one entry per view.

    Example:
        >>> batch = {"image": torch.zeros(4, 3, 32, 32, dtype=torch.uint8)}
        >>> ContrastiveAugmentation().on_train_batch_start(None, None, batch, 0)
        >>> batch["views"].shape, batch["views"].dtype
        (torch.Size([2, 4, 3, 32, 32]), torch.uint8)
    """

    changes_images = True  # so features cannot be cached

    def __init__(
        self,
        size: int | None = None,
        n_views: int = 2,
        strength: float = 1.0,
        min_scale: float = 0.08,
        blur: float | list[float] | None = None,
        solarize: float | list[float] = 0.0,
        exact: bool = True,
        operations: list[Any] | None = None,
    ) -> None:
        if type(n_views) is not int or n_views < 2:
            raise OptionError(self, "n_views", n_views, "must be an integer of at least 2")
        self.n_views = n_views
        self.size = size
        self._options: dict[str, Any] = {"strength": strength, "min_scale": min_scale, "exact": exact}
        self._blur = None if blur is None else _per_view("blur", blur, n_views)
        self._solarize = _per_view("solarize", solarize, n_views)
        self._data_size: tuple[int, int] | None = None
        self._chains: dict[bool, list[Chain]] = {}
        self._operations = operations
        for small in (False, True):  # report a wrong argument now
            self._chains[small] = self._build(small)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Set the view size to the image size of the data, unless a size was set."""
        self._data_size = image_size(trainer)
        for chain in {chain for chains in self._chains.values() for chain in chains}:
            chain.crop_to(self._data_size)

    @torch.no_grad()
    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Add views to the batch, or to the batches nested in it."""
        for part in unviewed_batches(batch, "ContrastiveAugmentation"):
            part["views"] = self.views(part["image"])

    @torch.no_grad()
    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Add views that depend only on the position of the batch."""
        for part in unviewed_batches(batch, "ContrastiveAugmentation"):
            with fixed_seed(batch_idx, dataloader_idx, trainer.global_rank):
                part["views"] = self.views(part["image"])

    def on_test_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Add views that depend only on the position of the batch."""
        self.on_validation_batch_start(*args, **kwargs)

    def views(self, images: Tensor) -> Tensor:
        """Return views of images.

        Args:
            images: (N, C, H, W) uint8, or floating point in [0, 1].

        Returns:
            (n_views, N, C, size, size), of the images' dtype.
        """
        side = self.size or min(self._data_size or images.shape[2:])
        chains = self._chains[side < 64]
        n = len(images)
        if len(chains) == 1:
            made = chains[0](images.repeat(self.n_views, 1, 1, 1))
            return made.view(self.n_views, n, *made.shape[1:])
        return torch.stack([chain(images) for chain in chains])

    def _build(self, small: bool) -> list[Chain]:
        operations = self._operations
        if operations is not None:
            if not all(isinstance(entry, list) for entry in operations):
                return [build_operations(operations)]
            if len(operations) != self.n_views:
                raise ValueError(
                    f"operations has {len(operations)} lists: it must have one per view (n_views={self.n_views})."
                )
            return [build_operations(entry) for entry in operations]
        blurs = self._blur or [0.0 if small else 0.5] * self.n_views
        kinds = list(zip(blurs, self._solarize, strict=True))
        if len(set(kinds)) == 1:
            kinds = kinds[:1]
        return [
            build_operations(simclr_operations(self.size, blur=blur, solarize=solarize, **self._options))
            for blur, solarize in kinds
        ]


def _per_view(name: str, value: float | list[float], n_views: int) -> list[float]:
    if isinstance(value, list):
        if len(value) != n_views:
            raise OptionError(None, name, value, f"must be a number, or a list of n_views={n_views} numbers")
        return [float(entry) for entry in value]
    return [float(value)] * n_views
