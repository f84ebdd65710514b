"""What the machine has, and worker processes that share it well."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def available_processors() -> int:
    """Count the processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of fresh processes, each kept to one thread; work that hasn't begun is dropped on an error.

    Fresh ("spawn"), because a fork of a process that runs threads, as torch does, may hang.
    """
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker)
    try:
        yield pool
    except BaseException:  # an interrupt too must not wait until all the work is done
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()


def _start_worker() -> None:
    from threadpoolctl import threadpool_limits

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers an interrupt, for all of them
    # The environment is for libraries loaded from now on, the call for those that are loaded already.
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    threadpool_limits(1)
