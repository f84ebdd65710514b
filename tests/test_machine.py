from __future__ import annotations

import pytest

from genretree.machine import available_processors, worker_pool


def _threads_of_blas(_: int) -> list[int]:
    import numpy as np
    from threadpoolctl import threadpool_info

    np.ones((4, 4)) @ np.ones((4, 4))
    return [library["num_threads"] for library in threadpool_info()]


def test_workers_keep_to_one_thread_each() -> None:
    with worker_pool(2) as pool:
        for threads in pool.map(_threads_of_blas, range(2)):
            assert threads
            assert set(threads) == {1}


def test_an_error_drops_the_work_that_has_not_begun() -> None:
    with pytest.raises(KeyboardInterrupt), worker_pool(1) as pool:
        futures = [pool.submit(_threads_of_blas, i) for i in range(200)]
        raise KeyboardInterrupt
    assert any(future.cancelled() for future in futures)


def test_there_is_a_processor() -> None:
    assert available_processors() >= 1
