"""Errors about weights: one line that names their source. Pure torch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from lit_cv.printable import printable

__all__ = ["errors_named", "require_real"]

_MAX_MESSAGE = 1000  # characters; names in a file may be of any length
_MAX_NAME = 100


@contextmanager
def errors_named(source: str) -> Iterator[None]:
    """Convert any error from reading or using weights to a one-line ValueError that names their source.

    Args:
        source: The file, or the published weights.

    Raises:
        OSError: Unchanged.
        ValueError: For any other error; a ValueError that is one short line and names the source is unchanged.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # torch raises errors of many types for tensors that do not fit
        message = str(error) or type(error).__name__
        if not isinstance(error, ValueError):
            message = f"{source} holds no weights for this network ({' '.join(message.split())[:300]})."
        text = printable(message if source in message else f"{source}: {message}", lines=False)
        if isinstance(error, ValueError) and text == message and len(text) <= _MAX_MESSAGE:
            raise
        raise ValueError(text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]} ...") from error


def require_real(source: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError for complex tensors, whose imaginary parts torch would drop."""
    for key, value in tensors.items():
        if value.is_complex():
            raise ValueError(f"{source}: {key[:_MAX_NAME]} holds complex numbers: real numbers are allowed.")
