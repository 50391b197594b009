"""Measure memory and speed of the cache of decoded images, for a set far larger than the memory limit of the run.

    python scripts/benchmark_large.py --gigabytes 3 --limit 0.5

Images are generated on the fly into the cache file (and removed at the end), then read in random order through the
training loader. Each step runs in a separate process. Its anonymous memory (`RssAnon`; without mapped files, which the
system can evict) is monitored, and limited (`RLIMIT_DATA`) far below the size of the set.

- "small" is a tenth of the images; "large" is all of them
- "cold" reads after the file was evicted from the page cache, so that everything comes from the disk
- "forgotten" evicts it after every 16 batches, as if no page stayed in memory until it is needed again
- "mapped" leaves reading to the system; "announced" tells the system each batch in advance, as for sets larger than
  half the memory

Each image contains its index, which is checked. Throughput leaves out the time in which other processes had the core.
To limit the page cache, too:

    systemd-run --user --scope -p MemoryMax=1G python scripts/benchmark_large.py --gigabytes 3
"""

import argparse
import mmap
import os
import resource
import sys
import tempfile
import threading
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules import ResumableLoader
from datamodules.cache import cached_images
from datamodules.mapped import MappedDataset

BATCH = 64
FORGET = 16  # batches


def anonymous_memory(kind: str = "RssAnon") -> float:
    """Return the anonymous memory of this process in MB; `VmData` also counts reserved memory."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) / 1024


def waited() -> float:
    """Return the seconds that this thread was ready to run, but had no core."""
    return int(Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()[1]) / 1e9


class Watch:
    """Records time and peak anonymous memory.

    `wall` excludes the time in which the process waited for a core.
    """

    def __enter__(self) -> "Watch":
        self.before = self.peak = anonymous_memory()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._look)
        self.start, self.cpu = time.perf_counter() - waited(), time.process_time()
        self.thread.start()
        return self

    def _look(self) -> None:
        while not self.done.wait(0.02):
            self.peak = max(self.peak, anonymous_memory())

    def __exit__(self, *error: object) -> None:
        self.wall, self.cpu = time.perf_counter() - waited() - self.start, time.process_time() - self.cpu
        self.done.set()
        self.thread.join()
        self.peak = max(self.peak, anonymous_memory())


def images(args: argparse.Namespace, count: int) -> Any:
    """Return `count` images from the cache file, which is written if it does not exist."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 3, args.size, args.size), dtype=np.uint8)

    def make(number: int) -> Tensor:
        image = noise[number % 16].copy()
        image.reshape(-1)[:8] = np.frombuffer(np.int64(number).tobytes(), np.uint8)
        return torch.from_numpy(image)

    names = [f"{number:08}" for number in range(count)]
    return cached_images(Path(args.folder), names, args.size, 3, "large", make, files=[])


def report(what: str, watch: Watch, count: int, size: int) -> None:
    megabytes = count * 3 * size * size / 1e6
    print(
        f"{what:<36}{count / watch.wall:>9,.0f} images/s{megabytes / watch.wall:>8,.0f} MB/s"
        f"{watch.cpu / count * 1e6:>8,.0f} us CPU per image; memory {watch.before:,.0f} to {watch.peak:,.0f} MB",
        flush=True,
    )


def write(args: argparse.Namespace, count: int) -> None:
    with Watch() as watch:
        images(args, count)
    report(f"written, {count:,} images", watch, count, args.size)


def drop(content: Any) -> None:
    """Evict a mapped file from the page cache."""
    content._mmap.madvise(mmap.MADV_DONTNEED)
    with open(content.file, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(args: argparse.Namespace, count: int, name: str, announced: bool) -> None:
    content = images(args, count)
    if name in ("cold", "forgotten"):
        drop(content)
    dataset = MappedDataset(content, np.arange(count), (), [])
    dataset.in_memory = not announced
    loader = ResumableLoader(dataset, batch_size=BATCH, shuffle=True)
    seen = 0
    with Watch() as watch:
        for step, batch in enumerate(loader, 1):
            numbers = batch["image"].reshape(len(batch["index"]), -1)[:, :8].contiguous().view(torch.int64)[:, 0]
            if not torch.equal(numbers, batch["index"]):
                raise SystemExit("the loader returned the wrong images")
            seen += len(numbers)
            if name == "forgotten" and step % FORGET == 0:
                start = time.perf_counter() - waited()
                drop(content)
                watch.start += time.perf_counter() - waited() - start
            if args.seconds and time.perf_counter() - waited() - watch.start > args.seconds:
                break
    report(f"{name}, {'announced' if announced else 'mapped'}, {seen:,} images", watch, seen, args.size)


def limited(args: argparse.Namespace, work: Any, *arguments: Any) -> None:
    limit = int(anonymous_memory("VmData") * 1024**2 + args.limit * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    work(args, *arguments)


def main() -> None:
    """Write, read and remove the images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--limit", type=float, default=0.5, help="anonymous memory in GB, beyond Python and torch")
    parser.add_argument("--seconds", type=float, default=0.0, help="limit of each reading; 0 reads a complete epoch")
    args = parser.parse_args()
    count = int(args.gigabytes * 1e9 / (3 * args.size**2))
    torch.set_num_threads(1)
    context = get_context("fork")
    steps: list[tuple[Any, ...]] = [(write, count), (write, count // 10)]
    for name in ("small", "large", "cold", "forgotten"):
        number = count // 10 if name == "small" else count
        steps += [(read, number, name, announced) for announced in (False, True)]
    with tempfile.TemporaryDirectory() as args.folder:
        for step in steps:
            process = context.Process(target=limited, args=(args, *step))
            process.start()
            process.join()
            if process.exitcode:
                sys.exit(f"{step} ended with exit code {process.exitcode}")


if __name__ == "__main__":
    main()
