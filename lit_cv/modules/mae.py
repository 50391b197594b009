"""Masked autoencoding: a vision transformer learns by reconstructing hidden patches of images."""

from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from lit_cv.errors import OptionError
from lit_cv.losses import MaskedReconstructionLoss
from lit_cv.modules.base import BaseModule, Batch, Output, Stage
from lit_cv.nn.mae_decoder import MAEDecoder, load_decoder
from lit_cv.nn.masking import fixed_noise, mask_indices, patch_mask, visible_count
from lit_cv.nn.patches import gather_patches, patch_grid, patch_statistics, patchify, unpatchify
from lit_cv.nn.vit import VIT, VisionTransformer, is_vit_name

__all__ = ["MAEModule"]


class MAEModule(BaseModule):
    """Trains a vision transformer to reconstruct masked patches (He et al. 2021, "Masked Autoencoders").

    It hides most patches of each image of a batch with `image` (N, C, H, W) and encodes the others. From these a small
    decoder predicts the pixels of the hidden patches; the loss is the mean squared error on them. Labels are not used.
    The encoder is a backbone like any other: other modules load the checkpoint as their `weights`.

    It logs `{stage}_loss`, and in validation and test `psnr`, the peak signal-to-noise ratio of the hidden pixels in
    dB, averaged over images. Validation and test use a fixed mask for each image, so that epochs can be compared.

    Args:
        backbone: Name of a vision transformer: `vit_micro`, `vit_tiny`, `vit_small`, `vit_base`, `vit_large` or
            `vit_huge`. The patch size depends on the image size unless the name contains it: `vit_tiny_p4`. With the
            suffix `_gap` there is no class token.
        mask_ratio: Fraction of hidden patches.
        mask: Pattern of hidden patches: `random`, a few growing rectangles (`block`), or all except a regular lattice
            (`grid`).
        norm_pix: Whether the target is normalized within each patch.
        decoder_width: Width of the decoder (512 in the paper).
        decoder_depth: Number of decoder blocks (8 in the paper).
        decoder_heads: Number of the decoder's attention heads (16 in the paper).
        betas: Decay rates of the two moments of `adamw` and `adam`.
        **kwargs: Arguments of `BaseModule`.

    Raises:
        ValueError: If the backbone is not a vision transformer of this project, or a value is not allowed.

    Example:
        >>> module = MAEModule(backbone="vit_micro", image_size=28, in_channels=1)
        >>> reconstruction, mask = module(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))
        >>> reconstruction.shape, mask.shape, mask.sum(1)
        (torch.Size([2, 1, 28, 28]), torch.Size([2, 49]), tensor([37, 37]))
    """

    uses_unlabeled = True
    evaluates_embedding: ClassVar[bool] = True

    def __init__(
        self,
        backbone: str = "vit_tiny",
        mask_ratio: float = 0.75,
        mask: Literal["random", "block", "grid"] = "random",
        norm_pix: bool = True,
        decoder_width: int = 256,
        decoder_depth: int = 4,
        decoder_heads: int = 8,
        betas: tuple[float, float] = (0.9, 0.95),
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone=backbone, betas=betas, **kwargs)
        if not is_vit_name(backbone):
            raise OptionError(
                self,
                "backbone",
                backbone,
                f"must be one of {', '.join(VIT)}, since MAEModule encodes only the visible patches",
            )
        visible_count(2, mask_ratio)  # raises an error for an invalid ratio
        self.loss = MaskedReconstructionLoss(norm_pix)

    def configure_head(self, num_features: int) -> nn.Module:
        """Return the decoder; the encoder's position embeddings stay fixed."""
        h, body = self.hparams, self._encoder
        body.pos_embed.requires_grad_(False)
        decoder = MAEDecoder(
            num_features,
            body.patch_size**2 * h["in_channels"],
            width=h["decoder_width"],
            depth=h["decoder_depth"],
            heads=h["decoder_heads"],
        )
        if h["weights"] is not None:
            load_decoder(decoder, h["backbone"], h["weights"])
        return decoder

    def forward(self, images: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Reconstruct images from a part of their patches.

        Args:
            images: (N, C, H, W), uint8 or float in [0, 1].
            mask: (N, L) or (N, rows, columns) bool, True for hidden patches, with the same number in each image. The
                default is a random mask in training mode, a fixed one otherwise.

        Returns:
            The reconstruction (N, C, H, W) including visible patches, float, approximately in [0, 1]; and the mask
            (N, L) bool. With `norm_pix` the mean and standard deviation of each patch are those of the image.

        Raises:
            ValueError: If the images cannot be divided into patches, or the mask does not fit.
        """
        patches, grid = self._to_patches(images)
        if mask is None:
            mask = self._draw(patches, grid, None if self.training else torch.arange(len(images), device=images.device))
        elif tuple(mask.shape) not in (patches.shape[:2], (len(patches), *grid)):
            raise ValueError(
                f"the mask has the shape {tuple(mask.shape)}: {len(patches)} images of {grid[0]}x{grid[1]} patches "
                f"need {tuple(patches.shape[:2])} or {(len(patches), *grid)}."
            )
        mask = mask.flatten(1).bool()
        keep, hidden = mask_indices(mask)
        prediction = self.predict_patches(patches, grid, keep, hidden, everything=True)
        pixels = self._to_pixels(prediction, patches)
        return unpatchify(pixels.flatten(2), grid, self._encoder.patch_size), mask

    def step(self, batch: Batch, stage: Stage) -> Output:
        """Reconstruct a batch and compute the loss on the hidden patches."""
        images = batch["image"]
        patches, grid = self._to_patches(images)
        index = None
        if stage != "train":
            index = batch.get("index", torch.arange(len(images), device=images.device))
        mask = self._draw(patches, grid, index)
        keep, hidden = mask_indices(mask, visible_count(mask.shape[1], self.hparams["mask_ratio"]))
        prediction = self.predict_patches(patches, grid, keep, hidden)
        target = gather_patches(patches, hidden)
        output = {"loss": self.loss(prediction, target)}
        if stage != "train":
            error = self._to_pixels(prediction, target).clamp(0, 1) - self._to_pixels(target)
            output["psnr"] = -10 * error.square().mean((1, 2, 3)).clamp_min(1e-10).log10().mean()
        return output

    def compiled_networks(self) -> list[nn.Module]:
        """Return the encoder and decoder blocks, which are compiled one by one."""
        decoder: Any = self.head
        return [*self._encoder.blocks, *decoder.blocks]

    def predict_patches(
        self, patches: Tensor, grid: tuple[int, int], keep: Tensor, hidden: Tensor, everything: bool = False
    ) -> Tensor:
        """Return the decoder's prediction of patches, given only those in `keep`.

        Args:
            patches: (N, L, D) of normalized images.
            grid: Rows and columns of patches.
            keep: (N, K), indices of the encoded patches.
            hidden: (N, L - K), indices of the other ones.
            everything: Whether to predict all patches.

        Returns:
            (N, L - K, D), or (N, L, D) with `everything`: pixels of normalized images, or of normalized patches with
            `norm_pix`.
        """
        tokens = self._encoder.encode(gather_patches(patches, keep), grid, keep)
        return cast(Tensor, self.head(tokens, keep, hidden, grid, everything))

    def embed(self, images: Tensor) -> Tensor:
        """Return the mean of the patch tokens (N, num_features) of raw images, without masking."""
        self.configure_model()
        tokens = self._encoder.forward_features(self.backbone.normalize(images))
        return tokens[:, self._encoder.num_prefix_tokens :].mean(1)

    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reconstruction (N, C, H, W) in [0, 1] and the mask of hidden pixels, (N, 1, H, W) bool."""
        reconstruction, mask = self(images)
        side = self._encoder.patch_size
        places = mask.view(-1, 1, *patch_grid((images.shape[2], images.shape[3]), side))
        return reconstruction.clamp(0, 1), places.repeat_interleave(side, 2).repeat_interleave(side, 3)

    @property
    def _encoder(self) -> VisionTransformer:
        return cast(VisionTransformer, self.backbone.body)

    def _to_patches(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the patches of normalized images, and the numbers of their rows and columns."""
        self.configure_model()
        side = self._encoder.patch_size
        return patchify(self.backbone.normalize(images), side), patch_grid((images.shape[2], images.shape[3]), side)

    def _draw(self, patches: Tensor, grid: tuple[int, int], index: Tensor | None) -> Tensor:
        """Return a mask (N, L): random, or fixed by the dataset positions `index` of the images."""
        n, length = patches.shape[:2]
        noise = torch.rand(n, length, device=patches.device) if index is None else fixed_noise(index, length)
        return patch_mask(self.hparams["mask"], noise, grid, visible_count(length, self.hparams["mask_ratio"]))

    def _to_pixels(self, patches: Tensor, true: Tensor | None = None) -> Tensor:
        """Undo the normalization: (N, L, P * P * C) to (N, L, P * P, C) in [0, 1].

        With the `true` patches it also undoes that of `norm_pix`.
        """
        patches = patches.float()
        if true is not None and self.hparams["norm_pix"]:
            mean, std = patch_statistics(true.float())
            patches = patches * std + mean
        pixels = patches.view(*patches.shape[:2], -1, self.hparams["in_channels"])
        return pixels * self.backbone.std.float().flatten() + self.backbone.mean.float().flatten()
