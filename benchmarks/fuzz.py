"""Decode mutated sound files of 15 formats; count crashes, hangs and other files opened.

    python benchmarks/fuzz.py [--inputs 10000] [--processes 2] [--seed 0] [--traced 200] [--json FILE]

Every input is a small valid file with some mutations: bytes changed, removed, inserted, repeated or set to extreme
numbers, the end cut off, or a piece of a file of another format put in. Child processes make input after input from the
seed and its number, and decode it without and with salvage. An input that takes longer than 10 s is a hang, a child
that ends early a crash. An audit hook notices when Python opens anything else; where strace is installed, it watches
`--traced` inputs for system calls. Exits with 1 if anything was found. Inputs that were found are kept.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import re
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

LIMIT = 10.0  # seconds for one input
# Form of the container and codec, in FFmpeg's names.
FORMATS = {
    "wav": ("wav", "pcm_s16le"),
    "aiff": ("aiff", "pcm_s16be"),
    "flac": ("flac", "flac"),
    "ogg": ("ogg", "libvorbis"),
    "opus": ("ogg", "libopus"),
    "mp3": ("mp3", "libmp3lame"),
    "m4a": ("mp4", "aac"),
    "aac": ("adts", "aac"),
    "wma": ("asf", "wmav2"),
    "mka": ("matroska", "libopus"),
    "wv": ("wv", "wavpack"),
    "ac3": ("ac3", "ac3"),
    "avi": ("avi", "libmp3lame"),
    "flv": ("flv", "aac"),
    "ts": ("mpegts", "mp2"),
}
_EXTREMES = (0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def seed_files() -> dict[str, bytes]:
    """Give a valid file of one second in every format."""
    import av
    import soundfile

    rng = np.random.default_rng(0)
    time_axis = np.arange(48_000) / 48_000
    samples = 0.3 * np.sin(2 * np.pi * 440 * time_axis) + 0.02 * rng.standard_normal(len(time_axis))
    found = {}
    for name, (container, codec) in FORMATS.items():
        stream = io.BytesIO()
        if codec == "libvorbis":  # not among PyAV's encoders
            soundfile.write(stream, samples, 48_000, format="OGG", subtype="VORBIS")
        else:
            with av.open(stream, "w", format=container) as output:
                track: Any = output.add_stream(codec, rate=48_000, layout="mono", bit_rate=96_000)
                pcm = (samples * 32767).astype(np.int16)[None]
                frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
                frame.sample_rate = 48_000
                resampler = av.AudioResampler(track.format, "mono", 48_000, frame_size=track.frame_size or 1024)
                for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                    output.mux(track.encode(piece))
                output.mux(track.encode(None))
        found[name] = stream.getvalue()
    return found


def mutate(files: dict[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """Make the input of a number: the name of its format, and its bytes."""
    rng = np.random.default_rng([seed, number])
    name = list(files)[number % len(files)]
    data = bytearray(files[name])
    for _ in range(int(rng.integers(1, 6))):
        if len(data) < 16:
            break
        # Half of all mutations are in the first 512 bytes, where headers are.
        at = int(rng.integers(0, min(512, len(data)) if rng.random() < 0.5 else len(data)))
        count = int(2 ** rng.uniform(0, 12))
        match int(rng.integers(0, 8)):
            case 0:
                for place in rng.integers(at, min(len(data), at + count), min(count, 50)):
                    data[place] ^= 1 << int(rng.integers(0, 8))
            case 1:
                data[at : at + count] = rng.bytes(count)
            case 2:
                del data[at : at + count]
            case 3:
                data[at:at] = rng.bytes(count)
            case 4:
                data[at:at] = data[at : at + count] * int(rng.integers(1, 20))
            case 5:
                width = int(rng.choice([1, 2, 4, 8]))
                number_here = int(rng.choice(_EXTREMES)) & (1 << 8 * width) - 1
                data[at : at + width] = number_here.to_bytes(width, "little" if rng.random() < 0.5 else "big")
            case 6:
                del data[max(16, at) :]
            case _:
                other = files[list(files)[int(rng.integers(0, len(files)))]]
                begin = int(rng.integers(0, len(other)))
                data[at : at + count] = other[begin : begin + count]
    return name, bytes(data)


class SkippedErrors(logging.Handler):
    """Gathers FFmpeg's reasons for what it could not read or decode and the decoder skips."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.reasons: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:  # noqa: D102
        if record.levelno == logging.DEBUG:
            self.reasons.add(str(record.args[-1]) if isinstance(record.args, tuple) else record.getMessage())


