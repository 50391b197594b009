"""Masked autoencoding: a vision transformer learns by rebuilding the hidden patches of images."""

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
    """Learns a vision transformer by rebuilding masked patches (He et al. 2021, "Masked Autoencoders").

    Of a batch with `image` (N, C, H, W) it hides most patches of each image, encodes the others, and a small
    decoder predicts the pixels of the hidden ones from them; the loss is the mean squared error there. Labels are
    not looked at. The encoder is a backbone like any other: `weights` of another module takes the
    checkpoint.

    Logs `{stage}_loss`, and in validation and test `psnr`, the peak signal-to-noise ratio of the hidden pixels in
    dB, averaged over images. There an image is always masked alike, so that epochs can be compared.

    Args:
        backbone: Name of a vision transformer: `vit_micro`, `vit_tiny`, `vit_small`, `vit_base`, `vit_large` or
            `vit_huge`. The side of its patches is chosen by the image size unless the name gives it: `vit_tiny_p4`.
            `_gap` at the end leaves the class token out.
        mask_ratio: Share of the patches that is hidden.
        mask: Which ones: `random`, a few growing rectangles (`block`), or all but a regular lattice (`grid`).
        norm_pix: Whether the target is normalised in each patch.
        decoder_width: Width of the decoder (512 in the paper).
        decoder_depth: Number of its blocks (8 in the paper).
        decoder_heads: Number of its attention heads (16 in the paper).
        betas: Decay rates of the two moments of `adamw` and `adam`.
        **kwargs: Arguments of `BaseModule`.

    Raises:
        ValueError: If the backbone is no vision transformer of this project, or a value does not fit.

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
                f"MAEModule encodes the visible patches alone, which takes one of {', '.join(VIT)}",
            )
        visible_count(2, mask_ratio)  # raises unless it is a share
        self.loss = MaskedReconstructionLoss(norm_pix)

    def configure_head(self, num_features: int) -> nn.Module:
        """Return the decoder; the encoder's positions stay as they are."""
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
        """Rebuild images from a part of their patches.

        Args:
            images: (N, C, H, W), uint8 or float in [0, 1].
            mask: (N, L) or (N, rows, columns) bool, True for patches to hide, as many in each image. By default it
                is drawn anew in training mode, and otherwise a fixed one.

        Returns:
            The reconstruction (N, C, H, W), float in [0, 1] but for errors, of visible patches, too; and the mask,
            (N, L) bool. Under `norm_pix` the mean and standard deviation of each patch are taken from the image.

        Raises:
            ValueError: If the images cannot be cut into patches, or the mask does not fit.
        """
        patches, grid = self._cut(images)
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
        """Rebuild a batch and compare the hidden patches."""
        images = batch["image"]
        patches, grid = self._cut(images)
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
        """Return the blocks of encoder and decoder, which are alike and compiled once each."""
        decoder: Any = self.head
        return [*self._encoder.blocks, *decoder.blocks]

    def predict_patches(
        self, patches: Tensor, grid: tuple[int, int], keep: Tensor, hidden: Tensor, everything: bool = False
    ) -> Tensor:
        """Return what the decoder says of patches of which it has not seen the `hidden` ones.

        Args:
            patches: (N, L, D) of normalised images.
            grid: Rows and columns of patches.
            keep: (N, K), the patches that are encoded.
            hidden: (N, L - K), the others.
            everything: Whether to predict all patches.

        Returns:
            (N, L - K, D), or (N, L, D) for everything: pixels of normalised images, or of normalised patches under
            `norm_pix`.
        """
        tokens = self._encoder.encode(gather_patches(patches, keep), grid, keep)
        return cast(Tensor, self.head(tokens, keep, hidden, grid, everything))

    def embed(self, images: Tensor) -> Tensor:
        """Return the mean of the patch tokens (N, num_features) of raw images, nothing hidden."""
        self.configure_model()
        tokens = self._encoder.forward_features(self.backbone.normalize(images))
        return tokens[:, self._encoder.num_prefix_tokens :].mean(1)

    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reconstruction (N, C, H, W) in [0, 1] and where pixels were hidden, (N, 1, H, W) bool."""
        reconstruction, mask = self(images)
        side = self._encoder.patch_size
        places = mask.view(-1, 1, *patch_grid((images.shape[2], images.shape[3]), side))
        return reconstruction.clamp(0, 1), places.repeat_interleave(side, 2).repeat_interleave(side, 3)

    @property
    def _encoder(self) -> VisionTransformer:
        return cast(VisionTransformer, self.backbone.body)

    def _cut(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the patches of normalised images, and their rows and columns."""
        self.configure_model()
        side = self._encoder.patch_size
        return patchify(self.backbone.normalize(images), side), patch_grid((images.shape[2], images.shape[3]), side)

    def _draw(self, patches: Tensor, grid: tuple[int, int], index: Tensor | None) -> Tensor:
        """Draw a mask (N, L), a fixed one for images with a number."""
        n, length = patches.shape[:2]
        noise = torch.rand(n, length, device=patches.device) if index is None else fixed_noise(index, length)
        return patch_mask(self.hparams["mask"], noise, grid, visible_count(length, self.hparams["mask_ratio"]))

    def _to_pixels(self, patches: Tensor, true: Tensor | None = None) -> Tensor:
        """Undo the normalisation: (N, L, P * P * C) to (N, L, P * P, C) in [0, 1].

        With `true` patches it undoes that of `norm_pix`, too.
        """
        patches = patches.float()
        if true is not None and self.hparams["norm_pix"]:
            mean, std = patch_statistics(true.float())
            patches = patches * std + mean
        pixels = patches.view(*patches.shape[:2], -1, self.hparams["in_channels"])
        return pixels * self.backbone.std.float().flatten() + self.backbone.mean.float().flatten()
