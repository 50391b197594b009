"""Check within minutes whether the library works on a GPU, and how fast.

    python scripts/try_gpu.py --out gpu.json                    # all parts, at most eight minutes
    python scripts/try_gpu.py --parts resume augmentation       # some parts
    python scripts/try_gpu.py --tiny                            # all parts on the CPU, under a minute

It needs the checkout and its required dependencies, and no data and no network. Parts, in the order of their
importance:

    recipes       each recipe for ten steps in 32-true, bf16-mixed and 16-mixed, with gradient clipping
    resume        killed and resumed runs against uninterrupted ones, bit for bit, with deterministic algorithms
    ranks         NT-Xent on two ranks against one process
    augmentation  every operation on the device against the CPU, for equal draws
    nt_xent       time and memory of NT-Xent, and of the plain formula where it fits
    steps         images per second and memory of a training step of each approach, and of timm's network alone
    sharding      MAE under FSDP against one process
    views         SimCLR's two views of a batch, per library
    compiled      recipes with torch.compile

Every part and every item, such as a recipe, has a time limit. Worker processes run the items: one that hangs or crashes
is reported, and a new worker continues with the next. When the total budget ends, the remaining parts are skipped. The
JSON file is written after each item. The exit status is 1 if an item failed.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from gpu_parts.setting import ROOT, Setting
from gpu_parts.worker import Answer, Worker


@dataclass(frozen=True)
class Part:
    """Limits of a part.

    Attributes:
        seconds: Limit of the part if the total budget is `BUDGET`.
        item: Limit of an item in seconds.
        concurrent: Whether several workers share the items; measurements run alone.
    """

    seconds: float
    item: float
    concurrent: bool = False


BUDGET = 8.0  # minutes
PARTS = {
    "recipes": Part(150, 60, concurrent=True),
    "resume": Part(60, 60, concurrent=True),
    "ranks": Part(40, 40),
    "augmentation": Part(30, 20),
    "nt_xent": Part(60, 45),
    "steps": Part(130, 45),
    "sharding": Part(60, 60),
    "views": Part(40, 20),
    "compiled": Part(120, 120),
}
COLLAPSED = ("recipes", "augmentation")
"""Parts whose passed items the table counts instead of listing them."""

LEAST = 5.0  # seconds that must remain to start an item
Row = dict[str, Any]


class Results:
    """Rows of all items, saved to a JSON file after each.

    Args:
        path: The file; None writes none.
    """

    def __init__(self, path: str | None) -> None:
        self._path = Path(path).resolve() if path else None
        self._lock = Lock()
        self.environment: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.rows: list[Row] = []

    def add(self, part: str, item: str, answer: Answer) -> None:
        """Add a row, print it and save all."""
        status, values = answer
        with self._lock:
            self.rows.append({"part": part, "item": item, "status": status, **values})
            print(f"{part:14}{item:34}{status:9}{text_of(values)}", file=sys.stderr, flush=True)
            self.save()

    def save(self) -> None:
        """Write the JSON file."""
        if self._path is not None:
            part = self._path.with_name(f"{self._path.name}.part")
            content = {"environment": self.environment, "seconds": self.seconds, "rows": self.rows}
            part.write_text(json.dumps(content, indent=1), encoding="utf-8")
            part.replace(self._path)

    def table(self) -> str:
        """Return a Markdown table."""
        described = ", ".join(f"{name} {value}" for name, value in self.environment.items() if value is not None)
        lines = [described, "", "| part | item | result | values |", "|---|---|---|---|"]
        for part in dict.fromkeys(row["part"] for row in self.rows):
            rows = [row for row in self.rows if row["part"] == part]
            counts = ", ".join(f"{count} {status}" for status, count in Counter(row["status"] for row in rows).items())
            seconds = f"{self.seconds[part]} s" if part in self.seconds else "not finished"
            lines.append(f"| **{part}** | {len(rows)} items | {counts} | {seconds} |")
            for row in rows:
                if row["status"] != "PASS" or part not in COLLAPSED:
                    values = text_of({name: row[name] for name in row if name not in ("part", "item", "status")})
                    lines.append(f"| {part} | {row['item']} | {row['status']} | {values} |")
        return "\n".join(lines)


def text_of(values: dict[str, Any]) -> str:
    """Return values by name as a text."""
    shown = {name: value for name, value in values.items() if value not in ("", None)}
    return ", ".join(str(value) if name == "detail" else f"{name} {value}" for name, value in shown.items()).replace(
        "|", "/"
    )


def run_part(name: str, workers: Sequence[Worker], results: Results, seconds: float, limit: float) -> None:
    """Run the items of a part; those that do not fit into its time are skipped.

    Args:
        name: Name of the part.
        workers: The processes that share its items.
        results: The table to add to.
        seconds: Time limit of the part.
        limit: Time limit of an item.
    """
    deadline = time.monotonic() + seconds
    status, values = workers[0].ask(f"gpu_parts.{name}", "items", seconds=limit)
    if status != "PASS":
        results.add(name, "all", (status, values))
        return
    queue = deque(values["items"])

    def work(worker: Worker) -> None:
        for item in taken(queue):
            left = deadline - time.monotonic()
            if left < LEAST:
                results.add(name, item, ("SKIPPED", {"detail": "the time of the part had ended"}))
                continue
            answer = worker.ask(f"gpu_parts.{name}", "run", item, seconds=min(limit, left))
            if answer[1].pop("timeout", False) and left < limit:
                answer = "SKIPPED", {"detail": f"not finished within the remaining {left:.0f} s of the part"}
            results.add(name, item, answer)

    threads = [Thread(target=work, args=(worker,), daemon=True) for worker in workers[: len(queue)]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def taken(queue: deque[str]) -> Iterator[str]:
    """Yield items that several threads take from a queue."""
    while True:
        try:
            yield queue.popleft()
        except IndexError:
            return


def run_all(args: argparse.Namespace, workers: Sequence[Worker], results: Results) -> None:
    """Run the parts in order within the budget."""
    end = time.monotonic() + 60 * args.minutes
    for worker in workers:
        worker.start()
    status, results.environment = workers[0].ask("gpu_parts.environment", "describe", seconds=60)
    if status != "PASS":
        results.add("environment", "all", (status, results.environment))
        return
    for name in args.parts:
        began = time.monotonic()
        seconds = min(PARTS[name].seconds * args.minutes / BUDGET, end - began)
        if seconds < LEAST:
            results.add(name, "all", ("SKIPPED", {"detail": "the budget had ended"}))
        else:
            if not PARTS[name].concurrent:
                for worker in workers[1:]:
                    worker.stop()
            limit = PARTS[name].item * max(1.0, args.minutes / BUDGET)
            run_part(name, workers if PARTS[name].concurrent else workers[:1], results, seconds, limit)
        results.seconds[name] = round(time.monotonic() - began, 1)
        results.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=BUDGET, help="total budget")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--recipes", nargs="+", default=[], help="recipes to check; all by default, few with --tiny")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="run every part on the CPU in a tiny form")
    parser.add_argument("--workers", type=int, help="processes for parts that measure no time; 1 to 6 by default")
    parser.add_argument("--out", help="JSON file of results, written after each item")
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = args.workers or (1 if args.tiny else max(1, min(6, cores // 2)))
    sys.path.insert(0, str(ROOT))
    paths = [str(ROOT), str(ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic; read when a process starts
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = Results(args.out)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        device = "cpu" if args.tiny else args.device
        setting = Setting(device, args.tiny, folder, tuple(args.recipes), 1 if args.tiny else max(1, cores // count))
        workers = [Worker(setting, number) for number in range(count)]
        try:
            run_all(args, workers, results)
        finally:
            for worker in workers:
                worker.close()
            print(results.table(), flush=True)
    sys.exit(any(row["status"] == "FAIL" for row in results.rows))


if __name__ == "__main__":
    main()
