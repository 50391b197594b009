"""Loggers of services whose packages need not be installed."""

from typing import Any, cast

import pytest
from lightning.pytorch.loggers import Logger


class Calls:
    """Records the arguments of some methods, and lacks all others."""

    def __init__(self, *methods: str) -> None:
        self.made: list[tuple[Any, ...]] = []
        for method in methods:
            setattr(self, method, self._recording(method))

    def _recording(self, method: str) -> Any:
        return lambda *args, **kwargs: self.made.append((method, *args, kwargs))


class Plain(Logger):
    """A logger with an `experiment`, which keeps metrics."""

    def __init__(self, experiment: Any = None) -> None:
        super().__init__()
        self.target = experiment
        self.metrics: dict[str, float] = {}

    name = version = "plain"  # type: ignore[assignment]

    @property
    def experiment(self) -> Any:
        return self.target

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # type: ignore[override]
        self.metrics |= metrics

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def of_class(cls: type[Logger], experiment: Any, **attributes: Any) -> Logger:
    """Return a logger of a service whose package need not be installed."""
    stand_in = type(cls.__name__, (cls,), {"__init__": lambda self: None, "experiment": experiment, **attributes})
    return cast(Logger, stand_in())


def keep_unset(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Unset environment variables after the test, which a logger sets."""
    for name in names:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
