"""Measure the size of exported programs and their time per image."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Speed", "measure_programs", "speed_table"]

_SECONDS = 2.0  # at least, of measuring a program with a batch size
_ROUNDS = 5  # at least


class Speed(NamedTuple):
    """The size and speed of a program.

    Attributes:
        megabytes: Size of its file, `None` without one.
        milliseconds: Median time per image by batch size.
    """

    megabytes: float | None
    milliseconds: dict[int, float]


@torch.no_grad()
def measure_programs(
    programs: Mapping[str, tuple[Callable[..., Any], Path | None]], images: Callable[[int], Tensor]
) -> dict[str, Speed]:
    """Return the size and speed of programs by name, measured in turn on batches of 1 and 32 images.

    Args:
        programs: For each name, the function that runs a batch, and the file.
        images: Returns a batch with a given number of images.
    """
    times: dict[str, dict[int, float]] = {name: {} for name in programs}
    for count in (1, 32):
        for name, seconds in _seconds({name: run for name, (run, _) in programs.items()}, images(count)).items():
            times[name][count] = 1000 * seconds / count
    return {
        name: Speed(None if path is None else path.stat().st_size / 1e6, times[name])
        for name, (_, path) in programs.items()
    }


def speed_table(speeds: Mapping[str, Speed]) -> str:
    """Return a table with a row for each program.

    Example:
        >>> print(speed_table({"model.onnx": Speed(1.5, {1: 2.0, 32: 0.75})}))
        program              size   ms per image, batch of 1   ms per image, batch of 32
        model.onnx         1.5 MB                       2.00                        0.75
    """
    lines: list[str] = []
    for name, speed in speeds.items():
        lines = lines or [_row("program", "size", *(f"ms per image, batch of {n}" for n in speed.milliseconds))]
        size = "" if speed.megabytes is None else f"{speed.megabytes:.1f} MB"
        lines.append(_row(name, size, *(f"{each:.2f}" for each in speed.milliseconds.values())))
    return "\n".join(lines)


def _row(name: str, size: str, first: str, second: str) -> str:
    return f"{name:16}{size:>9}{first:>27}{second:>28}"


def _seconds(runs: Mapping[str, Callable[..., Any]], batch: Tensor) -> dict[str, float]:
    """Return the median time of a call of each function, called in turn after a first call that is not counted."""
    for run in runs.values():
        run(batch)
    times: dict[str, list[float]] = {name: [] for name in runs}
    while any(len(each) < _ROUNDS or sum(each) < _SECONDS for each in times.values()):
        for name, run in runs.items():
            start = time.perf_counter()
            run(batch)
            times[name].append(time.perf_counter() - start)
    return {name: median(each) for name, each in times.items()}
