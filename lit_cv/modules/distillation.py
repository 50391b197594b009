"""Distillation: a trained teacher teaches a network of any architecture on unlabeled images."""

from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from lit_cv.contracts import data_of
from lit_cv.errors import OptionError, argument, renamed
from lit_cv.losses import cosine_loss, logit_distillation, relation_distillation
from lit_cv.modules.base import BaseModule, Batch, Output, Stage
from lit_cv.modules.data_classes import checkpoint_classes
from lit_cv.modules.feature_cache import cache_features, callbacks_that_change_images
from lit_cv.nn import ClassificationHead, Projector, build_teacher, check_backbone_name, checkpoint_options

__all__ = ["DistillationModule"]

Match = Literal["features", "logits", "relations"]


class DistillationModule(BaseModule):
    """Trains a backbone to see images as a trained network does, the teacher, without using labels.

    From a batch with `image` (N, C, H, W) it minimizes the difference between student and teacher in one of:

    - `features`: a projector predicts the teacher's features from the student's, up to their length (SimReg, Navaneet
      et al. 2021, "Regression as a Simple Yet Effective Tool for Self-supervised Knowledge Distillation").
    - `logits`: a classifier on the student predicts the probabilities of the teacher's classes, softened by a
      temperature (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"). The classes need not be those of
      the images, but their similarities have to tell the images apart.
    - `relations`: the distances and angles between the images of a batch, on all devices, are those of the teacher
      (Park et al. 2019, "Relational Knowledge Distillation").

    Both see the same augmented image, each normalized by its own mean and standard deviation (Beyer et al. 2022,
    "Knowledge distillation: A good teacher is patient and consistent"). Long training with strong crops helps most.

    The teacher is frozen, in eval mode, and part of the checkpoints: they load and resume without the file of its
    weights, and are larger by its size. Other modules that take a checkpoint as their `weights` read only the student.

    It logs `{stage}_loss`. `EmbeddingEvaluation`, which the command line adds, evaluates the student's features: it
    logs `val_knn_acc`, which becomes the `monitor` if images have labels.

    Args:
        teacher: Name of the teacher's network, as for `backbone`; `None` takes that of the checkpoint
            `teacher_weights`.
        teacher_weights: Weights of the teacher: `DEFAULT`, the name of torchvision weights, or a path. For `logits`
            the checkpoint of a classifier, such as `SupervisedModule` or `FineTuneModule`.
        teacher_size: Height and width in pixels, or one number, that the teacher's images are resized to; `None` takes
            the size that its weights were trained on, or that of the data if it is unknown.
        teacher_stem: First layers of the teacher, `standard` or `small`; `None` takes those of the checkpoint.
        teacher_classes: Number of the teacher's classes, for `logits`; `None` takes that of the checkpoint.
        match: What the student learns, see above.
        temperature: Divisor of the logits of both.
        projector_layers: Number of linear layers of the projector from the student's features to the teacher's;
            BatchNorm and ReLU follow all but the last. SimReg has 4.
        projector_hidden: Width of its hidden layers; `None` takes that of the teacher's features.
        cache_teacher: Whether to compute the teacher's output once for each image and keep it in memory, where no
            callback changes the images.
        **kwargs: Arguments of `BaseModule`.

    Raises:
        ValueError: If the teacher is unknown or has no classifier to teach, a value is not allowed, or training begins
            with a teacher of random weights.

    Example:
        >>> import torch
        >>> module = DistillationModule(backbone="conv4", teacher="resnet18", in_channels=1)
        >>> images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
        >>> module(images).shape, module.embed(images).shape
        (torch.Size([2, 512]), torch.Size([2, 64]))
    """

    uses_unlabeled: ClassVar[bool] = True
    evaluates_embedding: ClassVar[bool] = True

    def __init__(
        self,
        teacher: str | None = None,
        teacher_weights: str | None = None,
        teacher_size: int | list[int] | None = None,
        teacher_stem: Literal["standard", "small"] | None = None,
        teacher_classes: int | None = None,
        match: Match = "features",
        temperature: float = 4.0,
        projector_layers: int = 2,
        projector_hidden: int | None = None,
        cache_teacher: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if match not in ("features", "logits", "relations"):
            raise OptionError(self, "match", match, "must be one of features, logits, relations")
        if not temperature > 0:
            raise OptionError(self, "temperature", temperature, "must be positive")
        for name, value in (("projector_layers", projector_layers), ("projector_hidden", projector_hidden)):
            if value is not None and value < 1:
                raise OptionError(self, name, value, "must be at least 1")
        self._taught: dict[str, Tensor] = {}
        self._complete_options()

    def configure_head(self, num_features: int) -> nn.Module:
        """Build the teacher, and return the network from the student's features to what the teacher returns."""
        h = self.hparams
        classes = h["teacher_classes"] if h["match"] == "logits" else None
        self.teacher = build_teacher(
            h["teacher"],
            h["teacher_weights"],
            h["in_channels"],
            _sides(h["teacher_size"]),
            _sides(h["image_size"]),
            h["teacher_stem"],
            classes,
        )
        h["teacher_size"] = self.teacher.size and list(self.teacher.size)
        if classes is not None:
            self.trained_classes |= checkpoint_classes(h["teacher_weights"])
            return ClassificationHead(num_features, classes)
        if h["match"] == "relations":
            return nn.Identity()
        width, layers = self.teacher.backbone.num_features, h["projector_layers"]
        if layers == 1:
            return nn.Linear(num_features, width)
        hidden = h["projector_hidden"] or width
        return nn.Sequential(Projector(num_features, hidden, hidden, layers - 1), nn.ReLU(), nn.Linear(hidden, width))

    def on_fit_start(self) -> None:
        """Require a trained teacher, and compute its outputs if the images stay the same."""
        if not self.teacher.trained:
            raise OptionError(
                self,
                "teacher_weights",
                None,
                f"the teacher {self.hparams['teacher']} would have random weights: use DEFAULT, another name of "
                "published weights, or a file",
            )
        can_cache = data_of(self.trainer).ordered_loader is not None and not callbacks_that_change_images(self.trainer)
        if self.hparams["cache_teacher"] and can_cache:
            self._taught = cache_features(self, self.teacher)

    def on_fit_end(self) -> None:
        """Free the teacher's outputs."""
        self._taught = {}

    def step(self, batch: Batch, stage: Stage) -> Output:
        """Compare student and teacher; also return the student's features as `embedding` (N, D) for callbacks."""
        features = self.backbone(batch["image"])
        student, teacher, match = self.head(features), self.teach(batch, stage), self.hparams["match"]
        if match == "features":
            loss = cosine_loss(student, teacher)
        elif match == "logits":
            loss = logit_distillation(student, teacher, self.hparams["temperature"])
        else:  # ranks may validate different numbers of batches, so validation must not synchronize them
            loss = relation_distillation(student, teacher, gather=stage == "train")
        return {"loss": loss, "embedding": features.detach()}

    def teach(self, batch: Batch, stage: Stage) -> Tensor:
        """Return the teacher's features or logits (N, F) of a batch, if possible from memory."""
        if stage in self._taught and "index" in batch:
            return self._taught[stage].index_select(0, batch["index"])
        outputs: Tensor = self.teacher(batch["image"])
        return outputs

    def compiled_networks(self) -> list[nn.Module]:
        """Return the backbones of student and teacher."""
        return [self.backbone, self.teacher.backbone]

    def _complete_options(self) -> None:
        """Set the open options of the teacher from its checkpoint, so that those of the student contain them."""
        h = self.hparams
        with renamed(backbone="teacher", weights="teacher_weights"):
            stored = {} if h["teacher_weights"] is None else checkpoint_options(h["teacher_weights"])
            h["teacher"] = h["teacher"] or stored.get("backbone")
            if h["teacher"] is None:
                allowed = f"must be the name of a network, unless {argument('weights')} is a checkpoint of lit_cv"
                raise OptionError(self, "backbone", None, allowed)
            check_backbone_name(h["teacher"])
        h["teacher_stem"] = h["teacher_stem"] or stored.get("stem") or "standard"
        h["teacher_size"] = h["teacher_size"] or stored.get("image_size")
        if h["match"] == "logits":
            h["teacher_classes"] = h["teacher_classes"] or stored.get("num_classes")
            if h["teacher_classes"] is None or stored.get("multi_label"):
                allowed = "must be the checkpoint of a classifier of one label per image, whose classes are taught"
                raise OptionError(self, "teacher_weights", h["teacher_weights"], f"{allowed} (match: logits)")


def _sides(size: int | list[int] | None) -> tuple[int, int] | None:
    """Return the height and width of an option."""
    return (size, size) if isinstance(size, int) else None if size is None else (size[0], size[1])
