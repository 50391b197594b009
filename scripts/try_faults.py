"""Inject machine faults into real runs, and print what happened and how much work was lost.

    python scripts/try_faults.py                        # all kinds, some minutes
    python scripts/try_faults.py signals --kills 20     # one kind

Kinds: `signals` (SIGKILL and SIGTERM at random moments), `disk` (full while checkpoints, logs or a cache are written),
`closed` (a read-only folder), `files` (images that disappear or change), `memory` (an allocation that fails during an
epoch) and `classes` (a folder of very many classes). `disk` and `closed` mount small file systems in memory, which
needs root. Runs are forked from this process, which has imported everything; each is compared bit for bit with an
undisturbed run. The tests include quick versions of these; see docs/faults.md.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from sklearn.datasets import load_digits  # noqa: F401
from torchvision.utils import save_image

from datamodules import ImageFolderDataModule
from lit_cv import cli
from lit_cv.callbacks import LearningRateLog
from lit_cv.metrics_table import read_metrics
from lit_cv.running import training  # noqa: F401 - runs are forked with everything imported

# A resumed run has the callbacks of its configuration: null removes them first, so that none occurs twice.
FIT = [
    "fit", "--trainer.callbacks", "null",
    "--model", "SupervisedModule", "--model.backbone", "conv4", "--model.dropout", "0.3",
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
    "--trainer.enable_model_summary", "false", "--checkpoint.every_n_steps", "5",
    "--trainer.callbacks+=Augmentation", "--trainer.callbacks.policy", "small_images",
]  # fmt: skip
DIGITS = ["--data", "DigitsDataModule", "--data.batch_size", "32", "--trainer.max_epochs", "4"]
Row = tuple[str, str, str]
fork = multiprocessing.get_context("fork")


class Fit:
    """A run in a separate process.

    Args:
        root: Its working directory.
        options: Options of `fit`.
        at_step: Function that is called with the number of each step at its start.
    """

    def __init__(self, root: Path, options: list[str], at_step: Callable[[int], None] | None = None) -> None:
        self.reached = fork.Value("i", -1)
        self.output = root / "output.txt"
        self._at_step = at_step
        arguments = ["lit-cv", *FIT, "--trainer.default_root_dir", str(root), *options]
        if last_checkpoint(root) is not None:
            arguments += ["--ckpt_path", "last"]
        self.process = fork.Process(target=self._run, args=(root, arguments))
        self.process.start()

    def _run(self, root: Path, arguments: list[str]) -> None:
        log_rate = LearningRateLog.on_train_batch_start

        def report_step(callback: Any, trainer: L.Trainer, *args: Any) -> None:
            self.reached.value = trainer.global_step
            if self._at_step is not None:
                self._at_step(trainer.global_step)
            log_rate(callback, trainer, *args)

        LearningRateLog.on_train_batch_start = report_step  # type: ignore[method-assign]
        with contextlib.suppress(OSError):
            os.chdir(root)
        sys.argv = arguments
        with open(f"{tempfile.gettempdir()}/try_faults_{os.getpid()}", "w+", encoding="utf-8") as file:
            os.unlink(file.name)
            sys.stdout = sys.stderr = file
            status: Any = 0
            try:
                cli.console()
            except SystemExit as end:
                status = end.code
            except BaseException as error:
                status = f"TRACE {type(error).__name__}: {error}"
            self.write_status(status)
        os._exit(status if isinstance(status, int) else 1)

    def write_status(self, status: Any) -> None:
        """Write the final status of the run to a file for the parent process."""
        with open(f"{tempfile.gettempdir()}/try_faults_end_{os.getpid()}", "w", encoding="utf-8") as file:
            file.write(str(status))

    def wait(self) -> str:
        """Wait for the end of the run, and return its exit status or error line."""
        self.process.join()
        path = Path(f"{tempfile.gettempdir()}/try_faults_end_{self.process.pid}")
        text = path.read_text("utf-8") if path.is_file() else f"signal {-(self.process.exitcode or 0)}"
        path.unlink(missing_ok=True)
        return text


def undisturbed(root: Path, options: list[str]) -> None:
    """Do the run that others are compared with."""
    if (status := Fit(root, options).wait()) != "0":
        raise RuntimeError(status)


def last_checkpoint(root: Path) -> Path | None:
    """Return the newest `last.ckpt`; `None` if all runs were killed before their first one."""
    checkpoints = root.glob("lightning_logs/*/checkpoints/last.ckpt")
    return max(checkpoints, key=lambda path: path.stat().st_mtime_ns, default=None)


def saved_step(root: Path) -> int:
    """Return the step of the last checkpoint, which must be readable; 0 if there is none."""
    path = last_checkpoint(root)
    return 0 if path is None else int(torch.load(path, weights_only=True)["global_step"])


def compare(root: Path, reference: Path) -> str:
    """Return the text that states whether two runs ended with the same state."""
    paths = [path for folder in (root, reference) if (path := last_checkpoint(folder)) is not None]
    a, b = (torch.load(path, weights_only=True) for path in paths)
    same = a["global_step"] == b["global_step"] and _equal(a["state_dict"], b["state_dict"])
    same = same and _equal(a["optimizer_states"], b["optimizer_states"])
    rows = [read_metrics(path.parent.parent / "metrics.csv") for path in paths]
    return "bit for bit the same" if same and rows[0] == rows[1] else "DIFFERENT RESULT"


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


@contextlib.contextmanager
def small_disk(parent: Path, size: str) -> Iterator[Path]:
    """Mount a file system of a given size."""
    folder = parent / "disk"
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leave: int) -> Path:
    """Fill a disk except for `leave` bytes, and return the file that fills it."""
    path = folder / "filler"
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        file.write(b"\0" * max(0, shutil.disk_usage(folder).free - leave))
    return path


def try_signals(work: Path, kills: int, seed: int) -> list[Row]:
    """Kill a run repeatedly at random moments, then let it finish."""
    reference, root = work / "reference", work / "killed"
    reference.mkdir()
    root.mkdir()
    start = time.monotonic()
    undisturbed(reference, DIGITS)
    seconds = time.monotonic() - start
    generator = random.Random(seed)
    lost: dict[signal.Signals, list[int]] = {signal.SIGKILL: [], signal.SIGTERM: []}
    done = 0
    while done < kills:
        number = signal.SIGKILL if done % 2 == 0 else signal.SIGTERM
        run = Fit(root, DIGITS)
        # half of the kills after training has begun, since start-up takes much of the time, half at any moment
        if done % 4 < 2:
            while run.reached.value < 0 and run.process.is_alive():
                time.sleep(0.005)
            time.sleep(generator.uniform(0, 0.3) * seconds)
        else:
            time.sleep(generator.uniform(0.05, 0.6) * seconds)
        if not run.process.is_alive():  # the run ended before the kill
            run.wait()
            shutil.rmtree(root)
            root.mkdir()
            continue
        os.kill(run.process.pid or 0, number)
        run.wait()
        if run.reached.value >= 0:
            lost[number].append(max(0, run.reached.value - saved_step(root)))
        done += 1
    end = Fit(root, DIGITS).wait()
    result = compare(root, reference) if end == "0" else end
    return [
        (
            f"{name}, {len(steps)} of {kills} kills during training",
            f"resumed each time; in the end {result}",
            f"at most {max(steps, default=0)} steps (a checkpoint every 5)",
        )
        for name, steps in (("SIGKILL", lost[signal.SIGKILL]), ("SIGTERM", lost[signal.SIGTERM]))
    ]


def try_disk(work: Path) -> list[Row]:
    """Fill the disk of a run, resume it after freeing space, and compare."""
    reference, rows = work / "reference_disk", []
    reference.mkdir()
    undisturbed(reference, DIGITS)
    for what, leave, options in (
        ("a checkpoint", 60_000, DIGITS),
        ("a log", 0, [*DIGITS, "--checkpoint.every_n_steps", "0"]),
    ):
        with small_disk(work, "30m") as root:
            filled: list[Path] = []

            def at_step(step: int, root: Path = root, leave: int = leave, filled: list[Path] = filled) -> None:
                if step == 82 and not filled:
                    filled.append(fill(root, leave))

            run = Fit(root, options, at_step)
            error = run.wait()
            lost = run.reached.value - saved_step(root)
            (root / "filler").unlink()
            end = Fit(root, options).wait()
            result = compare(root, reference) if end == "0" else end
            unfinished = "; UNFINISHED FILES" if list(root.rglob("*.part")) else ""
            rows.append(
                (f"disk full while {what} is written", f"{error}; resumed: {result}{unfinished}", f"{lost} steps")
            )
    with small_disk(work, "3m") as root:
        photos = make_photos(root / "photos", 40)
        fill(root, 200_000)
        options = [*image_options(photos), "--data.cache", "true"]
        other = work / "cache_run"
        other.mkdir()
        error = Fit(other, options).wait()
        (root / "filler").unlink()
        end = Fit(other, options).wait()
        unfinished_files = [path.name for path in (photos / ".lit_cv_cache").iterdir() if path.name.startswith(".")]
        result = f"{error}; after freeing space: {end}{unfinished_files or ''}"
        rows.append(("disk full while a cache is built", result, "none"))
    return rows


def try_closed(work: Path) -> list[Row]:
    """Start a run in a read-only folder, and make the folder of another run read-only during training."""
    reference, rows = work / "reference_closed", []
    reference.mkdir()
    undisturbed(reference, DIGITS)
    with small_disk(work, "30m") as root:
        subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
        rows.append(("output folder read-only from the start", Fit(root, DIGITS).wait(), "none"))
    with small_disk(work, "30m") as root:
        folder = str(root / "lightning_logs" / "version_0" / "checkpoints")

        def close(step: int) -> None:
            if step == 82:  # between two checkpoints
                subprocess.run(["mount", "--bind", folder, folder], check=True)
                subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)

        run = Fit(root, DIGITS, close)
        error = run.wait()
        subprocess.run(["umount", "-l", folder], check=True)
        lost = run.reached.value - saved_step(root)
        end = Fit(root, DIGITS).wait()
        result = f"{error}; resumed: {compare(root, reference) if end == '0' else end}"
        rows.append(("checkpoint folder read-only during a run", result, f"{lost} steps"))
    return rows


def make_photos(root: Path, count: int) -> Path:
    """Write images of two classes."""
    for split in ("train", "val"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                torch.manual_seed(number)
                save_image(torch.rand(3, 20, 20), root / split / name / f"{number:03}.png")
    return root


def image_options(photos: Path) -> list[str]:
    return [
        "--data", "ImageFolderDataModule", "--data.root", str(photos), "--data.image_size", "32",
        "--data.batch_size", "16", "--trainer.max_epochs", "3", "--data.num_workers", "2",
    ]  # fmt: skip


def try_files(work: Path) -> list[Row]:
    """Delete and damage images while the workers of a run read them, restore them, and resume."""
    photos, reference = make_photos(work / "photos", 40), work / "reference_files"
    reference.mkdir()
    options = image_options(photos)
    undisturbed(reference, options)
    rows = []
    faults: dict[str, Callable[[Path], Any]] = {
        "an image disappears during a run": lambda path: path.unlink(),
        "an image is truncated during a run": lambda path: path.write_bytes(path.read_bytes()[:90]),
        "an image becomes a decompression bomb": lambda path: path.write_bytes(_bomb(path.read_bytes())),
    }
    for name, harm in faults.items():
        root, victim = work / name.replace(" ", "_"), photos / "train" / "a" / "007.png"
        root.mkdir()
        before, harmed = victim.read_bytes(), []

        def at_step(
            step: int, victim: Path = victim, harm: Callable[[Path], Any] = harm, harmed: list[int] = harmed
        ) -> None:
            if step == 6 and not harmed:
                harmed.append(step)
                harm(victim)

        run = Fit(root, options, at_step)
        error = run.wait()
        lost = run.reached.value + 1 - saved_step(root)
        victim.write_bytes(before)
        end = Fit(root, options).wait()
        result = f"{error}; restored and resumed: {compare(root, reference) if end == '0' else end}"
        rows.append((name, result, f"{lost} steps"))
    return rows


def _bomb(png: bytes) -> bytes:
    return png[:16] + (100_000).to_bytes(4, "big") * 2 + png[24:]


def try_memory(work: Path) -> list[Row]:
    """Exhaust the memory in the middle of an epoch."""
    root, reference = work / "memory", work / "reference_memory"
    for folder in (root, reference):
        folder.mkdir()
    undisturbed(reference, DIGITS)
    allocated: list[Any] = []

    def at_step(step: int) -> None:
        if step == 52 and not allocated:
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 26), resource.RLIM_INFINITY))
            allocated.append(torch.empty(1 << 26))

    run = Fit(root, DIGITS, at_step)
    error = run.wait()
    lost = run.reached.value - saved_step(root)
    end = Fit(root, DIGITS).wait()
    result = f"{error}; resumed: {compare(root, reference) if end == '0' else end}"
    return [("out of memory during an epoch", result, f"{lost} steps")]


def try_classes(work: Path, classes: int) -> list[Row]:
    """List a folder of very many classes."""
    root = work / "classes"
    image = io.BytesIO()
    save_image(torch.rand(3, 8, 8), image, format="png")
    source = work / "0.png"
    for number in range(classes):
        for split in ("train", "val"):
            folder = root / split / f"{number:06}"
            folder.mkdir(parents=True)
            if number % 10_000 == 0:  # file systems limit the hard links of a file
                source = folder / "0.png"
                source.write_bytes(image.getvalue())
            else:
                os.link(source, folder / "0.png")
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = ImageFolderDataModule(str(root), image_size=8, num_workers=0)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    seconds = time.process_time() - start
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    what = f"listed and a batch of {len(batch['label'])} read in {seconds:.1f} s of CPU time, {growth:.0f} MiB"
    return [(f"a folder of {data.num_classes:,} classes", what, "none")]


def main() -> None:
    """Inject the selected kinds of faults."""
    kinds = ("signals", "disk", "closed", "files", "memory", "classes")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=[], help=f"kinds among {', '.join(kinds)}; all by default")
    parser.add_argument("--kills", type=int, default=20, help="number of kills of `signals`")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of kills")
    parser.add_argument("--classes", type=int, default=100_000, help="number of classes of `classes`")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| fault | what happened | lost work |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="try_faults_") as name:
        work = Path(name)
        attempts: dict[str, Callable[[], list[Row]]] = {
            "signals": lambda: try_signals(work, args.kills, args.seed),
            "disk": lambda: try_disk(work),
            "closed": lambda: try_closed(work),
            "files": lambda: try_files(work),
            "memory": lambda: try_memory(work),
            "classes": lambda: try_classes(work, args.classes),
        }
        for kind in args.kinds or kinds:
            for row in attempts[kind]():
                print(f"| {' | '.join(' '.join(cell.split()).replace(name, '...') for cell in row)} |", flush=True)


if __name__ == "__main__":
    main()
