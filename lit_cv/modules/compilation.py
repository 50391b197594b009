"""Compilation of a module's networks by `torch.compile`."""

from lit_cv.errors import argument
from lit_cv.modules.extension_points import ExtensionPoints

__all__ = ["compile_networks"]


def compile_networks(module: ExtensionPoints) -> None:
    """Compile a module's networks in place, without effect on state dict keys, copies and exports.

    Raises:
        ValueError: If the module calls none of its networks as a whole.
    """
    networks = module.compiled_networks()
    if not networks:
        raise ValueError(
            f"compile=True: {type(module).__name__} calls only parts of its networks, which cannot be compiled: leave "
            f"{argument('compile', module)} out."
        )
    for network in networks:
        network.compile()
