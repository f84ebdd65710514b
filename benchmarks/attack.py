"""Attack the service in many ways, within bounded time, and print what held.

    python benchmarks/attack.py [--seconds 180] [--groups playlists bombs ...] [--json FILE]

Starts services in separate processes: one with the default limits and two decoding workers, one with a token, one
worker and limits that are soon reached, and one whose temporary folder is on a small tmpfs that gets full (only root
can mount it; skipped otherwise). The model has random weights. Groups: playlists, bombs, names, headers, half-open,
kills, full disk, bundles. An attack holds if the responses are the expected ones, and the service then is healthy,
predicts the same path for a song as before, has all its workers, and has no upload left. The last group loads bad
bundles in child processes. Attacks that `--seconds` leave no time for, and the one that it interrupts, have not held.
Inputs are the same in every run. Uses the inputs of the tests. Exits with 1 if anything did not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import soundfile as sf
from fuzz import mutate, seed_files

_TESTS = Path(__file__).parents[1] / "tests"
sys.path += [str(_TESTS), str(_TESTS / "service")]

from hostile_inputs import (  # noqa: E402
    BOUNDARY,
    MALFORMED_FORMS,
    NAMES,
    NOT_AUDIO,
    TOKEN,
    Killer,
    flac_of_silence,
    part,
    start_of_upload,
)
from serving import STRICT_LIMITS, STRICT_TOKEN, Server, wait_until  # noqa: E402
from small_bundle import write_bundle  # noqa: E402

from bad_bundles import write_bad_bundles  # noqa: E402
from genretree.settings import SAMPLE_RATE  # noqa: E402
from other_files import canary, hls, with_external_data, write_all  # noqa: E402
from small_corpus import synthesise  # noqa: E402

N_MUTATED = 150
BUNDLE_SECONDS = 20.0  # for loading one bad bundle
_RAN_PICKLE = ", and ran a pickle"
_FORM = f"multipart/form-data; boundary={BOUNDARY}"


class TimeIsOverError(BaseException):
    """The benchmark took longer than allowed; not an `Exception`, so that no attack catches it."""


class SkippedError(Exception):
    """An attack can't be tried on this machine."""


@dataclass
class Result:
    """What became of an attack."""

    group: str
    tried: str
    expected: str
    result: str  # "held", "skipped" or "did not hold"
    detail: str
    seconds: float


@dataclass
class Target:
    """The services under attack, a song, and an empty folder."""

    server: Server
    strict: Server
    bundle: Path
    song: bytes
    folder: Path

    def post(self, content: bytes, name: str = "a.mp3", address: str = "/v1/predict", **params: str) -> httpx.Response:
        """Upload a file to the service with default limits."""
        response: httpx.Response = self.server.client.post(address, files={"file": (name, content)}, params=params)
        return response

    def run_job(self, content: bytes, do: str) -> dict[str, Any]:
        """Run a job to its end and return its state."""
        response = self.post(content, address="/v1/jobs", do=do)
        require(response.status_code == 202, f"{response.status_code}: {response.text[:200]}")
        link = response.json()["links"]["self"]
        state: dict[str, Any] = {}

        def has_ended() -> bool:
            state.update(self.server.client.get(link).json())
            return state["status"] in ("done", "failed")

        wait_until(has_ended, 40)
        self.server.client.delete(link)
        return state

    def check(self, path: Any) -> Any:
        """Check that both services work as before; returns the path of the song."""
        for server, headers in ((self.server, {}), (self.strict, TOKEN)):
            require(server.process.poll() is None, f"the service ended with {server.process.poll()}")
            wait_until(lambda server=server: server.client.get("/healthz").status_code == 200, 60)
            wait_until(lambda server=server: server.metric("genretree_decode_busy") == 0)
            n_workers = 2 if server is self.server else 1
            wait_until(lambda server=server, n=n_workers: server.metric("genretree_decode_ready") == n, 60)
            wait_until(lambda server=server: not [name for name in server.left() if name.startswith("upload")])
            response = server.client.post("/v1/predict", files={"file": ("a.mp3", self.song)}, headers=headers)
            require(
                response.status_code == 200, f"afterwards a song gets {response.status_code}: {response.text[:200]}"
            )
            found = response.json()["results"][0]["path"]
            path = path or found
            require(found == path, f"afterwards the song's path is {found}, not {path}")
        return path


