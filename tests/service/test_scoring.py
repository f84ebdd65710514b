"""The service runs a model in one thread: errors reach their request, and abandoned work is dropped."""

from __future__ import annotations

import asyncio
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from genretree import load_bundle
from genretree.explanation.slices import TrackSlices
from genretree.service.engine.inference import DecodedTrack, Service
from genretree.sound.features import Inputs


class Model:
    """Predicts each slice's own value; waits for `go`, and raises on slices of value 13."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []  # value of the first slice, number of slices
        self.running, self.go = Event(), Event()

    def predict_proba(self, inputs: Inputs) -> list[NDArray[np.float64]]:
        images = inputs["images"]
        self.running.set()
        assert self.go.wait(20)
        value = int(images[0, 0, 0, 0])
        self.calls.append((value, len(images)))
        if value == 13:
            raise ValueError("thirteen")
        values = images[:, 0, 0, :1].astype(np.float64)
        return [values, np.repeat(values, 2, axis=1)]


def track(value: int, n_slices: int = 2) -> DecodedTrack:
    images = np.full((n_slices, 3, 4, 4), value, np.uint8)
    return DecodedTrack(TrackSlices("track", images, {}, np.arange(n_slices, dtype=np.float64), 1.0), float(n_slices))


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def loaded(model: Model) -> Any:
    return SimpleNamespace(bundle=SimpleNamespace(model=model, training={}))


async def start_one(service: Service, loaded: Any, model: Model) -> asyncio.Future[Any]:
    """Start scoring a track, and return while the model runs on it."""
    first = asyncio.ensure_future(service.score(loaded, track(1)))
    await asyncio.to_thread(model.running.wait, 20)
    return first


def test_each_request_gets_its_own_rows(loaded: Any, model: Model) -> None:
    async def run() -> list[Any]:
        service = Service([])
        return await asyncio.gather(*(service.score(loaded, track(value, 10 * value)) for value in range(1, 6)))

    model.go.set()
    for value, scores in enumerate(asyncio.run(run()), 1):
        assert [level.shape for level in scores.levels] == [(10 * value, 1), (10 * value, 2)]
        assert all((level == value).all() for level in scores.levels)
    assert max(n_slices for _, n_slices in model.calls) == 32  # long files leave room for others in between


def test_a_model_error_reaches_the_request_that_caused_it(loaded: Any, model: Model) -> None:
    async def run() -> list[Any]:
        service = Service([])
        work = (service.score(loaded, track(value)) for value in (1, 13, 2))
        return await asyncio.gather(*work, return_exceptions=True)

    model.go.set()
    before, error, after = asyncio.run(run())
    assert isinstance(error, ValueError)
    assert str(error) == "thirteen"
    assert (before.levels[0] == 1).all()
    assert (after.levels[0] == 2).all()


def test_the_model_never_starts_on_cancelled_work(loaded: Any, model: Model) -> None:
    async def run() -> Any:
        service = Service([])
        first = await start_one(service, loaded, model)
        abandoned = [asyncio.ensure_future(service.score(loaded, track(value))) for value in (2, 3)]
        last = asyncio.ensure_future(service.score(loaded, track(4)))
        await asyncio.sleep(0)
        for each in abandoned:
            each.cancel()
        await asyncio.gather(*abandoned, return_exceptions=True)
        model.go.set()
        return await asyncio.gather(first, last)

    first, last = asyncio.run(run())
    assert (first.levels[0] == 1).all()
    assert (last.levels[0] == 4).all()
    assert [value for value, _ in model.calls] == [1, 4]


def test_the_rest_of_a_long_file_is_dropped_when_its_request_is_cancelled(loaded: Any, model: Model) -> None:
    async def run() -> None:
        service = Service([])
        work = asyncio.ensure_future(service.score(loaded, track(1, 100)))
        await asyncio.to_thread(model.running.wait, 20)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        model.go.set()
        await asyncio.to_thread(service._thread.shutdown)

    asyncio.run(run())
    assert model.calls == [(1, 32)]


def test_an_explanation_gets_the_tags_of_its_slices_and_only_the_model_s_features(
    bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from genretree.service.workers import explain

    class Tagger:
        def predict_with_tags(self, inputs: dict[str, np.ndarray]) -> tuple[None, np.ndarray]:
            return None, inputs["mel_32k"].mean(axis=(1, 2))[:, None]

    bundle = load_bundle(bundles[0])
    features = {"mel_32k": np.full((2, 4, 3), 0.5, np.float16)}
    track = TrackSlices("song", np.zeros((2, 3, 64, 64), np.uint8), features, np.array([0.0, 2.0]), 2.0)
    monkeypatch.setattr(explain, "_load_tagger", Tagger)
    kept, tags = explain._split_tags(bundle, track)
    assert kept.features == {}
    assert tags is not None
    assert tags.tolist() == [[0.5], [0.5]]
    monkeypatch.setattr(explain, "_load_tagger", lambda: None)
    assert explain._split_tags(bundle, track)[0] is track
