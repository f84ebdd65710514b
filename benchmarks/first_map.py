"""Seconds from an upload to the first map and to the complete explanation, as the page sees them.

    python benchmarks/first_map.py BUNDLE --file SONG [--rounds 4]

Starts `genretree serve BUNDLE`, uploads SONG to a job that explains it, and follows the job's events: `preview` has the
coarse map, `done` the explanation with all pictures. The first round also loads libraries.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import httpx

from service import run_service


def follow(client: httpx.Client, content: bytes) -> dict[str, float]:
    """Return the seconds from the upload to each kind of event but progress."""
    begun, found = time.monotonic(), {}
    job = client.post("/v1/jobs", params={"do": "explain"}, files={"file": ("song", content)}).json()
    with client.stream("GET", job["links"]["events"]) as stream:
        for line in stream.iter_lines():
            if line.startswith("event: ") and line != "event: progress":
                found[line.removeprefix("event: ")] = time.monotonic() - begun
    client.delete(job["links"]["self"])
    return found


def main() -> None:
    """Start the service, and print a line for each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args()
    content = given.file.read_bytes()
    with run_service(given.bundle) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=None) as client:
        for _ in range(given.rounds):
            print(", ".join(f"{name} {seconds:.2f} s" for name, seconds in follow(client, content).items()), flush=True)


if __name__ == "__main__":
    main()
