"""InfoNCE with keys from another network, as in MoCo."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_cv.distributed import gather_batches, global_rank
from lit_cv.errors import OptionError

__all__ = ["info_nce"]


def info_nce(
    queries: Tensor, keys: Tensor, temperature: float, negatives: Tensor | None = None, gather: bool = True
) -> Tensor:
    """Return the cross-entropy of finding the key of each query (van den Oord et al. 2018; He et al. 2020).

    Queries and keys are compared by their cosine, in at least float32. Keys get no gradient.

    Args:
        queries: (N, D) of the trained network.
        keys: (N, D) of another network, each the positive of the query in the same row.
        temperature: Positive divisor of the similarities.
        negatives: (K, D), keys of other images that are the negatives of all queries, as from MoCo's queue. `None`
            takes the keys of the other rows, as in MoCo v3.
        gather: Whether keys of other ranks are negatives, too, if `negatives` is `None`; each rank then has as many.

    Raises:
        ValueError: If the temperature is not positive.

    Example:
        >>> z = torch.eye(4)
        >>> round(info_nce(z, z, 1.0).item(), 4)  # log(e + 3) - 1
        0.7437
    """
    if not temperature > 0:
        raise OptionError(None, "temperature", temperature, "it must be positive")
    with torch.autocast(queries.device.type, enabled=False):
        dtype = torch.promote_types(queries.dtype, torch.float32)
        q, k = (F.normalize(z.to(dtype), dim=1) for z in (queries, keys.detach()))
        if negatives is not None:
            own = (q * k).sum(1, keepdim=True)
            logits = torch.cat([own, q @ F.normalize(negatives.detach().to(dtype), dim=1).T], 1)
            return F.cross_entropy(logits / temperature, torch.zeros(len(q), dtype=torch.long, device=q.device))
        offset = global_rank() * len(q) if gather else 0
        everything = gather_batches(k) if gather else k
        return F.cross_entropy(q @ everything.T / temperature, torch.arange(len(q), device=q.device) + offset)
