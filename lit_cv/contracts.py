"""What modules, data and callbacks may use of one another.

A protocol lists the members that others use. Custom modules, DataModules and callbacks need not define them all:
`as_module`, `as_data` and so on return a view with every member, where a missing one has the value that the protocol
returns here.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from torch import Tensor

__all__ = [
    "Batch",
    "CallbackTraits",
    "CheckpointState",
    "ClassLists",
    "Data",
    "DataExtras",
    "Dataset",
    "EpisodeSetting",
    "Module",
    "ModuleExtras",
    "Output",
    "Stage",
    "as_callback",
    "as_checkpoint",
    "as_data",
    "as_dataset",
    "as_module",
    "class_lists",
    "data_extras",
    "data_of",
    "datamodule_of",
    "dataset_of",
    "module_extras",
    "module_of",
]

Batch = dict[str, Any]
"""A batch: `image` (N, C, H, W) uint8, and labels, masks, boxes or views of the images by name."""

Output = dict[str, Any]
"""What a step returns: `loss`, further scalars, and the inputs of metrics and figures."""

Stage = Literal["train", "val", "test"]

ClassLists = dict[str, list[str]]
"""Names of classes by the attribute of a DataModule that lists them, such as `class_names` or `box_classes`."""


class Data(Protocol):
    """What modules, tasks and callbacks use of a DataModule; `datamodules.BaseDataModule` has all of it."""

    @property
    def num_classes(self) -> int | None:
        """Number of classes of `label`."""
        return None

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes of `label`."""
        return ()

    @property
    def box_classes(self) -> Sequence[str]:
        """Names of the classes of boxes."""
        return ()

    @property
    def mask_classes(self) -> Sequence[str]:
        """Names of the classes of pixels."""
        return ()

    @property
    def multi_label(self) -> bool | None:
        """Whether an image may have several labels."""
        return None

    @property
    def in_channels(self) -> int | None:
        """Channels of the images."""
        return None

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the images in pixels."""
        return None

    @property
    def mean(self) -> tuple[float, ...] | None:
        """Mean of each channel, in [0, 1] units."""
        return None

    @property
    def std(self) -> tuple[float, ...] | None:
        """Standard deviation of each channel, in [0, 1] units."""
        return None

    @property
    def batch_size(self) -> int:
        """Images in a batch, on each device."""
        return 1

    @property
    def checkpoint_path(self) -> str | Path | None:
        """Checkpoint that the Trainer is about to load."""
        return None

    @property
    def train_dataset(self) -> Any:
        """Training images with labels."""
        return None

    @property
    def unlabeled_dataset(self) -> Any:
        """All training images, the labels that are hidden or unknown as -1."""
        return None

    @property
    def val_dataset(self) -> Any:
        """Validation images."""
        return None

    @property
    def class_counts(self) -> Callable[[], Tensor] | None:
        """Count the training labels of each class, (K,) int64."""
        return None

    @property
    def object_counts(self) -> Callable[[], Tensor] | None:
        """Count the objects of each class in the training images, (K,) int64."""
        return None

    @property
    def pixel_counts(self) -> Callable[[], Tensor] | None:
        """Count the pixels of each class in the training images, (K,) int64."""
        return None

    @property
    def renumber_classes(self) -> Callable[[str, list[int], list[str]], None] | None:
        """Reorder the classes that an attribute lists, and renumber their labels."""
        return None

    @property
    def labeled_dataloader(self) -> Callable[[int | None], Any] | None:
        """Load the labeled training images in order, at most the given number."""
        return None

    @property
    def ordered_loader(self) -> Callable[[Any], Any] | None:
        """Load a dataset in order, all of it on every rank."""
        return None

    @property
    def training_pool(self) -> Callable[[], Any] | None:
        """Return the training images before validation images are split off."""
        return None


class EpisodeSetting(Protocol):
    """A setting of few-shot evaluation: 5 classes and 1 support image each, for example."""

    @property
    def name(self) -> str:
        """Its name, `5w1s`."""

    @property
    def way(self) -> int:
        """Number of classes."""


class DataExtras(Protocol):
    """Additional members of some DataModules: those of episodes and of two domains."""

    @property
    def settings(self) -> Sequence[EpisodeSetting]:
        """Settings of few-shot evaluation."""
        return ()

    @property
    def hparams(self) -> Mapping[str, Any]:
        """Arguments of the constructor."""
        return {}

    @property
    def support_set(self) -> Callable[[], tuple[Tensor, Tensor]] | None:
        """Return images and labels that define the classes to predict."""
        return None

    @property
    def evaluation_images(self) -> Callable[[Stage], Mapping[str, Tensor]] | None:
        """Return the images that `support` and `query` rows of evaluation episodes index."""
        return None

    @property
    def source_val_dataset(self) -> Any:
        """Validation images of the source domain."""
        return None


class Dataset(Protocol):
    """What callbacks use of a dataset."""

    @property
    def labels(self) -> Tensor | None:
        """Labels of all images."""
        return None

    @property
    def root(self) -> str | Path:
        """Folder that image names are relative to."""
        return "."

    @property
    def sample_name(self) -> Callable[[int], str] | None:
        """Return the name of an image by its index."""
        return None


class Module(Protocol):
    """What data and callbacks use of a module; `lit_cv.BaseModule` has all of it."""

    @property
    def monitor(self) -> str | None:
        """Metric that selects the best checkpoint and decides early stopping."""
        return None

    @property
    def displayed(self) -> str | None:
        """Metric in the progress bar; `None` shows the `monitor`."""
        return None

    @property
    def mode(self) -> str:
        """Whether `monitor` is better when smaller (`min`) or greater (`max`)."""
        return "min"

    @property
    def uses_unlabeled(self) -> bool:
        """Whether training also uses images with hidden labels (label -1)."""
        return False

    @property
    def unlabeled_ratio(self) -> int | None:
        """Unlabeled images in a training batch for each labeled one; `None` mixes them as they come."""
        return None

    @property
    def expects_views(self) -> bool:
        """Whether batches need `views` (V, N, C, H, W) of the images."""
        return False

    @property
    def expects_domains(self) -> bool:
        """Whether training batches hold a `source` and a `target`."""
        return False

    @property
    def evaluates_embedding(self) -> bool:
        """Whether validation evaluates the features of `embed`."""
        return False

    @property
    def compares_features(self) -> bool:
        """Whether evaluation needs only the features of each image by itself."""
        return False

    @property
    def needs_images(self) -> bool:
        """Whether loaders have to read the images."""
        return True

    @property
    def trained_classes(self) -> ClassLists:
        """Names of the classes that the weights were trained on."""
        return {}

    @property
    def means(self) -> Mapping[str, Any]:
        """Running means of the epoch, by stage."""
        return {}

    @property
    def embed(self) -> Callable[[Tensor], Tensor] | None:
        """Return features (N, D) of images."""
        return None


class ModuleExtras(Protocol):
    """Additional members of some modules."""

    @property
    def num_classes(self) -> int | None:
        """Number of classes that it predicts."""
        return None

    @property
    def class_names(self) -> Sequence[str]:
        """Names of these classes."""
        return ()

    @property
    def tasks(self) -> Mapping[str, Any]:
        """Tasks by name."""
        return {}

    @property
    def adapts(self) -> bool | None:
        """Whether the current epoch learns from a target domain; `None` for modules that never do."""
        return None

    @property
    def starts_trained(self) -> bool:
        """Whether the initial weights classify already."""
        return False

    @property
    def backbone_lr(self) -> float:
        """Learning rate of the backbone, if it differs from the head's."""
        return 0.0

    @property
    def reconstruct(self) -> Callable[..., Any] | None:
        """Reconstruct images from their visible patches."""
        return None

    @property
    def fixed_outputs(self) -> Callable[..., Any] | None:
        """Return a tensor or tensors by name, with shapes that depend on the shape of the images alone."""
        return None


