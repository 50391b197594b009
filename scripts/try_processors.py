"""Run the tests marked `learns` with the instructions of other processors, and with other seeds.

    python scripts/try_processors.py                                    # everything, about 50 minutes
    python scripts/try_processors.py --settings SSE41/default/1         # one setting
    python scripts/try_processors.py --settings --seeds 1-30            # only seeds, with this processor's default
    python scripts/try_processors.py -k detector --again                # some tests, even if they have results

A setting is `ONEDNN_MAX_CPU_ISA/ATEN_CPU_CAPABILITY/threads`: the instructions that oneDNN and PyTorch may use, which
imitates other processors, and the number of threads. Sums in another order round differently, and training amplifies
the difference: a test that passes by luck fails under one of the settings, or with another seed. Each setting runs the
tests marked `learns` with seed 0, and each seed runs them with the default instructions. Settings that are equivalent
to a narrower one on this processor (AVX-512 on one that lacks it) only run with `--every`. Results are written after
each test; a restarted script runs the missing ones and rewrites the tables.
"""

import argparse
import csv
import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
ONEDNN = ("SSE41", "AVX2", "AVX512_CORE", "unset")
ATEN = ("default", "avx2", "unset")
SETTINGS = [f"{isa}/{capability}/{threads}" for isa, capability, threads in product(ONEDNN, ATEN, (1, 2))]
NATIVE = "unset/unset/1"
OUTCOME = re.compile(r"^(tests/\S+\.py::.+?) (PASSED|FAILED|ERROR|SKIPPED)")
REASON = re.compile(r"^(?:FAILED|ERROR) (tests/\S+\.py::.+?) - (.*)")
Key = tuple[str, int, str]


@dataclass
class Result:
    """Outcome, seconds and reason of failure of a test."""

    outcome: str
    seconds: float
    reason: str = ""


class Results:
    """A table of results on disk, one row for each setting, seed and test; later rows replace earlier ones.

    Args:
        path: CSV file, created if it is missing.
    """

    columns = ("setting", "seed", "test", "outcome", "seconds", "reason")

    def __init__(self, path: Path) -> None:
        self.path, self.lock, self.rows = path, threading.Lock(), dict[Key, Result]()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    key = (row["setting"], int(row["seed"]), row["test"])
                    self.rows[key] = Result(row["outcome"], float(row["seconds"]), row["reason"])
        else:
            self.write(self.columns)

    def write(self, row: Iterable[object]) -> None:
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(row)

    def add(self, key: Key, result: Result) -> None:
        with self.lock:
            self.rows[key] = result
            self.write((*key, result.outcome, f"{result.seconds:.2f}", result.reason))

    def keep(self, tests: Iterable[str]) -> None:
        """Drop the results of tests that no longer exist."""
        names = set(tests)
        self.rows = {key: result for key, result in self.rows.items() if key[2] in names}


def environment(setting: str, seed: int) -> dict[str, str]:
    """Return the environment variables of a setting."""
    isa, capability, threads = setting.split("/")
    variables = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
    variables |= {"LIT_CV_TEST_THREADS": threads, "LIT_CV_TEST_SEED": str(seed)}
    for name, value in (("ONEDNN_MAX_CPU_ISA", isa), ("ATEN_CPU_CAPABILITY", capability)):
        variables.pop(name, None)
        if value != "unset":
            variables[name] = value
    return variables


