"""Commands stopped by SIGTERM or Ctrl-C save finished files, leave no temporary files, and can be continued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from library_fakes import fake_classifier

from genretree.cli import main
from genretree.library.database.connection import open_database
from genretree.library.scan.analyse import analyse

pytestmark = pytest.mark.slow

# The command itself, slowed down so that a signal comes in the middle: a pause for each file.
_SLOW = """
import sys, time
import genretree.library.apply.{module} as module
real, seconds = module.{name}, float(sys.argv[1])
def slow(*args, **kwargs):
    time.sleep(seconds)
    return real(*args, **kwargs)
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


def _run(*words: object) -> int:
    """Run the command to its end, in this process."""
    return CliRunner().invoke(main, ["library", *map(str, words)]).exit_code


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _stop(process: subprocess.Popen[str], number: signal.Signals, folder: Path, before: dict[str, bytes]) -> None:
    """Wait until two files have changed, stop the command, and check its output."""
    deadline = time.monotonic() + 60
    while sum((folder / name).read_bytes() != old for name, old in before.items()) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "What was finished is saved; continue with: " in errors
    assert "Traceback" not in errors
    now = _bytes(folder)
    assert now.keys() == before.keys(), "a copy was left behind"
    n_changed = sum(now[name] != before[name] for name in before)
    assert 1 <= n_changed < len(before), "a write in place that was in progress is undone"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_apply_and_undo_stop_cleanly_and_continue(tmp_path: Path, music: Path, number: signal.Signals) -> None:
    db = tmp_path / "library.sqlite"
    original = _bytes(music)
    with open_database(db, create=True) as database:
        analyse(database, [music], fake_classifier())
    apply = ("apply", "--write", "--db", db, "--quiet")
    _stop(_start("apply", "find_region", 0.3, *apply), number, music, original)
    assert _run(*apply) == 0
    written = _bytes(music)
    assert all(written[name] != original[name] for name in original)
    # There are two runs: the last one is undone completely, and undoing the first one is interrupted.
    with open_database(db) as database:
        first, last = [run for (run,) in database.connection.execute("SELECT id FROM run ORDER BY id")]
    assert _run("undo", last, "--db", db, "--quiet") == 0
    before = _bytes(music)
    process = _start("undo", "hash_with_region", 0.3, "undo", first, "--db", db, "--quiet")
    deadline = time.monotonic() + 60
    while all((music / name).read_bytes() == old for name, old in before.items()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert _bytes(music).keys() == original.keys(), "a copy was left behind"
    assert process.returncode in (0, 128 + number)  # 0 where that was the last file
    assert _run("undo", first, "--db", db, "--quiet") in (0, 1)
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


# The command itself with a listener that takes a moment for each file and logs it.
_ANALYSE = """#!{python}
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import genretree.bundle.hub, genretree.library.scan.classifier
from genretree.cli import main
from library_fakes import FakeClassifier
genretree.bundle.hub.find_bundle = lambda bundle, *args: bundle
pause = float(os.environ.get('PAUSE', 0))
genretree.library.scan.classifier.load_file_classifier = lambda *args: FakeClassifier(seconds=pause, log=Path({log!r}))
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_analyse_prints_the_command_that_goes_on(tmp_path: Path, music: Path, number: signal.Signals) -> None:
    odd = music.rename(tmp_path / os.fsdecode(b"Bob's $HOME \xff\n"))
    log, program = tmp_path / "log", tmp_path / "bin" / "genretree"
    program.parent.mkdir()
    program.write_text(_ANALYSE.format(python=sys.executable, tests=str(Path(__file__).parent), log=str(log)))
    program.chmod(0o755)
    words = [program, "library", "analyse", odd, "--bundle", "a bundle", "--db", tmp_path / "l.db", "--workers", "1"]
    process = subprocess.Popen(
        [*words, "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PAUSE": "0.5"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    deadline = time.monotonic() + 60
    # A file is logged just before its result is stored: at the third line, two results are.
    while not log.exists() or len(log.read_bytes().split()) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    command = errors.partition("What was finished is saved; continue with: ")[2].strip()
    assert command.startswith("genretree library analyse ")
    n, begun = len(list(odd.iterdir())), log.read_bytes().split()
    with open_database(tmp_path / "l.db") as database:
        done = database.connection.execute("SELECT count(*) FROM result").fetchone()[0]
    assert 2 <= done < n
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    again = subprocess.run(
        ["bash", "-c", command], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    assert f"{n} files: {done} known, {n - done} analysed" in again.stdout
    rest = log.read_bytes().split()[len(begun) :]  # only files in progress are repeated
    assert sorted(set(begun[:done] + rest)) == sorted(begun[:done] + rest)
    assert set(begun[:done] + rest) == {os.fsencode(path.name) for path in odd.iterdir()}


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["train", "a store", "--restart"], "continue with: genretree train 'a store'\n"),
        (["library", "undo"], "continue with: genretree library undo 7\n"),
        (["library", "status", "--db", "x"], "start over with: genretree library status --db x\n"),
        (["predict", "B"], "start over with: genretree predict B\n"),
    ],
)
def test_the_command_of_the_hint_does_not_begin_again(
    words: list[str], hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import click

    from genretree.cli.output import RESUME_WITH

    def interrupt(ctx: click.Context) -> None:
        if words[1] == "undo":
            ctx.meta[RESUME_WITH] = ("7",)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["genretree"])
    monkeypatch.setattr(click.Command, "invoke", lambda self, ctx: interrupt(ctx))
    result = CliRunner().invoke(main, words)
    assert result.output.endswith(hint)