def require(condition: bool, detail: str) -> None:
    """Raise an error if an attack did not hold."""
    if not condition:
        raise AssertionError(detail)


def check_refused(response: httpx.Response, kinds: tuple[str, ...], what: str) -> None:
    """Require a problem document with status 4xx and one of these kinds."""
    detail = f"{what}: {response.status_code}: {response.text[:200]}"
    require(400 <= response.status_code < 500 and response.json()["kind"] in kinds, detail)


# ---------------------------------------------------------------------------------------------------------------------
# Playlists


def send_playlists(target: Target) -> str:
    """Send every playlist in every disguise."""
    with canary(target.folder / "elsewhere") as other:
        files = write_all(target.folder / "songs", other.path)
        for path in files:
            check_refused(target.post(path.read_bytes(), path.name), ("not_audio", "truncated"), path.name)
        require(not other.opened, "the named file was opened")
    return f"{len(files)} files"


def send_references(target: Target) -> str:
    """Send an m4a whose audio is in another file, and a playlist as a job."""
    with canary(target.folder / "elsewhere") as other:
        response = target.post(with_external_data(seed_files()["m4a"], other.path), "a.m4a")
        check_refused(response, ("not_audio", "truncated", "empty"), "m4a")
        state = target.run_job(hls(str(other.path)) + b"# \xff\n", "explain")
        require(state["status"] == "failed", f"job: {state['status']}")
        require(not other.opened, "the named file was opened")
    return f"m4a: {response.json()['kind']}"


# ---------------------------------------------------------------------------------------------------------------------
# Bombs


def send_silence(target: Target) -> str:
    """Send two hours of silence in a small file, with and without a declared length."""
    slowest = 0.0
    for declared in (True, False):
        content = flac_of_silence(2 * 3600, declared)
        for server, headers in ((target.server, {}), (target.strict, TOKEN)):
            begun = time.monotonic()
            response = server.client.post("/v1/predict", files={"file": ("a.flac", content)}, headers=headers)
            slowest = max(slowest, time.monotonic() - begun)
            check_refused(response, ("too_long",), "silence")
    require(slowest < 20, f"took {slowest:.1f} s")
    return f"{len(content):,} bytes; slowest {slowest:.1f} s"


def send_chunks(target: Target) -> str:
    """Send files of millions of chunks, boxes and tags."""
    files = {
        "wav": b"RIFF\0\0\0\0WAVE" + b"junk\0\0\0\0" * 3_000_000,
        "aiff": b"FORM\0\0\0\0AIFF" + b"junk\0\0\0\0" * 3_000_000,
        "m4a": b"\0\0\0\x08free" * 3_000_000,
        "mp3": b"ID3\x04\0\0\0\0\0\0" * 3_000_000 + target.song,
    }
    slowest = 0.0
    for name, content in files.items():
        begun = time.monotonic()
        check_refused(target.post(content, f"a.{name}"), ("not_audio",), name)
        slowest = max(slowest, time.monotonic() - begun)
    require(slowest < 20, f"took {slowest:.1f} s")
    return f"slowest {slowest:.1f} s"


