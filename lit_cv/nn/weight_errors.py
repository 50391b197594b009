"""Errors of weights: one line that names their source. Pure torch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from lit_cv.printable import printable

__all__ = ["errors_named", "require_real"]

_MOST_MESSAGE = 1000  # characters; a name in a file may have any number
_MOST_NAME = 100


@contextmanager
def errors_named(source: str) -> Iterator[None]:
    """Turn whatever reading and using weights ends in into one ValueError that names them.

    Args:
        source: The file, or the published weights.

    Raises:
        OSError: As it comes.
        ValueError: For all else; one that names the source and fits a line is left as it is.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # torch raises all kinds of errors for tensors that do not fit
        said = str(error) or type(error).__name__
        if not isinstance(error, ValueError):
            said = f"{source} holds no weights for this network ({' '.join(said.split())[:300]})."
        text = printable(said if source in said else f"{source}: {said}", lines=False)
        if isinstance(error, ValueError) and text == said and len(text) <= _MOST_MESSAGE:
            raise
        raise ValueError(text if len(text) <= _MOST_MESSAGE else f"{text[:_MOST_MESSAGE]} ...") from error


def require_real(source: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse complex numbers: torch would drop their imaginary parts."""
    for key, value in tensors.items():
        if value.is_complex():
            raise ValueError(f"{source}: {key[:_MOST_NAME]} holds complex numbers, where real ones are allowed.")
