"""Progress bars on standard error, and callbacks that follow them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

ProgressCallback = Callable[[str, int, int], None]  # called with title, number of finished units and total
_callback: ContextVar[ProgressCallback | None] = ContextVar("watcher", default=None)
_on_position: ContextVar[Callable[[float], None] | None] = ContextVar("on_position", default=None)


@contextmanager
def on_position(callback: Callable[[float], None]) -> Iterator[None]:
    """Call `callback` with the position in seconds, each time that `report_position` is called in this context."""
    token = _on_position.set(callback)
    try:
        yield
    finally:
        _on_position.reset(token)


def report_position(seconds: float) -> None:
    """Report how far into a file the work has come."""
    callback = _on_position.get()
    if callback is not None:
        callback(seconds)


@contextmanager
def on_progress(callback: ProgressCallback) -> Iterator[None]:
    """Call `callback` for each step of every bar, visible or not, in this context."""
    token = _callback.set(callback)
    try:
        yield
    finally:
        _callback.reset(token)


@contextmanager
def progress_bar(total: int, title: str, unit: str, show: bool, initial: int = 0) -> Iterator[Callable[..., None]]:
    """Show a bar in this context.

    Yields
    ------
    callable
        To be called with the number of finished units, and optionally `note`, a text behind the bar.
    """
    from tqdm import tqdm

    with tqdm(
        total=total, initial=initial, desc=title, unit=f" {unit}", disable=not show, file=sys.stderr, dynamic_ncols=True
    ) as bar:
        callback, done = _callback.get(), initial

        def tick(count: int = 1, note: str | None = None) -> None:
            nonlocal done
            if note is not None:
                bar.set_postfix_str(note)
            if not count:
                return
            done += count
            bar.update(count)
            if callback is not None:
                callback(title, done, total)

        yield tick


@contextmanager
def print_above_bars() -> Iterator[None]:
    """Hide bars while this context prints."""
    from tqdm import tqdm

    with tqdm.external_write_mode():
        yield
