"""NT-Xent, the loss of SimCLR, and SupCon, its supervised form."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_cv.distributed import gather_batches, gather_with_gradient, global_rank, joined_mean, world_size
from lit_cv.errors import OptionError
from lit_cv.losses.similarity import log_sum_exp_similarity

__all__ = ["NTXentLoss", "counted_nt_xent", "nt_xent"]


class NTXentLoss(nn.Module):
    """Normalized temperature-scaled cross-entropy (Chen et al. 2020, equation 1; Sohn 2016).

    Each view of an image must identify the other views of that image among all views of the batch. With
    s_ij = cos(z_i, z_j) / temperature, the loss of view i with positives P(i) is

        log(sum_{k != i} exp(s_ik)) - mean_{p in P(i)} s_ip,

    averaged over all views of all images. P(i) are the other views of the same image. With labels, P(i) are all other
    views of all images of the same class, which is SupCon (Khosla et al. 2020, equation 2). A view without positives
    has no loss and does not count. With a single view per image, this happens to images without a label or alone in
    their class.

    The loss is computed in at least float32, also under autocast, with the maximum subtracted. With several ranks,
    the negatives come from all of them, and after DDP's averaging the gradients equal those of one rank with the
    joined batch. Gradient accumulation adds losses of small batches: it makes the gradient less noisy but adds no
    negatives.

    Memory grows linearly with the batch: large similarity matrices are computed in strips, and computed again in a
    custom backward pass.

    Args:
        temperature: Positive divisor of the cosine similarities. Small values emphasize the hardest negatives.
        gather: Whether to use negatives from all ranks, each of which must then have the same number of images.
        chunk_size: Number of views compared with all others at a time; `None` chooses by the batch.

    Shapes:
        any number of views, each (N, D) float, not necessarily normalized, or one tensor (views, N, D); labels
        (N,) int64, -1 if unknown -> scalar.

    Raises:
        ValueError: If the temperature is not positive, or the shapes are wrong.

    Example:
        >>> z = torch.eye(4, 16)
        >>> round(NTXentLoss(temperature=0.5)(z, z).item(), 4)  # log(e^2 + 6) - 2
        0.5944
    """

    def __init__(self, temperature: float = 0.5, gather: bool = True, chunk_size: int | None = None) -> None:
        super().__init__()
        _check_temperature(temperature)
        if chunk_size is not None and chunk_size < 1:
            raise OptionError(self, "chunk_size", chunk_size, "must be at least 1, or None to choose by the batch")
        self.temperature = temperature
        self.gather = gather
        self.chunk_size = chunk_size

    def forward(self, *views: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the mean loss of the views (N, D) of N images."""
        stacked = views[0] if len(views) == 1 and views[0].ndim == 3 else _stack(views)
        return nt_xent(stacked, self.temperature, labels, self.gather, self.chunk_size)

    def extra_repr(self) -> str:
        """Return the temperature."""
        return f"temperature={self.temperature}"


def nt_xent(
    views: Tensor,
    temperature: float,
    labels: Tensor | None = None,
    gather: bool = True,
    chunk_size: int | None = None,
) -> Tensor:
    """Return the loss of `NTXentLoss`.

    Args:
        views: (V, N, D), V views of N images.
        temperature: Positive.
        labels: (N,) int64, -1 if unknown, for SupCon.
        gather: Whether to use negatives from all ranks.
        chunk_size: Number of views compared with all others at a time; `None` chooses by the batch.
    """
    return counted_nt_xent(views, temperature, labels, gather, chunk_size)[0]


def counted_nt_xent(
    views: Tensor,
    temperature: float,
    labels: Tensor | None = None,
    gather: bool = True,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the loss of `NTXentLoss`, and the number of views that it is the mean of; see `nt_xent`."""
    _check(views, temperature, labels)
    with torch.autocast(views.device.type, enabled=False):
        z = views if views.dtype == torch.float64 else views.float()
        z = F.normalize(z, dim=-1, eps=1e-8)
        logs = log_sum_exp_similarity(z.flatten(0, 1), temperature, gather, chunk_size)
        if len(z) * z.shape[1] * (world_size() if gather else 1) == 1:
            return (z * 0).sum(), logs.new_zeros(())  # a single view has nothing to be compared with
        if labels is None:
            total = z.sum(0)  # z_i . (total - z_i) sums over the other views of the same image
            similarity = (z * (total - z)).sum(-1).mean() / (len(views) - 1)
            return logs.mean() - similarity / temperature, logs.new_tensor(len(logs))
        similarity, count = _class_similarity(z, labels, gather)
        losses = logs - similarity / temperature / count.clamp_min(1)
        has_positives = count > 0
        return joined_mean(torch.where(has_positives, losses, 0.0).sum(), has_positives.sum(), gather)


def _class_similarity(z: Tensor, labels: Tensor, gather: bool) -> tuple[Tensor, Tensor]:
    """Return each view's summed similarity to the other views of its class, and their number, both (V N,)."""
    n_views, n, _ = z.shape
    # An image without a label gets a unique class.
    offset = global_rank() * n if gather else 0
    classes = torch.where(labels >= 0, labels, -1 - offset - torch.arange(n, device=z.device))
    all_classes = gather_batches(classes) if gather else classes
    same = (classes[:, None] == all_classes).to(z.dtype)
    totals = z.sum(0)
    if gather:
        totals = gather_with_gradient(totals)
    of_class = same @ totals
    similarity = (z * (of_class - z)).sum(-1).flatten()
    count = (same.sum(1) * n_views - 1).repeat(n_views)
    return similarity, count


def _stack(views: tuple[Tensor, ...]) -> Tensor:
    shapes = {tuple(view.shape) for view in views}
    if len(shapes) != 1 or views[0].ndim != 2:
        got = ", ".join(str(tuple(view.shape)) for view in views) or "nothing"
        raise ValueError(f"views of shape {got}: give at least two of the same shape (N, D), or one (views, N, D).")
    return torch.stack(views)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise OptionError(None, "temperature", temperature, "it must be positive")


def _check(views: Tensor, temperature: float, labels: Tensor | None) -> None:
    _check_temperature(temperature)
    if views.ndim != 3 or views.shape[1] < 1 or len(views) < (2 if labels is None else 1):
        raise ValueError(
            f"views of shape {tuple(views.shape)}: expected (views, N, D) with at least two views (one with labels) "
            "of at least one image."
        )
    if labels is not None and labels.shape != views.shape[1:2]:
        raise ValueError(f"labels of shape {tuple(labels.shape)} for {views.shape[1]} images: give one per image.")
