"""MoCo: learning features from unlabeled images, with many negatives from a slowly moving network."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_cv.distributed import gather_batches
from lit_cv.errors import OptionError
from lit_cv.losses import info_nce
from lit_cv.modules.base import Batch, Output, Stage
from lit_cv.modules.views import ViewsModule
from lit_cv.nn import BackboneAndHead, KeyQueue, MovingAverage, Projector, cosine_decay

__all__ = ["MoCoModule"]


class MoCoModule(ViewsModule):
    """Learns a backbone from unlabeled images (He et al. 2020 and Chen et al. 2020, "Momentum Contrast").

    The network encodes one view of each image as a query, a moving average of it another view as the key. A query has
    to find its key among those of other images.

    - With a queue (v2), the keys of the last `queue_size` images are the negatives, so that a small batch suffices. The
      first view is the query, the second the key. The projector has no BatchNorm. There is no shuffling between
      devices, so that each device's BatchNorm sees the positive pair together.
    - With `queue_size=0` (Chen, Xie and He 2021, v3), the keys of the batch on all devices are the negatives, a
      predictor follows the projector, both views are queries, and the loss is multiplied by twice the temperature.

    BatchNorm sees each view in a pass of its own, as in the authors' code. It logs `{stage}_loss`. `FILE:key` loads the
    backbone of the moving average from a checkpoint.

    Args:
        queue_size: Number of keys in the queue; 0 for none.
        temperature: Divisor of the similarities.
        decay: Decay of the moving average: constant with a queue; without, it rises to 1 along a cosine.
        projector_layers: Number of linear layers of the projector; MoCo v3 uses 3 for transformers.
        projector_hidden: Width of hidden layers; `None` takes that of the features, without a queue 4096.
        projector_dim: Dimension of the projections (256 in v3).
        **kwargs: Arguments of `BaseModule`.

    Example:
        >>> module = MoCoModule(backbone="conv4", in_channels=1, queue_size=1024)
        >>> module(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 128])
    """

    def __init__(
        self,
        queue_size: int = 65536,
        temperature: float = 0.2,
        decay: float = 0.999,
        projector_layers: int = 2,
        projector_hidden: int | None = None,
        projector_dim: int = 128,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.check_range("temperature", 0)
        self.check_range("decay", 0, 1)
        if queue_size < 0:
            raise OptionError(self, "queue_size", queue_size, "must be at least 0")
        self._new_keys: list[Tensor] = []  # of all ranks, since the last optimizer step

    def configure_head(self, num_features: int) -> nn.Module:
        """Return the projector."""
        h = self.hparams
        layers, dim = h["projector_layers"], h["projector_dim"]
        if h["queue_size"]:
            return Projector(num_features, h["projector_hidden"], dim, layers, batch_norm=False)
        return Projector(num_features, h["projector_hidden"] or 4096, dim, layers, last_norm="plain")

    def configure_networks(self) -> None:
        """Build the network of keys, and a predictor or a queue of random vectors."""
        super().configure_networks()
        size, dim = self.hparams["queue_size"], self.hparams["projector_dim"]
        self.key = MovingAverage(BackboneAndHead(self.backbone, self.head))
        if size:
            self.queue = KeyQueue(size, dim)
        else:
            self.predictor = Projector(dim, self.hparams["projector_hidden"] or 4096, dim, last_norm="none")

    def compare(self, views: Tensor, batch: Batch, stage: Stage) -> Output:
        """Return the loss of finding the keys of the first two views."""
        temperature, gather = self.hparams["temperature"], stage == "train"
        if self.hparams["queue_size"]:
            features = self.backbone(views[0])
            key = F.normalize(self.key(views[1]).float(), dim=1)
            if gather:
                self._new_keys.append(gather_batches(key))
            return {
                "loss": info_nce(self.head(features), key, temperature, self.queue.keys),
                "embedding": features.detach()[None],
            }
        features = self.encode(self.backbone, views[:2])
        keys = self.encode(self.key, views[:2])
        queries = self.encode(lambda part: self.predictor(self.head(part)), features)
        losses = [info_nce(queries[i], keys[1 - i], temperature, gather=gather) for i in range(2)]
        return {"loss": 2 * temperature * (losses[0] + losses[1]), "embedding": features.detach()}

    def after_step(self) -> None:
        """Move the network of keys, and replace the oldest keys of the queue."""
        decay, size = self.hparams["decay"], self.hparams["queue_size"]
        steps = self.trainer.estimated_stepping_batches
        self.key.update(decay if size else cosine_decay(decay, self.global_step, steps))
        if self._new_keys:
            self.queue.push(torch.cat(self._new_keys))
        self._new_keys = []
