"""Progress bars on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Watcher = Callable[[str, int, int], None]  # told a bar's title, what is done and the total
_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def on_progress(tell: Watcher) -> Iterator[None]:
    """Tell of every bar, shown or not, that moves while the block runs."""
    token = _watcher.set(tell)
    try:
        yield
    finally:
        _watcher.reset(token)


@contextmanager
def progress_bar(total: int, title: str, unit: str, show: bool, initial: int = 0) -> Iterator[Callable[..., None]]:
    """Show a bar while the block runs; the function it gives is to be called with the number of finished units."""
    from tqdm import tqdm

    with tqdm(
        total=total, initial=initial, desc=title, unit=f" {unit}", disable=not show, file=sys.stderr, dynamic_ncols=True
    ) as bar:
        tell, done = _watcher.get(), initial

        def tick(count: int = 1) -> None:
            nonlocal done
            done += count
            bar.update(count)
            if tell is not None:
                tell(title, done, total)

        yield tick


@contextmanager
def print_above_bars() -> Iterator[None]:
    """Take bars from the screen while the block prints something."""
    from tqdm import tqdm

    with tqdm.external_write_mode():
        yield
