"""Compare `genretree serve` with a service as most people write it: requests a second and latency, alternating.

    python benchmarks/side_by_side.py BUNDLE --music FOLDER [--minutes 10] [--clients 1 4 16 64] [--json FILE]

The other service is FastAPI and uvicorn, once with one process and once with one for each processor (`--processes`).
It decodes an upload with librosa.load, computes mel, CQT and chroma with librosa, renders the slices with genretree's
own function, so that the images are the same, and runs the network of the same bundle in PyTorch, float32.
`genretree serve` uses the bundle's export.

FFmpeg cuts 30 s from the middle of each of `--songs` files, at equal distances in the sorted list of FOLDER, and
encodes them as mp3. First, each service predicts each of them once, and the paths are compared. Then rounds follow, as
many as fit into `--minutes`, at least one: for each number of clients, one service after the other, in reversed order
every other round. In a run, each client sends the next file once it has its response; the number of requests is a
multiple of the number of clients, about as many as the service completes in `--seconds`. Requests a second are
completed requests over the time until the last response; a response fails if its status is not 200 or its path differs
from the first one of the same service. The table shows medians over the rounds (minimum to maximum), and their ratios.
All services stay up all the time; an idle one uses no processor. The clients are one more process on the same
processors. Nothing is random. Exits with 1 if a request failed, or the services agree on fewer than 9 of 10 files.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile as sf
from fastapi import FastAPI, UploadFile

from genretree.bundle.bundle import load_bundle
from genretree.parallel import available_processors
from genretree.prediction.predict import as_prediction, score_images
from genretree.settings import SAMPLE_RATE
from genretree.sound.slices import render_image, slice_starts
from genretree.sound.suffixes import SUFFIXES
from service import build_request, run_service, send_request

OURS = "genretree"
MIN_AGREEMENT = 0.9
EXCERPT_SECONDS = 30
_BUNDLE = "SIDE_BY_SIDE_BUNDLE"  # uvicorn's processes get these from the environment
_READY = "SIDE_BY_SIDE_READY"

# ---------------------------------------------------------------------------------------------------------------------
# The usual service


def create_app() -> FastAPI:
    """Create the usual service; uvicorn calls this in each process."""
    import librosa

    bundle = load_bundle(os.environ[_BUNDLE], "torch", "float32")
    app = FastAPI()

    def compute_images(path: str) -> Any:
        y, sr = librosa.load(path, sr=SAMPLE_RATE)
        spectra = (
            librosa.power_to_db(librosa.feature.melspectrogram(y=y, sr=sr), ref=np.max),
            librosa.power_to_db(np.abs(librosa.cqt(y, sr=sr)) ** 2, ref=np.max),
            librosa.power_to_db(librosa.feature.chroma_stft(y=y, sr=sr) ** 2, ref=np.max),
        )
        width = bundle.images.slice_frames
        starts = slice_starts(spectra[0].shape[1], width).tolist()
        slices = [[each[:, start : start + width] for each in spectra] for start in starts]
        return np.stack([[render_image(part, bundle.images.size) for part in parts] for parts in slices])

    @app.post("/v1/predict")
    def predict(files: UploadFile) -> dict[str, Any]:  # in a thread, as FastAPI runs functions that are not async
        with tempfile.NamedTemporaryFile(suffix=".mp3") as upload:
            shutil.copyfileobj(files.file, upload)
            upload.flush()
            scores = score_images(bundle, compute_images(upload.name))
        return {"results": [{"path": as_prediction(bundle, files.filename or "", scores).path}]}

    _warm_up(compute_images)
    Path(os.environ[_READY], str(os.getpid())).touch()
    return app


def _warm_up(compute_images: Callable[[str], Any]) -> None:
    """Compile what librosa compiles at the first call, before the service is ready."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as noise:
        sf.write(noise.name, np.random.default_rng(0).uniform(-0.1, 0.1, 30 * SAMPLE_RATE), SAMPLE_RATE)
        compute_images(noise.name)


@contextmanager
def run_usual_service(bundle: Path, processes: int) -> Iterator[str]:
    """Run the usual service while the block runs; yields its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "uvicorn", "--factory", "side_by_side:create_app", "--port", port]
    command += ["--workers", str(processes), "--log-level", "warning"]
    with tempfile.TemporaryDirectory() as ready:
        search_path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, _BUNDLE: str(bundle), _READY: ready, "PYTHONPATH": search_path}
        with subprocess.Popen(command, env=environment) as service:
            try:
                deadline = time.monotonic() + 120
                while len(list(Path(ready).iterdir())) < processes:
                    if service.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit("the usual service did not start")
                    time.sleep(0.1)
                time.sleep(1.0)  # a process marks itself as ready just before it accepts connections
                yield port
            finally:
                children = psutil.Process(service.pid).children(recursive=True) if service.poll() is None else []
                service.terminate()
                for process in psutil.wait_procs(children, 10)[1]:
                    process.kill()


# ---------------------------------------------------------------------------------------------------------------------
# Clients


def cut_excerpts(music: Path, n_songs: int, folder: Path) -> list[Path]:
    """Cut 30 s from the middle of songs, as mp3."""
    songs = sorted(path for path in music.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not songs:
        raise SystemExit(f"{music}: has no audio files; name a folder with songs of {EXCERPT_SECONDS} s or more")
    chosen = [songs[at] for at in np.unique(np.linspace(0, len(songs) - 1, n_songs).round().astype(int))]
    excerpts = []
    for number, song in enumerate(chosen):
        start = max(0.0, (sf.info(song).duration - EXCERPT_SECONDS) / 2)
        excerpts.append(folder / f"{number:03}-{song.stem}.mp3")
        cut = ["-ss", f"{start:.3f}", "-t", str(EXCERPT_SECONDS), "-i", str(song), "-map", "0:a:0", "-q:a", "2"]
        subprocess.run(["ffmpeg", "-nostdin", "-loglevel", "error", *cut, str(excerpts[-1])], check=True)
    return excerpts


async def run_clients(port: int, excerpts: Sequence[Path], n_clients: int, n_requests: int) -> dict[str, Any]:
    """Send a number of requests; return the seconds until the last response, latencies, paths and failures."""
    requests = [build_request(excerpt) for excerpt in excerpts]
    numbers = iter(range(n_requests))
    paths: dict[str, Any] = {}
    latencies: list[float] = []
    failures: list[str] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            at = number % len(requests)
            sent = time.monotonic()
            status, path = await send_request(reader, writer, requests[at])
            latencies.append(time.monotonic() - sent)
            if status != 200 or path != paths.setdefault(excerpts[at].name, path):
                failures.append(f"{excerpts[at].name}: {status}: {path}")
        writer.close()

    begun = time.monotonic()
    await asyncio.gather(*(client() for _ in range(n_clients)))
    return {"seconds": time.monotonic() - begun, "latencies": latencies, "paths": paths, "failures": failures}


def run_client_process(port: str, excerpts: Sequence[Path], n_clients: int, n_requests: int) -> dict[str, Any]:
    """Run the clients in a separate process."""
    arguments = [port, str(n_clients), str(n_requests), *map(str, excerpts)]
    done = subprocess.run([sys.executable, __file__, "load", *arguments], check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


# ---------------------------------------------------------------------------------------------------------------------
# Measurement


@dataclass
class Runs:
    """The runs of one service with one number of clients: a rate, latencies and failures for each."""

    rates: list[float] = field(default_factory=list)
    p95: list[float] = field(default_factory=list)
    n_requests: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, measured: dict[str, Any], first_paths: dict[str, Any]) -> None:
        """Add a run; paths that differ from the first ones are failures."""
        latencies = measured["latencies"]
        self.rates.append(len(latencies) / measured["seconds"])
        self.p95.append(float(np.percentile(latencies, 95)))
        self.n_requests += len(latencies)
        self.failures += measured["failures"]
        self.failures += [f"{name}: {path}" for name, path in measured["paths"].items() if path != first_paths[name]]


def spread(values: Sequence[float], digits: int) -> str:
    """Format the median with minimum and maximum."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def measure(ports: dict[str, str], excerpts: Sequence[Path], options: argparse.Namespace) -> dict[str, Any]:
    """Compare the paths, then run rounds; return everything for the JSON document."""
    begun = time.monotonic()
    first = {name: run_client_process(port, excerpts, 1, len(excerpts)) for name, port in ports.items()}
    rates = {name: len(excerpts) / run["seconds"] for name, run in first.items()}
    paths = {name: run["paths"] for name, run in first.items()}
    differ = {
        name: {each: path for each, path in paths[OURS].items() if found[each] != path}
        for name, found in paths.items()
        if name != OURS
    }
    for name, files in differ.items():
        print(f"{name}: the same path for {len(excerpts) - len(files)} of {len(excerpts)} files", flush=True)
        for each, path in files.items():
            print(f"  {each}: {paths[name][each]}, {OURS} {path}")
    runs = {name: {n_clients: Runs() for n_clients in options.clients} for name in ports}
    n_rounds, longest = 0, 0.0
    while n_rounds == 0 or time.monotonic() - begun + longest < 60 * options.minutes:
        started = time.monotonic()
        for n_clients in options.clients:
            for name in list(ports)[:: 1 if n_rounds % 2 else -1]:
                n_requests = n_clients * max(1, round(rates[name] * options.seconds / n_clients))
                measured = run_client_process(ports[name], excerpts, n_clients, n_requests)
                runs[name][n_clients].add(measured, paths[name])
        n_rounds += 1
        longest = max(longest, time.monotonic() - started)
    failures = [line for run in first.values() for line in run["failures"]]
    return {
        "rounds": n_rounds,
        "files": len(excerpts),
        "differ": differ,
        "failures": failures + [line for each in runs.values() for run in each.values() for line in run.failures],
        "clients": {
            n_clients: {
                name: {**asdict(each[n_clients]), **_ratios(runs, name, n_clients)} for name, each in runs.items()
            }
            for n_clients in options.clients
        },
    }


