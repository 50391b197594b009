"""Workers survive signals of other processes, and end on SIGTERM of their parent."""

import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset
from torch.utils.data._utils import signal_handling

from datamodules.loader import ResumableLoader
from datamodules.worker_signals import OutliveSignals, signals_held_back

if not hasattr(signal, "sigwaitinfo"):
    pytest.skip("this system does not tell who has sent a signal", allow_module_level=True)


class Pids(Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"index": torch.tensor(index), "pid": torch.tensor(os.getpid())}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_worker_survives_signal_of_another_process(number: signal.Signals) -> None:
    called: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda *args: called.append(os.getpid()))
    try:
        batches = iter(ResumableLoader(Pids(), batch_size=1, num_workers=2))
        first = next(batches)
        command = [sys.executable, "-S", "-c", f"import os; os.kill({int(first['pid'])}, {int(number)})"]
        subprocess.run(command, check=True)
        rest = list(batches)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [int(batch["index"]) for batch in (first, *rest)] == list(range(40))
    assert len({int(batch["pid"]) for batch in rest[-4:]}) == 2


def test_worker_ends_on_sigterm_of_parent() -> None:
    loader = ResumableLoader(Pids(), batch_size=1, num_workers=1, persistent_workers=True)
    batches = iter(loader)
    next(batches)
    running: Any = loader._iterator
    (worker,) = running._workers
    signal_handling._remove_worker_pids(id(running))  # the worker's end is expected here
    running._worker_pids_set = False
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == 0


def test_worker_init_fn_is_still_called(capfd: pytest.CaptureFixture[str]) -> None:
    loader = ResumableLoader(Pids(), batch_size=20, num_workers=1, worker_init_fn=_say)
    assert len(list(loader)) == len(list(loader)) == 2
    assert capfd.readouterr().out == "worker 0\n" * 2
    assert isinstance(loader.worker_init_fn, OutliveSignals)
    assert loader.worker_init_fn.then is _say


def test_blocked_signals_are_delivered_afterwards() -> None:
    called: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: called.append(number))
    try:
        with signals_held_back():
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)  # not one of the threads started by libraries
            assert called == []
        assert called == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(worker_id: int) -> None:
    os.write(1, f"worker {worker_id}\n".encode())
