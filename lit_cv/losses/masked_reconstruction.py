"""The loss of masked autoencoders."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_cv.nn.patches import patch_statistics

__all__ = ["MaskedReconstructionLoss"]


class MaskedReconstructionLoss(nn.Module):
    """Mean squared error of the hidden patches, in float32 (He et al. 2021, section 3).

    Args:
        norm_pix: Whether to normalize the target pixels of each patch by their mean and standard deviation (unbiased
            variance plus 1e-6), which gave better features in the paper.

    Shapes:
        prediction (N, L, D), target (N, L, D), optional mask (N, L), true or 1 where hidden -> a float32 scalar.
        Without a mask, all patches count.

    Example:
        >>> prediction, target = torch.zeros(1, 2, 3), torch.tensor([[[9.0, 9, 9], [1, 2, 3]]])
        >>> MaskedReconstructionLoss(norm_pix=False)(prediction, target, mask=torch.tensor([[False, True]]))
        tensor(4.6667)
    """

    def __init__(self, norm_pix: bool = True) -> None:
        super().__init__()
        self.norm_pix = norm_pix

    def forward(self, prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the loss.

        Raises:
            ValueError: If the shapes differ.
        """
        if prediction.shape != target.shape or (mask is not None and mask.shape != target.shape[:2]):
            shape = None if mask is None else tuple(mask.shape)
            raise ValueError(
                f"prediction {tuple(prediction.shape)}, target {tuple(target.shape)}, mask {shape}: they must be "
                "(N, L, D), (N, L, D) and (N, L)."
            )
        with torch.autocast(prediction.device.type, enabled=False):
            target = target.float()
            if self.norm_pix:
                mean, std = patch_statistics(target)
                target = (target - mean) / std
            if mask is None:
                return F.mse_loss(prediction.float(), target)
            weight = mask.float()
            error = (prediction.float() - target).square().mean(2)
            return (error * weight).sum() / weight.sum()

    def extra_repr(self) -> str:
        """Return the option."""
        return f"norm_pix={self.norm_pix}"
