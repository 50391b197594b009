"""MAML: an initialization from which a few gradient steps learn a new task."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from lit_cv.contracts import data_extras, datamodule_of
from lit_cv.errors import DATA, OptionError, argument, setting
from lit_cv.modules.base import Batch, Stage
from lit_cv.modules.few_shot import FewShotModule
from lit_cv.nn import Backbone, ClassificationHead
from lit_cv.nn.batch_statistics import batch_statistics
from lit_cv.optim.inner_loop import inner_loop

__all__ = ["MAMLModule"]


class MAMLModule(FewShotModule):
    """Learns initial weights from which a few gradient steps learn a new task.

    Finn et al. 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks". For each episode of a batch
    (a task), gradient steps on the cross-entropy of the support images adapt the weights. The loss is the cross-entropy
    of the query images under the adapted weights, averaged over the episodes. Its gradient with respect to the initial
    weights is backpropagated through the steps. `batch_size` of the data is the number of tasks in a meta-batch.

    BatchNorm always uses statistics of the current task, also in the test, never running ones: either of all its query
    images (`transductive`, as published, so that a prediction depends on the other query images), or of its support
    images (`support`).

    Args:
        way: Maximum number of classes in an episode; `None` takes `way` of the data.
        inner_steps: Gradient steps in training.
        eval_steps: Gradient steps in validation, test and prediction; `None` takes `inner_steps`.
        inner_lr: Learning rate of the steps.
        learn_inner_lr: Whether each layer has its own learning rate, initialized to `inner_lr` and learned with the
            weights (Antoniou et al. 2019, "How to train your MAML", section 4).
        first_order: Whether to omit second derivatives (section 5.2 of the paper), which saves some 20 % of the time.
        anil: Whether the steps adapt only the head (Raghu et al. 2020, "Rapid Learning or Feature Reuse?").
        batch_norm: Source of the BatchNorm statistics for query images.
        **kwargs: Arguments of `FewShotModule` and `BaseModule`.

    Example:
        >>> module = MAMLModule(way=5, in_channels=1)
        >>> images = torch.rand(6, 1, 28, 28)
        >>> module.adapt(images, torch.tensor([0, 0, 1, 1, 2, 2])).predict(images).shape
        torch.Size([6])
    """

    def __init__(
        self,
        way: int | None = None,
        inner_steps: int = 1,
        eval_steps: int | None = None,
        inner_lr: float = 0.4,
        learn_inner_lr: bool = False,
        first_order: bool = False,
        anil: bool = False,
        batch_norm: Literal["transductive", "support"] = "transductive",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if inner_steps < 1 or (eval_steps is not None and eval_steps < 1):
            name, steps = ("inner_steps", inner_steps) if inner_steps < 1 else ("eval_steps", eval_steps)
            raise OptionError(self, name, steps, "must be at least 1")
        if not inner_lr > 0:
            raise OptionError(self, "inner_lr", inner_lr, "must be positive")
        self._adapted: tuple[dict[str, Tensor], Tensor] | None = None
        self._adapted_way = 0

    def configure_head(self, num_features: int) -> nn.Module:
        """Return a linear classifier, which provides the initial head weights of every task."""
        h, data = self.hparams, data_extras(datamodule_of(self._trainer))
        if h["way"] is None:
            h["way"] = data.hparams.get("way")
        if h["way"] is None:
            raise ValueError(f"the number of classes per task is unknown: set {argument('way', self)}.")
        for way in [evaluated.way for evaluated in data.settings]:
            self._check_way(way)
        return ClassificationHead(num_features, h["way"])

    def configure_networks(self) -> None:
        """Build the networks and the learned learning rates of the inner steps."""
        super().configure_networks()
        h = self.hparams
        if h["learn_inner_lr"]:
            layers = dict.fromkeys(_layer(name) for name in self._start())
            lr = torch.tensor(float(h["inner_lr"]))
            self.inner_lrs = nn.ParameterDict({layer: nn.Parameter(lr.clone()) for layer in layers})

    def compiled_networks(self) -> list[nn.Module]:
        """Return none, since each task runs the networks with different weights."""
        return []

    def episode_logits(self, batch: Batch, way: int, stage: Stage) -> Tensor:
        """Adapt to each task and return the logits of its query images."""
        self._check_way(way)
        support, query = batch["support"], batch["query"]
        steps = self.hparams["inner_steps"]
        if stage == "train":
            tasks = zip(support["image"], support["label"], query["image"], strict=True)
            return torch.stack([self._task(*task, steps=steps)[:, :way] for task in tasks])
        steps = self.hparams["eval_steps"] or steps
        with _recording():  # clones, as inference-mode tensors cannot be differentiated through
            tasks = zip(*(part.clone() for part in (support["image"], support["label"], query["image"])), strict=True)
            return torch.stack([self._task(*task, steps=steps)[:, :way] for task in tasks])

    def adapt_to(self, images: Tensor, labels: Tensor, way: int) -> None:
        """Learn the classes by gradient steps; the module's weights do not change."""
        self._check_way(way)
        with _recording():
            support = self.backbone.normalize(images.clone())
            steps = self.hparams["eval_steps"] or self.hparams["inner_steps"]
            self._adapted = (self._adapt(support, labels.clone(), steps), support)
        self._adapted_way = way

    @torch.no_grad()
    def adapted_logits(self, images: Tensor) -> Tensor:
        """Return the logits of images under the adapted weights."""
        weights, support = cast(tuple[dict[str, Tensor], Tensor], self._adapted)
        logits = self._classify(weights, support, self.backbone.normalize(images))
        return logits[:, : self._adapted_way]

    def _task(self, support: Tensor, labels: Tensor, query: Tensor, steps: int) -> Tensor:
        """Return the logits (Q, way) of a task's query images."""
        support, query = (self.backbone.normalize(images) for images in (support, query))
        return self._classify(self._adapt(support, labels, steps), support, query)

    def _adapt(self, support: Tensor, labels: Tensor, steps: int) -> dict[str, Tensor]:
        """Return the weights after some gradient steps on normalized support images."""
        h, start = self.hparams, self._start()
        lrs = {name: self.inner_lrs[_layer(name)] if h["learn_inner_lr"] else float(h["inner_lr"]) for name in start}
        network = _Learner(self.backbone, self.head)
        second_order = torch.is_grad_enabled() and not h["first_order"]
        if h["anil"]:
            with batch_statistics(self.backbone), torch.set_grad_enabled(second_order):
                features = self.backbone.forward_normalized(support)

            def loss(weights: dict[str, Tensor]) -> Tensor:
                head = {name.removeprefix("head."): value for name, value in weights.items()}
                return F.cross_entropy(_to_float32(functional_call(self.head, head, (features,))), labels)

            return inner_loop(loss, start, lrs, steps, h["first_order"])

        def loss_of_all(weights: dict[str, Tensor]) -> Tensor:
            return F.cross_entropy(_to_float32(functional_call(network, weights, (support,))), labels)

        # The fused kernels of attention have no second derivative.
        attention = sdpa_kernel(SDPBackend.MATH) if second_order else nullcontext()
        with batch_statistics(self.backbone), attention:
            return inner_loop(loss_of_all, start, lrs, steps, h["first_order"])

    def _classify(self, weights: dict[str, Tensor], support: Tensor, query: Tensor) -> Tensor:
        """Return the logits of normalized query images under adapted weights."""
        network, track = _Learner(self.backbone, self.head), self.training
        if self.hparams["batch_norm"] == "transductive":
            with batch_statistics(self.backbone, track=track):
                return _to_float32(functional_call(network, weights, (query,)))
        with batch_statistics(self.backbone, first=len(support), track=track):
            logits: Tensor = functional_call(network, weights, (torch.cat([support, query]),))
        return _to_float32(logits[len(support) :])

    def _start(self) -> dict[str, Tensor]:
        """Return the weights that the inner steps change."""
        parts = {"head": self.head} if self.hparams["anil"] else {"backbone": self.backbone, "head": self.head}
        return {
            f"{part}.{name}": parameter
            for part, module in parts.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    def _check_way(self, way: int) -> None:
        if way > self.hparams["way"]:
            raise ValueError(
                f"a task has {way} classes, but the head only {self.hparams['way']}: train with "
                f"{setting('way', way, DATA)}, or remove such settings from {argument('evaluate', DATA)}."
            )


class _Learner(nn.Module):
    """Backbone and head, from normalized images to logits."""

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.backbone.forward_normalized(x)))


@contextmanager
def _recording() -> Iterator[None]:
    """Let `torch.func.grad` work in Lightning's inference mode, without recording any other gradients."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _to_float32(logits: Tensor) -> Tensor:
    """Return half-precision logits of autocast in float32."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _layer(name: str) -> str:
    """Return the name of a parameter's layer, without dots."""
    return name.rpartition(".")[0].replace(".", "_")
