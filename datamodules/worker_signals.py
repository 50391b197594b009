"""Worker processes that outlive the signals by which a run is asked to end, so that it can finish its step."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["OutliveSignals", "signals_held_back"]

_ASKED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))


class OutliveSignals:
    """A `worker_init_fn` that keeps a worker at work when a signal reaches the whole process group or job.

    Ctrl-C, `timeout`, SLURM and systemd signal every process of a run. The process that trains decides when its
    workers end: a worker ends with it, or on a SIGTERM that this process itself sends. The handlers that it has set
    are not called in its workers.

    Args:
        then: The `worker_init_fn` to call after that, if any.
    """

    def __init__(self, then: Callable[[int], None] | None = None) -> None:
        self.then = then

    def __call__(self, worker_id: int) -> None:
        """Prepare the worker process, from its main thread."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in _ASKED:
            if number != signal.SIGTERM and callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_IGN)
        parent = multiprocessing.parent_process()
        if hasattr(signal, "sigwaitinfo") and parent is not None:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # also in the threads that start from here on
            threading.Thread(target=_end_if_told_by, args=(parent.pid,), daemon=True).start()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, set(_ASKED) - {signal.SIGTERM})
        elif hasattr(os, "setpgid"):  # a system that does not tell who has sent a signal
            os.setpgid(0, 0)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKED)
        if self.then is not None:
            self.then(worker_id)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Deliver signals that ask a run to end only afterwards to this thread and the workers that it starts within.

    Workers would be ended by them until they are prepared. Where other threads run, the system may hand a signal to the
    whole process to one of these.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ASKED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_if_told_by(parent: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
