"""Loading of a module from a checkpoint, independent of the run that wrote it."""

from collections.abc import Iterable
from pathlib import Path

from lit_cv.checkpoint_file import CheckpointFile, read_checkpoint
from lit_cv.hub import download, is_hub_name
from lit_cv.modules.base import BaseModule
from lit_cv.modules.base_weights import add_base_weights
from lit_cv.modules.size_guard import check_network_size, limit_network_size
from lit_cv.nn import Preprocessing
from lit_cv.registry import resolve_class
from lit_cv.trust import UntrustedClassError, names_of_files

__all__ = ["load_module"]

_MAX_QUOTED = 300  # characters; messages may quote any text of a file
_MAX_MESSAGE = 1000


def load_module(path: str | Path, trusted: Iterable[str] = ()) -> BaseModule:
    """Build the module of a checkpoint with its weights, in eval mode on the CPU.

    The file names the class. It is accepted if it derives from `BaseModule` and belongs to this library or to a Python
    module that the program has imported or that `trusted` names. Nothing else that the file names is imported or
    called.

    Args:
        path: The checkpoint, or `hf://OWNER/NAME` on the Hugging Face Hub.
        trusted: Further Python modules whose classes the checkpoint may name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a checkpoint of this project, its class is not found or not trusted, or its
            hyperparameters do not fit its weights.
    """
    content = read_checkpoint(download(str(path)) if is_hub_name(path) else Path(path))
    if content.class_path is None:
        raise ValueError(f"{path} does not name the module that it holds: it is not a checkpoint of lit_cv.")
    with names_of_files(trusted):
        cls = resolve_class(content.class_path, BaseModule, str(path))  # type: ignore[type-abstract]
        return _build(cls, content)


def _build(cls: type[BaseModule], content: CheckpointFile) -> BaseModule:
    path, name = str(content.path), cls.__name__
    check_network_size(cls, content.hyper_parameters, content.size, path)
    try:
        with limit_network_size(content.size, path):
            module = cls(**content.hyper_parameters)
            module.configure_model()
    except UntrustedClassError:
        raise
    except Exception as error:  # a constructor may raise anything for arbitrary values
        if isinstance(error, ValueError) and str(error).startswith(path) and len(str(error)) <= _MAX_MESSAGE:
            raise
        raise ValueError(f"{path}: its hyperparameters do not fit {name}: {_short(error)}.") from error
    expected, state = module.state_dict(), content.state_dict
    if content.base is not None:
        state = add_base_weights(module, state, content.base, content.hyper_parameters.get("weights"))
    missing = [key for key in expected if key not in state]
    if missing:
        raise ValueError(f"{path} lacks weights of {name}: {', '.join(missing[:4])}.")
    unreal = [key for key in expected if state[key].is_complex() and not expected[key].is_complex()]
    if unreal:
        raise ValueError(f"{path}: its weights do not fit its hyperparameters: {unreal[0]} holds complex numbers.")
    try:
        module.load_state_dict(state, strict=False)
    except Exception as error:  # hooks and metadata of the state dict may raise anything
        raise ValueError(f"{path}: its weights do not fit its hyperparameters: {_first_difference(error)}.") from None
    module.trained_classes = dict(content.classes)
    if content.preprocessing is not None:
        try:
            module.restored_preprocessing = Preprocessing.from_plain(content.preprocessing)
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from None
    return module.eval()


def _first_difference(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
    return lines[0][:_MAX_QUOTED].rstrip(".") if lines else _short(error)


def _short(error: Exception) -> str:
    """Return the message of an error as one line of limited length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:_MAX_QUOTED].rstrip(".")
