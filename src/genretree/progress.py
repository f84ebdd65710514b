"""Progress bars on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(total: int, title: str, unit: str, show: bool, initial: int = 0) -> Iterator[Callable[..., None]]:
    """Show a bar while the block runs; the function it gives is to be called with the number of finished units."""
    from tqdm import tqdm

    with tqdm(
        total=total, initial=initial, desc=title, unit=f" {unit}", disable=not show, file=sys.stderr, dynamic_ncols=True
    ) as bar:

        def tick(count: int = 1) -> None:
            bar.update(count)

        yield tick
