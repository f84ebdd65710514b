"""A service in a separate process, as a user starts it, for requests over real connections."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

# The command has no options for some limits that tests must lower.
_START = """
import json, sys
from genretree.service.engine.inference import Service
from genretree.service.config import Limits
from genretree.service.http.server import allowed_hosts, open_socket, serve
options = json.loads(sys.argv[1])
sock = open_socket("127.0.0.1", 0)
ready = lambda: print("serves at http://127.0.0.1:%d/ (" % sock.getsockname()[1], flush=True)
service = Service(options["bundles"], Limits.build(options["limits"]))
serve(service, sock, options["token"], allowed_hosts(sock, "127.0.0.1", ()), ready)
"""

STRICT_TOKEN = "sesame-open-sesame"
STRICT_LIMITS = {  # soon reached
    "workers": 1,
    "upload_bytes": 1 << 20,
    "seconds": 20,
    "files": 3,
    "idle_seconds": 0.5,
    "upload_seconds": 1.5,
    "connections": 12,
    "jobs": 2,
    "waiting": 2,
    "keep_seconds": 1.0,
    "decode_seconds": 10.0,
    "wrong_token_seconds": 0.001,
}


class Server:
    """A running service.

    Parameters
    ----------
    words : list of str
        Arguments of `python -m genretree serve`; or `limits` and `bundles` as keywords.
    """

    def __init__(self, temporary: Path, words: list[str] | None = None, **options: Any) -> None:
        self.temporary = temporary
        temporary.mkdir(parents=True, exist_ok=True)
        command = ["-m", "genretree", "serve", *(words or []), "--port", "0"]
        if words is None:
            command = ["-c", _START, json.dumps({"limits": {}, "token": None, **options})]
        environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout.readline()
        address = re.search(r"(http://\S+:\d+)/ \(", self.output)
        if address is None:
            self.process.wait(30)
            assert self.process.stderr is not None
            raise AssertionError(self.output + self.process.stderr.read())
        self.url = address[1]
        self.port = int(self.url.rpartition(":")[2])
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def left(self) -> list[str]:
        """List the files in its temporary folder, except permanent ones."""
        paths = self.temporary.rglob("*")
        return [path.name for path in paths if path.name != "lock" and not path.name.startswith("genretree-serve-")]

    def workers(self, module: str = "decode") -> list[psutil.Process]:
        """Its worker processes that run a module."""
        processes = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):  # a zombie has no command
                processes += [child] * (f"genretree.service.workers.{module}" in child.cmdline())
        return processes

    def metric(self, name: str) -> float:
        """Return a value of /metrics; 0 if it does not exist."""
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
        return 0.0

    def connect(self) -> socket.socket:
        """Open a raw connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


def wait_until(true: Any, seconds: float = 20) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def read_events(response: httpx.Response) -> list[tuple[str, Any]]:
    """Read server-sent events to the end: names and data."""
    events = []
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            events.append((name, json.loads(line.removeprefix("data: "))))
    return events


def alike(actual: Any, expected: Any, tolerance: float = 1e-3) -> bool:
    """Return whether two JSON values are equal up to rounding."""
    if isinstance(expected, float):
        return isinstance(actual, float) and abs(actual - expected) <= tolerance * max(1.0, abs(expected))
    if isinstance(expected, list):
        return len(actual) == len(expected) and all(map(alike, actual, expected))
    if isinstance(expected, dict):
        return actual.keys() == expected.keys() and all(alike(actual[key], expected[key]) for key in expected)
    return bool(actual == expected)
