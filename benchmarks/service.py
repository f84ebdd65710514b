"""Requests a second and latency of `genretree serve`, with slices of several files scored together and without.

    python benchmarks/service.py BUNDLE... --file SONG.mp3 [--seconds 30] [--clients 1 4 16 64] [--rounds 3]

Pieces of the song, cut at different places, are sent to POST /v1/predict by so many clients at a time, each of which
sends the next as soon as it has its answer. The clients are one process of their own on the same processors; they share
their connections with nobody, and do nothing but send prepared bytes and compare the path that comes back with what the
first answer for that piece said. Services with (`--batch 64`) and without (`--batch 0`) take turns; each line is the
median of the rounds. Lost: answers that were not 200, or named another path. Last, `genretree.predict` on the same
pieces without any service, for comparison. Nothing is random.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from genretree.bundle import load_bundle
from genretree.machine import available_processors
from genretree.predict import Prediction, predict

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


def serve_and_load(
    bundle: Path, batch: int, pieces: Sequence[Path], clients: Sequence[int], seconds: float
) -> dict[int, dict[str, Any]]:
    """Start a service, load it with so many clients at a time, and end it."""
    words = ["serve", str(bundle), "--port", "0", "--batch", str(batch)]
    with subprocess.Popen([sys.executable, "-m", "genretree", *words], stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            port = re.search(r":(\d+)/ ", service.stdout.readline())
            if port is None:
                raise SystemExit("the service did not start")
            found = {}
            for number in clients:
                order = [port[1], str(number), str(seconds), *map(str, pieces)]
                done = subprocess.run(
                    [sys.executable, __file__, "load", *order], check=True, capture_output=True, text=True
                )
                found[number] = json.loads(done.stdout)
                if found[number]["lost"]:
                    print(f"lost, {number} clients: {found[number]['said']}", file=sys.stderr)
            return found
        finally:
            service.terminate()
            service.wait()


def measure(bundle: Path, pieces: Sequence[Path], clients: Sequence[int], seconds: float, rounds: int) -> None:
    """Print a line for each number of clients and way."""
    seen: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for way, batch in BATCHES.items():
            for number, found in serve_and_load(bundle, batch, pieces, clients, seconds).items():
                seen.setdefault((way, number), []).append(found)
    print(f"\n| {bundle.name}: clients | slices of several files | requests/s | 50 % | 95 % | lost |")
    print("| --- | --- | --- | --- | --- | --- |")
    for number in clients:
        for way in BATCHES:
            runs = seen[way, number]
            rates = sorted(len(run["took"]) / seconds for run in runs)
            half, most = (
                statistics.median(float(np.percentile(run["took"], part)) for run in runs) for part in (50, 95)
            )
            spread = f"{statistics.median(rates):.1f} ({rates[0]:.1f} to {rates[-1]:.1f})"
            lost = sum(run["lost"] for run in runs)
            print(f"| {number} | {way} | {spread} | {half:.3f} s | {most:.3f} s | {lost} |", flush=True)


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
    parser.add_argument("--measure", type=float, default=6.0, help="seconds of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(f"{available_processors()} processors; pieces of {given.seconds:g} s; {given.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        pieces = cut(given.file, given.seconds, Path(folder))
        for bundle in given.bundles:
            measure(bundle, pieces, given.clients, given.measure, given.rounds)
            measure_plain(bundle, pieces, given.measure)


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        _port, _clients, _seconds, *_pieces = sys.argv[2:]
        print(json.dumps(asyncio.run(load(int(_port), list(map(Path, _pieces)), int(_clients), float(_seconds)))))
    else:
        main()
