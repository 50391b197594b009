"""Files of weights: which file and which part of it a text names, and what is in it. Pure torch."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from lit_cv.checkpoint_file import RefusedFileError, load_tensors, require_stored_tensors
from lit_cv.errors import refusal
from lit_cv.suggest import nearest

__all__ = ["SUFFIXES", "WeightFile", "absolute_weights", "find_file", "listed"]

SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
"""How the names of files of weights end."""

_PART = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_WHOLE = ("state_dict", "model")  # entries of a file that hold the weights of the whole module
_WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
_MOST_NAME = 100  # characters; a name in a file may have any number
_MOST_PARTS = 12


class WeightFile(NamedTuple):
    """A file of weights, or a part of it.

    Attributes:
        path: The file.
        part: Name that the keys of the part begin with, such as `teacher`; `None` stands for the whole file.
    """

    path: Path
    part: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.part is None else f"{self.path}:{self.part}"

    def read(self) -> Any:
        """Return what the file holds, all of it.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it cannot be read as weights.
        """
        path = self.path
        if not path.is_file():
            raise FileNotFoundError(refusal(None, "weights", str(path), "there is no such file"))
        try:
            if path.suffix != ".safetensors":
                return load_tensors(path)
            content = load_file(path)
            require_stored_tensors(content, path.stat().st_size)
            return content
        except RefusedFileError as error:
            raise ValueError(f"{path} cannot be read as weights: {error}.") from None
        except Exception as error:  # reading a file of another kind can end in anything
            refused = re.search(r"(?:GLOBAL|global|class|function) [`']?([\w.]+)", str(error))
            if "Weights only load failed" in str(error) and "nsupported" in str(error) and refused:
                raise ValueError(
                    f"{path} holds Python objects beside the weights ({refused[1]}), which could run code when loaded: "
                    "save its state_dict() alone."
                ) from error
            raise ValueError(f"{path} cannot be read as weights; it is damaged or of another format.") from error

    def entries(self, content: Any) -> dict[str, Any]:
        """Return the state dict in what `read` gave, of the part under the keys that it has by itself.

        A part is the attribute of a module, `teacher` or `teacher.backbone`, or an entry of the file that is a state
        dict itself, as in files of a student and a teacher.

        Args:
            content: From `read`.

        Raises:
            ValueError: If there is no state dict or no such part in it.
        """
        part = self.part
        if part is not None and isinstance(content, Mapping) and _holds_tensors(content.get(part)):
            content, part = content[part], None
        if isinstance(content, Mapping):
            whole = next((content[key] for key in _WHOLE if key in content), content)
        else:
            whole = content
        if not isinstance(whole, Mapping):
            raise ValueError(f"{self.path} holds a {type(whole).__name__}, not weights.")
        state = {_unwrapped(str(key)): value for key, value in whole.items()}
        if part is None:
            return state
        inside = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
        if not _holds_tensors(inside):
            parts = list(dict.fromkeys(key.partition(".")[0] for key in state if "." in key))
            parts += [str(key) for key, value in content.items() if key not in _WHOLE and _holds_tensors(value)]
            raise ValueError(
                f"{self.path} has no part {part!r}: its parts are {listed(parts, _MOST_PARTS)}{nearest(part, parts)}"
            )
        return {_unwrapped(key): value for key, value in inside.items()}


def find_file(weights: str) -> WeightFile | None:
    """Return the file that a text names, `None` if it is the name of published weights.

    After a colon it may name a part of the file. A path that contains colons itself, such as `C:/last.ckpt`, is taken
    as it is if there is such a file, or if what follows the last colon is no name of a part.

    Example:
        >>> find_file("runs/last.ckpt:teacher").part
        'teacher'
        >>> find_file("C:/last.ckpt").part is None, find_file("DEFAULT") is None
        (True, True)
    """
    path = Path(weights).expanduser()
    head, _, part = weights.rpartition(":")
    if head and not path.is_file() and _PART.fullmatch(part) and not part.endswith(SUFFIXES):
        file = Path(head).expanduser()
        if _is_path(head, file):
            return WeightFile(file, part)
    return WeightFile(path) if _is_path(weights, path) else None


def absolute_weights(weights: str) -> str:
    """Return the same weights, those of a file by its absolute path."""
    file = find_file(weights)
    return weights if file is None else str(file._replace(path=file.path.absolute()))


def listed(names: Iterable[str], most: int = 4) -> str:
    """Return the first few names, and how many more there are."""
    short = [name if len(name) <= _MOST_NAME else f"{name[:_MOST_NAME]}..." for name in names]
    more = f" and {len(short) - most} more" if len(short) > most else ""
    return (", ".join(short[:most]) or "none") + more


def _is_path(weights: str, path: Path) -> bool:
    return path.suffix in SUFFIXES or "/" in weights or path.is_file()


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(entry, Tensor) for entry in value.values())


def _unwrapped(key: str) -> str:
    for wrapper in _WRAPPERS:
        key = key.removeprefix(wrapper)
    return key.replace("._orig_mod.", ".")
