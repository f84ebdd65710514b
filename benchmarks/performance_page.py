"""Write docs/performance.md from what the benchmarks measured, and notes/*.md beside this script.

    python benchmarks/performance_page.py FOLDER [PAGE.md]

FOLDER holds machine.json and a JSON file for each benchmark, as everything.py leaves them. A benchmark that wasn't run
has no section. Notes are written by hand and stay: notes/TITLE.md goes below the table of that benchmark, and
notes/performance.md to the end.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import memory
import scaling
import training

NOTES = Path(__file__).parent / "notes"
PCA_GOAL, PCA_MEGABYTES = 12, 3000


def ratio(usual: Sequence[float], ours: Sequence[float], times: float = 1) -> str:
    """Ratio of medians, and the least and greatest of a round."""
    each = [times * one / other for one, other in zip(usual, ours, strict=True)]
    middle = times * statistics.median(usual) / statistics.median(ours)
    return f"{middle:.2f} ({min(each):.2f} to {max(each):.2f})"


def spread(seconds: Sequence[float]) -> str:
    """Median and range in milliseconds."""
    low, middle, high = (1000 * value for value in (min(seconds), statistics.median(seconds), max(seconds)))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def table(head: str, rows: Sequence[Sequence[str]]) -> str:
    """Write a table; the first column is text and the others are figures."""
    columns = head.count("|") + 1
    lines = [f"| {head} |", "| --- |" + " ---: |" * (columns - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def stages(rows: list[dict[str, Any]]) -> str:
    """From sound file to batch."""
    found = []
    for row in rows:
        goal = "-" if row["wanted"] is None else f"{row['wanted']:g}"
        found.append(
            [
                row["stage"],
                spread(row["usual"]),
                spread(row["ours"]),
                ratio(row["usual"], row["ours"], row.get("times", 1)),
                goal,
                row["note"] or "-",
            ]
        )
    return table("stage | usual, ms (range) | ours, ms (range) | times as fast (range) | target | notes", found)


def train(rows: list[dict[str, Any]]) -> str:
    """Steps of training."""
    return "\n".join([training.HEAD, *map(training.line, rows)])


def components(found: dict[str, Any]) -> str:
    """Principal components."""
    rows = []
    for way in ("published", "ours"):
        row = found[way]
        explained = f"{100 * row['explained']:.2f} %"
        rows.append([way, f"{row['seconds']:.0f}", f"{row['megabytes']:.0f}", explained])
    times = found["published"]["seconds"] / found["ours"]["seconds"]
    rest = "" if found["full"] else " **Fewer rows than the full problem (29,100): the goal isn't meant for it.**"
    return (
        table("512 components | seconds | peak MB | variance explained, held out", rows)
        + f"\n\n{found['rows']:,} rows of 49,152 pixels, one run each: {times:.1f} times as fast (goal {PCA_GOAL}, "
        + f"no less variance, under {PCA_MEGABYTES:,} MB).{rest}"
    )


def runtimes(rows: list[dict[str, Any]]) -> str:
    """Networks or tracks by every runtime: times as fast as the first way."""
    parts = []
    for row in rows:
        ways = list(row["seconds"])
        first = row["seconds"][ways[0]]
        cells = [[way, spread(row["seconds"][way]), ratio(first, row["seconds"][way])] for way in ways]
        parts.append(table(f"{row['what']} | ms (range) | times as fast as {ways[0]} (range)", cells))
    return "\n\n".join(parts)


def remember(rows: list[dict[str, Any]]) -> str:
    """Peak memory."""
    return "\n".join([memory.HEAD, *map(memory.line, rows)])


def scale(rows: list[dict[str, Any]]) -> str:
    """Exponents."""
    size = f"1x is {rows[0]['files']} files of {rows[0]['file_seconds']:g} s."
    return "\n".join([f"{size}\n\n{scaling.HEAD}", *map(scaling.line, rows)])


SECTIONS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "stages": ("From sound file to batch", stages),
    "training": ("Training steps", train),
    "components": ("Principal components", components),
    "networks": ("Networks by runtime", runtimes),
    "track": ("A track by runtime", runtimes),
    "folder": ("A folder of music", runtimes),
    "cores": ("One processor and all", runtimes),
    "start": ("Start-up, with all that is loaded", runtimes),
    "memory": ("Peak memory", remember),
    "scaling": ("How time grows with data", scale),
}


def notes(name: str) -> str:
    """Give what was written by hand."""
    path = NOTES / f"{name}.md"
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def write_page(folder: Path) -> str:
    """Put the page together."""
    about = json.loads((folder / "machine.json").read_text())
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    parts = [
        "# Performance",
        "Written by `make bench`" + (" QUICK=1: **short runs, for a look only**" if about["quick"] else "") + ". Every "
        "ratio is one of medians of ways that took turns in one run (but principal components: one run each), on one "
        "machine: ratios carry over to others, times do not.",
        f"{about['processor']}, {about['cores']} cores, {about['memory']} GB, {about['system']}; {versions}.",
    ]
    for name, (title, write) in SECTIONS.items():
        path = folder / f"{name}.json"
        if not path.exists() or name not in about["ran"]:
            continue
        ran = about["ran"][name]
        when = f"{ran['seconds']} s, begun {ran['began']} UTC"
        parts += [f"## {title}", f"`{ran['command']}` ({when})", write(json.loads(path.read_text()))]
        parts += [text] if (text := notes(name)) and not about["quick"] else []
    parts += [text] if (text := notes("performance")) and not about["quick"] else []
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("page", type=Path, nargs="?")
    given = parser.parse_args()
    text = write_page(given.folder)
    if given.page is None:
        print(text)
    else:
        given.page.write_text(text, encoding="utf-8")
        print(f"Wrote {given.page}")


if __name__ == "__main__":
    main()
