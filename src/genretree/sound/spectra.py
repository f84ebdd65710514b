"""Mel spectrogram, constant-Q transform and chroma in dB, computed as the data set's authors did.

The recipe is librosa's defaults over the whole track: the peak of the track is 0 dB, the floor is -80 dB. Tracks too
long to fit in memory are computed in overlapping blocks.
"""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, ParamSpec, Self, TypeVar

import numpy as np

from genretree.arrays import Float32Array
from genretree.errors import SettingsError
from genretree.settings import CHROMA_BINS, CQT_BINS, HOP_LENGTH, N_FFT, N_MELS, SAMPLE_RATE, TOP_DB
from genretree.sound.engines import Engine, Powers, compute_powers_librosa, estimate_tuning
from genretree.sound.fast import FastStream, compute_powers_fast

P = ParamSpec("P")
R = TypeVar("R")

BLOCK_FRAMES = 7680  # 178 s: most tracks fit in one block
# Frames of context on each side of a block. The longest CQT filter takes 0.51 s, librosa's octave-wise resampling some
# more.
CONTEXT_FRAMES = 96  # 2.2 s
TUNING_FRAMES = 25_840  # 10 minutes: the part of a long track that is held in memory and used to estimate the tuning
_AMIN = 1e-10  # the default amin of librosa.power_to_db
_PARTS = (N_MELS, CQT_BINS, CHROMA_BINS)
_CUTS = (N_MELS, N_MELS + CQT_BINS)


@dataclass(frozen=True)
class Spectra:
    """Mel, CQT and chroma of one track, in dB relative to the track's peak, -80 to 0.

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
        Samples between frames; frame k is centred on sample k * hop_length.
    """

    mel: Float32Array
    cqt: Float32Array
    chroma: Float32Array
    sr: int = SAMPLE_RATE
    hop_length: int = HOP_LENGTH


ENGINES: dict[str, Engine] = {"fast": compute_powers_fast, "librosa": compute_powers_librosa}
_MIN_SR = 11025  # Hz; the Nyquist frequency is above the upper edge of the highest bin
_FASTEST_FIRST = ("fast", "librosa")  # candidates for "auto": engines that agree with librosa


def resolve_engine(name: str) -> str:
    """Return the name of an engine; "auto" selects the fastest that agrees with librosa.

    Raises
    ------
    SettingsError
        If the name is unknown.
    """
    if name == "auto":
        return next(engine for engine in _FASTEST_FIRST if engine in ENGINES)
    if name not in ENGINES:
        raise SettingsError(f"unknown engine '{name}'; available: auto, {', '.join(sorted(ENGINES))}")
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
        Sample rate in Hz.
    engine : str
        Name in `ENGINES`, or "auto".

    Returns
    -------
    Spectra
        With 1 + n_samples // 512 frames.

    Raises
    ------
    ValueError
        If `y` is not one-dimensional, is too short or not finite, or `sr` is below 11,025 Hz.
    SettingsError
        If the engine is unknown.

    See Also
    --------
    stream_spectra : The same in bounded memory, for tracks of any length.

    Notes
    -----
    The image recipe of ccmusic-database/music_genre: librosa's defaults, then `power_to_db(ref=max, top_db=80)`.

    Examples
    --------
    >>> import numpy as np
    >>> spectra = compute_spectra(np.sin(np.arange(22050) / 9).astype(np.float32))
    >>> spectra.mel.shape, spectra.cqt.shape, spectra.chroma.shape
    ((128, 44), (84, 44), (12, 44))
    """
    if sr < _MIN_SR:
        raise ValueError(
            f"sr must be at least {_MIN_SR} Hz for the CQT, whose highest bin is 3,951 Hz, got {sr}; resample first"
        )
    powers = _compute(ENGINES[resolve_engine(engine)], _check(y), sr, None)
    logs = [_log(values) for values in powers[:3]]
    mel, cqt, chroma = (_to_db(values, float(values.max())) for values in logs)
    return Spectra(mel, cqt, chroma, sr, HOP_LENGTH)


def _check(y: Float32Array, min_samples: int = N_FFT) -> Float32Array:
    y = np.asarray(y)
    if y.ndim != 1:
        raise ValueError(f"y must be mono, of shape (n_samples,), got shape {y.shape}")
    if len(y) < min_samples:
        raise ValueError(f"y must have at least {min_samples} samples, got {len(y)}")
    if not np.isfinite(y).all():
        raise ValueError(f"y must be finite, but {np.count_nonzero(~np.isfinite(y))} samples are NaN or infinite")
    return np.ascontiguousarray(y, np.float32)


def _compute(engine: Engine, y: Float32Array, sr: int, tuning: float | None) -> Powers:
    """Run an engine without librosa's warnings."""
    return _trim(_without_warnings(engine, y, sr, tuning))


