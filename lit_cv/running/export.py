"""Export a trained module as a program that needs neither this project nor Lightning."""

import copy
import json
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn

from lit_cv.atomic_files import atomic_write
from lit_cv.contracts import module_extras
from lit_cv.errors import OptionError, argument, setting
from lit_cv.modules.base import BaseModule
from lit_cv.modules.checkpoint_contents import image_preprocessing
from lit_cv.modules.feature_comparison import FeatureComparisonModule
from lit_cv.modules.few_shot import FewShotModule
from lit_cv.nn import merge_lora, merge_lora_state
from lit_cv.randomness import fixed_seed
from lit_cv.running.object_comparison import BOX_ENTRIES, MASKS, ObjectComparison, box_outputs
from lit_cv.running.onnx_program import OnnxProgram

__all__ = ["ExportedEpisode", "ExportedModule", "example_images", "export_onnx", "export_program", "export_weights"]

Inputs = tuple[Tensor, ...]
Outputs = dict[str, Tensor]

_BATCH_SIZES = (1, 3, 8)  # used to check an exported program
_LONGEST = 1 << 20  # images in a batch
_TOLERANCE = 1e-4


class ExportedModule(nn.Module):
    """The exported part of a module: raw images in, named tensors out.

    Args:
        module: The module; it is copied without its metrics, and the copy is put into eval mode and float32.
        output: `forward` for the output of the module, `embed` for its features; `auto` uses the features of modules
            that learn only features, such as `MAEModule`, or compare images by them.
        suppress: Whether detectors apply non-maximum suppression; without it, they return all candidates.

    Attributes:
        shapes: Shapes of the outputs for an image, by name. Detectors have the outputs of `PaddedDetections`.
        input_names: Names of the inputs.
        dimensions: For each input, the names of its dimensions of any length, by position.

    Raises:
        ValueError: If the output is neither a tensor nor a dict of tensors, or the number of boxes cannot be fixed.

    Example:
        >>> from lit_cv import SupervisedModule
        >>> module = SupervisedModule(backbone="conv4", num_classes=10, in_channels=1, image_size=28)
        >>> ExportedModule(module)(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))["logits"].shape
        torch.Size([2, 10])
    """

    input_names: ClassVar[tuple[str, ...]] = ("image",)
    dimensions: ClassVar[tuple[dict[int, str], ...]] = ({0: "batch"},)

    def __init__(
        self, module: BaseModule, output: Literal["auto", "forward", "embed"] = "auto", suppress: bool = True
    ) -> None:
        super().__init__()
        module.configure_model()
        trainer, module._trainer = module._trainer, None  # not copied
        try:
            self.module = copy.deepcopy(module).cpu().float().eval()
        finally:
            module._trainer = trainer
        self.module.metrics = nn.ModuleDict()
        merge_lora(self.module)
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)
        learns_features = module.evaluates_embedding or isinstance(module, FewShotModule)
        embeds = learns_features if output == "auto" else output == "embed"
        self.name = "embedding" if embeds else "logits"
        self.suppress = suppress
        self.eval()
        self.shapes = self._check()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that the module was trained on."""
        h = self.module.hparams
        size = h["image_size"] if h["image_size"] is not None else 224
        height, width = (size, size) if isinstance(size, int) else size
        return int(h["in_channels"]), int(height), int(width)

    @property
    def dynamic_shapes(self) -> tuple[dict[int, Any], ...]:
        """The dimensions of any length of each input, as `torch.export` expects them."""
        names = dict.fromkeys(name for dimensions in self.dimensions for name in dimensions.values())
        dims = {name: torch.export.Dim(name, min=1, max=_LONGEST) for name in names}
        return tuple({position: dims[name] for position, name in each.items()} for each in self.dimensions)

    @cached_property
    def trace(self) -> torch.export.ExportedProgram:
        """The program for batches of any size, traced once for all formats."""
        return torch.export.export(self, self.example(2), dynamic_shapes=self.dynamic_shapes)

    def example(self, count: int) -> Inputs:
        """Return inputs with `count` images to check a program with."""
        return (example_images(self.image_shape, count),)

    def forward(self, image: Tensor) -> Outputs:
        """Return the named outputs for raw images, (N, C, H, W) uint8."""
        fixed_outputs = module_extras(self.module).fixed_outputs
        if self.name == "embedding":
            output = self.module.embed(image)
        else:
            output = self.module(image) if fixed_outputs is None else fixed_outputs(image, self.suppress)
        return dict(output) if isinstance(output, Mapping) else {self.name: output}

    def describe(self, class_names: Sequence[str] = ()) -> dict[str, Any]:
        """Return the description that programs hold: shapes of input and outputs, class names, module, backbone."""
        inputs: dict[str, Any] = {}
        for name, value, names in zip(self.input_names, self.example(2), self.dimensions, strict=True):
            inputs[name] = [names.get(position, size) for position, size in enumerate(value.shape)]
        return {
            "input": {**inputs, "dtype": "uint8"},
            "output": self.name if self.name in self.shapes else "objects",
            "outputs": {name: ["batch", *shape] for name, shape in self.shapes.items()},
            "classes": [*class_names],
            "module": type(self.module).__name__,
            "backbone": self.module.hparams["backbone"],
        }

    @torch.no_grad()
    def _check(self) -> dict[str, list[int]]:
        try:
            outputs: Any = self(*self.example(2))
        except OptionError as error:
            raise ValueError(f"{error} Or export the features ({setting('part', 'embed')}).") from None
        if wrong := [name for name, value in outputs.items() if not isinstance(value, Tensor)]:
            raise ValueError(
                f"{type(self.module).__name__} returns a {type(outputs[wrong[0]]).__name__}, but programs need a fixed "
                f"output: export its features ({setting('part', 'embed')})."
            )
        return {name: list(value.shape[1:]) for name, value in outputs.items()}


class ExportedEpisode(ExportedModule):
    """The exported part of a few-shot module that compares features: images of new classes and queries in, logits out.

    Args:
        module: The module.

    Raises:
        ValueError: If the module does not compare features, as `MAMLModule`, which adapts its weights by gradients.

    Example:
        >>> from lit_cv import PrototypicalModule
        >>> program = ExportedEpisode(PrototypicalModule(in_channels=1, image_size=28))
        >>> images, members = torch.zeros(6, 1, 28, 28, dtype=torch.uint8), torch.eye(3).repeat(2, 1)
        >>> program(images, members, images)["logits"].shape
        torch.Size([6, 3])
    """

    input_names: ClassVar[tuple[str, ...]] = ("support", "members", "query")
    dimensions: ClassVar[tuple[dict[int, str], ...]] = ({0: "images"}, {0: "images", 1: "classes"}, {0: "batch"})

    def __init__(self, module: BaseModule) -> None:
        if not isinstance(module, FeatureComparisonModule):
            raise ValueError(
                f"{type(module).__name__} does not compare query images with the examples of classes: export another "
                f"part ({setting('part', 'auto')})."
            )
        super().__init__(module)
        self.name = "logits"

    def example(self, count: int) -> Inputs:
        """Return support images of three classes, their members and `count` query images."""
        members = nn.functional.one_hot(torch.arange(count + 5) % 3, 3).float()
        return example_images(self.image_shape, count + 5), members, example_images(self.image_shape, count)

    def describe(self, class_names: Sequence[str] = ()) -> dict[str, Any]:
        """Return the description, with the types of the inputs and without class names, which the examples bring."""
        description = super().describe()
        description["input"]["dtype"] = {"support": "uint8", "members": "float32", "query": "uint8"}
        return {**description, "outputs": {"logits": ["batch", "classes"]}}

    def forward(self, support: Tensor, members: Tensor, query: Tensor) -> Outputs:  # type: ignore[override]
        """Return the logits (N, K) of N raw query images for K classes.

        Args:
            support: (S, C, H, W) uint8, examples of the classes.
            members: (S, K) float32, 1 where an image belongs to a class, otherwise 0.
            query: (N, C, H, W) uint8.
        """
        module = cast(FeatureComparisonModule, self.module)
        classes = module.average(module.encode(support)[None], members[None])
        return {"logits": module.compare(classes, module.encode(query)[None])[0]}


def example_images(shape: Sequence[int], count: int) -> Tensor:
    """Return fixed images (count, C, H, W) uint8 to check a program with: smooth images with increasing noise."""
    channels, height, width = shape
    with fixed_seed(count):
        coarse = torch.rand(count, channels, min(4, height), min(4, width))
        smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        noise = torch.rand(count, channels, height, width)
    weight = torch.linspace(0, 0.5, count).view(-1, 1, 1, 1)
    return ((1 - weight) * smooth + weight * noise).mul(255).round().to(torch.uint8)


def export_program(
    module: ExportedModule, path: Path, images: Tensor | None = None, class_names: Sequence[str] = ()
) -> float:
    """Write a program for `torch.export.load(path).module()`, which takes batches of any size.

    `torch.export.load(path, extra_files={"model.json": ""})` also fills in the description of the module.

    Args:
        module: The module to export.
        path: File to write, `.pt2`.
        images: Further images (N, C, H, W) uint8 to check the program with.
        class_names: Names of the classes, for the description.

    Returns:
        The largest difference from the module's output, relative to its scale.

    Raises:
        ValueError: If the program's output differs from the module's; no file is left then.
    """
    with atomic_write(path, "the program", suffix=".part.pt2") as part:
        description = json.dumps(module.describe(class_names))
        torch.export.save(module.trace, part, extra_files={"model.json": description})
        loaded = torch.export.load(part).module()
        return _difference(module, lambda *inputs: cast(Outputs, loaded(*inputs)), path, images)


def export_onnx(
    module: ExportedModule, path: Path, images: Tensor | None = None, class_names: Sequence[str] = ()
) -> float:
    """Write an ONNX program with the module's named inputs and outputs; otherwise like `export_program`.

    The entries of the description are in its metadata, each as JSON.

    Raises:
        ImportError: If onnx, onnxscript or onnxruntime is missing.
        ValueError: If the program's output differs from the module's; no file is left then.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f'ONNX export needs {error.name}, which is not installed: pip install "lit_cv[export]", or leave ONNX out '
            f"of {argument('formats')}."
        ) from None
    with atomic_write(path, "the program", suffix=".part.onnx") as part:
        program: Any = torch.onnx.export(
            module.trace, input_names=module.input_names, output_names=list(module.shapes), dynamo=True, verbose=False,
            dynamic_shapes=module.dynamic_shapes,
        )  # fmt: skip
        for key, value in module.describe(class_names).items():
            program.model.metadata_props[key] = json.dumps(value)
        program.save(part, external_data=False)
        return _difference(module, OnnxProgram(part), path, images)


