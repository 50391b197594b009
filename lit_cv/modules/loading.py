"""From a checkpoint of this project to the module that it holds, without the run that wrote it."""

from importlib import import_module
from pathlib import Path

import torch

from lit_cv.modules.base import BaseModule

__all__ = ["load_module"]


def load_module(path: str | Path) -> BaseModule:
    """Build the module of a checkpoint, with its weights, in eval mode, on the CPU.

    Args:
        path: The checkpoint.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none of this project's, or its class is not to be found.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {str(path)!r}.")
    content = torch.load(path, map_location="cpu", weights_only=True)
    class_path = content.get("lit_cv", {}).get("class_path")
    if class_path is None:
        raise ValueError(f"{path} does not say which module it holds: it is no checkpoint of lit_cv.")
    package, _, name = class_path.rpartition(".")
    try:
        cls = getattr(import_module(package), name)
    except (ImportError, AttributeError):
        raise ValueError(f"{path} holds a {name}, but there is no {class_path} here: run from its folder.") from None
    module: BaseModule = cls(**content["hyper_parameters"])
    module.configure_model()
    module.load_state_dict(content["state_dict"], strict=False)
    missing = [key for key in module.state_dict() if key not in content["state_dict"]]
    if missing:
        raise ValueError(f"{path} lacks weights of {name}: {', '.join(missing[:4])}.")
    return module.eval()
