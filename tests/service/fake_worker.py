"""A worker that does what the message says, to be run by a pool: `python -P -m fake_worker SETUP`."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from genretree.errors import SoundError
from genretree.service.workers import process
from genretree.service.workers.process import Tell
from genretree.service.workers.protocol import Message


def work(message: Message, tell: Tell) -> Message:
    do, value = message.facts["do"], message.facts.get("value")
    tell("decoding", 0.5)
    if do == "sleep":
        time.sleep(value)
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
    return Message("done", {"process": os.getpid(), "said": message.facts}, list(message.blobs))


if __name__ == "__main__":
    given = process.setup()
    if given.get("broken"):
        raise SystemExit(1)
    if "deaths" in given:  # as many starts as there are files in this folder are killed
        for file in sorted(Path(given["deaths"]).iterdir()):
            with contextlib.suppress(FileNotFoundError):  # another worker took it
                file.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
    if "dead_while" in given and Path(given["dead_while"]).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    channel = process.take_channel()
    process.start(threads=False)
    process.bound(1 << 30, 1 << 16)
    process.answer(channel, work, given.get("processor_seconds"))
