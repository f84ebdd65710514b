"""What the machine has, and worker processes that share it well."""

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
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def available_processors() -> int:
    """Count the processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_sharers = 1


def n_sharing_processes() -> int:
    """Say how many threads of this process work side by side, as `shared_by` was told."""
    return _sharers


def processors_each() -> int:
    """Say how many processors each of the threads has that work side by side; at least 1."""
    return max(1, available_processors() // _sharers)


@contextmanager
def shared_by(workers: int) -> Iterator[None]:
    """Divide the processors among so many threads that work side by side, each of which may use libraries' threads.

    torch gets as many threads as one worker may use, the BLAS one; exported networks ask `n_sharing_processes`.
    """
    from threadpoolctl import threadpool_limits

    global _sharers
    torch = sys.modules.get("torch")  # where an export runs without it, it is not imported for this
    before, threads = _sharers, torch.get_num_threads() if torch else 0
    _sharers = max(1, workers)
    try:
        if torch:
            torch.set_num_threads(min(threads, processors_each()))  # a lower limit is someone's wish
        # The products of drawing are small: threads that share one wait for each other, longer than they work.
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        _sharers = before
        if torch:
            torch.set_num_threads(threads)


def prefetch(values: Iterator[T]) -> Iterator[T]:
    """Yield what an iterator yields, but let a thread of its own work on the next while the last is used.

    What it yields must stay valid while it works on.
    """
    end = object()
    own: list[int] = []
    pool = ThreadPoolExecutor(1, initializer=lambda: own.append(threading.get_ident()))
    waiting = pool.submit(next, values, end)
    try:
        while (value := waiting.result()) is not end:
            waiting = pool.submit(next, values, end)
            yield value  # type: ignore[misc]
    finally:
        # Where this is closed by the garbage collector the pool takes no more work, for its thread may be gone; and
        # the collector may run in that very thread, which can't wait for itself.
        elsewhere = threading.get_ident() not in own
        if elsewhere:
            wait([waiting])
            getattr(values, "close", int)()
        pool.shutdown(elsewhere)


def world_size() -> int:
    """Count the processes that train one model together, as torchrun says; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def fast_bf16() -> bool:
    """Say whether the processor multiplies matrices of bf16 numbers itself; elsewhere it is slower than float32."""
    import torch

    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def keep_allocated_pages() -> None:
    """Tell glibc's allocator to keep freed memory, which otherwise is given back and faulted in again at every step.

    Worth a factor of up to two in training speed on a CPU. Does nothing where the C library has no `mallopt`.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # the parameters' numbers in malloc.h
    mallopt(mmap_max, 0)  # all from the heap: what is mapped apart is always given back
    mallopt(top_pad, 256 << 20)  # which then grows in few large steps
    mallopt(trim_threshold, (1 << 31) - 1)


@contextmanager
def worker_pool(workers: int) -> Iterator[Executor]:
    """Give a pool of fresh processes, each kept to one thread; on an error or an interrupt they are stopped at once.

    By loky: a fork of a process that runs threads, as torch does, may hang, and the standard library's other ways run
    the caller's script again in every worker unless it is written for that.
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
    """Keep the libraries of this process to one thread each."""
    from threadpoolctl import threadpool_limits

    global _sharers
    _sharers = available_processors()
    # The environment is for libraries loaded from now on, the call for those that are loaded already.
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    threadpool_limits(1)


def _start_worker(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers an interrupt, for all of them
    single_thread()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this worker when the process that started it is gone: one that was killed can't say so."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def command_line(words: Iterable[str] | None = None) -> str:
    r"""Return the command this process was started with, as one would type it.

    Parameters
    ----------
    words : iterable of str, optional
        What follows the program's name, in place of `sys.argv[1:]`.

    Returns
    -------
    str
        Quoted for a shell, on one line and without control characters: a word that holds some, or bytes that aren't
        UTF-8, becomes `$'...'`, as bash, zsh and ksh read it.
    """
    name = Path(sys.argv[0]).name
    program = ["python", "-m", "genretree"] if name == "__main__.py" else [name]
    return " ".join(map(_quote, [*program, *(sys.argv[1:] if words is None else words)]))


def _quote(word: str) -> str:
    if printable(word) == word:
        return shlex.quote(word)
    return "$'" + "".join(map(_quote_character, word)) + "'"


def _quote_character(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if printable(character) == character:
        return character
    # Octal, since it ends after three digits whatever follows.
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))