def pytest(*args: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", *args]


def collect(select: str) -> list[str]:
    """Return the names of the tests marked `learns` that `-k` selects."""
    command = pytest("-q", "--collect-only", "-m", "learns", *(["-k", select] if select else []))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    tests = [line for line in done.stdout.splitlines() if line.startswith("tests/") and "::" in line]
    if not tests:
        raise SystemExit(f"no tests found: {(done.stdout + done.stderr).strip()[-500:]}")
    return tests


def attempt(setting: str, seed: int, tests: Sequence[str], results: Results) -> str:
    """Run tests under one setting with one seed, write each result, and return a summary line."""
    started = last = time.monotonic()
    process = subprocess.Popen(
        pytest("-v", "--tb=line", "-rfE", "-W", "ignore", *tests), cwd=ROOT, env=environment(setting, seed), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    finished: dict[str, Result] = {}
    for line in process.stdout:
        if match := OUTCOME.match(line):
            now = time.monotonic()
            finished[match[1]] = Result(match[2].lower(), now - last)
            last = now
            if match[2] in ("PASSED", "SKIPPED"):
                results.add((setting, seed, match[1]), finished[match[1]])
            show(f"{setting} seed {seed}: {len(finished)} of {len(tests)}")
        elif (match := REASON.match(line)) and match[1] in finished:
            finished[match[1]].reason = match[2].strip()
    process.wait()
    failed = {name: result for name, result in finished.items() if result.outcome in ("failed", "error")}
    for name, result in failed.items():
        results.add((setting, seed, name), result)
    counted = f"{len(finished) - len(failed)} passed, {len(failed)} failed"
    missing = f", {len(tests) - len(finished)} did not run" if len(finished) < len(tests) else ""
    reasons = "".join(f"\n    {name}: {result.reason}" for name, result in failed.items())
    return f"{setting} seed {seed}: {counted}{missing} in {time.monotonic() - started:.0f} s{reasons}"


def show(text: str) -> None:
    if sys.stdout.isatty():
        print(f"\r\033[K{text}", end="", flush=True)


def distinct(setting: str) -> str:
    """Return the narrowest setting that is equivalent on this processor."""
    isa, capability, threads = setting.split("/")
    widest = torch.backends.cpu.get_cpu_capability()
    if not widest.startswith("AVX512"):
        isa = "AVX2" if isa != "SSE41" else isa
        capability = "avx2" if capability != "default" else capability
    return f"{isa}/{capability}/{threads}"


def processor() -> str:
    """Return the name of this processor."""
    file = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", file.read_text()) if file.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()


def row_of(results: Results, setting: str, seed: int, tests: Sequence[str]) -> tuple[str, str]:
    """Return how many tests passed, and the names of those that failed."""
    finished = {test: results.rows[setting, seed, test] for test in tests if (setting, seed, test) in results.rows}
    if not finished:
        return "not run", ""
    failed = [test for test, result in finished.items() if result.outcome in ("failed", "error")]
    count = sum(result.outcome == "passed" for result in finished.values())
    return f"{count} of {len(tests)}", ", ".join(f"`{test.removeprefix('tests/')}`" for test in failed) or "none"


def tables(results: Results, tests: Sequence[str], seeds: Sequence[int]) -> str:
    """Return both tables, with the processor and the versions, as Markdown."""
    wide = torch.backends.cpu.get_cpu_capability()
    lines = [
        "# Tests that learn, on other processors and with other seeds",
        "",
        f"Number of the {len(tests)} tests that train something and assert what was learned (`pytest -m learns`) that",
        "pass with the instructions of other processors, and with other seeds. `python scripts/try_processors.py`",
        "explains the settings and writes this page.",
        "",
        f"Processor: {processor()}, PyTorch's widest instructions: {wide}; torch {torch.__version__}, Python",
        f"{platform.python_version()}.",
    ]
    if not wide.startswith("AVX512"):
        lines[-1] += " Without AVX-512, settings that allow more than AVX2 compute as with AVX2, and their rows"
        lines.append("repeat the row that they name.")
    lines += ["", "## Settings, seed 0", "", "| oneDNN | ATen | threads | passed | failed |", "|---|---|---|---|---|"]
    for setting in SETTINGS:
        isa, capability, threads = setting.split("/")
        was_run = any((setting, 0, test) in results.rows for test in tests)
        count, failed = row_of(results, setting if was_run else distinct(setting), 0, tests)
        same = "" if was_run or distinct(setting) == setting else f" (as {distinct(setting)})"
        lines.append(f"| {isa} | {capability} | {threads} | {count}{same} | {failed} |")
    lines += ["", f"## Seeds, setting {NATIVE}", "", "| seed | passed | failed |", "|---|---|---|"]
    for seed in seeds:
        count, failed = row_of(results, NATIVE, seed, tests)
        lines.append(f"| {seed} | {count} | {failed} |")
    return "\n".join(lines) + "\n"


def numbers(text: str) -> list[int]:
    """Return the numbers of `3` or of a range such as `1-4`."""
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, metavar="ISA/ATEN/THREADS", help="none: no setting")
    parser.add_argument("--seeds", nargs="*", type=numbers, default=[numbers("1-10")], help="seeds such as 3 or 1-10")
    parser.add_argument("--every", action="store_true", help="include settings that are equivalent on this processor")
    parser.add_argument("--cross", action="store_true", help="also run each seed under each setting")
    parser.add_argument("-k", dest="select", default="", help="expression that selects tests, as for pytest")
    parser.add_argument("--again", action="store_true", help="run the selected tests even if they have results")
    parser.add_argument("--jobs", type=int, default=1, help="settings and seeds to run in parallel")
    parser.add_argument("--results", type=Path, default=ROOT / "lightning_logs" / "processors.csv")
    parser.add_argument("--table", type=Path, default=ROOT / "docs" / "processors.md")
    return parser.parse_args()


def main() -> None:
    args = parse()
    seeds = sorted({seed for part in args.seeds for seed in part})
    settings = SETTINGS if args.settings is None else args.settings
    if args.settings is None and not args.every:
        settings = list(dict.fromkeys(distinct(setting) for setting in settings))
    work = [(setting, 0) for setting in settings] + [(NATIVE, seed) for seed in seeds]
    if args.cross:
        work += [(setting, seed) for seed in seeds for setting in settings]
    results, tests = Results(args.results), collect(args.select)
    missing = {
        (setting, seed): [t for t in tests if args.again or (setting, seed, t) not in results.rows]
        for setting, seed in dict.fromkeys(work)
    }
    missing = {key: names for key, names in missing.items() if names}
    print(f"{len(tests)} tests, {len(missing)} settings and seeds to run", flush=True)
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = pool.map(lambda item: attempt(*item[0], item[1], results), missing.items())
        for done, line in enumerate(runs, 1):
            show("")
            print(f"[{done} of {len(missing)}] {line}", flush=True)
    every = collect("") if args.select else tests
    results.keep(every)
    finished_seeds = sorted({seed for setting, seed, _ in results.rows if setting == NATIVE and seed})
    args.table.write_text(tables(results, every, finished_seeds), encoding="utf-8")
    failed = sum(result.outcome in ("failed", "error") for result in results.rows.values())
    raise SystemExit(f"{failed} failed" if failed else 0)


if __name__ == "__main__":
    main()