def _trim(powers: Powers) -> Powers:
    frames = min(values.shape[1] for values in powers[:3])
    return Powers(powers.mel[:, :frames], powers.cqt[:, :frames], powers.chroma[:, :frames], powers.tuning)


def _without_warnings(function: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
    """Call without librosa's warnings about very short tracks and tracks without pitch, which it handles correctly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return function(*args, **options)


def _log(power: Float32Array) -> Float32Array:
    """Return absolute dB; the first line of `librosa.power_to_db`, step by step."""
    return np.asarray(10.0 * np.log10(np.maximum(_AMIN, power)), np.float32)


def _to_db(logs: Float32Array, peak: float) -> Float32Array:
    """Convert absolute dB to dB relative to the track's peak, at least -80."""
    return np.asarray(np.maximum(logs - np.float32(peak), -TOP_DB), np.float32)


# ---------------------------------------------------------------------------------------------------------------------
# Long tracks


class StoredSpectra:
    """The spectra of one track, read in parts; see `stream_spectra`. Close it after use, or use `with`.

    Parameters
    ----------
    frames : int
        Frames in the track.
    peaks : list of three floats
        Maximum of mel, CQT and chroma over the whole track, in absolute dB.
    tuning : float
        Deviation from A440, in fractions of a semitone, used for the chroma.
    seconds : float
        Duration of the track.
    """

    def __init__(self, sr: int) -> None:
        self.sr = sr
        self.frames = 0
        self.n_samples = 0
        self.peaks = [-np.inf] * 3
        self.tuning = 0.0
        self._whole: Float32Array | None = None  # (frames, bins), absolute dB
        self._file: IO[bytes] | None = None

    @property
    def seconds(self) -> float:
        """Duration of the track in seconds."""
        return self.n_samples / self.sr

    def read(self, start_frame: int, n_frames: int) -> tuple[Float32Array, Float32Array, Float32Array]:
        """Read some frames of the track.

        Parameters
        ----------
        start_frame, n_frames : int
            First frame and number of frames.

        Returns
        -------
        mel, cqt, chroma : ndarrays, float32, shapes (128, n_frames), (84, n_frames) and (12, n_frames)
            In dB relative to the peak of the whole track, -80 to 0.

        Raises
        ------
        ValueError
            If the track does not have these frames.
        """
        if start_frame < 0 or n_frames < 0 or start_frame + n_frames > self.frames:
            raise ValueError(
                f"cannot read frames {start_frame} to {start_frame + n_frames} of a track that has {self.frames}"
            )
        rows = self._rows(start_frame, n_frames)
        parts = np.split(rows, _CUTS, axis=1)
        mel, cqt, chroma = (_to_db(values.T, peak) for values, peak in zip(parts, self.peaks, strict=True))
        return mel, cqt, chroma

    def close(self) -> None:
        """Release the memory and the temporary file."""
        self._whole = None
        self.frames = 0
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: object, exc_value: object, traceback: object) -> None:
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
        logs = [_log(values[:, start:stop]) for values in powers[:3]]
        self.peaks = [max(peak, float(values.max())) for peak, values in zip(self.peaks, logs, strict=True)]
        rows = np.concatenate(logs).T
        self.frames += len(rows)
        self.tuning = powers.tuning
        if not spool:
            self._whole = rows
            return
        if self._file is None:
            # Plain reads and writes: pages of a memory map would count as memory of this process.
            self._file = tempfile.TemporaryFile(prefix="genretree-")  # noqa: SIM115 (closed by close)
        self._file.write(np.ascontiguousarray(rows).data)


