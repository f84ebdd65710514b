"""What a service does, apart from HTTP: files are heard by workers, scored together, and explained."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from genretree.bundle.bundle import score_noise
from genretree.explanation.api import make_timelines, node_probabilities, predicted_nodes
from genretree.explanation.slices import TrackSlices
from genretree.models.runtime.types import Precision, RuntimeChoice
from genretree.parallel import shared_by
from genretree.prediction.predict import SliceScores, as_prediction
from genretree.service.explainer import describe_pieces
from genretree.service.limits import Limits
from genretree.service.metrics import Metrics
from genretree.service.models import Served, load_models
from genretree.service.pool import FailedError, FullError, Listen, Pool, ServiceError, UnavailableError
from genretree.service.problems import Problem, busy, of_sound, unavailable
from genretree.service.temporary import PrivateFolder, Storage, clear_leftovers, folder_gone
from genretree.service.wire import Message, array_blob, take_array, take_features
from genretree.settings import HOP_LENGTH, SAMPLE_RATE

_AT_A_TIME = 32  # slices of a file, so that long ones don't keep the others waiting
_LARGEST_FILE = 1 << 30  # that a worker may write: spectra take 39 kB for a second, and are written for long files


@dataclass(frozen=True)
class Sound:
    """A file as the models see it: its slices, and how many seconds it has."""

    pieces: TrackSlices
    seconds: float


@dataclass(frozen=True)
class Explained:
    """An explanation as JSON, and where its pictures (PNG, by name) belong on a page."""

    content: dict[str, Any]
    view: dict[str, Any] | None
    pictures: dict[str, bytes]


@dataclass
class Service:
    """Models, workers and a private folder; to be started and stopped.

    Parameters
    ----------
    bundles : sequence of paths
        The first is the default.
    limits : Limits
    runtime, precision : str
        As `load_bundle` takes them, for predictions; explanations are made in float32.
    """

    bundles: Sequence[str | Path]
    limits: Limits = field(default_factory=Limits)
    runtime: RuntimeChoice = "auto"
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        self.metrics = Metrics()
        self.storage = Storage(self.limits.stored_bytes)
        self.closing = False
        self.failure: ServiceError | None = None
        self._thread = ThreadPoolExecutor(1, "network")
        self.models = load_models(
            self.bundles,
            self.limits,
            self._thread,
            lambda: self.decoders.busy > 0,
            self.metrics.count_batch,
            self.runtime,
            self.precision,
        )

    @property
    def folder(self) -> Path:
        """Where all that it keeps lies, once it was started."""
        return self.private.path

    async def start(self) -> None:
        """Make the private folder and start the workers. Raises ServiceError if one can't start."""
        self._stack = ExitStack()
        clear_leftovers()
        self.private = PrivateFolder()
        self._stack.callback(self.private.close)
        self._stack.enter_context(shared_by(1))  # the network's one thread may use all processors
        self.storage.limit = self.private.room(self.limits.stored_bytes)
        limits, replaced = self.limits, self.metrics.replaced
        self.decoders = Pool(
            "genretree.service.decoder",
            {
                "memory": limits.decode_bytes,
                "file_size": _LARGEST_FILE,
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
            "genretree.service.explainer",
            {"bundles": [str(served.bundle.folder.absolute()) for served in self.models.values()]},
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
        for served in self.models.values():
            await self._warm_up(served)
            served.batcher.start()
        self._show_metrics()

    async def _warm_up(self, served: Served) -> None:
        """Score a slice of noise, so that nobody waits for what is loaded when a model is first used."""
        await asyncio.get_running_loop().run_in_executor(self._thread, score_noise, served.bundle)

    async def stop(self) -> None:
        """Stop the workers and remove the private folder."""
        self.closing = True
        await self.decoders.stop()
        await self.explainers.stop()
        for served in self.models.values():
            await served.batcher.stop()
        await asyncio.to_thread(self._thread.shutdown)
        self._stack.close()

    def check_room(self, explain: bool = False) -> None:
        """Refuse what there is no room for, before it is received. Raises Problem."""
        if self.closing:
            raise Problem("closing", "the service is about to end", headers={"retry-after": "10"})
        if not self.private.exists:
            raise folder_gone()
        try:
            self.decoders.check_room()
            if explain:
                self.explainers.check_room()
        except FullError as error:
            raise _too_much() from error
        except UnavailableError as error:
            raise unavailable(error.detail, error.retry_seconds) from error

    def check_health(self) -> None:
        """Raise Problem if requests would be refused, whatever they ask for."""
        if self.closing:
            raise busy("the service is about to end")
        if self.decoders.unavailable:
            raise unavailable("no worker can be started", self.decoders.retry_seconds)
        if not self.private.exists:
            raise folder_gone(5)

    async def score_file(
        self,
        served: Served,
        name: str,
        path: Path,
        salvage: bool = False,
        listen: Listen | None = None,
        copy: Path | None = None,
    ) -> Sound:
        """Let a worker decode a file and draw its slices.

        Parameters
        ----------
        served : Served
            The model that they are for.
        name : str
            The file's, for people.
        path : Path
            Where it lies in the private folder.
        salvage : bool
            Use what can be decoded of a truncated file.
        listen : callable, optional
            Is told how far it is.
        copy : Path, optional
            Gets what the model hears, as Ogg Vorbis.

        Raises
        ------
        Problem
        """
        bundle = served.bundle
        facts = {
            "path": str(path),
            "images": bundle.images.model_dump(),
            "features": bundle.model.input_features,
            "salvage": salvage,
            "seconds": self.limits.seconds,
            "progress": listen is not None,
            "copy": None if copy is None else str(copy),
        }
        reply = await self._ask(self.decoders, name, Message("hear", facts), listen, "decode")
        images, decibels, *shapes = reply.facts["shapes"]
        pieces = TrackSlices(
            name,
            take_array(reply.blobs[0], np.uint8, images),
            take_features(bundle.model.input_features, reply.blobs[2:], shapes),
            np.array(reply.facts["starts"], np.float64),
            bundle.images.slice_frames * HOP_LENGTH / SAMPLE_RATE,
            take_array(reply.blobs[1], np.float32, decibels),
            bool(reply.facts["padded"]),
        )
        return Sound(pieces, float(reply.facts["seconds"]))

    async def score(self, served: Served, sound: Sound) -> SliceScores:
        """Let the model say what it hears, together with what others sent."""
        begun = time.monotonic()
        pieces, found = sound.pieces, []
        for at in range(0, len(pieces), _AT_A_TIME):
            part = pieces.select(slice(at, at + _AT_A_TIME))
            found.append(await served.batcher.predict(part.inputs))
        self.metrics.stages.labels("network").observe(time.monotonic() - begun)
        levels = [np.concatenate(parts) for parts in zip(*found, strict=True)]
        return SliceScores(levels, pieces.starts.tolist(), pieces.padded)

    def describe(self, served: Served, name: str, heard: SliceScores, min_confidence: float) -> dict[str, Any]:
        """Give a prediction as `genretree predict --json` prints it."""
        return as_prediction(served.bundle, name, heard, min_confidence=min_confidence).to_json()

    def describe_more(self, served: Served, heard: SliceScores) -> dict[str, Any]:
        """Give every node of the tree with its probability, and the time lines of the path."""
        bundle = served.bundle
        seconds = bundle.images.slice_frames * HOP_LENGTH / SAMPLE_RATE
        nodes = predicted_nodes(bundle, heard.levels)
        lines = make_timelines(bundle, heard.levels, nodes, np.array(heard.starts), seconds)
        return {
            "tree": [
                {"path": list(path), "probability": round(chance, 6)}
                for path, chance in node_probabilities(bundle, heard.levels)
            ],
            "timelines": [line.to_json() for line in lines],
        }

    async def explain(
        self,
        served: Served,
        sound: Sound,
        question: Mapping[str, Any],
        pictures: bool = False,
        listen: Listen | None = None,
    ) -> Explained:
        """Let a worker explain slices; `question` is what `explain_slices` takes. Raises Problem."""
        facts, arrays = describe_pieces(sound.pieces)
        last = float(sound.pieces.starts[-1] + sound.pieces.seconds)
        facts |= {
            "bundle": str(served.bundle.folder.absolute()),
            "question": dict(question),
            "pictures": pictures,
            "end": max(last, sound.seconds),
        }
        message = Message("explain", facts, [array_blob(array) for array in arrays])
        reply = await self._ask(self.explainers, sound.pieces.name, message, listen, "explain")
        content, *drawn = reply.blobs
        names = [str(name) for name in reply.facts["pictures"]]
        images = dict(zip(names, map(bytes, drawn), strict=True))
        return Explained(json.loads(bytes(content)), reply.facts["view"], images)

    async def _ask(self, pool: Pool, name: str, message: Message, listen: Listen | None, stage: str) -> Message:
        begun = time.monotonic()
        try:
            return await pool.run(message, listen)
        except FullError as error:
            raise _too_much() from error
        except UnavailableError as error:
            raise unavailable(error.detail, error.retry_seconds) from error
        except FailedError as error:
            raise of_sound(name, error.kind, error.detail) from error
        finally:
            self.metrics.stages.labels(stage).observe(time.monotonic() - begun)

    def _show_metrics(self) -> None:
        watch = self.metrics.watch
        watch("genretree_decode_queue", "Files that wait to be decoded.", lambda: self.decoders.queued)
        watch("genretree_decode_busy", "Workers that decode.", lambda: self.decoders.busy)
        watch("genretree_decode_ready", "Workers that can decode.", lambda: self.decoders.ready)
        watch("genretree_explain_queue", "Explanations that wait.", lambda: self.explainers.queued)
        watch("genretree_explain_busy", "Workers that explain.", lambda: self.explainers.busy)
        watch("genretree_explain_ready", "Workers that can explain.", lambda: self.explainers.ready)
        watch("genretree_stored_bytes", "Uploads and results in the private folder.", lambda: self.storage.used)


def _too_much() -> Problem:
    return busy("there is too much to do already; try again in some seconds")