class CallbackTraits(Protocol):
    """What modules and runs use of a callback."""

    @property
    def changes_images(self) -> bool:
        """Whether it changes training images, so that their features cannot be cached."""
        return False

    @property
    def enabled(self) -> bool:
        """Whether it is active."""
        return True


class CheckpointState(Protocol):
    """What is used of the callback that writes checkpoints."""

    @property
    def monitor(self) -> str | None:
        """Metric that selects the best checkpoint."""
        return None

    @property
    def mode(self) -> str | None:
        """Whether `monitor` is better when smaller (`min`) or greater (`max`)."""
        return None

    @property
    def best_model_path(self) -> str:
        """File of the best checkpoint."""
        return ""

    @property
    def best_model_score(self) -> Tensor | float | None:
        """Value of `monitor` at the best checkpoint."""
        return None

    @property
    def last_model_path(self) -> str:
        """File of the newest checkpoint."""
        return ""


class _Members:
    """A view of an object through a protocol: missing members have the protocol's values."""

    def __init__(self, owner: object, protocol: type) -> None:
        self._owner, self._protocol = owner, protocol

    def __getattr__(self, name: str) -> Any:
        member = vars(self._protocol).get(name)
        if not isinstance(member, property) or member.fget is None:
            raise AttributeError(f"{self._protocol.__name__} has no member {name!r}.")
        return getattr(self._owner, name, member.fget(self))


