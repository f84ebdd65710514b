"""Every format decodes to the same samples as with the ffmpeg program."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr
from sound_helpers import make_song, needs_ffmpeg

from genretree.settings import SAMPLE_RATE
from genretree.sound.decode import decode

FORMATS = [
    ("wav", "-c:a pcm_s24le"),
    ("wav", "-c:a pcm_f64le"),
    ("wav", "-c:a pcm_u8"),
    ("wav", "-c:a adpcm_ima_wav"),
    ("wav", "-c:a libmp3lame"),
    ("aiff", "-c:a pcm_s24be"),
    ("caf", "-c:a alac"),
    ("voc", "-c:a pcm_u8"),
    ("flac", "-sample_fmt s32"),
    ("oga", "-c:a flac -f ogg"),
    ("spx", "-c:a libspeex -ar 32000"),
    ("opus", ""),
    ("mp3", "-q:a 2"),
    ("mp3", "-ar 8000 -ac 1"),
    ("mp2", ""),
    ("m4a", "-c:a alac"),
    ("m4a", "-c:a aac"),
    ("aac", ""),
    ("wma", "-c:a wmav1"),
    ("mka", "-c:a flac"),
    ("webm", "-c:a libopus"),
    ("wv", "-c:a wavpack"),
    ("tta", "-c:a tta"),
    ("ac3", ""),
    ("flv", "-ar 44100"),
    ("avi", ""),
    ("ts", "-c:a aac"),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("formats") / "song.wav"
    song = make_song(1.5, 44100)
    sf.write(path, np.stack([song, 0.5 * np.roll(song, 50)], axis=1), 44100)
    return path


@needs_ffmpeg
@pytest.mark.parametrize(("suffix", "options"), FORMATS)
def test_decodes_like_ffmpeg(tmp_path: Path, source: Path, suffix: str, options: str) -> None:
    path = tmp_path / f"song.{suffix}"
    ffmpeg = ["ffmpeg", "-v", "error", "-nostdin"]
    subprocess.run([*ffmpeg, "-i", source, *options.split(), path], check=True)
    sr = {"-ar 8000 -ac 1": 8000, "-c:a libspeex -ar 32000": 32000}.get(options, 44100)
    sr = 48000 if "opus" in suffix + options else sr
    command = [*ffmpeg, "-i", path, "-map", "0:a:0", "-ar", str(sr), "-f", "f32le", "-c:a", "pcm_f32le", "-"]
    channels = 1 if "-ac 1" in options else 2
    raw = np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, np.float32)
    expected = soxr.resample(raw.reshape(-1, channels).mean(axis=1), sr, SAMPLE_RATE)
    y = decode(path)
    assert abs(len(y) - len(expected)) <= 2
    count = min(len(y), len(expected))
    assert np.corrcoef(y[:count], expected[:count])[0, 1] > 0.9997
