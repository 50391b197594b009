"""Feature maps of several resolutions from one pass through a backbone of any architecture."""

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_cv.nn.sizes import run_on_meta
from lit_cv.nn.stages import units
from lit_cv.nn.stems import first_convolution

__all__ = ["Level", "collect", "find_levels", "pad_to", "probe_sizes", "tokens_to_map"]

FeatureFunction = Callable[[nn.Module, Tensor], Tensor]

_PROBE = (192, 320)  # not square, to distinguish channels-first from channels-last layouts
_LAST = ""  # path of the level that `features` returns


class Level(NamedTuple):
    """The deepest feature map of one resolution in a backbone.

    Attributes:
        path: Path of the module that returns the map; empty for the output of the last layer.
        channels: Number of channels.
        kind: Layout: `first` (N, C, h, w), `last` (N, h, w, C) or `tokens` (N, T + h * w, C).
        patch: Side of a token's patch in pixels; a map of another stride is interpolated.
    """

    path: str
    channels: int
    kind: str = "first"
    patch: int = 1


class _Probe(nn.Module):
    def __init__(self, body: nn.Module, features: FeatureFunction) -> None:
        super().__init__()
        self.body, self.features = body, features

    def forward(self, images: Tensor) -> Tensor:
        return self.features(self.body, images)


def find_levels(
    body: nn.Module, features: FeatureFunction, image_size: tuple[int, int] | None = None
) -> dict[int, Level]:
    """Find the deepest map of every resolution by a forward pass on the meta device.

    Args:
        body: The network without its classifier.
        features: Runs the network up to its last feature map or tokens.
        image_size: Height and width of a supported image, for networks built for a single size.

    Returns:
        Levels by stride (image pixels per step in the map, a power of two), in ascending order. Vision transformers
        have a single level.
    """
    channels = first_convolution(body)[1].in_channels
    for size in probe_sizes(image_size):
        try:
            last, shapes = _shapes(body, features, (1, channels, *size))
        except (RuntimeError, ValueError, AssertionError):
            continue
        if len(last) == 3:
            patch = int(first_convolution(body)[1].stride[0])
            return {2 ** round(math.log2(patch)): Level(_LAST, last[2], "tokens", patch)}
        levels = {stride: level for path, shape in shapes.items() for stride, level in _level(path, shape, size)}
        if last_level := next(iter(_level(_LAST, last, size)), None):
            stride, level = last_level
            if stride not in levels or levels[stride].channels != level.channels:
                levels[stride] = level
        return dict(sorted(levels.items()))
    raise ValueError(f"{type(body).__name__} has no feature maps for dense tasks: choose another backbone.")


class _Enough(Exception):  # noqa: N818 - no error
    """Raised when all maps are computed, to skip the remaining layers."""


def collect(
    body: nn.Module,
    features: FeatureFunction,
    images: Tensor,
    levels: dict[int, Level],
    complete: bool = True,
    size: tuple[int, int] | None = None,
) -> tuple[Tensor | None, dict[int, Tensor]]:
    """Run a network once and collect feature maps.

    Args:
        body: The network without its classifier.
        features: Runs the network up to its last feature map or tokens.
        images: (N, C, H, W), normalized.
        levels: Levels from `find_levels`.
        complete: Whether to run the layers behind the last map, too. An export always traces them and then removes
            what is unused.
        size: Height and width of the images before padding, `None` if they were not padded.

    Returns:
        The output of `features`, `None` unless all layers ran, and the maps (N, channels, h, w) by stride.
    """
    outputs: dict[str, Tensor] = {}
    paths = {level.path for level in levels.values()}
    stops = not complete and not torch.compiler.is_compiling()  # tracing does not support leaving by an exception

    def record(path: str, output: Tensor) -> None:
        outputs[path] = output
        if stops and outputs.keys() == paths:
            raise _Enough

    last = None
    with suppress(_Enough), _recording(body, paths - {_LAST}, record):
        last = features(body, images)
        outputs[_LAST] = last
    maps = {}
    for stride, level in levels.items():
        out = outputs[level.path]
        if level.kind == "tokens":
            rows, columns = (math.ceil(side / level.patch) for side in images.shape[2:])
            out = _at_stride(tokens_to_map(out, rows, columns), level.patch, stride, size or tuple(images.shape[2:]))
        maps[stride] = out.permute(0, 3, 1, 2) if level.kind == "last" else out
    return last, maps


def probe_sizes(image_size: tuple[int, int] | None) -> list[tuple[int, int]]:
    """Return image sizes to probe a network with; the first suits all networks not built for a single size."""
    return [_PROBE, *([(image_size[0], image_size[1])] if image_size else []), (224, 224)]


def tokens_to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """Return the patch tokens, the last of tokens (N, T, C), as a map (N, C, height, width)."""
    patches = tokens[:, tokens.shape[1] - height * width :]
    # `len(tokens)` would fix the batch size of programs.
    return patches.transpose(1, 2).reshape(tokens.shape[0], -1, height, width)


def _at_stride(maps: Tensor, patch: int, stride: int, size: tuple[int, ...]) -> Tensor:
    """Interpolate a map of patches to another stride, for images of height and width `size`."""
    if patch == stride:
        return maps
    height, width = (math.ceil(side / stride) for side in size)
    down, right = (
        max(0, math.ceil(cells * stride / patch) - current)
        for cells, current in zip((height, width), maps.shape[2:], strict=True)
    )
    maps = F.pad(maps, (0, right, 0, down), mode="replicate")
    resized = F.interpolate(maps, scale_factor=patch / stride, mode="bilinear", align_corners=False)
    return resized[:, :, :height, :width]


def pad_to(images: Tensor, multiple: int) -> Tensor:
    """Zero-pad images at the right and the bottom to multiples of `multiple`."""
    height, width = images.shape[2:]
    down, right = -height % multiple, -width % multiple
    return F.pad(images, (0, right, 0, down)) if down or right else images


def _shapes(
    body: nn.Module, features: FeatureFunction, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
    """Return the output shape of a network for an image, and the output shapes of its parts by path."""
    shapes: dict[str, tuple[int, ...]] = {}

    def record(path: str, output: Tensor) -> None:
        shapes[path] = tuple(output.shape)

    with _recording(body, [path for path, _ in units(body)], record):
        return run_on_meta(_Probe(body, features), shape), shapes


def _level(path: str, shape: tuple[int, ...], size: tuple[int, int]) -> Iterator[tuple[int, Level]]:
    """Yield the stride and level of an output if it is a map, in the layout whose stride is nearest a power of two."""
    if len(shape) != 4:
        return
    candidates = []
    for kind, (h, w, c) in (("first", (2, 3, 1)), ("last", (1, 2, 3))):
        exact = [math.log2(full / max(1, side)) for full, side in zip(size, (shape[h], shape[w]), strict=True)]
        down, across = map(round, exact)
        if down == across >= 0:
            candidates.append((max(abs(e - down) for e in exact), 2**down, Level(path, shape[c], kind)))
    if candidates:
        yield min(candidates, key=lambda each: each[0])[1:]


@contextmanager
def _recording(body: nn.Module, paths: Collection[str], record: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Pass the outputs of modules to `record` while the network runs."""

    def hook(path: str) -> Callable[[nn.Module, object, object], None]:
        def run(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                record(path, output)

        return run

    handles = [body.get_submodule(path).register_forward_hook(hook(path)) for path in paths]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