def stream_spectra(
    blocks: Iterable[Float32Array],
    sr: int = SAMPLE_RATE,
    engine: str = "auto",
    block_frames: int | None = None,
) -> StoredSpectra:
    """Compute mel, CQT and chroma of a track of any length in bounded memory.

    For a track that fits in one block, the result equals `compute_spectra`. A longer one is computed block by block,
    each with 2.2 s of context, and written to a temporary file of 39 kB per second of audio. Maximum and floor are
    those of the whole track. The tuning of the chroma is estimated from the first 10 minutes at most. The engine `fast`
    computes while blocks arrive.

    Parameters
    ----------
    blocks : iterable of ndarrays, float32, shape (samples,)
        Mono, finite audio, as from `genretree.sound.decode.iter_blocks`; at least 2,048 samples in total.
    sr : int
        Sample rate in Hz.
    engine : str
        Name in `ENGINES`, or "auto".
    block_frames : int
        Frames in a block, at least 96; by default 178 s, or 10 minutes for shorter tracks with the engine `fast`.

    Returns
    -------
    StoredSpectra
        Close it after use.

    Raises
    ------
    ValueError
        If there are too few samples, samples are not finite, or blocks are too short.
    SettingsError
        If the engine is unknown.
    """
    if block_frames is not None and block_frames < CONTEXT_FRAMES:
        raise ValueError(f"block_frames must be at least {CONTEXT_FRAMES}, got {block_frames}")
    name = resolve_engine(engine)
    stored = StoredSpectra(sr)
    stream = FastStream() if name == "fast" and sr == SAMPLE_RATE else None
    tuning: float | None = None
    try:
        head, rest, whole = _read_head(blocks, TUNING_FRAMES * HOP_LENGTH, stream)
        at_once = (block_frames or (BLOCK_FRAMES if stream is None else TUNING_FRAMES)) + CONTEXT_FRAMES
        if stream is not None and whole and len(head) <= at_once * HOP_LENGTH:
            powers = _trim(stream.finish(None))
            stored._append(powers, 0, powers.mel.shape[1], spool=False)
            stored.n_samples = len(head)
            return stored
        block_frames = block_frames or BLOCK_FRAMES
        if len(head) > (block_frames + CONTEXT_FRAMES) * HOP_LENGTH:
            tuning = stream.tuning() if stream else _without_warnings(estimate_tuning, _check(head), sr)
        stream = None  # free its memory
        collected = itertools.chain([head], rest)
        del head
        for y, before, last in _overlapping(collected, block_frames * HOP_LENGTH, CONTEXT_FRAMES * HOP_LENGTH):
            powers = _compute(ENGINES[name], _check(y), sr, tuning)
            start = before // HOP_LENGTH
            stop = powers.mel.shape[1] if last else start + block_frames
            stored._append(powers, start, stop, spool=not last or stored.frames > 0)
            stored.n_samples += len(y) - before if last else block_frames * HOP_LENGTH
    except BaseException:
        stored.close()
        raise
    return stored


def _read_head(
    blocks: Iterable[Float32Array], size: int, stream: FastStream | None
) -> tuple[Float32Array, Iterator[Float32Array], bool]:
    """Concatenate blocks up to `size` samples; return them, the remaining blocks, and whether none remain.

    Each block is also added to `stream`.
    """
    rest = iter(blocks)
    collected: list[Float32Array] = []
    n_samples = 0
    for block in rest:
        collected.append(block)
        n_samples += len(block)
        if stream is not None:
            stream.add(_check(block, 0))
        if n_samples >= size:
            return _join(collected) if stream is None else stream.samples(), rest, False
    head = _join(collected) if stream is None else stream.samples()
    return _check(head), rest, True


def _overlapping(blocks: Iterable[Float32Array], size: int, context: int) -> Iterator[tuple[Float32Array, int, bool]]:
    """Regroup audio into blocks of `size` samples with `context` on both sides.

    Yields
    ------
    y : ndarray
        A block with its context; the last one contains the rest.
    before : int
        Length of the context before the block: 0 for the first.
    last : bool
        Whether the track ends here.
    """
    pending: list[Float32Array] = []
    n_samples = before = 0
    for block in blocks:
        pending.append(block)
        n_samples += len(block)
        while n_samples > before + size + context:
            joined = _join(pending)
            yield joined[: before + size + context], before, False
            rest = joined[before + size - context :]
            pending, n_samples, before = [rest], len(rest), context
    yield _join(pending), before, True


def _join(collected: list[Float32Array]) -> Float32Array:
    if len(collected) == 1:
        return collected[0]
    return np.concatenate(collected) if collected else np.zeros(0, np.float32)
