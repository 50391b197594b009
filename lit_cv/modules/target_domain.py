"""Base class of modules that classify a target domain without using its labels."""

from abc import abstractmethod
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.wrappers import ClasswiseWrapper

from lit_cv.distributed import joined_mean
from lit_cv.ignore_index import UNLABELED
from lit_cv.loop_state import print_results_once
from lit_cv.metrics import AnswerInformation, ClassAccuracy
from lit_cv.metrics.chosen import ChosenMetric
from lit_cv.modules.base import Batch, Output, Stage
from lit_cv.modules.supervised import SupervisedModule
from lit_cv.nn import load_head

__all__ = ["TargetDomainModule", "is_source"]

_BALANCE = 5.0  # weight of the balance in the score, by scripts/compare_validators.py


class TargetDomainModule(SupervisedModule):
    """Base of modules that classify images of a target domain, whose labels they neither learn nor choose by.

    In validation and test it logs `val_target_loss` and `val_target_acc`, and `val_target_entropy`,
    `val_target_diversity` and `val_target_balance`, which need no labels, see `AnswerInformation`; if there are images
    of the source, also `val_loss` and `val_source_acc`. Losses and accuracies are means over the labeled images.

    The `monitor` is `val_score` = (source accuracy + 5 balance - entropy) / 6, at most 1. It rewards a classifier that
    is correct on the source, confident on the target, and above all predicts the classes as often as they are expected:
    adaptation that goes wrong loses or merges classes first. Without images of the source their accuracy counts as 1.
    The score uses no target labels, as they are not available when adaptation is needed. It is not an accuracy: a model
    may be confident and wrong, and it misleads if the classes of the target have other shares. `val_target_acc` is
    logged for reports, and to show the cost of selecting a model without it. Selecting by it
    (`RunCheckpoint(monitor="val_target_acc")`) is cheating.

    Args:
        weights: As for `BaseModule`; the classifier of a checkpoint is loaded, too, if it has as many classes.
        **kwargs: Arguments of `SupervisedModule` and `BaseModule`.
    """

    monitor = "val_score"
    mode: Literal["min", "max"] = "max"
    starts_trained: bool = False

    def __init__(self, weights: str | None = None, **kwargs: Any) -> None:
        super().__init__(weights=weights, **kwargs)

    @abstractmethod
    def step(self, batch: Batch, stage: Stage) -> Output:
        """Learn from a batch without target labels; in evaluation, return `evaluate` of it."""

    def configure_networks(self) -> None:
        """Build the networks, and load the classifier of a checkpoint."""
        super().configure_networks()
        if self.hparams["multi_label"]:
            raise ValueError(f"the images have several labels: {type(self).__name__} needs one label per image.")
        if self.hparams["weights"] is not None:
            names = self.trained_classes.get("class_names", ())
            self.starts_trained = load_head(self.head, self.hparams["weights"], names)

    def configure_metrics(self) -> dict[str, Metric]:
        """Return the entropy and diversity of predictions for the target; accuracies are averaged like losses.

        Metrics chosen by the user are also computed on the target, and logged as `target_NAME`.
        """
        metrics: dict[str, Metric] = {"answers": AnswerInformation(self.num_classes, self.expected_shares())}
        metrics |= {f"target_{name}": metric for name, metric in self.task.chosen_metrics().items()}
        if self.hparams["per_class_metrics"]:
            metrics["class"] = ClasswiseWrapper(
                ClassAccuracy(self.num_classes), labels=self.classes_task.names, prefix="target_acc_"
            )
        return metrics

    def expected_shares(self) -> Tensor | None:
        """Return the class shares (K,) that predictions for the target should have; `None` for equal shares."""
        return None

    def on_validation_start(self) -> None:
        """Print results that cover both domains only once."""
        print_results_once(self.trainer)

    def on_test_start(self) -> None:
        """Print results that cover both domains only once."""
        print_results_once(self.trainer)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Output:
        """Evaluate a batch of one domain."""
        return self._run_step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Output:
        """Evaluate a batch of one domain."""
        return self._run_step(batch, "test")

    def update_metrics(self, metrics: Any, output: Output) -> None:
        """Update the metrics with predictions for target images."""
        if is_source(output):
            return
        probabilities = output["logits"].float().softmax(1)
        metrics["answers"].update(probabilities)
        for metric in metrics.values(copy_state=False):
            if isinstance(metric, ChosenMetric):
                metric.update(probabilities, output["target"])
        if self.hparams["per_class_metrics"]:
            metrics["class"].update(output["logits"], output["target"])

    def summarize(self, stage: Stage, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the score, which needs no target labels; without images of one domain the other one determines it."""
        if stage == "train":
            return values
        source = values.get(f"{stage}_source_acc", torch.tensor(torch.nan))
        target = _BALANCE * values[f"{stage}_target_balance"] - values[f"{stage}_target_entropy"]
        score = (source.nan_to_num(1.0) + target) / (1 + _BALANCE)
        score = torch.where(torch.isnan(target), source, score)
        values = {name: value for name, value in values.items() if not torch.isnan(value)}
        return {**values, f"{stage}_score": score}

    def evaluate(self, batch: Batch, stage: Stage) -> Output:
        """Return losses and accuracies on one domain; batches without `domain` count as target, the domain of use."""
        self.configure_model()
        target = batch.get("label")
        if target is None:
            target = torch.full((len(batch["image"]),), UNLABELED, device=self.device)
        features = self.backbone(batch["image"])
        logits = cast(Tensor, self.head(features))
        output: Output = {"logits": logits, "target": target}
        if "domain" in batch:
            output["domain"] = batch["domain"]
        output |= self.evaluation(batch, features, logits)
        loss, count = self.counted_loss(logits, target, stage)
        accuracy, labeled = self.accuracy(logits, target)
        names = ("loss", "source_acc") if is_source(output) else ("target_loss", "target_acc")
        output["counts"] = output.get("counts", {}) | dict(zip(names, (count, labeled), strict=True))
        return output | dict(zip(names, (loss, accuracy), strict=True))

    def evaluation(self, batch: Batch, features: Tensor, logits: Tensor) -> Output:
        """Return further scalars to log for a validation or test batch of one domain; none by default."""
        return {}

    def accuracy(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the accuracy on labeled images, and their number."""
        return joined_mean(*self.classes_task.accuracy(logits.detach(), target), gather=False)


def is_source(part: Batch | Output) -> bool:
    """Return whether a batch or an output, of a single domain, belongs to the source."""
    domain = part.get("domain")
    return isinstance(domain, Tensor) and bool(domain[0] == 0)