def as_data(datamodule: object | None) -> Data:
    """Return a DataModule with all members of `Data`.

    Example:
        >>> as_data(None).num_classes, as_data(None).class_names
        (None, ())
    """
    return cast(Data, _Members(datamodule, Data))


def data_extras(datamodule: object | None) -> DataExtras:
    """Return a DataModule with all members of `DataExtras`."""
    return cast(DataExtras, _Members(datamodule, DataExtras))


def as_dataset(dataset: object | None) -> Dataset:
    """Return a dataset with all members of `Dataset`."""
    return cast(Dataset, _Members(dataset, Dataset))


def as_module(module: object | None) -> Module:
    """Return a module with all members of `Module`."""
    return cast(Module, _Members(module, Module))


def module_extras(module: object | None) -> ModuleExtras:
    """Return a module with all members of `ModuleExtras`."""
    return cast(ModuleExtras, _Members(module, ModuleExtras))


def as_callback(callback: object | None) -> CallbackTraits:
    """Return a callback with all members of `CallbackTraits`."""
    return cast(CallbackTraits, _Members(callback, CallbackTraits))


def as_checkpoint(callback: object | None) -> CheckpointState:
    """Return a callback that writes checkpoints with all members of `CheckpointState`."""
    return cast(CheckpointState, _Members(callback, CheckpointState))


def datamodule_of(trainer: object | None) -> Any:
    """Return the DataModule of a Trainer, `None` if it has only loaders or there is no Trainer."""
    return getattr(trainer, "datamodule", None)


def data_of(trainer: object | None) -> Data:
    """Return a Trainer's DataModule with all members of `Data`."""
    return as_data(datamodule_of(trainer))


def module_of(trainer: object | None) -> Any:
    """Return the module of a Trainer, `None` if it has none yet."""
    return getattr(trainer, "lightning_module", None)


def dataset_of(loader: object | None) -> Any:
    """Return the dataset of a loader, `None` if it has none."""
    return getattr(loader, "dataset", None)


def class_lists(datamodule: object | None, *attributes: str) -> ClassLists:
    """Return the class names that a DataModule lists under some attributes, without those missing or empty."""
    lists = {name: getattr(datamodule, name, None) for name in attributes}
    return {name: [str(entry) for entry in names] for name, names in lists.items() if names}