def _ratios(runs: dict[str, dict[int, Runs]], name: str, n_clients: int) -> dict[str, float]:
    """Return how many times better genretree's medians are than those of a service."""
    ours, other = runs[OURS][n_clients], runs[name][n_clients]
    return {
        "rate_ratio": statistics.median(ours.rates) / statistics.median(other.rates),
        "p95_ratio": statistics.median(other.p95) / statistics.median(ours.p95),
    }


def print_table(result: dict[str, Any]) -> None:
    """Print a row for each number of clients and service."""
    print(f"\n{result['rounds']} rounds; x: how many times better the median of genretree is")
    print("| clients | service | requests/s | x | 95th percentile, s | x | requests | failed |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for n_clients, services in result["clients"].items():
        for name, row in services.items():
            cells = [str(n_clients), name, spread(row["rates"], 2), f"{row['rate_ratio']:.1f}", spread(row["p95"], 3)]
            cells += [f"{row['p95_ratio']:.1f}", str(row["n_requests"]), str(len(row["failures"]))]
            print(f"| {' | '.join(cells)} |")


def main() -> int:
    """Parse the arguments, run the services and measure."""
    n_processors = available_processors()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="bundle of a network of spectrogram images, with an export")
    parser.add_argument("--music", type=Path, required=True, help="folder of songs to cut excerpts from")
    parser.add_argument("--songs", type=int, default=32, help="number of songs")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--minutes", type=float, default=10.0, help="total time; one round may exceed it")
    parser.add_argument("--seconds", type=float, default=8.0, help="approximate length of a run")
    processes = sorted({1, n_processors})
    parser.add_argument("--processes", type=int, nargs="+", default=processes, help="of the usual service")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    options = parser.parse_args()
    print(f"{n_processors} processors; {options.bundle.name}", flush=True)
    with ExitStack() as stack:
        excerpts = cut_excerpts(options.music, options.songs, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        ports = {
            f"usual, {number} process{'es' * (number > 1)}": stack.enter_context(
                run_usual_service(options.bundle, number)
            )
            for number in options.processes
        }
        ports[OURS] = stack.enter_context(run_service(options.bundle))
        result = measure(ports, excerpts, options)
    print_table(result)
    if options.json:
        settings = {name: getattr(options, name) for name in ("songs", "minutes", "seconds", "processes")}
        document = {"bundle": options.bundle.name, "processors": n_processors, **settings, **result}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    for line in result["failures"][:5]:
        print(f"failed: {line}", file=sys.stderr)
    agrees = all(len(files) <= (1 - MIN_AGREEMENT) * len(excerpts) for files in result["differ"].values())
    if not agrees:
        print(f"the services agree on fewer than {MIN_AGREEMENT:.0%} of the files", file=sys.stderr)
    return 0 if agrees and not result["failures"] else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        _port, _clients, _requests, *_excerpts = sys.argv[2:]
        _paths = [Path(path) for path in _excerpts]
        print(json.dumps(asyncio.run(run_clients(int(_port), _paths, int(_clients), int(_requests)))))
    else:
        sys.exit(main())
