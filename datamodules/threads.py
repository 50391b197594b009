"""Processing of many files in threads, with a progress bar."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

__all__ = ["in_threads"]

_PART = 64  # positions per task


def in_threads(work: Callable[[int], None], count: int, title: str) -> None:
    """Call `work` for each position with one thread per core, and show the progress.

    Args:
        work: Function to call.
        count: Number of positions.
        title: Title of the progress bar.
    """
    from rich.console import Console
    from rich.progress import track

    cores = os.cpu_count() or 1
    part = min(_PART, max(1, count // (8 * cores)))  # a task per position would need too much memory

    def work_on(start: int) -> None:
        for position in range(start, min(start + part, count)):
            work(position)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # otherwise each thread would start more threads
    console = Console(stderr=True)
    pool = ThreadPoolExecutor(max_workers=cores)
    try:
        parts = range(0, count, part)
        results = pool.map(work_on, parts)
        for _ in track(results, title, len(parts), console=console, transient=True, disable=not console.is_terminal):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