def summarise(result: str, detail: str, skipped: set[str]) -> str:
    """Give the result of one decoding with FFmpeg's reasons, without numbers, so that equal ones can be counted."""
    words = re.findall(r"\(([^()\d][^()]*)\)", detail)
    reason = f" ({words[-1]})" if words else ""
    return re.sub(
        r"\d[\d,.]*", "N", f"{result}{reason}" + (f", skipped: {'; '.join(sorted(skipped))}" if skipped else "")
    )


def child(folder: Path, seed: int, first: int, step: int, stop: int) -> None:
    """Decode inputs and print a line of JSON before and after each."""
    from genretree.errors import SoundError
    from genretree.sound.decode import iter_blocks, probe

    files = seed_files()
    path = folder / f"input-{first % step}"
    for name, content in files.items():
        path.write_bytes(content)
        assert sum(map(len, iter_blocks(path))) > 20_000, name
    skipped = SkippedErrors()
    logger = logging.getLogger("genretree.sound.libav")
    logger.addHandler(skipped)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    opened: list[str] = []
    watching = False

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event in ("open", "subprocess.Popen", "socket.connect", "os.exec", "os.posix_spawn"):
            if event == "open" and str(arguments[0]) == str(path):
                return
            opened.append(f"{event} {arguments[0]!r}")

    sys.addaudithook(audit)
    for number in range(first, stop, step):
        name, content = mutate(files, seed, number)
        path.write_bytes(content)
        print(json.dumps({"begin": number}), flush=True)
        results = []
        begun = time.process_time()
        watching = True
        for salvage in (False, True):
            skipped.reasons.clear()
            try:
                probe(path)
                for _ in iter_blocks(path, salvage=salvage, max_seconds=3600):
                    pass
                results.append(summarise("decoded", "", skipped.reasons))
            except SoundError as error:
                results.append(summarise(error.kind, error.detail, skipped.reasons))
            except Exception as error:
                results.append(f"unexpected {type(error).__name__}: {error}")
        watching = False
        seconds = time.process_time() - begun
        print(json.dumps({"end": number, "format": name, "results": results, "seconds": seconds}), flush=True)
        if opened:
            print(json.dumps({"opened": opened, "number": number}), flush=True)
            opened.clear()


class Tally:
    """What all children found."""

    def __init__(self, keep: Path, files: dict[str, bytes], seed: int) -> None:
        self.results: Counter[str] = Counter()
        self.formats: Counter[str] = Counter()
        self.found: list[str] = []
        self.slowest = 0.0
        self._keep, self._files, self._seed = keep, files, seed
        self._lock = threading.Lock()

    def add(self, line: dict[str, Any]) -> None:
        """Count the line of one input."""
        with self._lock:
            self.formats[line["format"]] += 1
            self.slowest = max(self.slowest, line["seconds"])
            for mode, result in zip(("", "salvage: "), line["results"], strict=True):
                self.results[mode + result] += 1
        for result in line["results"]:
            if result.startswith("unexpected"):
                self.report(line["end"], result)

    def report(self, number: int, what: str) -> None:
        """Keep an input with which something went wrong."""
        name, content = mutate(self._files, self._seed, number)
        self._keep.mkdir(parents=True, exist_ok=True)
        (self._keep / f"{number}.{name}").write_bytes(content)
        with self._lock:
            self.found.append(f"input {number} ({name}): {what}")


