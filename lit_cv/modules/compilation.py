"""Networks through `torch.compile`."""

from lit_cv.errors import argument
from lit_cv.modules.extension_points import ExtensionPoints

__all__ = ["compile_networks"]


def compile_networks(module: ExtensionPoints) -> None:
    """Compile a module's networks in place: the keys of its state dict, copies and exports stay as they are.

    Raises:
        ValueError: If no network of the module is called as a whole.
    """
    networks = module.compiled_networks()
    if not networks:
        raise ValueError(
            f"compile=True: {type(module).__name__} runs parts of its networks, of which none is compiled: leave "
            f"{argument('compile', module)} out."
        )
    for network in networks:
        network.compile()
