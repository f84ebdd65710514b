"""The ffmpeg and ffprobe programs, such that no file makes them open another one."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tempfile
from functools import lru_cache
from typing import IO, Any, cast


def has_ffmpeg() -> bool:
    """Whether both programs are installed."""
    return bool(shutil.which("ffmpeg") and shutil.which("ffprobe"))


@lru_cache(maxsize=8)
def input_protocol(program: str) -> tuple[str, ...]:
    """Options and address with which this ffmpeg reads its standard input, and can seek in it.

    No protocol that opens anything by its name is allowed. `fd:` seeks in the file that it was handed (FFmpeg 6 and
    later). Before, `cache:` makes a pipe seekable: it copies what it reads into a nameless temporary file of its own.
    """
    command = [program, "-v", "quiet", "-protocols"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if b"fd" in done.stdout.split():
        return "-protocol_whitelist", "fd", "-i", "fd:"
    return "-protocol_whitelist", "cache,pipe", "-read_ahead_limit", "-1", "-i", "cache:pipe:0"


def input_options(demuxer: str) -> list[str]:
    """Input options of ffmpeg and ffprobe that keep a hostile file from making them open another one.

    Playlists (HLS, DASH, concat ...) name other files, and FFmpeg guesses formats by content. So the demuxer is ours
    to choose, no other may be used, and no protocol is allowed that could open what a file names.
    """
    own = ["-enable_drefs", "0", "-use_absolute_path", "0"] if demuxer == "mov" else []
    return ["-format_whitelist", demuxer, "-f", demuxer, *own, *input_protocol(str(shutil.which("ffmpeg")))]


def run_ffprobe(file: io.FileIO, demuxer: str) -> tuple[dict[str, Any], str]:
    """Run ffprobe on an opened file: what it reports, and its last complaint."""
    command = [
        *("ffprobe", "-v", "error", *input_options(demuxer), "-of", "json"),
        *("-show_entries", "format=format_name,duration"),
        *("-show_entries", "stream=codec_type,codec_name,sample_rate,channels,duration"),
    ]
    file.seek(0)  # the program shares the position
    with tempfile.TemporaryFile() as complaints:
        done = subprocess.run(command, stdin=file, stdout=subprocess.PIPE, stderr=complaints, check=False)
        lines = last_lines(complaints)
    try:
        facts = json.loads(done.stdout.decode(errors="replace"))
    except ValueError:  # it stops in the middle of what it prints, of a file with 0 channels, say
        facts = {}
    return cast(dict[str, Any], facts), f" (ffmpeg: {last_words(lines)})" if lines else ""


def last_lines(complaints: IO[bytes]) -> list[str]:
    """Read the end of what ffmpeg printed, without the protocol's own remarks; a hostile file can make it very long."""
    complaints.seek(max(0, complaints.seek(0, io.SEEK_END) - 4096))
    lines = complaints.read().decode(errors="replace").strip().splitlines()
    return [line for line in lines if not line.startswith("[cache @") and "Last message repeated" not in line]


def last_words(lines: list[str]) -> str:
    """Cut the address and the input's name off ffmpeg's last complaint."""
    return lines[-1].rpartition("] ")[2].rpartition(": ")[2]
