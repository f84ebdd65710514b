"""Threads and worker processes: available processors, pools, prefetching and thread limits."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from genretree.files import printable

T = TypeVar("T")
# Files in work at a time, at most one for each processor. More threads give nothing: each holds Python's interpreter
# lock for about a fifth of its time (benchmarks/many_cores.py).
FILE_WORKERS = 8
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def available_processors() -> int:
    """Return the number of processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_n_sharing = 1


def n_sharing_processes() -> int:
    """Return the number of parallel threads set by `shared_by`."""
    return _n_sharing


def processors_each() -> int:
    """Return the number of processors for each parallel thread, at least 1."""
    return max(1, available_processors() // _n_sharing)


@contextmanager
def shared_by(workers: int) -> Iterator[None]:
    """Divide the processors among `workers` parallel threads, each of which may use the libraries' own threads.

    Limits torch to the threads of one worker, and BLAS to one; exported networks read `n_sharing_processes`.
    """
    from threadpoolctl import threadpool_limits

    global _n_sharing
    torch = sys.modules.get("torch")  # not imported here: exports run without it
    before, threads = _n_sharing, torch.get_num_threads() if torch else 0
    _n_sharing = max(1, workers)
    try:
        if torch:
            torch.set_num_threads(min(threads, processors_each()))  # respect a lower limit set elsewhere
        # Matrix products for images are small: BLAS threads would wait for each other longer than they compute.
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        _n_sharing = before
        if torch:
            torch.set_num_threads(threads)


def prefetch(values: Iterator[T]) -> Iterator[T]:
    """Iterate in a background thread that computes the next item while the current one is used.

    Items must stay valid while the iterator advances.
    """
    end = object()
    thread_ids: list[int] = []
    pool = ThreadPoolExecutor(1, initializer=lambda: thread_ids.append(threading.get_ident()))
    future = pool.submit(next, values, end)
    try:
        while (value := future.result()) is not end:
            future = pool.submit(next, values, end)
            yield value  # type: ignore[misc]
    finally:
        # If the garbage collector closes this generator, the pool accepts no more work, because its thread may be gone,
        # and the collector may run in that thread, which cannot wait for itself.
        in_other_thread = threading.get_ident() not in thread_ids
        if in_other_thread:
            wait([future])
            getattr(values, "close", int)()
        pool.shutdown(in_other_thread)


def world_size() -> int:
    """Return the number of processes that train one model, as set by torchrun; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def fast_bf16() -> bool:
    """Return whether the processor has bf16 matrix instructions; without them bf16 is slower than float32."""
    import torch

    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def keep_allocated_pages() -> None:
    """Configure glibc to retain freed memory, which it otherwise returns and faults in again at every step.

    Speeds up training on a CPU by a factor of up to two. Does nothing where the C library has no `mallopt`.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # parameter numbers in malloc.h
    mallopt(mmap_max, 0)  # allocate from the heap: separate mappings are always returned
    mallopt(top_pad, 256 << 20)  # grow the heap in few large steps
    mallopt(trim_threshold, (1 << 31) - 1)


@contextmanager
def worker_pool(workers: int) -> Iterator[Executor]:
    """Open a pool of new processes with one thread each; on an error or interrupt, stop them immediately.

    Uses loky: forking a process with threads, such as torch's, may hang, and the other start methods of the standard
    library run the caller's script again in every worker unless it has a main guard.
    """
    from loky import ProcessPoolExecutor

    pool = ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(os.getpid(),))
    try:
        yield pool
    except BaseException:
        pool.shutdown(kill_workers=True)
        raise
    pool.shutdown()


def single_thread() -> None:
    """Limit the libraries of this process to one thread each."""
    from threadpoolctl import threadpool_limits

    global _n_sharing
    _n_sharing = available_processors()
    # The environment limits libraries loaded later, the call those already loaded.
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    threadpool_limits(1)


def _start_worker(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles interrupts for all workers
    single_thread()
    threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()


def _exit_with_parent(parent: int) -> None:
    """Exit when the parent process is gone: a killed parent cannot stop its workers."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def command_line(arguments: Iterable[str] | None = None) -> str:
    r"""Return the command that started this process, quoted for a shell.

    Parameters
    ----------
    arguments : iterable of str, optional
        Arguments, instead of `sys.argv[1:]`.

    Returns
    -------
    str
        On one line and without control characters: a word that contains some, or bytes that are not UTF-8, becomes
        `$'...'`, as understood by bash, zsh and ksh.
    """
    name = Path(sys.argv[0]).name
    program = ["python", "-m", "genretree"] if name == "__main__.py" else [name]
    return " ".join(map(_quote, [*program, *(sys.argv[1:] if arguments is None else arguments)]))


def _quote(word: str) -> str:
    if printable(word) == word:
        return shlex.quote(word)
    return "$'" + "".join(map(_quote_character, word)) + "'"


def _quote_character(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if printable(character) == character:
        return character
    # Octal, because it ends after three digits.
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))
