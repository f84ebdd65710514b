"""A worker that misbehaves as its messages ask, run by a pool: `python -P -m fake_worker SETUP`."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from genretree.errors import SoundError
from genretree.service.workers import process
from genretree.service.workers.process import ReportProgress
from genretree.service.workers.protocol import Message


def work(message: Message, report: ReportProgress) -> Message:
    do, value = message.header["do"], message.header.get("value")
    report("decoding", 0.5)
    if do == "sleep":
        time.sleep(value)
    elif do == "wait":  # for a file
        while not Path(value).exists():
            time.sleep(0.005)
    elif do == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif do == "refuse":
        raise SoundError("silence", "secret/place", "nothing but silence")
    elif do == "stumble":
        raise ZeroDivisionError("by nothing")
    elif do == "grow":
        bytearray(value)
    elif do == "write":
        Path(value).write_bytes(bytes(1 << 20))
    elif do == "babble":
        os.write(channel.fileno(), b"x" * 100)
    elif do == "spin":
        while True:
            pass
    return Message("done", {"process": os.getpid(), "said": message.header}, list(message.blobs))


if __name__ == "__main__":
    setup = process.read_setup()
    if setup.get("broken"):
        raise SystemExit(1)
    if "deaths" in setup:  # as many starts as there are files in this folder are killed
        for file in sorted(Path(setup["deaths"]).iterdir()):
            with contextlib.suppress(FileNotFoundError):  # another worker took it
                file.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
    if "dead_while" in setup and Path(setup["dead_while"]).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    channel = process.open_channel()
    process.set_up(threads=False)
    process.limit_resources(1 << 30, 1 << 16)
    process.serve_messages(channel, work, setup.get("processor_seconds"))
