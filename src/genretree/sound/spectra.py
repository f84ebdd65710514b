"""Samples to mel spectrogram, constant-Q transform and chroma in dB, as the data set's authors made them.

The recipe is librosa's defaults over the whole track: the loudest point of the whole track is 0 dB and everything more
than 80 dB below it is raised to -80. A track too long to be held at once is worked off in overlapping blocks.
"""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import IO, ParamSpec, Self, TypeVar

import numpy as np

from genretree.arrays import Float32Array
from genretree.errors import SettingsError
from genretree.settings import CHROMA_BINS, CQT_BINS, HOP_LENGTH, N_FFT, N_MELS, SAMPLE_RATE, TOP_DB
from genretree.sound.engines import Engine, Powers, estimate_tuning, librosa_powers
from genretree.sound.fast import FastStream, fast_powers

P = ParamSpec("P")
R = TypeVar("R")

BLOCK_FRAMES = 7680  # 178 s: most pieces of music fit in one block
# Frames that a block sees beyond each of its ends. The longest CQT filter takes 0.51 s, librosa's octave-wise
# resampling some more.
CONTEXT_FRAMES = 96  # 2.2 s
TUNING_FRAMES = 25_840  # 10 minutes: how much of a long track is held, and looked through for its tuning
_AMIN = 1e-10  # librosa.power_to_db's least power
_PARTS = (N_MELS, CQT_BINS, CHROMA_BINS)
_CUTS = (N_MELS, N_MELS + CQT_BINS)


@dataclass(frozen=True)
class Spectra:
    """The three pictures of one track, in dB of the track's loudest point, -80 to 0.

    Parameters
    ----------
    mel : ndarray, float32, shape (128, frames)
        Mel spectrogram, low frequencies first.
    cqt : ndarray, float32, shape (84, frames)
        Constant-Q transform, semitones from C1.
    chroma : ndarray, float32, shape (12, frames)
        Chroma, C to B.
    sr : int
        Sample rate in Hz.
    hop_length : int
        Samples between frames; frame k is centred on sample k * hop.
    """

    mel: Float32Array
    cqt: Float32Array
    chroma: Float32Array
    sr: int = SAMPLE_RATE
    hop_length: int = HOP_LENGTH


ENGINES: dict[str, Engine] = {"fast": fast_powers, "librosa": librosa_powers}
_LOWEST_RATE = 11025  # in Hz; half of it lies above the upper edge of the highest bin
_FASTEST_FIRST = ("fast", "librosa")  # what "auto" chooses from: engines that agree with librosa


def resolve_engine(name: str) -> str:
    """Name of the engine that a setting stands for: "auto" is the fastest that agrees with librosa.

    Raises
    ------
    SettingsError
        If there is none of that name.
    """
    if name == "auto":
        return next(engine for engine in _FASTEST_FIRST if engine in ENGINES)
    if name not in ENGINES:
        raise SettingsError(f"unknown engine '{name}'; known are: auto, {', '.join(sorted(ENGINES))}")
    return name


# ---------------------------------------------------------------------------------------------------------------------
# Whole tracks


def compute_spectra(y: Float32Array, sr: int = SAMPLE_RATE, engine: str = "auto") -> Spectra:
    """Compute mel, CQT and chroma in dB over a whole track.

    Parameters
    ----------
    y : ndarray, shape (samples,)
        Mono and finite, at least 2,048 samples.
    sr : int
        In Hz.
    engine : str
        Name in `ENGINES`, or "auto".

    Returns
    -------
    Spectra
        With 1 + samples // 512 frames.

    Raises
    ------
    ValueError
        If `y` has another shape, is too short or is not finite, or `sr` is below 11,025 Hz.
    SettingsError
        If there is no such engine.

    References
    ----------
    The image recipe of ccmusic-database/music_genre: librosa's defaults, then `power_to_db(ref=max, top_db=80)`.
    """
    if sr < _LOWEST_RATE:
        raise ValueError(
            f"a rate of {sr} Hz is too low for the CQT, whose highest bin lies at 3,951 Hz; resample first"
        )
    powers = _compute(ENGINES[resolve_engine(engine)], _check(y), sr, None)
    logs = [_log(part) for part in powers[:3]]
    mel, cqt, chroma = (_to_db(part, float(part.max())) for part in logs)
    return Spectra(mel, cqt, chroma, sr, HOP_LENGTH)


