"""Changed versions of audio files for pretraining: pitch, tempo, equaliser, mixtures and lossy codecs.

The teachers score the changed sound, so its targets are right by construction. A version is written as a file in a
lossy codec at a low bit rate, which is one of the changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from genretree.arrays import Float32Array
from genretree.errors import SoundError
from genretree.files import atomic_path
from genretree.parallel import available_processors, worker_pool
from genretree.progress import progress_bar
from genretree.sound.mel_32k import MEL_32K_RATE

SR = MEL_32K_RATE  # Hz: the input of mn04, the teacher with the wider band
MAX_SEMITONES = 3.0
TEMPO_RANGE = (0.8, 1.25)
EQUALISER_BANDS = (120.0, 800.0, 4000.0)  # Hz, in the middle; each is moved by up to an octave
MAX_GAIN = 9.0  # dB, of the equaliser
MIXTURE_SHARE = 0.5  # of the versions that are mixed with another file
MIXTURE_LEVELS = (-15.0, 0.0)  # dB, of the other file relative to the first
# Suffix, encoder, sample rate in Hz and bit rates in kbit/s, mono.
CODECS = (
    (".mp3", "libmp3lame", 32000, (40, 48, 64, 96)),
    (".opus", "libopus", 48000, (16, 24, 32, 64)),
    (".m4a", "aac", 32000, (32, 48, 64, 96)),
)


@dataclass(frozen=True)
class VariantJob:
    """One changed version to write.

    Parameters
    ----------
    path : Path
        The audio file.
    partner : Path
        Another audio file, for a mixture.
    out : Path
        The version without a suffix, which depends on the codec.
    seed : tuple of int
        Seed of the changes.
    max_seconds : float
        Length of the part that is used, from a random place.
    """

    path: Path
    partner: Path
    out: Path
    seed: tuple[int, ...]
    max_seconds: float


def write_variants(jobs: Sequence[VariantJob], workers: int | None = None, progress: bool = False) -> list[Path | None]:
    """Write changed versions in worker processes; those that exist are kept.

    Returns
    -------
    list of Path or None
        The file of each job; None where a file can't be decoded.
    """
    written: list[Path | None] = [None] * len(jobs)
    if not jobs:
        return written
    count = min(workers or available_processors(), len(jobs))
    with progress_bar(len(jobs), "augment", "file", progress) as tick:
        if count == 1:
            for place, job in enumerate(jobs):
                written[place] = write_variant(job)
                tick()
            return written
        with worker_pool(count) as pool:
            futures = {pool.submit(write_variant, job): place for place, job in enumerate(jobs)}
            for future in as_completed(futures):
                written[futures[future]] = future.result()
                tick()
    return written


def write_variant(job: VariantJob) -> Path | None:
    """Write one changed version; returns its path, or None if the file can't be decoded."""
    from genretree.sound.decode import decode

    rng = np.random.default_rng(job.seed)
    suffix, encoder, encoder_sr, bit_rates = CODECS[rng.integers(len(CODECS))]
    out = job.out.with_name(job.out.name + suffix)
    if out.exists():
        return out
    kilobits = int(rng.choice(bit_rates))
    is_mixture = rng.random() < MIXTURE_SHARE
    level = rng.uniform(*MIXTURE_LEVELS)
    filters = _draw_filters(rng, encoder_sr)
    try:
        y = _cut(decode(job.path, SR), job.max_seconds, rng)
        if is_mixture:
            y = _mix(y, _cut(decode(job.partner, SR), job.max_seconds, rng), level)
    except SoundError:
        return None
    y = _filter(y, filters)
    peak = float(np.abs(y).max(initial=1e-6))
    with atomic_path(out) as temporary:
        _encode(y * np.float32(0.9 / peak), temporary, suffix, encoder, encoder_sr, kilobits)
    return out


def _cut(y: Float32Array, max_seconds: float, rng: np.random.Generator) -> Float32Array:
    length = round(max_seconds * SR)
    if len(y) <= length:
        return y
    start = int(rng.integers(len(y) - length))
    return y[start : start + length]


def _mix(y: Float32Array, other: Float32Array, level: float) -> Float32Array:
    """Add another file, repeated to the same length, at `level` dB."""
    repeated = np.resize(other, len(y))
    ratio = np.sqrt(float(np.square(y).mean()) / max(float(np.square(repeated).mean()), 1e-12))
    mixed: Float32Array = y + np.float32(min(ratio, 100.0) * 10 ** (level / 20)) * repeated
    return mixed


def _draw_filters(rng: np.random.Generator, encoder_sr: int) -> list[tuple[str, str]]:
    """Draw FFmpeg filters for pitch, tempo and equaliser, ending at the encoder's sample rate."""
    pitch = 2 ** (rng.uniform(-MAX_SEMITONES, MAX_SEMITONES) / 12)
    tempo = float(np.exp(rng.uniform(*np.log(TEMPO_RANGE))))
    # Another sample rate changes pitch and tempo; atempo then changes the tempo alone.
    filters = [("asetrate", f"{round(SR * pitch)}"), ("aresample", f"{encoder_sr}"), ("atempo", f"{tempo / pitch:.4f}")]
    for centre in EQUALISER_BANDS:
        frequency, gain = centre * 2 ** rng.uniform(-1, 1), rng.uniform(-MAX_GAIN, MAX_GAIN)
        filters.append(("equalizer", f"f={frequency:.0f}:t=o:w=2:g={gain:.2f}"))
    return filters


def _filter(y: Float32Array, filters: Sequence[tuple[str, str]]) -> Float32Array:
    import av
    from av.filter import Graph

    graph = Graph()
    nodes = [graph.add_abuffer(sample_rate=SR, format="flt", layout="mono", time_base=Fraction(1, SR))]
    nodes += [graph.add(name, arguments) for name, arguments in filters]
    nodes += [graph.add("aformat", "sample_fmts=flt:channel_layouts=mono"), graph.add("abuffersink")]
    graph.link_nodes(*nodes).configure()
    found: list[Float32Array] = []

    def pull() -> None:
        while True:
            try:
                found.append(graph.pull().to_ndarray()[0])
            except (av.BlockingIOError, av.EOFError):
                return

    block = 1 << 16
    for start in range(0, len(y), block):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(y[None, start : start + block]), "flt", "mono")
        frame.sample_rate, frame.pts, frame.time_base = SR, start, Fraction(1, SR)
        graph.push(frame)
        pull()
    graph.push(None)
    pull()
    return np.concatenate(found)


def _encode(y: Float32Array, out: Path, suffix: str, encoder: str, sr: int, kilobits: int) -> None:
    import av
    from av.audio import AudioStream

    container = {".mp3": "mp3", ".opus": "ogg", ".m4a": "ipod"}[suffix]
    with av.open(str(out), "w", format=container) as file:
        stream = file.add_stream(encoder, rate=sr, layout="mono")
        assert isinstance(stream, AudioStream)
        stream.bit_rate = 1000 * kilobits
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=sr)
        block = 1 << 16
        for start in range(0, len(y), block):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(y[None, start : start + block]), "flt", "mono")
            frame.sample_rate, frame.pts, frame.time_base = sr, start, Fraction(1, sr)
            for converted in resampler.resample(frame):
                file.mux(stream.encode(converted))
        for converted in resampler.resample(None):
            file.mux(stream.encode(converted))
        file.mux(stream.encode(None))