def send_cover(target: Target) -> str:
    """Send a song with a cover of 900 million pixels, in a job, which reads covers."""
    from mutagen.id3 import APIC, ID3

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    size = 30_000
    rows = zlib.compress(bytes((1 + size // 8) * size))
    header = size.to_bytes(4, "big") * 2 + b"\x01\0\0\0\0"
    picture = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    song = io.BytesIO(target.song)
    tags = ID3()
    tags.add(APIC(encoding=0, mime="image/png", type=3, desc="", data=picture))
    tags.save(song)
    state = target.run_job(song.getvalue(), "predict")
    require(state["status"] == "done", f"{state}"[:200])
    require(not state["result"].get("cover"), "has a cover")
    return f"{len(picture):,} bytes; no cover"


def send_compressed(target: Target) -> str:
    """Send archives, noise and text under the name of a song, and a compressed request."""
    for content, kinds in NOT_AUDIO.values():
        check_refused(target.post(content), tuple(kinds), "file")
    body = zlib.compress(part('Content-Disposition: form-data; name="files"; filename="a"', bytes(50 << 20)), 9)
    headers = {"content-type": _FORM, "content-encoding": "deflate"}
    response = target.server.client.post("/v1/predict", content=body, headers=headers)
    check_refused(response, ("bad_request",), "compressed request")
    return f"{len(NOT_AUDIO)} files, a request"


def send_large(target: Target) -> str:
    """Send more bytes than allowed, with and without a declared length."""

    def pieces() -> Iterator[bytes]:
        yield part('Content-Disposition: form-data; name="files"; filename="a"', b"")[:-2]
        for _ in range(40):
            yield bytes(1 << 16)

    client, headers = target.strict.client, {"content-type": _FORM, **TOKEN}
    for content in (bytes(3 << 20), pieces()):
        check_refused(client.post("/v1/predict", content=content, headers=headers), ("too_large",), "upload")
    return ""


def send_mutated(target: Target) -> str:
    """Send damaged files of 15 formats."""
    files, crashed = (
        seed_files(),
        target.server.metric('genretree_workers_replaced_total{pool="decode",reason="crashed"}'),
    )
    results: Counter[str] = Counter()

    def send(number: int) -> tuple[str, int, str]:
        name, content = mutate(files, 0, number)
        response = httpx.post(f"{target.server.url}/v1/predict", files={"file": (f"a.{name}", content)}, timeout=60)
        kind = "decoded" if response.status_code == 200 else response.json()["kind"]
        return f"{number}.{name}", response.status_code, kind

    with ThreadPoolExecutor(4) as pool:
        for name, status, kind in pool.map(send, range(N_MUTATED)):
            require(status in (200, 422) and kind != "crashed", f"{name}: {status} {kind}")
            results[kind] += 1
    now = target.server.metric('genretree_workers_replaced_total{pool="decode",reason="crashed"}')
    require(now == crashed, f"{now - crashed:.0f} workers crashed")
    return ", ".join(f"{kind} {count}" for kind, count in results.most_common())


# ---------------------------------------------------------------------------------------------------------------------
# Names and forms


def send_names(target: Target) -> str:
    """Send names of other files, markup and bytes that are not text."""
    before = set(target.server.left())
    extended = ["..%2F..%2Fetc%2Fpasswd", "%00", "%FF%FE", "a" * 5000, "%0D%0AX-Injected:%20yes"]
    names = [f'filename="{name}"' for name in NAMES] + [f"filename=\"a\"; filename*=UTF-8''{name}" for name in extended]
    for name in names:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; {name}\r\n\r\n'
        body = head.encode("utf-8", "surrogateescape") + target.song + f"\r\n--{BOUNDARY}--\r\n".encode()
        response = target.server.client.post("/v1/predict", content=body, headers={"content-type": _FORM})
        require(response.status_code in (200, 400), f"{name[:50]!r}: {response.status_code}: {response.text[:200]}")
        require("x-injected" not in response.headers, f"{name[:50]!r}: sets a header")
    require(set(target.server.left()) <= before, "files are left")
    return f"{len(names)} names"


def send_forms(target: Target) -> str:
    """Send malformed forms."""
    for name, (body, expected) in MALFORMED_FORMS.items():
        response = target.server.client.post("/v1/predict", content=body, headers={"content-type": _FORM})
        check_refused(response, ("bad_request",), name)
        require(expected in response.json()["detail"], f"{name}: {response.json()['detail']}")
    return f"{len(MALFORMED_FORMS)} forms"


def send_addresses(target: Target) -> str:
    """Ask for files outside the service."""
    addresses = [
        "/../../../../etc/passwd",
        "/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1/jobs/..%2f..%2fetc%2fpasswd",
        "/v1/jobs/x/pictures/..%2f..%2f..%2fetc%2fpasswd",
        "/main.js/../../__init__.py",
        "/..%5c..%5cetc%5cpasswd",
        "/%00",
        "/v1/tree?model=..%2f..%2fetc",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "*",
    ]
    for address in addresses:
        answer = exchange(
            target.server, f"GET {address} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        status = answer[:12].decode("latin-1")
        require(status.startswith("HTTP/1.1 4") and b"root:" not in answer, f"{address}: {answer[:100]!r}")
    return f"{len(addresses)} addresses"


# ---------------------------------------------------------------------------------------------------------------------
# Headers


def exchange(server: Server, sent: bytes, seconds: float = 25) -> bytes:
    """Send bytes over a connection of their own and read until the service closes it."""
    found = b""
    with server.connect() as connection:
        connection.settimeout(seconds)
        with contextlib.suppress(ConnectionError):
            connection.sendall(sent)
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(1 << 16):
                found += piece
    return found


def send_headers(target: Target) -> str:
    """Send too large, contradictory and malformed headers: refused or disconnected, never processed."""
    get = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    post = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: " + _FORM.encode() + b"\r\n"
    requests = {
        "100 kB, unfinished": get + b"X: " + b"y" * 100_000,
        "17 kB": get + b"X: " + b"y" * 17_000 + b"\r\n\r\n",
        "64 kB of address": b"GET /" + b"a" * 65_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "5,000 lines": get + b"".join(b"X%d: y\r\n" % number for number in range(5000)) + b"\r\n",
        "120 lines": get + b"".join(b"X%d: y\r\n" % number for number in range(120)) + b"\r\n",
        "two lengths": post + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "negative length": post + b"Content-Length: -1\r\n\r\n",
        "huge length": post + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
        "length that is not a number": post + b"Content-Length: 0x10\r\n\r\n",
        "unknown transfer coding": post + b"Transfer-Encoding: gzip\r\n\r\n",
        "bad chunk": post + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\nx",
        "NUL": get + b"X: a\0b\r\n\r\n",
        "no colon": get + b"nonsense\r\n\r\n",
        "folded name": get + b"X y: z\r\n\r\n",
        "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
        "two hosts": get + b"Host: evil.example\r\n\r\n",
        "HTTP 0.9": b"GET /healthz\r\n\r\n",
        "HTTP 9.9": b"GET /healthz HTTP/9.9\r\nHost: localhost\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(32) + b"\r\n\r\n",
        "noise": bytes(range(256)) * 20 + b"\r\n\r\n",
        "foreign host": b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        "foreign origin": get.replace(b"healthz", b"v1/models") + b"Origin: http://evil.example\r\n\r\n",
    }
    for name, content in requests.items():
        answer = exchange(target.server, content)
        require(not answer or answer.startswith(b"HTTP/1.1 4"), f"{name}: {answer[:100]!r}")
    return f"{len(requests)} requests"


def smuggle(target: Target) -> str:
    """Hide a request in the body of another, which gives a length and chunks."""
    hidden = b"DELETE /v1/jobs/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
    sent = head % (5 + len(hidden)) + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n" + hidden
    answer = exchange(target.server, sent)
    require(answer.startswith(b"HTTP/1.1 4") and answer.count(b"HTTP/1.1 ") == 1, f"{answer[:300]!r}")
    return answer[:12].decode()


def guess_tokens(target: Target) -> str:
    """Guess tokens, also with a header that is not text."""
    guesses = [b"Bearer wrong", b"Basic c2VzYW1l", b"Bearer", b"Bearer " + b"x" * 8000, "Bearer é".encode(), b""]
    for guess in guesses:
        for address in ("/v1/models", "/v1/jobs/x", "/v1/nothing"):
            response = target.strict.client.get(address, headers={"authorization": guess})
            require(response.status_code in (401, 429), f"{guess[:20]!r}: {response.status_code}")
    return f"{3 * len(guesses)} requests"


# ---------------------------------------------------------------------------------------------------------------------
# Half-open connections


def hold_connections(target: Target) -> str:
    """Open 60 connections (limit: 12) that send nothing or a part of a request, and ask for a prediction."""
    starts = [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: local"]
    held = []
    try:
        for number in range(60):
            held.append(target.strict.connect())
            with contextlib.suppress(ConnectionError):
                held[-1].sendall(starts[number % 3])
        begun = time.monotonic()
        wait_until(lambda: predict_strict(target) == 200, 15)
        waited = time.monotonic() - begun
        for connection in held:
            connection.settimeout(10)
            with contextlib.suppress(ConnectionError):
                while connection.recv(1 << 16):
                    pass
    finally:
        for connection in held:
            connection.close()
    return f"prediction after {waited:.1f} s"


def predict_strict(target: Target) -> int:
    """Return the status of a prediction by the service with low limits; 0 if it closes the connection."""
    files = {"file": ("a.mp3", target.song)}
    try:
        return httpx.post(f"{target.strict.url}/v1/predict", files=files, headers=TOKEN, timeout=30).status_code
    except httpx.TransportError:
        return 0


def drip_headers(target: Target) -> str:
    """Send a header byte by byte, faster than the time limit for silence."""
    begun = time.monotonic()
    with target.strict.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ")
        connection.settimeout(0.2)
        closed = False
        while not closed and time.monotonic() - begun < 12:
            try:
                connection.sendall(b"y")
                closed = connection.recv(1000) is not None
            except TimeoutError:
                continue
            except ConnectionError:
                closed = True
    require(closed, f"still open after {time.monotonic() - begun:.0f} s")
    return f"closed after {time.monotonic() - begun:.1f} s"


def drip_upload(target: Target) -> str:
    """Send an upload byte by byte, and hang up in the middle of others."""
    begun = time.monotonic()
    answer = b""
    with start_of_upload(target.strict) as connection:
        connection.settimeout(0.2)
        while not answer and time.monotonic() - begun < 12:
            try:
                answer = connection.recv(100)
            except TimeoutError:
                connection.sendall(b"x")
    require(answer.startswith(b"HTTP/1.1 408 "), f"{answer!r}")
    for _ in range(20):
        start_of_upload(target.server).close()
    wait_until(lambda: not [name for name in target.server.left() if name.startswith("upload")])
    return f"408 after {time.monotonic() - begun:.1f} s"


def read_nothing(target: Target) -> str:
    """Ask for the page again and again, and read nothing: the service must give the connection up."""
    begun = time.monotonic()
    request = b"GET /page.css HTTP/1.1\r\nHost: localhost\r\n\r\n"
    service = psutil.Process(target.strict.process.pid)

    def is_held(port: int) -> bool:
        return any(each.raddr and each.raddr.port == port for each in service.net_connections("tcp"))

    with target.strict.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(1)
        port = connection.getsockname()[1]
        wait_until(lambda: is_held(port), 2)  # until the service has accepted the connection
        while is_held(port) and time.monotonic() - begun < 15:
            with contextlib.suppress(OSError):  # the service no longer reads, either, or has closed the connection
                connection.sendall(request * 20)
            time.sleep(0.05)
        require(not is_held(port), "still connected after 15 s")
    return f"given up after {time.monotonic() - begun:.1f} s"


def hang_up(target: Target) -> str:
    """Hang up while files wait."""
    workers = target.server.workers()
    for worker in workers:
        worker.suspend()
    try:
        for _ in range(10):
            with contextlib.suppress(httpx.ReadTimeout):
                httpx.post(f"{target.server.url}/v1/predict", files={"file": ("a", target.song)}, timeout=0.2)
        wait_until(lambda: target.server.metric("genretree_decode_queue") == 0)
    finally:
        for worker in workers:
            with contextlib.suppress(psutil.Error):
                worker.resume()
    return ""


# ---------------------------------------------------------------------------------------------------------------------
# Kills


def _predict_many(target: Target, count: int) -> Counter[str]:
    """Send predictions at once; return how many got each status and kind."""

    def send(_: int) -> str:
        response = httpx.post(f"{target.server.url}/v1/predict", files={"file": ("a.mp3", target.song)}, timeout=60)
        return (
            str(response.status_code)
            if response.status_code == 200
            else f"{response.status_code} {response.json()['kind']}"
        )

    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(send, range(count)))


def kill_starting(target: Target) -> str:
    """Kill six workers in a row while they start."""
    killer = Killer(target.server, 6)
    killer.start()
    try:
        found = _predict_many(target, 12)
        killer.join(30)
    finally:
        killer.done.set()
    require(killer.left == 0 and found == Counter({"200": 12}), f"{dict(found)}, {killer.left} kills left")
    return "12 of 12 requests got 200"


def kill_working(target: Target) -> str:
    """Kill ten workers in a row while they decode."""
    done = threading.Event()

    def kill() -> None:
        for _ in range(10):
            if done.wait(0.4):
                return
            for worker in target.server.workers()[:1]:
                with contextlib.suppress(psutil.Error):
                    worker.kill()

    found: Counter[str] = Counter()
    thread = threading.Thread(target=kill)
    thread.start()
    try:
        while thread.is_alive():
            found += _predict_many(target, 8)
    finally:
        done.set()
        thread.join()
    require(set(found) <= {"200", "422 crashed"}, f"{dict(found)}")
    require(found["422 crashed"] <= 10, f"{found['422 crashed']} requests failed after 10 kills")
    return ", ".join(f"{count} times {name}" for name, count in sorted(found.items()))


def kill_explaining(target: Target) -> str:
    """Kill the explaining worker in three jobs in a row."""
    for _ in range(3):
        wait_until(lambda: target.server.workers("explain") != [], 30)
        response = target.post(target.song, address="/v1/jobs", do="explain")
        link = response.json()["links"]["self"]
        wait_until(lambda: target.server.metric("genretree_explain_busy") == 1, 30)
        for worker in target.server.workers("explain"):
            worker.kill()
        wait_until(lambda link=link: target.server.client.get(link).json()["status"] in ("failed", "done"), 30)
        target.server.client.delete(link)
    state = target.run_job(target.song, "explain")
    require(state["status"] == "done", f"the next job: {state}"[:200])
    return "the next job is done"


def stop_worker(target: Target) -> str:
    """Stop the worker of the service with low limits (10 s for a file), as a decoder that hangs."""
    (worker,) = target.strict.workers()
    worker.suspend()
    begun = time.monotonic()
    try:
        status = predict_strict(target)
    finally:
        with contextlib.suppress(psutil.Error):
            worker.resume()
    require(status == 504, f"status {status}")
    return f"504 after {time.monotonic() - begun:.1f} s"


def kill_all(target: Target) -> str:
    """Kill every worker as soon as it starts, until the service fails; then let them start."""
    killer = Killer(target.server, float("inf"))
    killer.start()
    try:
        wait_until(lambda: target.server.client.get("/healthz").status_code == 503, 40)
        found = _predict_many(target, 12)
        require(set(found) == {"503 unavailable"}, f"{dict(found)}")
    finally:
        killer.done.set()
        killer.join()
    begun = time.monotonic()
    wait_until(lambda: target.server.client.get("/healthz").status_code == 200, 65)
    return f"recovers after {time.monotonic() - begun:.0f} s"


# ---------------------------------------------------------------------------------------------------------------------
# Full disk


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a tmpfs of 48 MB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise SkippedError("only root can mount a small disk")
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        raise SkippedError(f"can't mount a small disk: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_disk(target: Target) -> str:
    """Fill the disk of a service's temporary folder before requests, then free it."""
    with small_disk(target.folder / "disk") as disk, Server(disk, [str(target.bundle), "--workers", "1"]) as server:
        files = {"file": ("a.wav", bytes(8 << 20))}

        def post(address: str) -> httpx.Response:
            response: httpx.Response = server.client.post(address, files=files)
            return response

        filler = disk / "filler"
        with filler.open("wb") as stream, contextlib.suppress(OSError):
            while stream.write(bytes(1 << 16)):
                stream.flush()
        health = server.client.get("/healthz")
        require(health.status_code == 503, f"/healthz: {health.status_code}")
        for address in ("/v1/predict", "/v1/explain", "/v1/jobs"):
            response = post(address)
            detail = f"{address}: {response.status_code}: {response.text[:200]}"
            require(response.status_code == 503 and response.json()["kind"] == "busy", detail)
            require(int(response.headers.get("retry-after", 0)) > 0, f"{address}: no Retry-After")
        require(not [name for name in server.left() if name.startswith("upload")], "uploads are left")
        os.truncate(filler, 0)
        require(server.client.get("/healthz").status_code == 200, "still unhealthy after the disk was freed")
        response = server.client.post("/v1/predict", files={"file": ("a.mp3", target.song)})
        require(response.status_code == 200, f"after the disk was freed: {response.status_code}")
        filler.unlink()
    return "503 busy; 200 after it was freed"


# ---------------------------------------------------------------------------------------------------------------------
# Bad bundles


def load_in_child(folders: list[str], sprung: str) -> None:
    """Load bundles as the service does and print a line of JSON for each."""
    from genretree.errors import GenretreeError
    from genretree.models.runtime.types import RuntimeChoice
    from genretree.service.engine.loaded_models import load_models

    for folder in folders:
        runtime: RuntimeChoice = (
            "torch" if Path(folder).name.startswith("weights") else "auto"
        )  # exports need no weights
        try:
            load_models([Path(folder)], runtime, "auto")
            outcome = "loaded"
        except GenretreeError as error:
            outcome = f"refused: {error}"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        print(json.dumps([folder, outcome + (_RAN_PICKLE if Path(sprung).exists() else "")]), flush=True)


def load_bad_bundles(target: Target) -> str:
    """Load bundles with one thing wrong in each."""
    sprung = target.folder / "sprung"
    waiting = [str(path) for path in write_bad_bundles(target.bundle, target.folder / "bundles", sprung)]
    count = len(waiting)
    wrong: list[str] = []
    while waiting:
        command = [sys.executable, __file__, "--child", str(sprung), *waiting]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            assert child.stdout is not None
            try:
                while waiting and select.select([child.stdout], [], [], BUNDLE_SECONDS)[0]:
                    line = child.stdout.readline()
                    if not line:
                        break
                    folder, outcome = json.loads(line)
                    waiting.remove(folder)
                    if not outcome.startswith("refused") or outcome.endswith(_RAN_PICKLE):
                        wrong.append(f"{Path(folder).name}: {outcome}")
            finally:
                child.kill()
            if waiting:
                wrong.append(f"{Path(waiting.pop(0)).name}: ended or hung (exit status {child.wait()})")
    require(not wrong, "; ".join(wrong))
    return f"{count} bundles"


def serve_bad_bundles(target: Target) -> str:
    """Start the service with bad bundles."""
    shutil.copytree(target.bundle, target.folder / "bad")
    (target.folder / "bad" / "model.safetensors").write_bytes(b"damaged")
    for folder in (target.folder / "bad", target.folder):
        command = [sys.executable, "-m", "genretree", "serve", str(folder), "--port", "0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
        message = done.stderr.strip()
        require(done.returncode != 0 and bool(message) and "Traceback" not in message, f"{done.returncode}: {message}")
    return f"exit status {done.returncode}"


# ---------------------------------------------------------------------------------------------------------------------

Attack = tuple[str, str, Callable[[Target], str]]
ATTACKS: dict[str, list[Attack]] = {
    "playlists": [
        ("16 kinds of playlists in 8 disguises, named as audio", "422; the named file is not opened", send_playlists),
        ("an m4a with its audio elsewhere; a playlist to explain", "422, failed; nothing opened", send_references),
    ],
    "bombs": [
        ("2 h of silence in a small flac, length declared or not", "422 too_long, within 20 s", send_silence),
        ("3 million chunks, boxes or tags (wav, aiff, m4a, mp3)", "422 not_audio, within 20 s", send_chunks),
        ("a cover of 30,000 x 30,000 pixels", "the job is done, without cover", send_cover),
        ("zip, text, noise; a deflated form of 50 MB", "422; 400", send_compressed),
        ("more bytes than allowed, with and without length", "413", send_large),
        (f"{N_MUTATED} mutated files of 15 formats", "200 or 422; no worker crashes", send_mutated),
    ],
    "names": [
        ("names with ../, NUL, markup, other bytes; RFC 5987", "only repeated; no file, no header", send_names),
        ("malformed forms", "400 with the reason", send_forms),
        ("addresses of files outside", "4xx", send_addresses),
    ],
    "headers": [
        ("too large, contradictory and malformed headers", "4xx or disconnected", send_headers),
        ("a request hidden in another (length and chunks)", "one response, 4xx", smuggle),
        ("wrong tokens", "401 or 429", guess_tokens),
    ],
    "half-open": [
        ("60 half-open connections, limit 12", "closed; a prediction gets through in 15 s", hold_connections),
        ("a header, byte by byte", "disconnected in 12 s", drip_headers),
        ("an upload, byte by byte; 20 broken uploads", "408; nothing is left", drip_upload),
        ("requests without reading the responses", "given up in 15 s", read_nothing),
        ("10 clients that hang up while they wait", "the queue gets empty", hang_up),
    ],
    "kills": [
        ("6 workers in a row killed while they start", "every request gets 200", kill_starting),
        ("10 workers in a row killed while they decode", "200, or 422 crashed, at most 10", kill_working),
        ("the explaining worker killed in 3 jobs in a row", "the next job is done", kill_explaining),
        ("a worker that hangs (limit 10 s)", "504", stop_worker),
        ("every worker killed as it starts", "503 unavailable; recovers in 65 s", kill_all),
    ],
    "full disk": [("a full disk (tmpfs), then freed", "503 busy, then 200; nothing is left", fill_disk)],
    "bundles": [
        ("bad weights, pickles, exports and descriptions", "refused with a message; no pickle runs", load_bad_bundles),
        ("serve a damaged bundle and no bundle", "ends with a message", serve_bad_bundles),
    ],
}


def _interrupt(*_: object) -> None:
    raise TimeIsOverError


def run_attacks(target: Target, groups: list[str], results: list[Result]) -> None:
    """Run attack after attack and append the results."""
    path = target.check(None)
    for group in groups:
        for tried, expected, attack in ATTACKS[group]:
            begun = time.monotonic()
            results.append(Result(group, tried, expected, "did not hold", "time is over", 0.0))
            target.folder = Path(tempfile.mkdtemp(dir=target.bundle.parent))
            try:
                detail = attack(target)
                if group != "bundles":
                    target.check(path)
                results[-1].result, results[-1].detail = "held", detail
            except SkippedError as error:
                results[-1].result, results[-1].detail = "skipped", str(error)
            except Exception as error:
                results[-1].detail = " ".join(f"{type(error).__name__}: {error}".split())[:400]
            results[-1].seconds = round(time.monotonic() - begun, 1)
            show(results[-1])


def show(result: Result) -> None:
    """Print a row of the table."""
    outcome = f"{result.result}: {result.detail}" if result.detail else result.result
    cells = (result.group, result.tried, result.expected, outcome.replace("|", "/"), f"{result.seconds:.1f} s")
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> int:
    """Attack the service."""
    if sys.argv[1:2] == ["--child"]:
        load_in_child(sys.argv[3:], sys.argv[2])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=180, help="total time limit")
    parser.add_argument("--groups", nargs="+", choices=list(ATTACKS), default=list(ATTACKS), help="groups of attacks")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    results: list[Result] = []
    begun = time.monotonic()
    signal.signal(signal.SIGALRM, _interrupt)
    signal.alarm(options.seconds)
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            bundle, song = folder / "bundle", folder / "song.mp3"
            write_bundle(bundle)
            sf.write(song, synthesise("Fast_beat", 77), SAMPLE_RATE)
            server = stack.enter_context(Server(folder / "server", [str(bundle), "--workers", "2"]))
            strict_options = {"bundles": [str(bundle)], "limits": STRICT_LIMITS, "token": STRICT_TOKEN}
            strict = stack.enter_context(Server(folder / "strict", **strict_options))
            print("| group | tried | expected | result | time |\n| --- | --- | --- | --- | --- |")
            run_attacks(Target(server, strict, bundle, song.read_bytes(), folder), options.groups, results)
            signal.alarm(0)
    except TimeIsOverError:
        if results and results[-1].detail == "time is over":
            show(results[-1])
    finally:
        signal.alarm(0)
    done = {(result.group, result.tried) for result in results}
    for group in options.groups:
        for tried, expected, _ in ATTACKS[group]:
            if (group, tried) not in done:
                results.append(Result(group, tried, expected, "did not hold", "not tried: time is over", 0.0))
                show(results[-1])
    counts = Counter(result.result for result in results)
    print(f"\n{', '.join(f'{count} {name}' for name, count in counts.items())}; {time.monotonic() - begun:.0f} s")
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    return 1 if counts["did not hold"] else 0


if __name__ == "__main__":
    sys.exit(main())