def export_weights(module: BaseModule, path: Path, class_names: Sequence[str] = ()) -> None:
    """Write the weights as safetensors, for `weights` of a module, with the module's description as metadata."""
    state = {name: value.contiguous().clone() for name, value in merge_lora_state(module.state_dict()).items()}
    network = ("backbone", "in_channels", "image_size", "stem")
    hyperparameters = {key: value for key, value in module.hparams.items() if key in network}
    metadata = {
        "class": type(module).__name__,
        "hyperparameters": json.dumps(hyperparameters),
        "classes": json.dumps([*class_names]),
    }
    if (prepared := image_preprocessing(module)) is not None:
        metadata["preprocessing"] = json.dumps(prepared.plain())
    with atomic_write(path, "the weights") as part:
        part.write_bytes(save(state, metadata))


@torch.no_grad()
def _difference(module: ExportedModule, run: Any, path: Path, images: Tensor | None) -> float:
    """Return the largest difference between a written program and the module.

    Raises:
        ValueError: If it exceeds the tolerance.
    """
    batches = [module.example(count) for count in _BATCH_SIZES]
    if images is not None and len(images):
        batches += [(*batches[0][:-1], part) for part in torch.split(images, 32)]
    worst = 0.0
    comparisons = {prefix: ObjectComparison() for prefix in box_outputs(module.shapes)}
    for batch in batches:
        outputs, expected_outputs = run(*batch), module(*batch)
        for prefix, comparison in comparisons.items():
            entries = (*BOX_ENTRIES, MASKS)
            names = {entry: name for entry in entries if (name := f"{prefix}{entry}") in expected_outputs}
            actual = {entry: outputs[name] for entry, name in names.items()}
            objects = {entry: expected_outputs.pop(name) for entry, name in names.items()}
            comparison.add(actual, objects, partial(_candidates, module, batch[0], prefix))
        for name, expected in expected_outputs.items():
            scale = max(1.0, float(expected.abs().max()))
            difference = float((outputs[name] - expected).abs().max()) / scale
            if outputs[name].shape != expected.shape or not difference <= _TOLERANCE:
                raise ValueError(
                    f"{path.name}: {name} differs by {difference:.2g} from the module's output on a batch of "
                    f"{len(batch[-1])}: nothing was written."
                )
            worst = max(worst, difference)
    return max([worst, *(comparison.difference(path.name) for comparison in comparisons.values())])


def _candidates(module: ExportedModule, images: Tensor, prefix: str) -> Outputs:
    """Return the objects of a module before non-maximum suppression, of the task with a prefix."""
    outputs = cast(Any, module.module).fixed_outputs(images, False)
    return {entry: outputs[f"{prefix}{entry}"] for entry in BOX_ENTRIES}
