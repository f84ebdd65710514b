"""Requests a second and latency of `genretree serve`, with slices of several files scored together and without.

    python benchmarks/service.py BUNDLE... --file SONG.mp3 [--seconds 30] [--clients 1 4 16 64] [--rounds 9]

Pieces of the song, cut at different places, are sent to POST /v1/predict by so many clients at a time, each of which
sends the next as soon as it has its answer. The clients are one process of their own on the same processors; they share
their connections with nobody, and do nothing but send prepared bytes and compare the path that comes back with what the
first answer for that piece said. Services with (`--batch 64`) and without (`--batch 0`) are asked in turn: requests a
second are the median of the rounds (least to most), and so is the ratio of neighbouring rounds; latencies are those of
all requests. Lost: answers that were not 200, or named another path. Last, `genretree.predict` on the same pieces
without any service, for comparison. Nothing is random.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from genretree._predict import Prediction, predict
from genretree.bundle import load_bundle
from genretree.machine import available_processors

PIECES = 8
WARM_UP = 1.0  # seconds before counting begins
BATCHES = {"together": 64, "each alone": 0}
BOUNDARY = "piece"


def cut(song: Path, seconds: float, folder: Path) -> list[Path]:
    """Cut pieces of a song, as mp3 at its own rate, from its beginning to its end."""
    info = sf.info(song)
    length = round(seconds * info.samplerate)
    if info.frames < length:
        raise SystemExit(f"{song}: has only {info.duration:.0f} s")
    found = []
    for number, start in enumerate(np.linspace(0, info.frames - length, PIECES).astype(int).tolist()):
        samples, rate = sf.read(song, length, start)
        found.append(folder / f"{number}.mp3")
        sf.write(found[-1], samples, rate)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Clients, in a process of their own


def request_for(piece: Path) -> bytes:
    """Give the bytes of a whole request."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{piece.name}"\r\n\r\n'
    form = head.encode() + piece.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()
    kind = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
    lines = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n{kind}Content-Length: {len(form)}\r\n\r\n"
    return lines.encode() + form


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, Any]:
    """Send a request; give status and path."""
    writer.write(request)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = re.search(r"content-length: (\d+)", head)
    content = await reader.readexactly(int(length[1]) if length else 0)
    status = int(head.split()[1])
    return status, json.loads(content)["results"][0]["path"] if status == 200 else content.decode()


async def load(port: int, pieces: Sequence[Path], clients: int, seconds: float) -> dict[str, Any]:
    """Let clients ask for some seconds; give what they saw."""
    requests = [request_for(piece) for piece in pieces]
    expected: dict[int, Any] = {}
    took: list[float] = []
    lost: list[str] = []
    begin = time.monotonic() + WARM_UP
    end = begin + seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        at = number
        while (sent := time.monotonic()) < end:
            at = (at + 1) % len(requests)
            status, found = await ask(reader, writer, requests[at])
            now = time.monotonic()
            if status != 200 or found != expected.setdefault(at, found):
                lost.append(f"{status}: {found}")
            if begin <= now < end:
                took.append(now - sent)
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return {"took": took, "lost": len(lost), "said": lost[:3]}


# ---------------------------------------------------------------------------------------------------------------------
# Services


@contextmanager
def serving(bundle: Path, batch: int) -> Iterator[str]:
    """Run a service while the block runs; gives its port."""
    words = ["serve", str(bundle), "--port", "0", "--batch", str(batch)]
    with subprocess.Popen([sys.executable, "-m", "genretree", *words], stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            found = re.search(r":(\d+)/ ", service.stdout.readline())
            if found is None:
                raise SystemExit("the service did not start")
            yield found[1]
        finally:
            service.terminate()


def load_from_outside(port: str, pieces: Sequence[Path], clients: int, seconds: float) -> dict[str, Any]:
    """Let another process load a service."""
    order = [port, str(clients), str(seconds), *map(str, pieces)]
    done = subprocess.run([sys.executable, __file__, "load", *order], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    if found["lost"]:
        print(f"lost, {clients} clients: {found['said']}", file=sys.stderr)
    return found


def measure(bundle: Path, pieces: Sequence[Path], clients: Sequence[int], seconds: float, rounds: int) -> None:
    """Print a line for each number of clients and way; both services run, and are asked in turn."""
    with ExitStack() as stack:
        ports = {way: stack.enter_context(serving(bundle, batch)) for way, batch in BATCHES.items()}
        print(f"\n| {bundle.name}: clients | slices of several files | requests/s | 50 % | 95 % | lost |")
        print("| --- | --- | --- | --- | --- | --- |")
        for number in clients:
            runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ports}
            for turn in range(rounds):
                for way in list(ports)[:: 1 if turn % 2 else -1]:
                    runs[way].append(load_from_outside(ports[way], pieces, number, seconds))
            for way, found in runs.items():
                took = [second for run in found for second in run["took"]]
                half, most = np.percentile(took, [50, 95])
                lost = sum(run["lost"] for run in found)
                rate = _spread([len(run["took"]) / seconds for run in found])
                print(f"| {number} | {way} | {rate} | {half:.3f} s | {most:.3f} s | {lost} |")
            pairs = zip(*runs.values(), strict=True)
            ratio = _spread([len(one["took"]) / max(1, len(other["took"])) for one, other in pairs])
            print(f"| {number} | {' / '.join(ports)} | {ratio} | | | |", flush=True)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def measure_plain(folder: Path, pieces: Sequence[Path], seconds: float) -> None:
    """Print how many files a second `genretree.predict` names, without a service."""
    bundle = load_bundle(folder, "auto", "auto")
    list(predict(bundle, pieces))
    begun, count = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        count += sum(isinstance(found, Prediction) for found in predict(bundle, list(pieces) * 4))
    print(
        f"{folder.name}: genretree.predict alone: {count / (time.monotonic() - begun):.1f} files/s ({bundle.runtime})"
    )


def main() -> None:
    """Measure what the options say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, help="bundles, with an export for speed")
    parser.add_argument("--file", type=Path, required=True, help="a song to cut pieces of")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of a piece")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--measure", type=float, default=2.0, help="seconds of each measurement")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    print(f"{available_processors()} processors; pieces of {given.seconds:g} s; {given.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        pieces = cut(given.file, given.seconds, Path(folder))
        for bundle in given.bundles:
            measure(bundle, pieces, given.clients, given.measure, given.rounds)
            measure_plain(bundle, pieces, 3 * given.measure)


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        _port, _clients, _seconds, *_pieces = sys.argv[2:]
        print(json.dumps(asyncio.run(load(int(_port), list(map(Path, _pieces)), int(_clients), float(_seconds)))))
    else:
        main()