def _check(y: Float32Array, least: int = N_FFT) -> Float32Array:
    y = np.asarray(y)
    if y.ndim != 1:
        raise ValueError(f"samples must be mono, of shape (samples,); got shape {y.shape}")
    if len(y) < least:
        raise ValueError(f"at least {least} samples are needed; got {len(y)}")
    if not np.isfinite(y).all():
        raise ValueError(f"samples must be finite; {np.count_nonzero(~np.isfinite(y))} are NaN or infinite")
    return np.ascontiguousarray(y, np.float32)


def _compute(engine: Engine, y: Float32Array, sr: int, tuning: float | None) -> Powers:
    """Run an engine, quietly."""
    return _trim(_quietly(engine, y, sr, tuning))


def _trim(powers: Powers) -> Powers:
    frames = min(part.shape[1] for part in powers[:3])
    return Powers(powers.mel[:, :frames], powers.cqt[:, :frames], powers.chroma[:, :frames], powers.tuning)


def _quietly(function: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
    """Call without librosa's remarks on very short tracks and tracks without any pitch: it treats both rightly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return function(*args, **options)


def _log(power: Float32Array) -> Float32Array:
    """Absolute dB; the first line of `librosa.power_to_db`, step for step."""
    return np.asarray(10.0 * np.log10(np.maximum(_AMIN, power)), np.float32)


def _to_db(logs: Float32Array, peak: float) -> Float32Array:
    """Absolute dB to dB below the track's peak, not below -80."""
    return np.asarray(np.maximum(logs - np.float32(peak), -TOP_DB), np.float32)


# ---------------------------------------------------------------------------------------------------------------------
# Long tracks


class StoredSpectra:
    """The spectra of one track, read a stretch at a time; see `stream_spectra`. Close it after use, or use `with`.

    Parameters
    ----------
    frames : int
        Frames in the track.
    peaks : list of three floats
        Maximum over the whole track of mel, CQT and chroma, in absolute dB.
    tuning : float
        Deviation from A440 in fractions of a semitone that the chroma was computed with.
    seconds : float
        Length of the track.
    """

    def __init__(self, sr: int) -> None:
        self.sr = sr
        self.frames = 0
        self.y = 0
        self.peaks = [-np.inf] * 3
        self.tuning = 0.0
        self._whole: Float32Array | None = None  # (frames, bins), absolute dB
        self._file: IO[bytes] | None = None

    @property
    def seconds(self) -> float:
        """Length of the track."""
        return self.y / self.sr

    def read(self, start_frame: int, n_frames: int) -> tuple[Float32Array, Float32Array, Float32Array]:
        """Read a stretch of the track.

        Parameters
        ----------
        start_frame, n_frames : int
            Which frames.

        Returns
        -------
        mel, cqt, chroma : ndarrays, float32, shapes (128, n_frames), (84, n_frames) and (12, n_frames)
            In dB of the whole track's loudest point, -80 to 0.

        Raises
        ------
        ValueError
            If the track doesn't have these frames.
        """
        if start_frame < 0 or n_frames < 0 or start_frame + n_frames > self.frames:
            raise ValueError(f"frames {start_frame} to {start_frame + n_frames} are not in a track of {self.frames}")
        rows = self._rows(start_frame, n_frames)
        parts = np.split(rows, _CUTS, axis=1)
        mel, cqt, chroma = (_to_db(part.T, peak) for part, peak in zip(parts, self.peaks, strict=True))
        return mel, cqt, chroma

    def close(self) -> None:
        """Let go of the memory and the temporary file."""
        self._whole = None
        self.frames = 0
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _rows(self, start: int, count: int) -> Float32Array:
        if self._whole is not None:
            return self._whole[start : start + count]
        assert self._file is not None
        width = sum(_PARTS)
        self._file.seek(4 * width * start)
        return np.frombuffer(self._file.read(4 * width * count), np.float32).reshape(count, width)

    def _append(self, powers: Powers, start: int, stop: int, spool: bool) -> None:
        """Add frames `start` to `stop` of a block."""
        logs = [_log(part[:, start:stop]) for part in powers[:3]]
        self.peaks = [max(peak, float(part.max())) for peak, part in zip(self.peaks, logs, strict=True)]
        rows = np.concatenate(logs).T
        self.frames += len(rows)
        self.tuning = powers.tuning
        if not spool:
            self._whole = rows
            return
        if self._file is None:
            # Plain reads and writes: a memory map's pages would count as this process's memory.
            self._file = tempfile.TemporaryFile(prefix="genretree-")  # noqa: SIM115 (closed by close)
        self._file.write(np.ascontiguousarray(rows).data)


def stream_spectra(
    blocks: Iterable[Float32Array],
    sr: int = SAMPLE_RATE,
    engine: str = "auto",
    block_frames: int | None = None,
) -> StoredSpectra:
    """Compute mel, CQT and chroma of a track of any length in bounded memory.

    A track that fits in one block gives exactly what `compute_spectra` gives. A longer one is computed block by block,
    each with 2.2 s of its neighbours, and kept in a temporary file of 39 kB for a second of sound. Maximum and floor
    are those of the whole track. Only the chroma's tuning is estimated from no more than the track's first 10 minutes.
    Engine `fast` works on each piece of sound as it comes.

    Parameters
    ----------
    blocks : iterable of ndarrays, float32, shape (samples,)
        Mono, finite sound, as from `genretree.sound.decode.iter_blocks`; at least 2,048 samples together.
    sr : int
        In Hz.
    engine : str
        Name in `ENGINES`, or "auto".
    block_frames : int
        Frames in a block, at least 96; by default 178 s, but with engine `fast` 10 minutes for tracks up to that.

    Returns
    -------
    StoredSpectra
        To be closed after use.

    Raises
    ------
    ValueError
        If there are too few samples, samples that are not finite, or too short blocks.
    SettingsError
        If there is no such engine.
    """
    if block_frames is not None and block_frames < CONTEXT_FRAMES:
        raise ValueError(f"a block must have at least {CONTEXT_FRAMES} frames; got {block_frames}")
    name = resolve_engine(engine)
    stored = StoredSpectra(sr)
    stream = FastStream() if name == "fast" and sr == SAMPLE_RATE else None
    tuning: float | None = None
    try:
        head, rest, whole = _take(blocks, TUNING_FRAMES * HOP_LENGTH, stream)
        at_once = (block_frames or (BLOCK_FRAMES if stream is None else TUNING_FRAMES)) + CONTEXT_FRAMES
        if stream is not None and whole and len(head) <= at_once * HOP_LENGTH:
            powers = _trim(stream.finish(None))
            stored._append(powers, 0, powers.mel.shape[1], spool=False)
            stored.y = len(head)
            return stored
        block_frames = block_frames or BLOCK_FRAMES
        if len(head) > (block_frames + CONTEXT_FRAMES) * HOP_LENGTH:
            tuning = stream.tuning() if stream else _quietly(estimate_tuning, _check(head), sr)
        stream = None  # its memory
        pieces = itertools.chain([head], rest)
        del head
        for y, before, last in _overlapping(pieces, block_frames * HOP_LENGTH, CONTEXT_FRAMES * HOP_LENGTH):
            powers = _compute(ENGINES[name], _check(y), sr, tuning)
            start = before // HOP_LENGTH
            stop = powers.mel.shape[1] if last else start + block_frames
            stored._append(powers, start, stop, spool=not last or stored.frames > 0)
            stored.y += len(y) - before if last else block_frames * HOP_LENGTH
    except BaseException:
        stored.close()
        raise
    return stored


def _take(
    blocks: Iterable[Float32Array], size: int, stream: FastStream | None
) -> tuple[Float32Array, Iterator[Float32Array], bool]:
    """Join the first blocks until they have `size` samples; gives too what is left, and whether that is nothing.

    A stream takes each as it comes.
    """
    rest = iter(blocks)
    pieces: list[Float32Array] = []
    have = 0
    for piece in rest:
        pieces.append(piece)
        have += len(piece)
        if stream is not None:
            stream.add(_check(piece, 0))
        if have >= size:
            return _join(pieces) if stream is None else stream.take(), rest, False
    head = _join(pieces) if stream is None else stream.take()
    return _check(head), rest, True


def _overlapping(blocks: Iterable[Float32Array], size: int, context: int) -> Iterator[tuple[Float32Array, int, bool]]:
    """Regroup sound into blocks of `size` samples with `context` on both sides.

    Yields
    ------
    y : ndarray
        A block with its context; the last one takes all that is left.
    before : int
        How much context is before the block: 0 for the first.
    last : bool
        Whether the track ends here.
    """
    waiting: list[Float32Array] = []
    have = before = 0
    for piece in blocks:
        waiting.append(piece)
        have += len(piece)
        while have > before + size + context:
            joined = _join(waiting)
            yield joined[: before + size + context], before, False
            rest = joined[before + size - context :]
            waiting, have, before = [rest], len(rest), context
    yield _join(waiting), before, True


def _join(pieces: list[Float32Array]) -> Float32Array:
    if len(pieces) == 1:
        return pieces[0]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
