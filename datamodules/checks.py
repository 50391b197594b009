"""One wording for arguments out of their range."""

__all__ = ["check"]


def check(name: str, value: object, ok: bool, allowed: str) -> None:
    """Refuse an argument of a DataModule.

    Args:
        name: Its name.
        value: What was given.
        ok: Whether that is allowed.
        allowed: What is allowed, to follow "must be".

    Raises:
        ValueError: If it is not `ok`.
    """
    if not ok:
        raise ValueError(f"{name}={value!r} was given, but must be {allowed}: change --data.{name}.")
