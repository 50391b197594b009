"""Files of repositories on the Hugging Face Hub, named `hf://OWNER/NAME`. Without torch."""

import re
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["CHECKPOINT", "PREFIX", "download", "hub_client", "is_hub_name", "require_repository"]

PREFIX = "hf://"
"""Prefix of names of files on the Hub."""

CHECKPOINT = "model.ckpt"
"""Name of the checkpoint in a repository that lit_cv uploaded."""

_DEFAULTS = (CHECKPOINT, "model.safetensors", "pytorch_model.bin")  # the last two of timm and transformers
_BESIDE = ("config.json", "preprocessor_config.json")  # which record the preprocessing of weights
_REPOSITORY = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"
_PART = r"(?:\.?[\w-][\w.-]*)"  # of a path; not `..`
_NAME = re.compile(
    rf"hf://(?P<repo>{_REPOSITORY})(?:@(?P<revision>[\w.-]+))?(?:/(?P<file>{_PART}(?:/{_PART})*))?", re.ASCII
)


def is_hub_name(name: object) -> bool:
    """Return whether a name stands for a file on the Hub.

    Example:
        >>> is_hub_name("hf://timm/resnet18.a1_in1k"), is_hub_name("last.ckpt")
        (True, False)
    """
    return isinstance(name, str) and name.startswith(PREFIX)


@cache
def download(name: str) -> Path:
    """Return the path of a file on the Hub, downloaded unless the Hub's cache has it.

    Args:
        name: `hf://OWNER/NAME[@REVISION][/FILE]`. The default file is `model.ckpt`, which `lit-cv push` uploads, or
            the weights of timm and transformers; JSON files that record their preprocessing are downloaded, too. The
            default revision is the newest.

    Raises:
        ImportError: If huggingface_hub is not installed.
        ValueError: If the name has another form.
        FileNotFoundError: If there is no such repository, revision or file.
        OSError: If the Hub cannot be reached and the cache has no such file.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not the name of a file on the Hub: it has the form {PREFIX}OWNER/NAME[/FILE].")
    hub = hub_client()
    repository, revision, file = match["repo"], match["revision"], match["file"]
    for candidate in _DEFAULTS if file is None else (file,):
        if (path := _fetch(hub, name, repository, candidate, revision)) is not None:
            if path.name != CHECKPOINT:
                for beside in _BESIDE:
                    folder = candidate.rpartition("/")[0]
                    _fetch(hub, name, repository, f"{folder}/{beside}".lstrip("/"), revision)
            return path
    missing = " or ".join(_DEFAULTS) if file is None else file
    raise FileNotFoundError(f"{name}: the repository has no file {missing}. Name one: {PREFIX}{repository}/FILE.")


def require_repository(name: str) -> None:
    """Raise ValueError unless a name has the form OWNER/NAME."""
    if not re.fullmatch(_REPOSITORY, name, re.ASCII):
        raise ValueError(f"{name!r} is not the name of a repository: it has the form OWNER/NAME.")


def hub_client() -> Any:
    """Return the package huggingface_hub.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise ImportError('the Hub needs huggingface_hub, which is missing: pip install "lit_cv[hub]".') from None
    return huggingface_hub


def _fetch(hub: Any, name: str, repository: str, file: str, revision: str | None) -> Path | None:
    """Return the local path of a file of a repository, `None` if the repository does not have it."""
    errors = hub.errors
    try:
        return Path(hub.hf_hub_download(repository, file, revision=revision))
    except errors.LocalEntryNotFoundError:
        raise OSError(
            f"{name} could not be downloaded: check the internet connection, or give the path of a file."
        ) from None
    except errors.EntryNotFoundError:
        return None
    except errors.RevisionNotFoundError:
        raise FileNotFoundError(f"{name}: the repository has no revision {revision!r}.") from None
    except errors.RepositoryNotFoundError:
        raise FileNotFoundError(
            f"{name}: there is no such repository, or it is private: check the name, or log in with `hf auth login`."
        ) from None
