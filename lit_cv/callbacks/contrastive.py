"""Random views of each training image, for contrastive learning."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_cv.augment import Chain, build_operations, simclr_operations
from lit_cv.augment.checks import check_interval, check_number, check_probability
from lit_cv.callbacks.augmentation import image_size, unviewed_batches
from lit_cv.errors import OptionError
from lit_cv.randomness import fixed_seed

__all__ = ["ContrastiveAugmentation", "local_view_side"]

_SMALL = 64  # pixels; smaller views are not blurred by default


class ContrastiveAugmentation(L.Callback):
    """Adds random views of each training image to the batch, for contrastive learning.

    `batch["views"]` is (n_views, N, C, size, size), of the images' dtype, so that `views.flatten(0, 1)` is
    encoded in one pass. Each view of each image gets its own random draw of SimCLR's operations (Chen et al., 2020,
    appendix A): resized crop, horizontal flip, color distortion, grayscale, blur. Validation and test views are the
    same in every epoch, so that losses can be compared between epochs.

    With `local_views`, batches also get `local_views` (L, N, C, h, w), smaller views of smaller areas, as in the
    multi-crop of SwAV (Caron et al., 2020). A network encodes them in less time than the other, global views. DINO
    (Caron et al., 2021) has two global views of areas 0.4 to 1 and eight local views of areas 0.05 to 0.4. Modules that
    do not use local views raise an error.

    Args:
        size: Size of the views in pixels; None for the image size of the data. With `operations`, the last crop also
            uses the image size of the data unless it has a size.
        n_views: Number of views per image.
        strength: Strength of the color distortion; the paper uses 1 for ImageNet, 0.5 for CIFAR-10.
        min_scale: Minimum area of the crop of a global view, as a fraction of the image.
        max_scale: Maximum area of that crop.
        blur: Probability of a Gaussian blur, or a list with one probability per view. None means 0.5, or 0 for views
            smaller than 64 pixels, as in the paper.
        solarize: Probability of solarization, or a list with one probability per view. BYOL's two views have blur
            [1.0, 0.1] and solarize [0.0, 0.2].
        exact: Whether colors are changed exactly, or faster by one matrix per image: see `augment.ColorJitter`.
        operations: Operations of all global views instead of SimCLR's, in the format of `Augmentation`; or a list of
            such lists, one per view.
        local_views: Number of local views per image.
        local_size: Size of the local views in pixels; None for about 3/7 of the size of the global views, 96 pixels for
            224, see `local_view_side`. With `local_operations`, the size of their last crop, unless that has its own.
        local_scale: Minimum and maximum area of the crop of a local view, as fractions of the image.
        local_blur: Probability of a Gaussian blur of a local view; None as for `blur`.
        local_operations: Operations of all local views instead of SimCLR's, in the format of `Augmentation`. Local
            views need them if `operations` is set.

    Raises:
        TypeError: If a batch is not a dict with "image".
        ValueError: If a list does not have one entry per view, or a number is out of range.

    Example:
        >>> batch = {"image": torch.zeros(4, 3, 32, 32, dtype=torch.uint8)}
        >>> ContrastiveAugmentation().on_train_batch_start(None, None, batch, 0)
        >>> batch["views"].shape, batch["views"].dtype
        (torch.Size([2, 4, 3, 32, 32]), torch.uint8)
        >>> ContrastiveAugmentation(min_scale=0.4, local_views=6).local_crops(batch["image"]).shape
        torch.Size([6, 4, 3, 16, 16])
    """

    changes_images = True  # so features cannot be cached

    def __init__(
        self,
        size: int | None = None,
        n_views: int = 2,
        strength: float = 1.0,
        min_scale: float = 0.08,
        max_scale: float = 1.0,
        blur: float | list[float] | None = None,
        solarize: float | list[float] = 0.0,
        exact: bool = True,
        operations: list[Any] | None = None,
        local_views: int = 0,
        local_size: int | None = None,
        local_scale: list[float] = [0.05, 0.4],  # noqa: B006 - shown by the command line, never modified
        local_blur: float | None = None,
        local_operations: list[Any] | None = None,
    ) -> None:
        if type(n_views) is not int or n_views < 2:
            raise OptionError(self, "n_views", n_views, "must be an integer of at least 2")
        if type(local_views) is not int or local_views < 0:
            raise OptionError(self, "local_views", local_views, "must be an integer of at least 0")
        if local_size is not None and (type(local_size) is not int or local_size < 1):
            raise OptionError(self, "local_size", local_size, "must be a number of pixels, at least 1")
        if check_number("min_scale", min_scale, 1e-6, 1.0) > check_number("max_scale", max_scale, 1e-6, 1.0):
            raise OptionError(self, "max_scale", max_scale, f"must be at least min_scale={min_scale}")
        if local_views and operations is not None and local_operations is None:
            raise OptionError(self, "local_operations", None, "must be set if `operations` and `local_views` are")
        low, high = check_interval("local_scale", local_scale, 1e-6, 1.0)
        self.n_views, self.n_local_views = n_views, local_views
        self.size, self.local_size = size, local_size
        options: dict[str, Any] = {"strength": strength, "exact": exact}
        self._options = {"size": size, "min_scale": min_scale, "max_scale": max_scale, **options}
        self._local_options = {"min_scale": low, "max_scale": high, **options}
        self._blur = None if blur is None else _per_view("blur", blur, n_views)
        self._local_blur = None if local_blur is None else check_probability("local_blur", local_blur)
        self._solarize = _per_view("solarize", solarize, n_views)
        self._data_size: tuple[int, int] | None = None
        self._operations, self._local_operations = operations, local_operations
        # All are built now, so that a wrong argument is reported now.
        self._chains = {small: self._build(small) for small in (False, True)}
        self._local_chains = {small: self._build_local(small) for small in (False, True)}

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
            self._add_views(part)

    @torch.no_grad()
    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Add views that depend only on the position of the batch."""
        for part in unviewed_batches(batch, "ContrastiveAugmentation"):
            with fixed_seed(batch_idx, dataloader_idx, trainer.global_rank):
                self._add_views(part)

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
        chains = self._chains[side < _SMALL]
        n = len(images)
        if len(chains) == 1:
            made = chains[0](images.repeat(self.n_views, 1, 1, 1))
            return made.view(self.n_views, n, *made.shape[1:])
        return torch.stack([chain(images) for chain in chains])

    def local_crops(self, images: Tensor) -> Tensor:
        """Return local views of images.

        Args:
            images: (N, C, H, W) uint8, or floating point in [0, 1].

        Returns:
            (local_views, N, C, h, w), of the images' dtype.
        """
        height, width = self._chains[False][0].output_size((images.shape[2], images.shape[3]))
        if self.local_size is None:
            size = (local_view_side(height), local_view_side(width))
        else:
            size = (self.local_size, self.local_size)
        chain = self._local_chains[min(size) < _SMALL]
        chain.crop_to(size)
        made = chain(images.repeat(self.n_local_views, 1, 1, 1))
        return made.view(self.n_local_views, len(images), *made.shape[1:])

    def _add_views(self, batch: dict[str, Any]) -> None:
        batch["views"] = self.views(batch["image"])
        if self.n_local_views:
            batch["local_views"] = self.local_crops(batch["image"])

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
        blurs = self._blur or [_default_blur(small)] * self.n_views
        kinds = list(zip(blurs, self._solarize, strict=True))
        if len(set(kinds)) == 1:
            kinds = kinds[:1]
        return [
            build_operations(simclr_operations(blur=blur, solarize=solarize, **self._options))
            for blur, solarize in kinds
        ]

    def _build_local(self, small: bool) -> Chain:
        if self._local_operations is not None:
            return build_operations(self._local_operations)
        blur = _default_blur(small) if self._local_blur is None else self._local_blur
        return build_operations(simclr_operations(blur=blur, **self._local_options))


def local_view_side(side: int) -> int:
    """Return the default side of local views for global views with this side, in pixels.

    It is 3/7 of `side` (DINO's 96 of 224), rounded to a multiple of a common patch size that divides `side`, so that a
    vision transformer with such patches accepts both; at least 8 if `side` is.

    Args:
        side: Side of the global views in pixels.

    Example:
        >>> [local_view_side(side) for side in (224, 96, 64, 32, 28, 8)]
        [96, 48, 32, 16, 12, 8]
    """
    multiple = next(patch for patch in (16, 8, 4, 14, 2, 1) if side % patch == 0 and (patch < side or side == 1))
    return max(multiple * round(3 * side / 7 / multiple), multiple, min(side, 8))


def _default_blur(small: bool) -> float:
    return 0.0 if small else 0.5


def _per_view(name: str, value: float | list[float], n_views: int) -> list[float]:
    if isinstance(value, list):
        if len(value) != n_views:
            raise OptionError(None, name, value, f"must be a number, or a list of n_views={n_views} numbers")
        return [float(entry) for entry in value]
    return [float(value)] * n_views
