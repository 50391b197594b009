"""The stages of a backbone of any architecture, in order of depth."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import nn

from lit_cv.suggest import nearest

__all__ = ["BackboneStage", "backbone_stages", "find_stage", "units"]

# Names of modules whose children are separate units; any other module is a single unit.
_CONTAINERS = ("blocks", "layers", "stages", "features", "trunk_output", "encoder")
_POOLING = "attn_pool"  # learned pooling of timm's vision transformers, such as SigLIP's
_LINKS = ("_Transition", "DenseTransition", "PatchMerging", "PatchMergingV2")  # transitions between stages


class BackboneStage(NamedTuple):
    """A part of a backbone between two depths.

    Attributes:
        name: Name in the network: `stem`, `layer3`, `blocks.11`, `features.5`, `encoder_layer_0`.
        modules: Its modules.
        parameters: Its parameters, each in one stage only; the first stage also has the parameters that belong to no
            stage's modules (position embeddings, class tokens).
    """

    name: str
    modules: tuple[nn.Module, ...]
    parameters: tuple[nn.Parameter, ...]


def backbone_stages(body: nn.Module) -> list[BackboneStage]:
    """Divide a network without its classifier into stages, from the image to the features.

    A stage is a block of a vision transformer, a stage of a convolutional network as defined by its authors (a
    downsampling layer belongs to the stage after it), or the layers between two poolings of a plain network. Final
    norms and a learned pooling belong to the last stage, so that the learning rates of blocks match timm's layer-wise
    decay.

    Args:
        body: The network, `Backbone.body`.

    Raises:
        ValueError: If the network has no parameters.

    Example:
        >>> from lit_cv.nn import create_backbone
        >>> [stage.name for stage in backbone_stages(create_backbone("resnet18").body)]
        ['stem', 'layer1', 'layer2', 'layer3', 'layer4']
    """
    groups = _group(body)
    if not groups:
        raise ValueError(f"{type(body).__name__} has no layers with parameters, so it has no stages.")
    stages: list[BackboneStage] = []
    seen: set[nn.Parameter] = set()
    for name, modules in groups:
        parameters = dict.fromkeys(p for module in modules for p in module.parameters() if p not in seen)
        seen.update(parameters)
        stages.append(BackboneStage(name, tuple(modules), tuple(parameters)))
    unassigned = tuple(parameter for parameter in body.parameters() if parameter not in seen)
    stages[0] = stages[0]._replace(parameters=unassigned + stages[0].parameters)
    return stages


def find_stage(stages: Sequence[BackboneStage], name: str) -> int:
    """Return the index of the stage with this name.

    Raises:
        ValueError: If there is none; the message has the nearest names.
    """
    names = [stage.name for stage in stages]
    if name not in names:
        raise ValueError(f"there is no stage {name!r}{nearest(name, names)} The stages are: {', '.join(names)}.")
    return names.index(name)


def _group(body: nn.Module) -> list[tuple[str, list[nn.Module]]]:
    """Group the units of a network into stages; return the name and modules of each."""
    groups: list[tuple[str, list[nn.Module]]] = []
    links: list[nn.Module] = []
    plain = False  # whether the last stage consists of single layers and accepts more
    for path, module in units(body):
        if next(module.parameters(), None) is None:
            plain = plain and not _is_pooling(path, module)
        elif groups and not links and (path == _POOLING or _has_norms_only(module)):
            groups[-1][1].append(module)
        elif _is_link(module):
            links.append(module)
        else:
            single = _is_single(module)
            if single and plain and not links:
                groups[-1][1].append(module)
            else:
                groups.append((_name(path, first=not groups, single=single), [*links, module]))
            links, plain = [], single
    if groups:
        groups[-1][1].extend(links)
    return groups


def units(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the path and module of the units of a network, the parts that are not divided, in definition order."""
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        if name in _CONTAINERS and next(child.children(), None) is not None:
            yield from units(child, inner)
        else:
            yield inner, child


def _name(path: str, first: bool, single: bool) -> str:
    parts = path.split(".")
    name = ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]
    is_block = len(parts) > 1 and parts[-2] in ("blocks", "layers", "stages") and not single
    return "stem" if first and not is_block else name


def _is_single(module: nn.Module) -> bool:
    """Return whether no submodule has parameters, as in a convolution."""
    return all(next(child.parameters(), None) is None for child in module.children())


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__ and _is_single(module)


def _has_norms_only(module: nn.Module) -> bool:
    holders = [m for m in module.modules() if next(m.parameters(recurse=False), None) is not None]
    return bool(holders) and all(_is_norm(holder) for holder in holders)


def _is_pooling(path: str, module: nn.Module) -> bool:
    return "pool" in path.rpartition(".")[2].lower() or "pool" in type(module).__name__.lower()


def _is_link(module: nn.Module) -> bool:
    """Return whether a module is only a transition to the next stage, such as ConvNeXt's norm and convolution."""
    if type(module).__name__ in _LINKS:
        return True
    layers = list(module.children()) if isinstance(module, nn.Sequential) else []
    return len(layers) == 2 and _is_norm(layers[0]) and isinstance(layers[1], nn.Conv2d)
