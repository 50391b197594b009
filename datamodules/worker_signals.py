"""Worker processes that survive termination signals, so that the run can finish its current step."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["OutliveSignals", "signals_held_back"]

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))


class OutliveSignals:
    """A `worker_init_fn` that keeps a worker running when a signal reaches the entire process group or job.

    Ctrl-C, `timeout`, SLURM and systemd signal every process of a run. The training process decides when its workers
    end: a worker ends with it, or on a SIGTERM sent by it. Signal handlers of the training process are not called in
    workers.

    Args:
        then: Another `worker_init_fn` to call afterwards.
    """

    def __init__(self, then: Callable[[int], None] | None = None) -> None:
        self.then = then

    def __call__(self, worker_id: int) -> None:
        """Set up signal handling in the main thread of the worker process."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in _SIGNALS:
            if number != signal.SIGTERM and callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_IGN)
        parent = multiprocessing.parent_process()
        if hasattr(signal, "sigwaitinfo") and parent is not None:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # threads started from here on inherit this
            threading.Thread(target=_exit_on_sigterm_from, args=(parent.pid,), daemon=True).start()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, set(_SIGNALS) - {signal.SIGTERM})
        elif hasattr(os, "setpgid"):  # systems that do not report the sender of a signal
            os.setpgid(0, 0)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        if self.then is not None:
            self.then(worker_id)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Block termination signals in this thread and the workers that it starts, and deliver them afterwards.

    Otherwise signals would kill workers before their setup is complete. With other threads running, the system may
    deliver a signal for the process to one of them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _exit_on_sigterm_from(parent: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
