"""Linear classifier trained online on a module's features."""

import logging
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from lit_cv.callbacks.embedding import embed_batch, embed_images, has_labels
from lit_cv.callbacks.run_output import class_names
from lit_cv.contracts import data_of
from lit_cv.distributed import is_distributed, joined_mean
from lit_cv.errors import OptionError
from lit_cv.ignore_index import UNLABELED

__all__ = ["OnlineProbe"]

log = logging.getLogger("lit_cv")


class OnlineProbe(L.Callback):
    """Trains a linear classifier on the features during training and logs its accuracy as `val_probe_acc`.

    It learns from the labeled images of the training batches by cross-entropy. It never affects the module: no gradient
    reaches the features, and the classifier has its own optimizer (AdamW). Features are the `embedding` (N, D) or
    (V, N, D) that the module's step returns for images or their V views, otherwise `pl_module.embed(image)`. They are
    normalized by their running mean and variance, so that one learning rate suits every backbone. Classifier, optimizer
    and statistics are saved in checkpoints, so resume is exact. All ranks hold the same classifier.

    The accuracy lags behind that of a classifier fully trained on fixed features.

    Args:
        lr: Learning rate.
        weight_decay: Weight decay.
    """

    def __init__(self, lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        if lr <= 0:
            raise OptionError(self, "lr", lr, "must be positive")
        if weight_decay < 0:
            raise OptionError(self, "weight_decay", weight_decay, "must be at least 0")
        self.lr = lr
        self.weight_decay = weight_decay
        self._probe: nn.Sequential | None = None
        self._optimizer: AdamW | None = None
        self._restored: dict[str, Any] | None = None
        self._counts: Tensor | None = None
        self._classes: list[str] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Train the classifier on the module's training batch."""
        if not has_labels(batch):
            return
        embedding = outputs.get("embedding") if isinstance(outputs, dict) else None
        if not isinstance(embedding, Tensor):
            embedding = embed_images(trainer, pl_module, batch["image"])
        views = len(embedding) if embedding.ndim == 3 else 1
        features = embedding.detach().float().flatten(0, -2)
        probe, optimizer = self._build(trainer, pl_module, features.shape[1], features.device)
        probe.train()
        with torch.enable_grad():
            labels = batch["label"].repeat(views)
            total = F.cross_entropy(probe(features), labels, ignore_index=UNLABELED, reduction="sum")
            loss = joined_mean(total, (labels >= 0).sum(), gather=True)[0]  # not NaN without labels
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        _average(probe)
        optimizer.step()

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset the counts."""
        self._counts = torch.zeros(2, device=pl_module.device)

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset the counts."""
        self.on_validation_epoch_start(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count correct predictions."""
        untrained = self._probe is None and self._restored is None
        if untrained or trainer.sanity_checking or dataloader_idx > 0 or not has_labels(batch):
            return
        features = embed_batch(trainer, pl_module, batch, "OnlineProbe")
        probe, _ = self._build(trainer, pl_module, features.shape[1], features.device)
        probe.eval()
        label = batch["label"]
        correct = (probe(features).argmax(1) == label) & (label >= 0)
        if self._counts is not None:
            self._counts += torch.stack([correct.sum(), (label >= 0).sum()])

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Count correct predictions."""
        self.on_validation_batch_end(*args, **kwargs)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the accuracy."""
        self._log(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the accuracy."""
        self._log(trainer, pl_module, "test")

    def state_dict(self) -> dict[str, Any]:
        """Return the classifier, its optimizer and its class names."""
        if self._probe is None or self._optimizer is None:
            return self._restored or {}
        return {
            "probe": self._probe.state_dict(), "optimizer": self._optimizer.state_dict(), "classes": self._classes,
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the size of the features is known."""
        self._restored = state_dict or None

    def _build(
        self, trainer: L.Trainer, pl_module: L.LightningModule, num_features: int, device: torch.device
    ) -> tuple[nn.Sequential, AdamW]:
        """Return the classifier and its optimizer; the first call builds or restores them."""
        if self._probe is not None and self._optimizer is not None:
            return self._probe, self._optimizer
        self._classes = list(class_names(trainer, pl_module) or [])
        if self._restored is not None and self._restored.get("classes", self._classes) != self._classes:
            log.warning("OnlineProbe restarts: the classes of the data differ from those in the checkpoint.")
            self._restored = None
        with torch.inference_mode(False):
            # No random draw: a resumed run would draw at another step than an uninterrupted one.
            linear = nn.utils.skip_init(nn.Linear, num_features, _num_classes(trainer))  # type: ignore[no-untyped-call]
            nn.init.zeros_(linear.weight)  # equal on all ranks
            nn.init.zeros_(linear.bias)
            probe = nn.Sequential(nn.BatchNorm1d(num_features, affine=False), linear).to(device)
            optimizer = AdamW(probe.parameters(), lr=self.lr, weight_decay=self.weight_decay)
            if self._restored is not None:
                probe.load_state_dict(self._restored["probe"])
                optimizer.load_state_dict(self._restored["optimizer"])
                for group in optimizer.param_groups:
                    group["lr"], group["weight_decay"] = self.lr, self.weight_decay
                self._restored = None
        self._probe, self._optimizer = probe, optimizer
        return probe, optimizer

    def _log(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        counts, self._counts = self._counts, None
        if counts is None or trainer.sanity_checking:
            return
        if is_distributed():
            torch.distributed.all_reduce(counts)
        if counts[1] > 0:
            pl_module.log(f"{stage}_probe_acc", counts[0] / counts[1])


def _num_classes(trainer: L.Trainer) -> int:
    classes = data_of(trainer).num_classes
    if not classes:
        raise ValueError("the DataModule has no num_classes, which OnlineProbe needs: leave the callback out.")
    return int(classes)


@torch.no_grad()
def _average(probe: nn.Module) -> None:
    """Average gradients and statistics over all ranks."""
    if not is_distributed():
        return
    tensors = [p.grad for p in probe.parameters() if p.grad is not None]
    tensors += [b for b in probe.buffers() if b.is_floating_point()]
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
