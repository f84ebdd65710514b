"""Every format decodes to the same samples, and every type of invalid file gets the right error."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr
from numpy.typing import NDArray
from sound_helpers import make_song, needs_ffmpeg

from genretree.errors import SoundError
from genretree.settings import SAMPLE_RATE
from genretree.sound.decode import decode, iter_blocks, probe

pytestmark = pytest.mark.slow

FILE_SR = 44100
SECONDS = 8
FORMS = ("wav", "flac", "ogg", "opus", "mp3", "aiff", "au", "caf", "w64", "rf64")


@pytest.fixture(scope="session")
def stereo() -> NDArray[np.float32]:
    left = make_song(SECONDS, FILE_SR)
    return np.stack([left, 0.5 * left], axis=1)


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory, stereo: NDArray[np.float32]) -> dict[str, Path]:
    """The same audio in every format that libsndfile writes."""
    folder = tmp_path_factory.mktemp("good")
    files = {
        name: folder / f"song.{name}" for name in ("wav", "flac", "ogg", "mp3", "aiff", "au", "caf", "w64", "rf64")
    }
    for name, path in files.items():
        sf.write(path, stereo, FILE_SR, format=None if name != "rf64" else "RF64")
    files["opus"] = folder / "song.opus"
    sf.write(files["opus"], soxr.resample(stereo, FILE_SR, 48000), 48000, format="OGG", subtype="OPUS")
    return files


def convert_with_ffmpeg(source: Path, target: Path, *options: str) -> Path:
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", source, *options, target], check=True)
    return target


def error_kind(path: Path, salvage: bool = False) -> str:
    try:
        decode(path, salvage=salvage)
    except SoundError as error:
        assert str(path) in str(error)
        assert len(error.detail) > 10
        return error.kind
    return "fine"


def cut(path: Path, size: int) -> Path:
    target = path.with_name(f"cut-{size}{path.suffix}")
    target.write_bytes(path.read_bytes()[:size])
    return target


# -- good files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_format_decodes_to_the_same_samples(
    good: dict[str, Path], stereo: NDArray[np.float32], form: str
) -> None:
    y = decode(good[form])
    expected = soxr.resample(stereo.mean(axis=1), FILE_SR, SAMPLE_RATE)  # in a single call
    assert y.dtype == np.float32
    assert y.ndim == 1
    assert abs(len(y) - len(expected)) <= 2
    count = min(len(y), len(expected))
    assert np.corrcoef(y[:count], expected[:count])[0, 1] > 0.98
    if form in ("wav", "flac", "aiff", "au", "caf", "w64", "rf64"):
        assert np.abs(y[:count] - expected[:count]).max() < 1e-4


@pytest.mark.parametrize("form", FORMS)
def test_probe(good: dict[str, Path], form: str) -> None:
    info = probe(good[form])
    assert info.duration == pytest.approx(SECONDS, abs=0.05)
    assert info.channels == 2
    assert info.sr == (48000 if form == "opus" else FILE_SR)
    assert info.format == {"opus": "ogg", "rf64": "wav"}.get(form, form)
    assert info.path == good[form]


@needs_ffmpeg
@pytest.mark.parametrize(("suffix", "codec"), [("m4a", "aac"), ("aac", "aac"), ("wma", "wmav2"), ("mka", "vorbis")])
def test_forms_that_need_ffmpeg(good: dict[str, Path], tmp_path: Path, suffix: str, codec: str) -> None:
    path = convert_with_ffmpeg(good["wav"], tmp_path / f'-a song\'s "{suffix}"\n: x.{suffix}')
    assert probe(path).codec == codec
    assert probe(path).sr == FILE_SR
    assert len(decode(path)) == pytest.approx(SECONDS * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)


@needs_ffmpeg
@pytest.mark.parametrize("options", ["-q:a 2", "-b:a 192k", "-write_xing 0", "-ac 1 -ar 22050"])
def test_lame_files_are_whole(good: dict[str, Path], tmp_path: Path, options: str) -> None:
    path = convert_with_ffmpeg(
        good["wav"], tmp_path / "song.mp3", "-id3v2_version", "3", "-write_id3v1", "1", *options.split()
    )
    assert error_kind(path) == "fine"
    for size in (path.stat().st_size // 2, path.stat().st_size - 400):
        assert error_kind(cut(path, size)) == "truncated"


@pytest.mark.parametrize("name", ["-y.wav", "a 'b' \"c\".wav", "line\nbreak.wav", "音楽 🎵.wav", "x.raw", "no suffix"])
def test_any_name(good: dict[str, Path], tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(good["wav"].read_bytes())
    assert len(decode(path)) == SECONDS * SAMPLE_RATE


def test_content_decides_not_the_suffix(good: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "really a wav.mp3"
    path.write_bytes(good["wav"].read_bytes())
    assert np.array_equal(decode(path), decode(good["wav"]))
    assert probe(path).format == "wav"


@needs_ffmpeg
def test_m4a_named_mp3(good: dict[str, Path], tmp_path: Path) -> None:
    path = convert_with_ffmpeg(good["wav"], tmp_path / "song.m4a").rename(tmp_path / "song.mp3")
    assert probe(path).format == "mp4"
    assert error_kind(path) == "fine"


@pytest.mark.parametrize("channels", range(1, 9))
def test_mono_is_the_mean_of_the_channels(tmp_path: Path, channels: int) -> None:
    sound = np.random.default_rng(channels).uniform(-0.5, 0.5, (5000, channels))
    path = tmp_path / "song.wav"
    sf.write(path, sound, SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_allclose(decode(path), sound.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("sr", [8000, 11025, 22050, 32000, 48000, 96000, 192000])
def test_a_tone_keeps_its_pitch_and_level_at_any_rate(tmp_path: Path, sr: int) -> None:
    path = tmp_path / "tone.wav"
    sf.write(path, 0.5 * np.sin(2 * np.pi * 1000 * np.arange(2 * sr) / sr), sr)
    y = decode(path)
    assert abs(len(y) - 2 * SAMPLE_RATE) <= 1
    middle = y[SAMPLE_RATE // 2 : SAMPLE_RATE // 2 + SAMPLE_RATE]  # one second: bin k is k Hz
    spectrum = np.abs(np.fft.rfft(middle)) / (SAMPLE_RATE / 2)
    assert spectrum.argmax() == 1000
    assert spectrum.max() == pytest.approx(0.5, rel=1e-3)


def test_blocks_are_bounded_and_join_to_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    sf.write(path, np.tile(make_song(8, SAMPLE_RATE), 8), FILE_SR, subtype="FLOAT")
    blocks = list(iter_blocks(path))
    assert len(blocks) > 3
    assert max(len(block) for block in blocks) < 10 * SAMPLE_RATE
    assert np.array_equal(np.concatenate(blocks), decode(path))


def test_short_but_long_enough(tmp_path: Path) -> None:
    path = tmp_path / "short.wav"
    sf.write(path, make_song(1, SAMPLE_RATE)[:2048], SAMPLE_RATE)
    assert len(decode(path)) == 2048


@pytest.mark.parametrize(("riff", "data"), [(0xFFFFFFFF, 0xFFFFFFFF), (0, 0), (0xFFFFFFFF, 0), (36, 0x7FFFF000)])
def test_wav_from_a_pipe_is_whole(good: dict[str, Path], tmp_path: Path, riff: int, data: int) -> None:
    content = bytearray(good["wav"].read_bytes())
    at = content.find(b"data")
    content[4:8], content[at + 4 : at + 8] = struct.pack("<I", riff), struct.pack("<I", data)
    path = tmp_path / "pipe.wav"
    path.write_bytes(content)
    assert len(decode(path)) == SECONDS * SAMPLE_RATE


@needs_ffmpeg
def test_flac_from_a_pipe_is_whole(good: dict[str, Path], tmp_path: Path) -> None:
    command = ["ffmpeg", "-v", "error", "-i", good["wav"], "-f", "flac", "-"]
    path = tmp_path / "pipe.flac"
    path.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    assert len(decode(path)) == SECONDS * SAMPLE_RATE
    assert error_kind(cut(path, path.stat().st_size // 2)) == "truncated"


# -- bad files -----------------------------------------------------------------------------------------------


def test_not_found(tmp_path: Path) -> None:
    assert error_kind(tmp_path / "nothing.wav") == "not_found"


@pytest.mark.posix
def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert error_kind(tmp_path) == "unreadable"
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    assert error_kind(pipe) == "unreadable"
    path = tmp_path / "song.wav"
    path.write_bytes(b"x")

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SoundError, match="Permission denied") as caught:
        decode(path)
    assert caught.value.kind == "unreadable"


def test_empty(tmp_path: Path) -> None:
    path = tmp_path / "zero.mp3"
    path.touch()
    assert error_kind(path) == "empty"
    path = tmp_path / "header only.wav"
    sf.write(path, np.zeros((0, 2)), SAMPLE_RATE)
    assert error_kind(path) == "empty"


def text(_: Path) -> bytes:
    return b"Dear listener,\n" * 5000


def utf8_text(_: Path) -> bytes:
    return "Grüße aus Köln, liebe Hörer\n".encode() * 500


def jpeg(_: Path) -> bytes:
    import io

    from PIL import Image

    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def noise(_: Path) -> bytes:
    return np.random.default_rng(1).bytes(300_000)


def syncs(_: Path) -> bytes:
    """Return bytes with many MPEG frame syncs, but never a chain of them."""
    return bytes(np.random.default_rng(2).choice([0xFF, 0xFB, 0x90, 0x00], 100_000).astype(np.uint8))


def zeros(_: Path) -> bytes:
    return bytes(100_000)


def playlist(_: Path) -> bytes:
    return b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:10,\nsecret.wav\n"


@pytest.mark.parametrize("suffix", ["mp3", "wav"])
@pytest.mark.parametrize("content", [text, utf8_text, jpeg, noise, syncs, zeros, playlist])
def test_not_audio(tmp_path: Path, content, suffix: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / f"song.{suffix}"
    path.write_bytes(content(tmp_path))
    assert error_kind(path) == "not_audio"
    assert error_kind(path, salvage=True) == "not_audio"


@needs_ffmpeg
def test_damaged_mp4_is_not_audio(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    path.write_bytes(struct.pack(">I4s4sI", 16, b"ftyp", b"M4A ", 0) + struct.pack(">I4s", 8, b"moov"))
    assert error_kind(path) == "not_audio"


@needs_ffmpeg
@pytest.mark.parametrize("codec", [1, 3, 0x55], ids=["pcm", "float", "mp3"])
def test_a_wav_without_channels_is_not_audio(tmp_path: Path, codec: int) -> None:
    path = tmp_path / "song.wav"
    sf.write(path, make_song(1, SAMPLE_RATE), SAMPLE_RATE, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[20:24] = struct.pack("<HH", codec, 0)
    path.write_bytes(content)
    assert error_kind(path) == "not_audio"
    assert error_kind(path, salvage=True) == "not_audio"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.5, 0.9, None])
def test_truncated(good: dict[str, Path], form: str, share: float | None) -> None:
    size = good[form].stat().st_size
    path = cut(good[form], int(size * share) if share else size - 100)
    assert error_kind(path) == "truncated"
    salvaged = decode(path, salvage=True)
    assert len(salvaged) == pytest.approx((share or 1) * SECONDS * SAMPLE_RATE, abs=1.5 * SAMPLE_RATE)
    whole = decode(good[form])
    count = min(len(salvaged), len(whole)) - 2000
    assert np.corrcoef(salvaged[:count], whole[:count])[0, 1] > 0.98


def test_every_cut_of_an_mp3_is_detected(good: dict[str, Path]) -> None:
    """Except the last 26 ms: encoders disagree on whether the header frame counts."""
    size = good["mp3"].stat().st_size
    for at in np.random.default_rng(0).integers(2000, size - 1200, 12):
        assert error_kind(cut(good["mp3"], int(at))) == "truncated"


@needs_ffmpeg
@pytest.mark.parametrize("suffix", ["m4a", "aac", "wma", "mka"])
def test_truncated_where_ffmpeg_decodes(good: dict[str, Path], tmp_path: Path, suffix: str) -> None:
    path = convert_with_ffmpeg(good["wav"], tmp_path / f"song.{suffix}")
    for share in (0.5, 0.9):
        short = cut(path, int(path.stat().st_size * share))
        assert error_kind(short) == "truncated"
        # Without its index, which comes last, an mp4 cannot be decoded.
        assert error_kind(short, salvage=True) == ("truncated" if suffix == "m4a" else "fine")


@needs_ffmpeg
def test_truncated_mp4_with_its_index_in_front(good: dict[str, Path], tmp_path: Path) -> None:
    path = convert_with_ffmpeg(good["wav"], tmp_path / "song.m4a", "-movflags", "+faststart")
    short = cut(path, path.stat().st_size // 2)
    assert error_kind(path) == "fine"
    assert error_kind(short) == "truncated"
    assert error_kind(short, salvage=True) == "fine"


def id3v1() -> bytes:
    return b"TAG" + bytes(125)


def apev2() -> bytes:
    item = struct.pack("<II", 5, 0) + b"Title\0" + b"Hello"
    head = struct.pack("<IIII", 2000, 32 + len(item), 1, 0xA0000000) + bytes(8)
    foot = struct.pack("<IIII", 2000, 32 + len(item), 1, 0x80000000) + bytes(8)
    return b"APETAGEX" + head + item + b"APETAGEX" + foot


def lyrics3() -> bytes:
    body = b"LYRICSBEGININD0000200"
    return body + f"{len(body):06d}LYRICS200".encode()


@pytest.mark.parametrize("tags", [id3v1(), apev2(), lyrics3() + id3v1(), apev2() + id3v1(), bytes(500)])
def test_tags_at_the_end_are_not_audio(good: dict[str, Path], tmp_path: Path, tags: bytes) -> None:
    path = tmp_path / "song.mp3"
    content = without_xing(good["mp3"])
    path.write_bytes(content + tags)
    assert error_kind(path) == "fine"
    path.write_bytes(content[:-100] + tags)
    assert error_kind(path) == ("truncated" if any(tags) else "fine")  # zeros may be audio


def without_xing(path: Path) -> bytes:
    """Erase the frame that declares the length of an mp3."""
    return path.read_bytes().replace(b"Xing", b"\0\0\0\0", 1).replace(b"Info", b"\0\0\0\0", 1)


def test_id3v2_in_front(good: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    tag = b"ID3\x04\0\0" + bytes([0, 5, 0, 0]) + bytes(5 << 14)
    path.write_bytes(tag + good["mp3"].read_bytes())
    assert error_kind(path) == "fine"
    path.write_bytes(tag[:5000])
    assert error_kind(path) == "truncated"


@pytest.mark.parametrize("form", ["wav", "flac", "ogg", "mp3", "aiff", "w64", "caf"])
@pytest.mark.parametrize("size", [5, 20, 50, 200])
def test_a_short_beginning_is_a_sound_error(good: dict[str, Path], form: str, size: int) -> None:
    assert error_kind(cut(good[form], size)) in ("truncated", "not_audio", "empty")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_not_finite(tmp_path: Path, value: float, channels: int) -> None:
    sound = np.tile(make_song(1, SAMPLE_RATE)[:, None], channels)
    sound[11025, -1] = value
    path = tmp_path / "song.wav"
    sf.write(path, sound, SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(SoundError, match=r"at 0\.50 s") as caught:
        decode(path)
    assert caught.value.kind == "not_finite"


def test_silence(tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    sf.write(path, np.full((SAMPLE_RATE, 2), 0.9e-4), SAMPLE_RATE, subtype="FLOAT")
    assert error_kind(path) == "silence"
    sf.write(
        path,
        np.concatenate([np.zeros(15 * SAMPLE_RATE), [1.1e-4], np.zeros(SAMPLE_RATE)]),
        SAMPLE_RATE,
        subtype="FLOAT",
    )
    assert error_kind(path) == "fine"


def test_channels_that_cancel_out(tmp_path: Path) -> None:
    song = make_song(1, SAMPLE_RATE)
    path = tmp_path / "song.wav"
    sf.write(path, np.stack([song, -song], axis=1), SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(SoundError, match="cancel out") as caught:
        decode(path)
    assert caught.value.kind == "silence"


def test_silence_is_reported_after_the_last_block(tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    sf.write(path, np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    blocks = iter_blocks(path)
    assert len(next(blocks)) == SAMPLE_RATE
    with pytest.raises(SoundError):
        next(blocks)


@pytest.mark.parametrize("form", ["wav", "flac", "mp3"])
def test_too_long_is_rejected_from_the_header_or_while_decoding(good: dict[str, Path], form: str) -> None:
    seconds = sum(map(len, iter_blocks(good[form]))) / SAMPLE_RATE
    assert sum(map(len, iter_blocks(good[form], max_seconds=seconds + 0.2))) / SAMPLE_RATE == seconds
    with pytest.raises(SoundError, match="the limit is 1 s") as caught:
        list(iter_blocks(good[form], max_seconds=1))
    assert caught.value.kind == "too_long"


def test_too_short(tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    sf.write(path, make_song(1, SAMPLE_RATE)[:2047], SAMPLE_RATE)
    assert error_kind(path) == "too_short"
    sf.write(path, make_song(1, SAMPLE_RATE)[:4000], FILE_SR)
    assert error_kind(path) == "too_short"


def test_too_many_channels(tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    sf.write(path, np.zeros((5000, 9)), SAMPLE_RATE)
    assert error_kind(path) == "too_many_channels"
    with pytest.raises(SoundError, match="9 channels"):
        probe(path)


# -- the module ----------------------------------------------------------------------------------------------


def test_importing_the_sound_modules_loads_nothing_heavy() -> None:
    code = (
        "import sys, json, genretree.sound.slices, genretree.sound.spectra, genretree.sound.decode;"
        "sys.stdout.write(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert not {"librosa", "matplotlib", "PIL", "soxr", "scipy", "torch"} & set(json.loads(done.stdout))


@needs_ffmpeg
def test_real_opus_files_are_decoded_to_their_end(tmp_path: Path, stereo: NDArray[np.float32]) -> None:
    long = np.tile(stereo, (8, 1))
    sf.write(tmp_path / "long.wav", long, FILE_SR)
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "long.wav", "-b:a", "64k", tmp_path / "long.opus"]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    assert abs(len(decode(tmp_path / "long.opus")) - len(long) * SAMPLE_RATE / FILE_SR) < 0.03 * SAMPLE_RATE
    whole = (tmp_path / "long.opus").read_bytes()
    (tmp_path / "cut.opus").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SoundError) as caught:
        decode(tmp_path / "cut.opus")
    assert caught.value.kind == "truncated"


@pytest.mark.parametrize("streamed", [False, True])
def test_tags_after_a_flac_are_not_damage(tmp_path: Path, streamed: bool) -> None:
    path = tmp_path / "x.flac"
    sf.write(path, 0.1 * np.random.default_rng(0).standard_normal((30_000, 2)), 44100)
    content = bytearray(path.read_bytes())
    if streamed:
        content[21] &= 0xF0  # the length, as written by a program that writes to a pipe
        content[22:26] = bytes(4)
    path.write_bytes(content)
    expected = decode(path)
    v1 = b"TAG" + b"title".ljust(125, b"\0")
    ape = b"APETAGEX" + (2000).to_bytes(4, "little") + (32).to_bytes(4, "little") + bytes(16)
    for tail in (v1, ape, ape + v1):
        path.write_bytes(content + tail)
        np.testing.assert_array_equal(decode(path), expected)
    path.write_bytes(content[: len(content) // 2] + v1)
    with pytest.raises(SoundError, match="truncated"):
        decode(path)


@needs_ffmpeg
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("ac3", ["-ar", "44100"]),
        ("ac3", ["-ar", "48000", "-b:a", "96k"]),
        ("ac3", ["-ar", "32000"]),
        ("eac3", ["-ar", "48000"]),
        ("dts", ["-c:a", "dca", "-strict", "-2", "-ar", "48000"]),
        ("ts", ["-c:a", "mp2"]),
        ("mpg", ["-c:a", "mp2"]),
    ],
)
def test_streams_without_an_index_are_recognised(tmp_path: Path, suffix: str, options: list[str]) -> None:
    path = tmp_path / f"tone.{suffix}"
    tone = ["-f", "lavfi", "-i", "sine=440:duration=2", "-ac", "2"]
    subprocess.run(["ffmpeg", "-v", "error", *tone, *options, str(path)], check=True)
    y = decode(path)
    assert len(y) / 22050 == pytest.approx(2, abs=0.1)
    assert np.abs(np.fft.rfft(y[4096:12288] * np.hanning(8192))).argmax() == pytest.approx(440 * 8192 / 22050, abs=1)
