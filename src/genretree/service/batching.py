"""Slices of several files, whoever sent them, scored together: a network does more in one call than in many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np

from genretree.models.base import LevelProbabilities
from genretree.sound.features import Inputs, SliceInputs

Score = Callable[[Inputs], LevelProbabilities]


@dataclass(eq=False)
class _Item:
    inputs: Inputs
    levels: asyncio.Future[LevelProbabilities]

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


@dataclass
class Batcher:
    """Scores slices by one model.

    Parameters
    ----------
    score : callable
        The model's `predict_proba`.
    executor : Executor
        The thread that it runs in.
    slices : int
        The most to score together; 0: what each caller gives by itself.
    seconds : float
        How long to wait for more, if more may come.
    more : callable
        Says whether more may come: whether files are being decoded.
    count : callable
        Is told of each batch how many slices and how many callers' it holds.
    """

    score: Score
    executor: Executor
    slices: int = 64
    seconds: float = 0.004
    more: Callable[[], bool] = lambda: True
    count: Callable[[int, int], None] = lambda slices, callers: None
    _task: asyncio.Task[None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._queue: asyncio.Queue[_Item] = asyncio.Queue()

    def start(self) -> None:
        """Begin to score."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End; nobody may wait any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def predict(self, inputs: Inputs) -> LevelProbabilities:
        """Give the probabilities of every node, as a model's `predict_proba`."""
        item = _Item(inputs, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(item)
        return await item.levels

    async def _run(self) -> None:
        while True:
            items = await self._gather()
            items = [item for item in items if not item.levels.done()]  # whoever went away
            if items:
                await self._score(items)

    async def _gather(self) -> list[_Item]:
        """Take what waits, and what comes within a few milliseconds."""
        items = [await self._queue.get()]
        have = len(items[0])
        until = asyncio.get_running_loop().time() + self.seconds
        while have < self.slices:
            if self._queue.empty():
                left = until - asyncio.get_running_loop().time()
                if left <= 0 or not self.more():
                    break
                try:
                    async with asyncio.timeout(left):
                        items.append(await self._queue.get())
                except TimeoutError:
                    break
            else:
                items.append(self._queue.get_nowait())
            have += len(items[-1])
        return items

    async def _score(self, items: Sequence[_Item]) -> None:
        loop = asyncio.get_running_loop()
        try:
            levels = await loop.run_in_executor(self.executor, self._score_together, items)
        except Exception as error:  # whatever it is, those who wait must know
            for item in items:
                if not item.levels.done():
                    item.levels.set_exception(error)
            return
        self.count(sum(map(len, items)), len(items))
        at = 0
        for item in items:
            if not item.levels.done():
                item.levels.set_result([level[at : at + len(item)] for level in levels])
            at += len(item)

    def _score_together(self, items: Sequence[_Item]) -> LevelProbabilities:
        if len(items) == 1:
            return self.score(items[0].inputs)
        names = list(items[0].inputs)
        joined = {name: np.concatenate([item.inputs[name] for item in items]) for name in names}
        return self.score(SliceInputs(joined))
