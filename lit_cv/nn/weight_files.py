"""Weights files: parsing a reference to a file or a part of it, and reading its content. Pure torch."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from safetensors.torch import load_file
from torch import Tensor

from lit_cv.checkpoint_file import RefusedFileError, load_tensors, require_stored_tensors
from lit_cv.errors import refusal
from lit_cv.hub import PREFIX, download, is_hub_name
from lit_cv.suggest import nearest

__all__ = ["SUFFIXES", "WeightFile", "absolute_weights", "find_file", "listed"]

SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
"""Suffixes of weights files."""

_PART = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_STATE_KEYS = ("state_dict", "model")  # entries of a file that hold the state dict
_WRAPPERS = re.compile(r"(module\.|_orig_mod\.)+")  # of DistributedDataParallel and torch.compile
_MAX_NAME = 100  # characters; names in a file may be of any length
_MAX_PARTS = 12


class WeightFile(NamedTuple):
    """A weights file, or a part of it.

    Attributes:
        path: The file.
        part: Prefix of the keys of the part, such as `teacher`; `None` stands for the complete file.
    """

    path: Path
    part: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.part is None else f"{self.path}:{self.part}"

    def read(self) -> Any:
        """Return the complete content of the file.

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
        except Exception as error:  # reading a file of another format may raise anything
            refused = re.search(r"(?:GLOBAL|global|class|function) [`']?([\w.]+)", str(error))
            if "Weights only load failed" in str(error) and "nsupported" in str(error) and refused:
                raise ValueError(
                    f"{path} holds Python objects besides the weights ({refused[1]}), which could run code when "
                    "loaded: save only its state_dict()."
                ) from error
            raise ValueError(f"{path} cannot be read as weights: it is damaged or has another format.") from error

    def entries(self, content: Any) -> dict[str, Any]:
        """Return the state dict in the content of the file, or that of the part without its prefix.

        A part is an attribute of the module, such as `teacher` or `teacher.backbone`, or an entry of the file that is
        itself a state dict, as in files of a student and a teacher, or an attribute in such an entry.

        Args:
            content: From `read`.

        Raises:
            ValueError: If there is no state dict or no such part.
        """
        part = self.part
        if not isinstance(content, Mapping):
            raise ValueError(f"{self.path} holds a {type(content).__name__}, not weights.")
        entry, _, inner = (part or "").partition(".")
        held = content.get(entry)
        if _holds_tensors(held) and any(_unwrapped(str(key)).startswith(inner) for key in held):
            entries, part = held, inner or None
        else:
            entries = next((content[key] for key in _STATE_KEYS if key in content), content)
        if not isinstance(entries, Mapping):
            raise ValueError(f"{self.path} holds a {type(entries).__name__}, not weights.")
        state = {_unwrapped(str(key)): value for key, value in entries.items()}
        if part is None:
            if not _holds_tensors(state) and (parts := [key for key, value in state.items() if _holds_tensors(value)]):
                raise ValueError(
                    f"{self.path} holds weights in parts, {listed(parts, _MAX_PARTS)}: name one of them, such as "
                    f"{self.path}:{parts[0]}."
                )
            return state
        inside = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
        if not _holds_tensors(inside):
            parts = list(dict.fromkeys(key.partition(".")[0] for key in state if "." in key))
            parts += [str(key) for key, value in content.items() if key not in _STATE_KEYS and _holds_tensors(value)]
            raise ValueError(
                f"{self.path} has no part {part!r}: its parts are {listed(parts, _MAX_PARTS)}{nearest(part, parts)}"
            )
        return {_unwrapped(key): value for key, value in inside.items()}


def find_file(weights: str) -> WeightFile | None:
    """Parse a reference to a weights file, `PATH` or `PATH:PART`; return `None` for a name of published weights.

    A file on the Hugging Face Hub, `hf://OWNER/NAME`, is downloaded, see `lit_cv.hub.download`.

    A path that contains colons, such as `C:/last.ckpt`, has no part if the file exists, or if the text after the last
    colon is not a valid name of a part.

    Example:
        >>> find_file("runs/last.ckpt:teacher").part
        'teacher'
        >>> find_file("C:/last.ckpt").part is None, find_file("DEFAULT") is None
        (True, True)
    """
    if is_hub_name(weights):
        name, _, part = weights.removeprefix(PREFIX).partition(":")
        return WeightFile(download(f"{PREFIX}{name}"), part or None)
    path = Path(weights).expanduser()
    head, _, part = weights.rpartition(":")
    if head and not path.is_file() and _PART.fullmatch(part) and not part.endswith(SUFFIXES):
        file = Path(head).expanduser()
        if _is_path(head, file):
            return WeightFile(file, part)
    return WeightFile(path) if _is_path(weights, path) else None


def absolute_weights(weights: str) -> str:
    """Return a reference to the same weights with an absolute path; names of published weights do not change."""
    file = find_file(weights)
    return weights if file is None else str(file._replace(path=file.path.absolute()))


def listed(names: Iterable[str], most: int = 4) -> str:
    """Format the first names of a list, and the number of others."""
    short = [name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}..." for name in names]
    more = f" and {len(short) - most} more" if len(short) > most else ""
    return (", ".join(short[:most]) or "none") + more


def _is_path(weights: str, path: Path) -> bool:
    return path.suffix in SUFFIXES or "/" in weights or path.is_file()


def _holds_tensors(value: Any) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping) and any(isinstance(entry, Tensor) for entry in value.values())


def _unwrapped(key: str) -> str:
    if match := _WRAPPERS.match(key):
        key = key[match.end() :]
    return key.replace("._orig_mod.", ".")
