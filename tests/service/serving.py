"""A service in a process of its own, as a user starts it, to be asked over real connections."""

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
from genretree.service.http.server import choose_hosts, open_socket, serve
given = json.loads(sys.argv[1])
taken = open_socket("127.0.0.1", 0)
ready = lambda: print("serves at http://127.0.0.1:%d/ (" % taken.getsockname()[1], flush=True)
service = Service(given["bundles"], Limits.build(given["limits"]))
serve(service, taken, given["token"], choose_hosts(taken, "127.0.0.1", ()), ready)
"""


class Server:
    """A running service.

    Parameters
    ----------
    words : list of str
        What follows `python -m genretree serve`; or `limits`, and the bundles.
    """

    def __init__(self, temporary: Path, words: list[str] | None = None, **given: Any) -> None:
        self.temporary = temporary
        temporary.mkdir(parents=True, exist_ok=True)
        command = ["-m", "genretree", "serve", *(words or []), "--port", "0"]
        if words is None:
            command = ["-c", _START, json.dumps({"limits": {}, "token": None, **given})]
        environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        found = re.search(r"(http://\S+:\d+)/ \(", self.said)
        if found is None:
            self.process.wait(30)
            assert self.process.stderr is not None
            raise AssertionError(self.said + self.process.stderr.read())
        self.url = found[1]
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
        """What lies in its temporary folder, but for what a service has all its life."""
        found = self.temporary.rglob("*")
        return [path.name for path in found if path.name != "lock" and not path.name.startswith("genretree-serve-")]

    def workers(self, module: str = "decode") -> list[psutil.Process]:
        """Its worker processes of one kind."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):  # a zombie has no command
                found += [child] * (f"genretree.service.workers.{module}" in child.cmdline())
        return found

    def metric(self, name: str) -> float:
        """Give a number of /metrics; 0 if it isn't there."""
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
        return 0.0

    def connect(self) -> socket.socket:
        """Give a connection to misuse."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


def wait_until(true: Any, seconds: float = 20) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited for nothing"
        time.sleep(0.02)


def read_events(response: httpx.Response) -> list[tuple[str, Any]]:
    """Read server-sent events to the end: names and data."""
    found = []
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            found.append((name, json.loads(line.removeprefix("data: "))))
    return found


def alike(found: Any, expected: Any, tolerance: float = 1e-3) -> bool:
    """Say whether two JSON values are the same, but for rounding: numbers depend on what is scored with them."""
    if isinstance(expected, float):
        return isinstance(found, float) and abs(found - expected) <= tolerance * max(1.0, abs(expected))
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(alike, found, expected))
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(alike(found[key], expected[key]) for key in expected)
    return bool(found == expected)
