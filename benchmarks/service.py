"""Measure requests a second and latency of `genretree serve`.

    python benchmarks/service.py BUNDLE... --file SONG.mp3 [--seconds 30] [--clients 1 4 16 64] [--rounds 9]

A number of clients send excerpts of the song, cut at different places, to POST /v1/predict; each sends the next one
once it has its response. The clients are one separate process on the same processors, with a connection each, and
only send prepared bytes and compare the returned path with that of the first response for the same excerpt.
Requests a second are the median of the rounds (minimum to maximum), latencies are over all requests. A response
fails if its status is not 200 or its path differs. Last, `genretree.predict` runs on the same excerpts without a
service. Nothing is random.
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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from genretree.bundle.bundle import load_bundle
from genretree.parallel import available_processors
from genretree.prediction.predict import Prediction, predict

N_EXCERPTS = 8
WARM_UP_SECONDS = 1.0
BOUNDARY = "excerpt"


def cut(song: Path, seconds: float, folder: Path) -> list[Path]:
    """Cut excerpts of a song at equal distances, as mp3 at its own sample rate."""
    info = sf.info(song)
    length = round(seconds * info.samplerate)
    if info.frames < length:
        raise SystemExit(f"{song}: has only {info.duration:.0f} s")
    paths = []
    for number, start in enumerate(np.linspace(0, info.frames - length, N_EXCERPTS).astype(int).tolist()):
        y, sr = sf.read(song, length, start)
        paths.append(folder / f"{number}.mp3")
        sf.write(paths[-1], y, sr)
    return paths


# ---------------------------------------------------------------------------------------------------------------------
# Clients, in a process of their own


def build_request(excerpt: Path) -> bytes:
    """Return the bytes of a whole request."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{excerpt.name}"\r\n\r\n'
    form = head.encode() + excerpt.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()
    media_type = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
    lines = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n{media_type}Content-Length: {len(form)}\r\n\r\n"
    return lines.encode() + form


async def send_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, Any]:
    """Send a request; return the status, and the path or the error."""
    writer.write(request)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = re.search(r"content-length: (\d+)", head)
    content = await reader.readexactly(int(length[1]) if length else 0)
    status = int(head.split()[1])
    return status, json.loads(content)["results"][0]["path"] if status == 200 else content.decode()


async def run_clients(port: int, excerpts: Sequence[Path], n_clients: int, seconds: float) -> dict[str, Any]:
    """Run clients for some seconds; return the latencies and failures."""
    requests = [build_request(excerpt) for excerpt in excerpts]
    expected: dict[int, Any] = {}
    latencies: list[float] = []
    failures: list[str] = []
    start = time.monotonic() + WARM_UP_SECONDS
    end = start + seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        at = number
        while (sent := time.monotonic()) < end:
            at = (at + 1) % len(requests)
            status, path = await send_request(reader, writer, requests[at])
            now = time.monotonic()
            if status != 200 or path != expected.setdefault(at, path):
                failures.append(f"{status}: {path}")
            if start <= now < end:
                latencies.append(now - sent)
        writer.close()

    await asyncio.gather(*(client(number) for number in range(n_clients)))
    return {"latencies": latencies, "failed": len(failures), "failures": failures[:3]}


# ---------------------------------------------------------------------------------------------------------------------
# The service


@contextmanager
def run_service(bundle: Path) -> Iterator[str]:
    """Run a service while the block runs; yields its port."""
    arguments = ["serve", str(bundle), "--port", "0"]
    command = [sys.executable, "-m", "genretree", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            address = re.search(r":(\d+)/ ", service.stdout.readline())
            if address is None:
                raise SystemExit("the service did not start")
            yield address[1]
        finally:
            service.terminate()


def run_client_process(port: str, excerpts: Sequence[Path], n_clients: int, seconds: float) -> dict[str, Any]:
    """Run the clients in a separate process."""
    arguments = [port, str(n_clients), str(seconds), *map(str, excerpts)]
    done = subprocess.run([sys.executable, __file__, "load", *arguments], check=True, capture_output=True, text=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    if measured["failed"]:
        print(f"failed with {n_clients} clients: {measured['failures']}", file=sys.stderr)
    return measured


def measure_service(
    bundle: Path, excerpts: Sequence[Path], n_clients: Sequence[int], seconds: float, rounds: int
) -> None:
    """Print a table row for each number of clients."""
    with run_service(bundle) as port:
        print(f"\n| {bundle.name}: clients | requests/s | median latency | 95th percentile | failed |")
        print("| --- | --- | --- | --- | --- |")
        for number in n_clients:
            runs = [run_client_process(port, excerpts, number, seconds) for _ in range(rounds)]
            median, high = np.percentile([latency for run in runs for latency in run["latencies"]], [50, 95])
            rates = [len(run["latencies"]) / seconds for run in runs]
            rate = f"{statistics.median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f})"
            failed = sum(run["failed"] for run in runs)
            print(f"| {number} | {rate} | {median:.3f} s | {high:.3f} s | {failed} |", flush=True)


def measure_predict(folder: Path, excerpts: Sequence[Path], seconds: float) -> None:
    """Print how many files a second `genretree.predict` processes, without a service."""
    bundle = load_bundle(folder, "auto", "auto")
    list(predict(bundle, excerpts))
    start, count = time.monotonic(), 0
    while time.monotonic() - start < seconds:
        count += sum(isinstance(row, Prediction) for row in predict(bundle, list(excerpts) * 4))
    print(
        f"{folder.name}: genretree.predict alone: {count / (time.monotonic() - start):.1f} files/s ({bundle.runtime})"
    )


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, help="bundles, with an export for speed")
    parser.add_argument("--file", type=Path, required=True, help="song to cut excerpts from")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of an excerpt")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--measure", type=float, default=2.0, help="seconds of each measurement")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(f"{available_processors()} processors; excerpts of {options.seconds:g} s; {options.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        excerpts = cut(options.file, options.seconds, Path(folder))
        for bundle in options.bundles:
            measure_service(bundle, excerpts, options.clients, options.measure, options.rounds)
            measure_predict(bundle, excerpts, 3 * options.measure)


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        _port, _clients, _seconds, *_excerpts = sys.argv[2:]
        print(
            json.dumps(asyncio.run(run_clients(int(_port), list(map(Path, _excerpts)), int(_clients), float(_seconds))))
        )
    else:
        main()
