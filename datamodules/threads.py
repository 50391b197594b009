"""Work on many files in threads, with a progress bar."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

__all__ = ["in_threads"]

_PART = 64  # positions that a thread takes at a time


def in_threads(work: Callable[[int], None], count: int, title: str) -> None:
    """Call `work` for each position in as many threads as there are cores, which decoding can use; show how far.

    Args:
        work: What to do.
        count: Number of positions.
        title: What the progress bar says.
    """
    from rich.console import Console
    from rich.progress import track

    cores = os.cpu_count() or 1
    part = min(_PART, max(1, count // (8 * cores)))  # a task each would take more memory than it works on

    def work_on(start: int) -> None:
        for position in range(start, min(start + part, count)):
            work(position)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # otherwise each thread would start threads of its own
    console = Console(stderr=True)
    pool = ThreadPoolExecutor(max_workers=cores)
    try:
        parts = range(0, count, part)
        done = pool.map(work_on, parts)
        for _ in track(done, title, len(parts), console=console, transient=True, disable=not console.is_terminal):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
