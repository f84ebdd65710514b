"""The work folder of a training run: resumption, elapsed time, several processes, and publication of the result."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genretree.errors import TrainingError
from genretree.files import write_text
from genretree.parallel import world_size

_SAVE_INTERVAL = 5.0


def check_output(out: Path, overwrite: bool, marker: str, content: str) -> None:
    """Check that the result of a run can be written to `out`, before the run starts.

    Parameters
    ----------
    out : Path
        Where the result will be written.
    overwrite : bool
        Whether an earlier result may be replaced. Anything else that is in the way never is.
    marker : str
        Name of a file that every result has.
    content : str
        What a result is, for the message: "a bundle".

    Raises
    ------
    TrainingError
    """
    if not out.exists():
        return
    if not overwrite:
        raise TrainingError(f"{out}: already exists; choose another path, or replace it with `overwrite=True`")
    is_empty = out.is_dir() and not any(out.iterdir())
    if not is_empty and not (out / marker).is_file():
        raise TrainingError(f"{out}: not {content}, so it is not replaced; choose another path or delete it")


def work_folder(out: Path, run: Mapping[str, Any], restart: bool) -> Path:
    """Create or reopen the work folder of `out`; the files of another run are deleted.

    Parameters
    ----------
    out : Path
        Where the result will be written; the work folder is `OUT.partial`.
    run : mapping
        Identity of the run, as JSON types. A work folder with the same identity is resumed.
    restart : bool
        Empty the folder in any case.
    """
    work = out.with_name(f"{out.name}.partial")
    identity = work / "run.json"
    try:
        same = json.loads(identity.read_text(encoding="utf-8")) == run
    except (OSError, ValueError):
        same = False
    if work.exists() and (restart or not same):
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    write_text(identity, json.dumps(run))
    return work


@contextmanager
def measure_seconds(path: Path) -> Iterator[Callable[[], float]]:
    """Measure the elapsed time of a run in seconds, including its interrupted parts.

    Yields a function that returns the seconds so far. They are saved to `path` every few seconds and at the end, from
    where an interrupted run continues to count.
    """
    try:
        previous = float(path.read_text())
    except (OSError, ValueError):
        previous = 0.0
    start, stopped = time.monotonic(), threading.Event()

    def seconds() -> float:
        return previous + time.monotonic() - start

    def save_periodically() -> None:
        while not stopped.wait(_SAVE_INTERVAL):
            write_text(path, f"{seconds():.1f}")

    thread = threading.Thread(target=save_periodically, daemon=True)
    thread.start()
    try:
        yield seconds
    finally:
        stopped.set()
        thread.join()
        write_text(path, f"{seconds():.1f}")


@contextmanager
def run_exclusively() -> Iterator[bool]:
    """Run a block in the first of several training processes (torchrun) before the others.

    Yields True in the first or only process.
    """
    if world_size() == 1:
        yield True
        return
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    with state.main_process_first():
        yield state.is_main_process


def publish_folder(staging: Path, out: Path, work: Path) -> None:
    """Move a finished folder to `out`, replacing an existing one, and delete the work folder."""
    if out.exists():
        out.rename(work / "replaced")
    staging.rename(out)
    shutil.rmtree(work)
