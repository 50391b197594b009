"""Figure of both domains in a module's embedding, before and after adaptation."""

from typing import Any, Literal

import lightning as L
import numpy as np
import torch

from lit_cv.callbacks.embedding import embed_images
from lit_cv.callbacks.run_output import class_names, figures_wanted, guarded, publish
from lit_cv.contracts import as_module, data_extras, data_of, datamodule_of
from lit_cv.errors import OptionError
from lit_cv.figures import DomainMap, domain_figure, map_embedding

__all__ = ["DomainEmbedding"]


class DomainEmbedding(L.Callback):
    """Plots the embedding of source and target validation images before and after training.

    The figure `domain_embedding.png` is saved in the run's folder and in the loggers. Its upper row shows the embedding
    before training, of random or pretrained weights, its lower row the embedding after training, colored by domain and
    by class. After a successful adaptation the domains overlap class by class. Target labels only color the points. It
    works for modules with `expects_domains` on a `DomainAdaptationDataModule`, and does nothing for others.

    Args:
        n: Maximum number of images per domain.
        method: Projection to the plane: `tsne` or `pca`.
    """

    def __init__(self, n: int = 400, method: Literal["tsne", "pca"] = "tsne") -> None:
        if n < 2:
            raise OptionError(self, "n", n, "must be at least 2 images per domain")
        if method not in ("tsne", "pca"):
            raise OptionError(self, "method", method, "must be 'tsne' or 'pca'")
        self.n = n
        self.method: Literal["tsne", "pca"] = method
        self._before: dict[str, torch.Tensor] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Embed the images before training, unless a resumed checkpoint holds that embedding."""
        if self._before is None and self._wanted(trainer, pl_module):
            with guarded("Embedding validation images of both domains"):
                self._before = self._embed(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw both embeddings."""
        if self._before is None or not self._wanted(trainer, pl_module):
            return
        with guarded("Drawing the embedding of both domains"):
            after = self._embed(trainer, pl_module)
            maps = [_map("before training", self._before), _map(f"after {trainer.global_step:,} steps", after)]
            names = class_names(trainer, pl_module)
            figure = domain_figure(maps, names, f"validation images of both domains ({self.method})")
            publish(trainer, figure, "domain_embedding", trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Return the embedding from before training."""
        return {"before": self._before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the embedding from before training."""
        self._before = state_dict["before"]

    def _wanted(self, trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
        parts = [data_extras(datamodule_of(trainer)).source_val_dataset, data_of(trainer).val_dataset]
        return (
            trainer.is_global_zero
            and figures_wanted(trainer)
            and as_module(pl_module).expects_domains
            and all(part is not None and len(part) >= 2 for part in parts)
        )

    def _embed(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, torch.Tensor]:
        """Return plane coordinates (`places`), domains and labels of validation images of both domains."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        parts: dict[str, list[torch.Tensor]] = {"places": [], "domains": [], "labels": []}
        for domain, dataset in enumerate((data.source_val_dataset, data.val_dataset)):
            chosen = np.unique(np.linspace(0, len(dataset) - 1, self.n).astype(np.int64)).tolist()
            for start in range(0, len(chosen), data.batch_size):
                batch = dataset.__getitems__(chosen[start : start + data.batch_size])
                images = batch["image"].to(pl_module.device)
                parts["places"].append(embed_images(trainer, pl_module, images).cpu())
                parts["labels"].append(batch["label"])
                parts["domains"].append(torch.full((len(images),), domain))
        joined = {name: torch.cat(values) for name, values in parts.items()}
        joined["places"] = torch.from_numpy(map_embedding(joined["places"].numpy(), self.method))
        return joined


def _map(title: str, embedded: dict[str, torch.Tensor]) -> DomainMap:
    return DomainMap(title, embedded["places"].numpy(), embedded["domains"].numpy(), embedded["labels"].numpy())
