"""The service without HTTP: workers decode files, one thread runs the models, one worker explains."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from genretree.bundle.bundle import score_noise
from genretree.explanation.api import make_timelines, node_probabilities, predicted_nodes
from genretree.explanation.similar.neighbours import list_tracks
from genretree.explanation.slices import TrackSlices
from genretree.metrics.familiarity import describe_inputs, measure_distance
from genretree.models.pretrained.sources import has_mn04
from genretree.models.runtime.types import Precision, RuntimeChoice
from genretree.parallel import shared_by
from genretree.prediction.predict import SliceScores, as_prediction
from genretree.service.config import Limits
from genretree.service.corrections import Corrections
from genretree.service.engine.loaded_models import LoadedModel, load_models
from genretree.service.errors import Problem, busy, file_problem, unavailable
from genretree.service.metrics import Metrics
from genretree.service.storage import PrivateFolder, Storage, clear_leftovers, disk_full, folder_missing
from genretree.service.training_music import TrainingMusic
from genretree.service.workers.explain import pack_slices
from genretree.service.workers.pool import (
    FailedError,
    FullError,
    OnPreview,
    OnProgress,
    Pool,
    ServiceError,
    UnavailableError,
)
from genretree.service.workers.protocol import Message, array_bytes, read_array, read_features
from genretree.settings import HOP_LENGTH, SAMPLE_RATE
from genretree.sound.features import MEL_32K

_MAX_SLICES_PER_CALL = 32  # so that long files don't block the others
_MAX_FILE_BYTES = 1 << 30  # written by a worker: long files' spectra, 39 kB for a second, go to disk


@dataclass(frozen=True)
class DecodedTrack:
    """The slices of a decoded file, its duration in seconds, and if requested its tags and a small cover as PNG."""

    slices: TrackSlices
    seconds: float
    tags: dict[str, str] = field(default_factory=dict)
    cover: bytes = b""


@dataclass(frozen=True)
class ExplanationFiles:
    """An explanation as JSON, with PNG pictures by name and their positions on a page."""

    content: dict[str, Any]
    view: dict[str, Any] | None
    pictures: dict[str, bytes]

    @classmethod
    def read(cls, message: Message) -> Self:
        """Read the reply of a worker."""
        content, *pngs = message.blobs
        names = [str(name) for name in message.header["pictures"]]
        images = dict(zip(names, map(bytes, pngs), strict=True))
        return cls(json.loads(bytes(content)), message.header["view"], images)


@dataclass
class Service:
    """Models, workers and a private folder.

    Parameters
    ----------
    bundles : sequence of paths
        Bundle folders; the first is the default model.
    limits : Limits
    runtime, precision : str
        Arguments of `load_bundle`, for predictions. Explanations use `auto`, or float32 for gradients.
    corrections_folder : path, optional
        Where to keep corrected genres; without it the service takes none.
    music : TrainingMusic, optional
        The training tracks, to name and play the nearest ones of an explanation.
    """

    bundles: Sequence[str | Path]
    limits: Limits = field(default_factory=Limits)
    runtime: RuntimeChoice = "auto"
    precision: Precision = "auto"
    corrections_folder: str | Path | None = None
    music: TrainingMusic | None = None

    def __post_init__(self) -> None:
        self.metrics = Metrics()
        self.storage = Storage(self.limits.stored_bytes)
        self.closing = False
        self.failure: ServiceError | None = None
        self._thread = ThreadPoolExecutor(1, "network")
        self.tagged = has_mn04()
        self.models = load_models(self.bundles, self.runtime, self.precision)
        trees = {name: model.bundle.taxonomy for name, model in self.models.items()}
        folder = self.corrections_folder
        self.corrections = None if folder is None else Corrections(folder, trees)
        self.indexed = {} if self.music is None else {n: list_tracks(each.bundle) for n, each in self.models.items()}

    @property
    def folder(self) -> Path:
        """The private folder; it exists after `start`."""
        return self.private.path

    async def start(self) -> None:
        """Create the private folder and start the workers. Raises ServiceError if a worker can't start."""
        self._stack = ExitStack()
        clear_leftovers()
        self.private = PrivateFolder()
        self._stack.callback(self.private.close)
        self._stack.enter_context(shared_by(1))  # the network thread may use all processors
        self.storage.limit = self.private.available_bytes(self.limits.stored_bytes)
        limits, replaced = self.limits, self.metrics.replaced
        self.decoders = Pool(
            "genretree.service.workers.decode",
            {
                "memory": limits.decode_bytes,
                "file_size": _MAX_FILE_BYTES,
                "processor_seconds": 2 * limits.decode_seconds,
            },
            limits.workers,
            limits.waiting,
            limits.decode_seconds,
            self.folder,
            "decoding",
            lambda reason: replaced.labels("decode", reason).inc(),
        )
        self.explainers = Pool(
            "genretree.service.workers.explain",
            {"bundles": [str(loaded.bundle.folder.absolute()) for loaded in self.models.values()]},
            1,
            limits.waiting_explanations,
            limits.explain_seconds,
            self.folder,
            "explaining",
            lambda reason: replaced.labels("explain", reason).inc(),
            kill_abandoned=True,
        )
        try:
            await self.decoders.start()
            await self.explainers.start(wait=False)
        except BaseException as error:
            self.failure = error if isinstance(error, ServiceError) else None
            await self.stop()
            raise
        for loaded in self.models.values():
            await self._warm_up(loaded)
        self._add_gauges()

    async def _warm_up(self, loaded: LoadedModel) -> None:
        """Score a slice of noise, so that the first request does not wait for lazy initialisation."""
        await asyncio.get_running_loop().run_in_executor(self._thread, score_noise, loaded.bundle)

    async def stop(self) -> None:
        """Stop the workers and remove the private folder."""
        self.closing = True
        await self.decoders.stop()
        await self.explainers.stop()
        await asyncio.to_thread(self._thread.shutdown)
        self._stack.close()

    def check_capacity(self, explain: bool = False) -> None:
        """Raise Problem if a request would be refused, before its upload is received."""
        if self.closing:
            raise Problem("closing", "the service is shutting down", headers={"retry-after": "10"})
        if not self.private.exists:
            raise folder_missing()
        try:
            self.decoders.check_capacity()
            if explain:
                self.explainers.check_capacity()
        except FullError as error:
            raise _queue_full() from error
        except UnavailableError as error:
            raise unavailable(error.detail, error.retry_seconds) from error

    def check_health(self) -> None:
        """Raise Problem if all requests would be refused."""
        if self.closing:
            raise busy("the service is shutting down")
        if self.decoders.unavailable:
            raise unavailable("the workers can't be started; retry later", self.decoders.retry_seconds)
        if not self.private.exists:
            raise folder_missing(5)
        if self.private.disk_is_full:
            raise disk_full()

    async def decode(
        self,
        loaded: LoadedModel,
        name: str,
        path: Path,
        salvage: bool = False,
        on_progress: OnProgress | None = None,
        copy: Path | None = None,
        tags: bool = False,
        explained: bool = False,
    ) -> DecodedTrack:
        """Decode a file in a worker, and compute its slices' images and features.

        Parameters
        ----------
        loaded : LoadedModel
            Model that the slices are for.
        name : str
            Name of the file in messages.
        path : Path
            Location in the private folder.
        salvage : bool
            Decode what is left of a truncated file.
        on_progress : callable, optional
            Called with the progress.
        copy : Path, optional
            Where to write the decoded audio as Ogg Vorbis.
        tags : bool
            Also read title, artist, album and cover.
        explained : bool
            Also compute what mn04 takes, if the service has its weights: an explanation names the instruments.

        Raises
        ------
        Problem
        """
        bundle = loaded.bundle
        names = tuple(dict.fromkeys((*bundle.model.input_features, *([MEL_32K] if explained and self.tagged else ()))))
        header = {
            "path": str(path),
            "images": bundle.images.model_dump(),
            "features": names,
            "salvage": salvage,
            "seconds": self.limits.seconds,
            "progress": on_progress is not None,
            "copy": None if copy is None else str(copy),
            "tags": tags,
        }
        reply = await self._run_worker(self.decoders, name, Message("decode", header), on_progress, "decode")
        images, decibels, *shapes = reply.header["shapes"]
        blobs, cover = (reply.blobs[:-1], bytes(reply.blobs[-1])) if tags else (reply.blobs, b"")
        slices = TrackSlices(
            name,
            read_array(blobs[0], np.uint8, images),
            read_features(names, blobs[2:], shapes),
            np.array(reply.header["starts"], np.float64),
            bundle.images.slice_frames * HOP_LENGTH / SAMPLE_RATE,
            read_array(blobs[1], np.float32, decibels),
            bool(reply.header["padded"]),
        )
        return DecodedTrack(slices, float(reply.header["seconds"]), reply.header.get("tags", {}), cover)

    async def cut_clip(self, path: Path, start: float, end: float, hertz: tuple[float, float] | None) -> bytes:
        """Cut a passage out of decoded audio in a worker, optionally filtered to a band in Hz, as WAV.

        Raises
        ------
        Problem
            If the passage starts after the end of the audio, or the service is busy.
        """
        header = {"path": str(path), "start": start, "end": end, "hertz": hertz}
        reply = await self._run_worker(self.decoders, "clip", Message("clip", header), None, "clip")
        return bytes(reply.blobs[0])

    async def score(self, loaded: LoadedModel, track: DecodedTrack) -> SliceScores:
        """Run the model on the slices of a file.

        Cancelling this drops the slices that the model has not started on.
        """
        start = time.monotonic()
        loop = asyncio.get_running_loop()
        model = loaded.bundle.model
        predict_with_tags = getattr(model, "predict_with_tags", None)
        predict: Callable[[Any], Any] = predict_with_tags or model.predict_proba
        slices, levels_by_call, tags = track.slices, [], []
        reference, described = loaded.bundle.training.get("reference"), []
        for at in range(0, len(slices), _MAX_SLICES_PER_CALL):
            part = slices.select(slice(at, at + _MAX_SLICES_PER_CALL))
            result = await loop.run_in_executor(self._thread, predict, part.inputs)
            if reference and (found := describe_inputs(part.inputs)) is not None:
                described.append(found)
            levels_by_call.append(result if predict_with_tags is None else result[0])
            if predict_with_tags is not None:
                tags.append(result[1])
        self.metrics.stages.labels("network").observe(time.monotonic() - start)
        levels = [np.concatenate(parts) for parts in zip(*levels_by_call, strict=True)]
        distance = measure_distance(reference, np.concatenate(described)) if described else None
        joined = np.concatenate(tags) if tags else None
        return SliceScores(levels, slices.starts.tolist(), slices.padded, joined, distance)

    def describe(
        self,
        loaded: LoadedModel,
        name: str,
        scores: SliceScores,
        min_confidence: float,
        n_genres: int | None = None,
    ) -> dict[str, Any]:
        """Return a prediction in the format of `genretree predict --json`."""
        return as_prediction(loaded.bundle, name, scores, min_confidence=min_confidence, n_genres=n_genres).to_json()

    def tree_and_timelines(self, loaded: LoadedModel, scores: SliceScores) -> dict[str, Any]:
        """Return the probabilities of all nodes, and the timelines of the predicted path."""
        bundle = loaded.bundle
        seconds = bundle.images.slice_frames * HOP_LENGTH / SAMPLE_RATE
        nodes = predicted_nodes(bundle, scores.levels)
        lines = make_timelines(bundle, scores.levels, nodes, np.array(scores.starts), seconds)
        return {
            "tree": [
                {"path": list(path), "probability": round(chance, 6)}
                for path, chance in node_probabilities(bundle, scores.levels)
            ],
            "timelines": [line.to_json() for line in lines],
        }

    async def explain(
        self,
        loaded: LoadedModel,
        track: DecodedTrack,
        question: Mapping[str, Any],
        pictures: bool = False,
        on_progress: OnProgress | None = None,
        on_preview: Callable[[ExplanationFiles], None] | None = None,
    ) -> ExplanationFiles:
        """Explain slices in a worker; `question` holds arguments of `explain_slices`. Raises Problem.

        With pictures, `on_preview` is called with the reasons and pictures of a first, coarse explanation.
        """
        header, arrays = pack_slices(track.slices)
        last = float(track.slices.starts[-1] + track.slices.seconds)
        header |= {
            "bundle": str(loaded.bundle.folder.absolute()),
            "question": dict(question),
            "pictures": pictures,
            "end": max(last, track.seconds),
            "music": None if self.music is None else str(self.music.folder),
        }
        message = Message("explain", header, [array_bytes(array) for array in arrays])

        def show(first: Message) -> None:
            if on_preview is not None:
                on_preview(ExplanationFiles.read(first))

        reply = await self._run_worker(self.explainers, track.slices.name, message, on_progress, "explain", show)
        return ExplanationFiles.read(reply)

    async def _run_worker(
        self,
        pool: Pool,
        name: str,
        message: Message,
        on_progress: OnProgress | None,
        stage: str,
        on_preview: OnPreview | None = None,
    ) -> Message:
        start = time.monotonic()
        try:
            return await pool.run(message, on_progress, on_preview)
        except FullError as error:
            raise _queue_full() from error
        except UnavailableError as error:
            raise unavailable(error.detail, error.retry_seconds) from error
        except FailedError as error:
            raise file_problem(name, error.kind, error.detail) from error
        finally:
            self.metrics.stages.labels(stage).observe(time.monotonic() - start)

    def _add_gauges(self) -> None:
        add_gauge = self.metrics.add_gauge
        add_gauge("genretree_decode_queue", "Files in the decoding queue.", lambda: self.decoders.queued)
        add_gauge("genretree_decode_busy", "Workers that are decoding.", lambda: self.decoders.busy)
        add_gauge("genretree_decode_ready", "Decoding workers that are ready.", lambda: self.decoders.ready)
        add_gauge("genretree_explain_queue", "Explanations in the queue.", lambda: self.explainers.queued)
        add_gauge("genretree_explain_busy", "Workers that are explaining.", lambda: self.explainers.busy)
        add_gauge("genretree_explain_ready", "Explaining workers that are ready.", lambda: self.explainers.ready)
        add_gauge(
            "genretree_stored_bytes", "Bytes of uploads and results in the private folder.", lambda: self.storage.used
        )


def _queue_full() -> Problem:
    return busy("the service is busy; retry in a few seconds")
