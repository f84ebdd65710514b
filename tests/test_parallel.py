from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from genretree.parallel import available_processors, prefetch, worker_pool


def _threads_of_blas(_: int) -> list[int]:
    import numpy as np
    from threadpoolctl import threadpool_info

    np.ones((4, 4)) @ np.ones((4, 4))
    return [library["num_threads"] for library in threadpool_info()]


def test_workers_use_one_thread_each() -> None:
    with worker_pool(2) as pool:
        for threads in pool.map(_threads_of_blas, range(2)):
            assert threads
            assert set(threads) == {1}


def test_an_error_cancels_pending_work() -> None:
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), worker_pool(1) as pool:
        for _ in range(20):
            pool.submit(time.sleep, 5)
        raise KeyboardInterrupt
    assert time.monotonic() - began < 20


@pytest.mark.slow
def test_a_script_needs_no_main_guard(tmp_path: Path, corpus: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, genretree\n"
        "settings = genretree.ImageSettings(slice_seconds=2, size=32)\n"
        "store = genretree.prepare(genretree.read_manifest(sys.argv[1]), sys.argv[2], settings, workers=2)\n"
        "print(store.n_tracks, len(store.failures))\n"
    )
    table = corpus.read_text().splitlines()
    few = [f"{corpus.parent}/{row}" for row in table[1:] if "-0.wav" in row and not row.startswith(("Bells", "Noise"))]
    (tmp_path / "tracks.csv").write_text("\n".join([table[0], *few]))
    command = [sys.executable, str(script), str(tmp_path / "tracks.csv"), str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["15", "0"]


def test_there_is_a_processor() -> None:
    assert available_processors() >= 1


def test_prefetch_preserves_order_and_raises_errors() -> None:
    assert list(prefetch(iter(range(50)))) == list(range(50))

    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("the second")

    values = []
    with pytest.raises(KeyError, match="the second"):
        for value in prefetch(broken()):
            values.append(value)
    assert values == [1]


def test_prefetch_stops_with_its_reader() -> None:
    closed = []

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    before = threading.active_count()
    reader = prefetch(endless())
    next(reader)
    assert threading.active_count() == before + 1
    reader.close()  # type: ignore[attr-defined]
    assert closed == [True]
    assert threading.active_count() == before


def test_an_abandoned_prefetch_can_be_collected_in_any_thread() -> None:
    # The collector takes the pool's threads away before it closes the generator, and may run in one of them.
    script = """
import gc, threading
from genretree.parallel import prefetch

class Knot: pass

closed = []

def numbers(collect):
    try:
        for number in range(9):
            if collect and number > 1:
                gc.collect()
            yield number
    finally:
        closed.append(collect)

def give_up(collect):
    knot = Knot()
    knot.knot, knot.working = knot, prefetch(numbers(collect))
    assert next(knot.working) == 0

gc.disable()
for collect in (False, True):
    for _ in range(50):
        give_up(collect)
gc.collect()
assert len(closed) > 90, len(closed)
print("done")
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "done\n", ran.stderr
