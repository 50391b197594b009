"""From a checkpoint of this project to the module that it holds, without the run that wrote it."""

from collections.abc import Iterable
from pathlib import Path

from lit_cv.checkpoint_file import CheckpointFile, read_checkpoint
from lit_cv.modules.base import BaseModule
from lit_cv.modules.size_guard import no_larger_than, require_size
from lit_cv.registry import names_of_files, resolve_class

__all__ = ["load_module"]


def load_module(path: str | Path, trusted: Iterable[str] = ()) -> BaseModule:
    """Build the module of a checkpoint, with its weights, in eval mode, on the CPU.

    The file names the class. It is taken if it derives from `BaseModule` and is one of this library, or of a module
    that the program has imported or `trusted` names; nothing else that the file names is imported or called.

    Args:
        path: The checkpoint.
        trusted: Modules whose classes the checkpoint may name beside these.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none of this project's, its class is not to be found or not trusted, or its
            hyperparameters do not fit its weights.
    """
    content = read_checkpoint(Path(path))
    if content.class_path is None:
        raise ValueError(f"{path} does not say which module it holds: it is no checkpoint of lit_cv.")
    with names_of_files(trusted):
        cls = resolve_class(content.class_path, BaseModule, str(path))  # type: ignore[type-abstract]
        return _build(cls, content)


def _build(cls: type[BaseModule], content: CheckpointFile) -> BaseModule:
    path, name = content.path, cls.__name__
    require_size(cls, content.hyper_parameters, content.size, str(path))
    try:
        with no_larger_than(content.size, str(path)):
            module = cls(**content.hyper_parameters)
            module.configure_model()
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise ValueError(f"{path}: its hyperparameters do not fit {name}: {reason}.") from error
    missing = [key for key in module.state_dict() if key not in content.state_dict]
    if missing:
        raise ValueError(f"{path} lacks weights of {name}: {', '.join(missing[:4])}.")
    try:
        module.load_state_dict(content.state_dict, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{path}: its weights do not fit its hyperparameters: {_first_difference(error)}.") from None
    return module.eval()


def _first_difference(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
    return (lines or str(error).splitlines())[0].rstrip(".")
