"""Rendering of a composed track to audio, with the mix and mastering of the artist."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Float32Array, Float64Array
from genretree.datasets.composed.artists import Mix, Purpose, generator
from genretree.datasets.composed.compose import ComposeSettings, Part, Piece, TrackMetadata, compose_score
from genretree.datasets.composed.sampler import Sampler, tuned_sampler
from genretree.datasets.composed.styles import leaves
from genretree.errors import MissingExtraError

_SOFT = 72  # notes below this MIDI velocity are low-passed
_SENDS = {"bass": 0.25, "drums": 0.45}  # reverb send; 1 for other jobs


def compose_track(
    leaf: str, artist: int, track: int, settings: ComposeSettings | None = None
) -> tuple[Float32Array, TrackMetadata]:
    """Compose and render a track.

    Parameters
    ----------
    leaf : str
        Name of a leaf of the ccmusic tree.
    artist, track : int
        Numbers from 0.
    settings : ComposeSettings, optional

    Returns
    -------
    samples : float32 array, shape (channels, seconds * rate)
        In [-1, 1], with the peak level of the artist.
    metadata : TrackMetadata

    Raises
    ------
    TaxonomyError
        If the tree has no such leaf.
    MissingExtraError
        If pretty_midi (for its soundfont) or scipy is not installed.
    """
    settings = settings or ComposeSettings.build()
    piece = compose_score(leaf, artist, track, settings)
    rng = generator(settings.seed, leaves().index(piece.artist.leaf), artist, track, Purpose.SOUND)
    return render_piece(piece, settings, rng), piece.metadata


def render_piece(piece: Piece, settings: ComposeSettings, rng: np.random.Generator) -> Float32Array:
    """Render a track, shape (channels, seconds * rate); `rng` generates reverberation and noise."""
    n = round(settings.seconds * settings.rate)
    mix = piece.artist.mix
    sampler = tuned_sampler(settings.rate, mix.cents)
    dry = np.zeros((settings.channels, n), dtype=np.float32)
    send = np.zeros_like(dry)
    pump = _sidechain_gain(piece, mix, settings.rate, n)
    for part in piece.parts:
        stem = _play(part, sampler, n)
        if part.player.vibrato > 0.0:
            stem = _add_vibrato(stem, part.player.vibrato, piece.artist.vibrato_rate, settings.rate)
        if pump is not None and part.player.role.job not in ("drums", "melody"):
            stem *= pump
        gains = _pan(part.player.pan, settings.channels) * 10.0 ** (part.player.level / 20.0)
        panned = gains[:, None].astype(np.float32) * stem
        dry += panned
        send += panned * np.float32(_SENDS.get(part.player.role.job, 1.0))
    y = _room_and_tone(dry, send, mix, settings.rate, rng)
    y = _compress(y, mix, settings.rate)
    y += rng.standard_normal(y.shape, dtype=np.float32) * np.float32(10.0 ** (mix.noise / 20.0))
    return _finish(y, piece.fade, mix.peak, settings.rate)


def _play(part: Part, sampler: Sampler, n: int) -> Float32Array:
    """Render one part, with low-passed soft notes, as instruments are duller at low velocity."""
    loud = np.zeros(n, dtype=np.float32)
    soft = np.zeros(n, dtype=np.float32)
    drums = part.player.role.job == "drums"
    program = part.player.program
    starts = np.rint(part.starts * sampler.rate).astype(np.int64)
    rows = zip(starts.tolist(), part.lengths.tolist(), part.pitches.tolist(), part.velocities.tolist(), strict=True)
    for start, length, pitch, velocity in rows:
        note = sampler.drum(program, pitch) if drums else sampler.note(program, pitch, length)
        note = note[: n - start]
        note *= np.float32((velocity / 110.0) ** 1.7)
        target = soft if velocity < _SOFT and not drums else loud
        target[start : start + len(note)] += note
    if not soft.any():
        return loud
    return loud + _low_pass(soft, sampler.rate)


def _low_pass(stem: Float32Array, rate: int) -> Float32Array:
    """Apply a one-pole low-pass filter at 2.2 kHz."""
    keep = float(np.exp(-2.0 * np.pi * 2200.0 / rate))
    filtered: Float32Array = _signal().lfilter(
        np.array([1.0 - keep], np.float32), np.array([1.0, -keep], np.float32), stem
    )
    return filtered.astype(np.float32)


def _add_vibrato(stem: Float32Array, cents: float, hertz: float, rate: int) -> Float32Array:
    """Add vibrato of up to `cents` by modulating the read position."""
    n = len(stem)
    depth = (2.0 ** (cents / 1200.0) - 1.0) * rate / (2.0 * np.pi * hertz)  # samples
    at = np.arange(n, dtype=np.float32)
    # One repeated period is much faster than n sines.
    period = round(rate / hertz)
    wave = np.resize((depth * np.sin(2.0 * np.pi * np.arange(period) / period)).astype(np.float32), n)
    at = np.clip(at + wave + np.float32(depth), 0, n - 2)
    left = at.astype(np.int32)
    share = at - left
    bent: Float32Array = stem[left] * (1.0 - share) + stem[left + 1] * share
    return bent


def _sidechain_gain(piece: Piece, mix: Mix, rate: int, n: int) -> Float32Array | None:
    """Compute the gain of a side-chain compressor triggered by the bass drum."""
    if mix.duck < 0.05:
        return None
    kicks = [p.starts[np.isin(p.pitches, (35, 36))] for p in piece.parts if p.player.role.job == "drums"]
    gain = np.ones(n, dtype=np.float32)
    dip = np.float32(1.0) - np.float32(mix.duck) * np.linspace(1.0, 0.0, round(0.22 * rate), dtype=np.float32)
    for start in np.concatenate(kicks) if kicks else []:
        at = round(float(start) * rate)
        part = gain[at : at + len(dip)]
        np.minimum(part, dip[: len(part)], out=part)
    return gain


def _pan(pan: float, channels: int) -> Float64Array:
    if channels == 1:
        return np.ones(1)
    angle = (pan + 1.0) * np.pi / 4.0
    return np.array([np.cos(angle), np.sin(angle)])


def _room_and_tone(
    dry: Float32Array, send: Float32Array, mix: Mix, rate: int, rng: np.random.Generator
) -> Float32Array:
    """Apply reverberation and equalisation in the frequency domain."""
    fft = _fft()
    n = dry.shape[1]
    impulse_response = _impulse(mix.reverb, rate, rng)
    size = fft.next_fast_len(n + len(impulse_response), real=True)
    equaliser = _tone(mix, np.fft.rfftfreq(size, 1.0 / rate))
    room = fft.rfft(impulse_response, size) * np.float32(mix.wet)
    spectrum = (fft.rfft(dry, size, axis=1) + fft.rfft(send, size, axis=1) * room) * equaliser
    y: Float32Array = fft.irfft(spectrum, size, axis=1)[:, :n].astype(np.float32)
    return y


def _impulse(seconds: float, rate: int, rng: np.random.Generator) -> Float32Array:
    """Generate a room impulse response: decaying noise of unit energy after 12 ms of silence."""
    n = round(seconds * rate)
    decay = np.exp(np.linspace(0.0, np.log(1e-3), n))
    response = rng.standard_normal(n) * decay
    response[: round(0.012 * rate)] = 0.0
    # Rooms absorb high frequencies first.
    response = np.convolve(response, [0.25, 0.5, 0.25], mode="same")
    return np.asarray(response / np.sqrt(np.sum(response**2)), dtype=np.float32)


def _tone(mix: Mix, hertz: NDArray[np.floating]) -> Float32Array:
    """Compute the equaliser gain: a tilt around 1 kHz, peaks, and roll-off at both ends."""
    # The curve is smooth, so interpolation of few points is sufficient and faster.
    frequencies = np.concatenate([[0.0], np.geomspace(15.0, max(hertz[-1], 30.0), 400)])
    octaves = np.log2(np.maximum(frequencies, 15.0) / 1000.0)
    decibels = mix.tilt * np.clip(octaves, -4.0, 3.5)
    for centre, height, width in mix.bumps:
        decibels += height * np.exp(-0.5 * ((octaves - np.log2(centre / 1000.0)) / width) ** 2)
    decibels -= 10.0 * np.log10(1.0 + (mix.low_cut / np.maximum(frequencies, 1.0)) ** 4)
    decibels -= 10.0 * np.log10(1.0 + (frequencies / mix.high_cut) ** 12)
    return np.asarray(np.interp(hertz, frequencies, 10.0 ** (decibels / 20.0)), dtype=np.float32)


def _compress(y: Float32Array, mix: Mix, rate: int) -> Float32Array:
    """Apply slow compression, then saturation."""
    block = round(0.05 * rate)
    n = y.shape[1]
    power = np.mean(y**2, axis=0)
    edges = np.arange(0, n, block)
    level = np.sqrt(np.add.reduceat(power, edges) / block) + 1e-4
    level = np.convolve(np.pad(level, 4, mode="edge"), np.ones(9) / 9, mode="valid")
    mean_level = float(np.sqrt(np.mean(level**2)))
    gain = np.clip((mean_level / level) ** mix.compress, 0.1, 4.0)
    y = y * np.interp(np.arange(n), edges + block / 2, gain).astype(np.float32)
    # Relative to the programme level, so that the drive does not depend on the arrangement.
    rms = float(np.sqrt(np.mean(y**2)))
    return np.asarray(np.tanh(y * np.float32(mix.drive * 0.36 / max(rms, 1e-6))))


def _finish(y: Float32Array, fade: bool, peak: float, rate: int) -> Float32Array:
    """Apply the fade-out and set the peak level."""
    tail = round((2.5 if fade else 0.25) * rate)
    y[:, -tail:] *= np.linspace(1.0, 0.0, tail, dtype=np.float32)
    current_peak = float(np.max(np.abs(y)))
    return y * np.float32(peak / max(current_peak, 1e-6))


def _signal() -> Any:
    try:
        from scipy import signal
    except ImportError as error:
        raise MissingExtraError("scipy", "compose") from error
    return signal


def _fft() -> Any:
    try:
        from scipy import fft
    except ImportError as error:
        raise MissingExtraError("scipy", "compose") from error
    return fft
