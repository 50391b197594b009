"""Evaluation of a module's embedding in each validation."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_cv.callbacks.embedding import embed_batch, embed_images, has_labels
from lit_cv.contracts import as_dataset, as_module, data_of
from lit_cv.distributed import gather_rows, is_distributed
from lit_cv.errors import OptionError
from lit_cv.metrics import alignment, effective_rank, knn_predictions, uniformity
from lit_cv.nn import resize_images

__all__ = ["EmbeddingEvaluation"]

_SAMPLE = 5000  # maximum number of images in measures that compare all pairs


class EmbeddingEvaluation(L.Callback):
    """Evaluates what a module has learned by its embedding of images that it was not trained on.

    Each validation and test evaluates `pl_module.embed` in evaluation mode, without augmentation, and logs:

    - `val_knn_acc`, `val_knn200_acc`: accuracy of a weighted vote of the 20 (200) nearest labeled training images, with
      weights exp(cosine / 0.07) (Wu et al. 2018), if there are labels. With fewer than 200 labeled images
      `val_knn200_acc` is not logged; with fewer than 20 all of them vote for `val_knn_acc`.
    - `val_alignment`: mean squared distance between views of an image, if the module's step returns them as
      `embedding` (V, N, D).
    - `val_uniformity`: how evenly the embedding is spread (Wang and Isola 2020), 0 after a collapse.
    - `val_rankme`: the effective number of dimensions (Garrido et al. 2023), 1 after a collapse.

    Uniformity and RankMe use at most 5,000 images.

    For modules with `evaluates_embedding` the command line adds this callback, and `val_knn_acc` becomes the
    module's `monitor` if there are labels. Labels hidden from training are not used as neighbors.
    It runs as often as validation, see `check_val_every_n_epoch` of the Trainer.

    Args:
        max_images: Maximum number of labeled training images used as neighbors, spread evenly over all of them.
    """

    def __init__(self, max_images: int = 50_000) -> None:
        if max_images < 1:
            raise OptionError(self, "max_images", max_images, "must be at least 1")
        self.max_images = max_images
        self._embeddings: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._aligned: list[Tensor] = []
        self._sizes: list[int] = []
        self._image_size: tuple[int, int] = (0, 0)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Monitor `val_knn_acc` if the module is judged by its embedding and there are labels."""
        if as_module(pl_module).evaluates_embedding and _labels_known(trainer):
            validation = as_dataset(data_of(trainer).val_dataset).labels
            if validation is None or bool((validation >= 0).any()):
                pl_module.monitor, pl_module.mode = "val_knn_acc", "max"  # type: ignore[assignment]

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discard the embeddings of the previous validation."""
        self._embeddings, self._labels, self._aligned, self._sizes = [], [], [], []

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discard previous embeddings."""
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
        """Embed a batch."""
        if trainer.sanity_checking or dataloader_idx > 0:
            return
        embedding = embed_batch(trainer, pl_module, batch, "EmbeddingEvaluation")
        self._embeddings.append(embedding)
        self._image_size = (batch["image"].shape[2], batch["image"].shape[3])
        if has_labels(batch):
            self._labels.append(batch["label"])
        views = outputs.get("embedding") if isinstance(outputs, dict) else None
        if isinstance(views, Tensor) and views.ndim == 3 and len(views) > 1:
            self._aligned.append(alignment(views[0], views[1]))
            self._sizes.append(views.shape[1])

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Embed a batch."""
        self.on_validation_batch_end(*args, **kwargs)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the measures before checkpoints and early stopping read them."""
        if not trainer.sanity_checking:
            self._evaluate(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the measures of the test images."""
        self._evaluate(trainer, pl_module, "test")

    def _evaluate(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not self._embeddings:
            return
        embeddings = torch.cat(self._embeddings)
        values = {}
        if len(self._labels) == len(self._embeddings) and _labels_known(trainer):
            values = self._accuracies(trainer, pl_module, embeddings, torch.cat(self._labels))
        sample = gather_rows(embeddings[: _SAMPLE // trainer.world_size])
        if len(sample) > 1:
            values |= {"uniformity": uniformity(sample), "rankme": effective_rank(sample)}
        if self._aligned:
            sizes = torch.tensor(self._sizes, device=embeddings.device, dtype=torch.float32)
            values["alignment"] = _share((torch.stack(self._aligned) * sizes).sum(), sizes.sum())
        for name, value in values.items():
            name = f"{stage}_{name}"
            pl_module.log(name, value, prog_bar=name == as_module(pl_module).monitor)
        self._embeddings, self._labels, self._aligned, self._sizes = [], [], [], []

    def _accuracies(
        self, trainer: L.Trainer, pl_module: L.LightningModule, queries: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        bank, bank_labels = self._bank(trainer, pl_module)
        if len(bank) == 0:
            return {}
        classes = int(trainer.datamodule.num_classes)  # type: ignore[attr-defined]
        neighbors = {"knn_acc": 20} | ({"knn200_acc": 200} if len(bank) >= 200 else {})
        predictions = knn_predictions(queries, bank, bank_labels, classes, k=list(neighbors.values()))
        labeled = labels >= 0
        correct = ((predictions == labels) & labeled).sum(1)
        shares = {name: _share(count, labeled.sum()) for name, count in zip(neighbors, correct, strict=True)}
        return {name: share for name, share in shares.items() if not share.isnan()}

    def _bank(self, trainer: L.Trainer, pl_module: L.LightningModule) -> tuple[Tensor, Tensor]:
        """Return the embeddings of the labeled training images of all ranks, and their labels."""
        loader = trainer.datamodule.labeled_dataloader(self.max_images)  # type: ignore[attr-defined]
        embeddings, labels = [], []
        for batch in loader:
            # Uncropped training images may be larger.
            images = resize_images(batch["image"].to(pl_module.device, non_blocking=True), self._image_size)
            embeddings.append(embed_images(trainer, pl_module, images))
            labels.append(batch["label"].to(pl_module.device, non_blocking=True))
        bank = gather_rows(torch.cat(embeddings))
        bank_labels = gather_rows(torch.cat(labels))
        labeled = bank_labels >= 0
        return bank[labeled], bank_labels[labeled]


def _labels_known(trainer: L.Trainer) -> bool:
    """Return whether there are labeled training images with one class each."""
    data = data_of(trainer)
    if data.labeled_dataloader is None or data.multi_label or not data.num_classes:
        return False
    return bool((data.train_dataset.labels >= 0).any())


def _share(part: Tensor, total: Tensor) -> Tensor:
    """Return `part / total` summed over all ranks, NaN if the total is 0."""
    sums = torch.stack([part.float(), total.float()])
    if is_distributed():
        torch.distributed.all_reduce(sums)
    return sums[0] / sums[1]
