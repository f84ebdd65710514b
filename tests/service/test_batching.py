"""Slices that come at the same time are scored together, and everyone gets their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from genretree.service.batching import Batcher
from genretree.sound.features import Inputs


def slices(number: int, count: int) -> Inputs:
    return {"images": np.full((count, 3, 4, 4), number, np.uint8)}


class Model:
    """Says each slice's own number; takes its time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.calls: list[int] = []

    def predict_proba(self, inputs: Inputs) -> list[NDArray[np.float64]]:
        images = inputs["images"]
        time.sleep(self.seconds)
        if images[0, 0, 0, 0] == 13:
            raise ValueError("thirteen")
        self.calls.append(len(images))
        numbers = images[:, 0, 0, :1].astype(np.float64)
        return [numbers, np.repeat(numbers, 2, axis=1)]


def score(
    model: Model, counts: list[int], together: int, seconds: float = 0.05, more: Callable[[], bool] = lambda: True
) -> list[list[NDArray[np.float64]]]:
    """Score so many slices for each of some callers at once."""

    async def run() -> list[list[NDArray[np.float64]]]:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(model.predict_proba, executor, together, seconds, more)
            batcher.start()
            try:
                work = [batcher.predict(slices(number, count)) for number, count in enumerate(counts)]
                return await asyncio.gather(*work)
            finally:
                await batcher.stop()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("together", "calls"),
    [(64, [10]), (0, [1, 2, 3, 4]), (3, [3, 3, 4])],
)
def test_callers_are_joined_up_to_so_many_slices(together: int, calls: list[int]) -> None:
    model = Model()
    found = score(model, [1, 2, 3, 4], together)
    assert model.calls == calls
    for number, levels in enumerate(found):
        assert [level.shape for level in levels] == [(number + 1, 1), (number + 1, 2)]
        assert all((level == number).all() for level in levels)


def test_nobody_waits_where_nothing_more_can_come() -> None:
    begun = time.monotonic()
    score(Model(), [1], 64, seconds=30, more=lambda: False)
    assert time.monotonic() - begun < 5


def test_what_comes_while_the_network_works_is_scored_at_once_afterwards() -> None:
    model = Model(0.1)

    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(model.predict_proba, executor, 64, 0.0)
            batcher.start()
            first = asyncio.ensure_future(batcher.predict(slices(1, 2)))
            await asyncio.sleep(0.05)
            rest = [batcher.predict(slices(number, 2)) for number in range(2, 6)]
            await asyncio.gather(first, *rest)
            await batcher.stop()

    asyncio.run(run())
    assert model.calls == [2, 8]


def test_an_error_reaches_all_who_wait_and_the_next_are_served() -> None:
    model = Model()

    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(model.predict_proba, executor, 64, 0.01)
            batcher.start()
            failed = await asyncio.gather(*(batcher.predict(slices(13, 1)) for _ in range(2)), return_exceptions=True)
            assert [str(error) for error in failed] == ["thirteen", "thirteen"]
            assert (await batcher.predict(slices(5, 1)))[0] == [[5.0]]
            await batcher.stop()

    asyncio.run(run())
