"""Progress bars on standard error, and callbacks that follow them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

ProgressCallback = Callable[[str, int, int], None]  # called with title, number of finished units and total
_callback: ContextVar[ProgressCallback | None] = ContextVar("watcher", default=None)


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
    """Show a bar in this context; yields a function to call with the number of finished units."""
    from tqdm import tqdm

    with tqdm(
        total=total, initial=initial, desc=title, unit=f" {unit}", disable=not show, file=sys.stderr, dynamic_ncols=True
    ) as bar:
        callback, done = _callback.get(), initial

        def tick(count: int = 1) -> None:
            nonlocal done
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
