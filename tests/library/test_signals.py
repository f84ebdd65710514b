"""Commands that SIGTERM or Ctrl-C stops: what was finished stays, nothing is left behind, the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from listening import hearer

from genretree.library.analyse import analyse
from genretree.library.state import open_state

pytestmark = pytest.mark.slow

# The command itself, slowed down so that a signal comes in the middle: a pause for each file.
_SLOW = """
import sys, time
import genretree.library.{module} as module
real, seconds = module.{name}, float(sys.argv[1])
def slow(*given, **named):
    time.sleep(seconds)
    return real(*given, **named)
module.{name} = slow
from genretree.cli import main
main(sys.argv[2:])
"""


def _start(module: str, name: str, seconds: float, *words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _SLOW.format(module=module, name=name), str(seconds), "library", *map(str, words)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background job ignores it
    )


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _stop(process: subprocess.Popen[str], number: signal.Signals, folder: Path, before: dict[str, bytes]) -> None:
    """Wait until two files have changed, stop the command, and check what it says."""
    deadline = time.monotonic() + 60
    while sum((folder / name).read_bytes() != old for name, old in before.items()) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "run the same command again to continue" in errors
    assert "Traceback" not in errors
    now = _bytes(folder)
    assert now.keys() == before.keys(), "a copy was left behind"
    assert 2 <= sum(now[name] != before[name] for name in before) < len(before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_apply_and_undo_stop_cleanly_and_go_on(tmp_path: Path, music: Path, number: signal.Signals) -> None:
    db = tmp_path / "library.sqlite"
    original = _bytes(music)
    with open_state(db, create=True) as state:
        analyse(state, [music], hearer())
    apply = ("apply", "--write", "--db", db, "--quiet")
    _stop(_start("apply", "write_tags", 0.3, *apply), number, music, original)
    process = _start("apply", "write_tags", 0, *apply)
    assert process.communicate(timeout=60)
    assert process.returncode == 0
    written = _bytes(music)
    assert all(written[name] != original[name] for name in original)
    # Two runs wrote: the last one is undone whole, so that the first is what stops.
    with open_state(db) as state:
        first, last = [run for (run,) in state.connection.execute("SELECT id FROM run ORDER BY id")]
    assert _start("apply", "_rewind", 0, "undo", last, "--db", db, "--quiet").wait(60) == 0
    before = _bytes(music)
    process = _start("apply", "_rewind", 0.3, "undo", first, "--db", db, "--quiet")
    deadline = time.monotonic() + 60
    while all((music / name).read_bytes() == old for name, old in before.items()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert _bytes(music).keys() == original.keys(), "a copy was left behind"
    assert process.returncode in (0, 128 + number)  # 0 where that was the last file
    assert _start("apply", "_rewind", 0, "undo", first, "--db", db, "--quiet").wait(60) in (0, 1)
    assert _bytes(music) == original


def test_a_second_signal_ends_at_once(tmp_path: Path, music: Path) -> None:
    code = (
        "import time, click\nfrom genretree.cli import main\n"
        "@main.command()\ndef stubborn():\n"
        "    try:\n        print('begun', flush=True)\n        time.sleep(60)\n"
        "    finally:\n        print('unwinding', flush=True)\n        time.sleep(60)\n"
        "main(['stubborn'])\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout is not None
        for line in (b"begun\n", b"unwinding\n"):
            assert process.stdout.readline() == line
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM
