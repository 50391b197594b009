"""The stages of a backbone in the order of their depth, whatever its architecture."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import nn

from lit_cv.suggest import nearest

__all__ = ["Stage", "backbone_stages", "find_stage", "units"]

# Modules that hold a network's depth and are looked into; anything else is a unit that stays whole.
_CONTAINERS = ("blocks", "layers", "stages", "features", "trunk_output", "encoder")
_POOLING = "attn_pool"  # of timm's vision transformers, such as SigLIP's
_LINKS = ("_Transition", "DenseTransition", "PatchMerging", "PatchMergingV2")  # lead from one stage over to the next


class Stage(NamedTuple):
    """A part of a backbone between two depths.

    Attributes:
        name: Its name in the network: `stem`, `layer3`, `blocks.11`, `features.5`, `encoder_layer_0`.
        modules: Its modules.
        parameters: Its parameters, each in one stage only; the first stage has those of no module, too (position
            embeddings, class tokens).
    """

    name: str
    modules: tuple[nn.Module, ...]
    parameters: tuple[nn.Parameter, ...]


def backbone_stages(body: nn.Module) -> list[Stage]:
    """Divide a network without its classifier into stages, from the image to the features.

    A stage is a block of a vision transformer, a stage of a convolutional network as its authors count them (a
    downsampling layer belongs to what follows it), or the layers between two poolings of a plain one. Final norms and
    a learnt pooling belong to the last stage, so that blocks have the learning rates of timm's layer-wise decay.

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
        raise ValueError(f"{type(body).__name__} has no layers with parameters, hence no stages.")
    stages: list[Stage] = []
    seen: set[nn.Parameter] = set()
    for name, modules in groups:
        own = dict.fromkeys(p for module in modules for p in module.parameters() if p not in seen)
        seen.update(own)
        stages.append(Stage(name, tuple(modules), tuple(own)))
    rest = tuple(parameter for parameter in body.parameters() if parameter not in seen)
    stages[0] = stages[0]._replace(parameters=rest + stages[0].parameters)
    return stages


def find_stage(stages: Sequence[Stage], name: str) -> int:
    """Return the position of the stage of that name.

    Raises:
        ValueError: If there is none, with the nearest names.
    """
    names = [stage.name for stage in stages]
    if name not in names:
        raise ValueError(f"there is no stage {name!r}{nearest(name, names)} The stages are: {', '.join(names)}.")
    return names.index(name)


def _group(body: nn.Module) -> list[tuple[str, list[nn.Module]]]:
    """Return the stages as names and modules."""
    groups: list[tuple[str, list[nn.Module]]] = []
    links: list[nn.Module] = []
    plain = False  # whether the last stage consists of single layers, of which it takes more
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
    """Yield the parts of a network that stay whole in the order of its definition, each with its path."""
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
    """Whether all parameters are the module's own, as in a convolution."""
    return all(next(child.parameters(), None) is None for child in module.children())


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__ and _is_single(module)


def _has_norms_only(module: nn.Module) -> bool:
    holders = [m for m in module.modules() if next(m.parameters(recurse=False), None) is not None]
    return bool(holders) and all(_is_norm(holder) for holder in holders)


def _is_pooling(path: str, module: nn.Module) -> bool:
    return "pool" in path.rpartition(".")[2].lower() or "pool" in type(module).__name__.lower()


def _is_link(module: nn.Module) -> bool:
    """Whether a module only leads over to the next stage, as ConvNeXt's norm and strided convolution do."""
    if type(module).__name__ in _LINKS:
        return True
    layers = list(module.children()) if isinstance(module, nn.Sequential) else []
    return len(layers) == 2 and _is_norm(layers[0]) and isinstance(layers[1], nn.Conv2d)