def run_children(tally: Tally, folder: Path, options: argparse.Namespace, first: int) -> None:
    """Run a child after another until its share of the inputs is done."""
    step, number = options.processes, first
    while number < options.inputs:
        words = [sys.executable, __file__, "--child", str(folder), str(options.seed), str(number), str(step)]
        process = subprocess.Popen([*words, str(options.inputs)], stdout=subprocess.PIPE, text=False)
        assert process.stdout is not None
        current: int | None = None
        pending = b""
        while True:
            ready, _, _ = select.select([process.stdout], [], [], LIMIT if current is not None else 120)
            data = process.stdout.raw.read(1 << 16) if ready else None  # type: ignore[attr-defined]
            if data is None:
                process.kill()
                tally.report(number if current is None else current, f"hangs for more than {LIMIT:g} s")
                break
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            for line in map(json.loads, lines):
                current = line.get("begin", current)
                if "end" in line:
                    tally.add(line)
                    number, current = line["end"] + step, None
                if "opened" in line:
                    tally.report(line["number"], f"opens {line['opened']}")
        code = process.wait()
        process.stdout.close()
        if current is not None:
            if code != -9:
                tally.report(current, f"crash, exit code {code}")
            number = current + step
        elif code:
            tally.report(number, f"a child failed between two inputs, exit code {code}")
            return


def trace(folder: Path, seed: int, count: int) -> list[str]:
    """Run a child under strace: every system call that opens something else, connects or starts a program."""
    log = folder / "trace"
    calls = ["strace", "-f", "-qq", "-e", "trace=open,openat,openat2,connect,execve", "-o", str(log)]
    words = [sys.executable, __file__, "--child", str(folder), str(seed), "0", "1", str(count)]
    subprocess.run([*calls, *words], check=True, stdout=subprocess.DEVNULL)
    lines = log.read_text(errors="replace").splitlines()
    name = str(folder / "input-0")
    opened = [at for at, line in enumerate(lines) if name in line and "O_RDONLY" in line]
    # Behind the valid files, with which libraries are loaded; what is looked for and not there is not opened.
    # glibc reads how the system overcommits memory when it gives some back.
    known = (name, "ENOENT", '"/proc/sys/vm/overcommit_memory"')
    return [line for line in lines[opened[len(FORMATS)] :] if not any(word in line for word in known)]


def main() -> int:
    """Fuzz the decoder."""
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), *map(int, sys.argv[3:]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="Number of inputs.")
    parser.add_argument("--processes", type=int, default=2, help="Number of child processes.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the mutations.")
    parser.add_argument("--traced", type=int, default=200, help="Number of inputs that strace watches.")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-found"), help="Folder for inputs that fail.")
    parser.add_argument("--json", type=Path, help="Write the counts to this file.")
    options = parser.parse_args()
    begun = time.monotonic()
    tally = Tally(options.keep, seed_files(), options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        threads = [
            threading.Thread(target=run_children, args=(tally, folder, options, first))
            for first in range(options.processes)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        traced = shutil.which("strace") is not None and options.traced > 0
        if traced:
            tally.found += [f"strace: {line}" for line in trace(folder, options.seed, options.traced)]
    done = sum(tally.formats.values())
    print(f"{done:,} inputs of {len(tally.formats)} formats in {time.monotonic() - begun:.0f} s; the slowest took")
    print(f"{tally.slowest:.2f} s of a processor. Without and with salvage:")
    for result, count in tally.results.most_common():
        print(f"{count:8,}  {result}")
    print(f"strace watched {options.traced:,} inputs" if traced else "strace is not installed")
    print("\n".join(tally.found) or "no crash, no hang, no other file opened")
    if options.json:
        facts = {"inputs": done, "results": dict(tally.results), "slowest": tally.slowest, "found": tally.found}
        options.json.write_text(json.dumps(facts, indent=1))
    return 1 if tally.found else 0


if __name__ == "__main__":
    sys.exit(main())
