"""Write docs/performance.md from the results of every machine, and notes next to this script.

    python benchmarks/performance_page.py [PAGE.md] [--results FOLDER]

FOLDER (benchmarks/results) has a JSON file for each machine, which everything.py writes: the machine, and the command,
the date and the tables of each benchmark that ran on it. Notes are written by hand: notes/MACHINE/BENCHMARK.md goes
below the tables of a benchmark on that machine, and notes/performance.md to the end.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import many_cores
import memory
import published_loop
import scaling
import training
from whole_process import ratio

NOTES = Path(__file__).parent / "notes"
DATE = "%Y-%m-%d %H:%M"
FULL = "512 components, 29,100 rows"  # the study's number of slices


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
        found.append(
            [
                row["stage"],
                spread(row["usual"]),
                spread(row["ours"]),
                ratio(row["usual"], row["ours"], row.get("times", 1)),
                row["note"] or "-",
            ]
        )
    return table("stage | usual, ms (range) | ours, ms (range) | times as fast (range) | notes", found)


def train(rows: list[dict[str, Any]]) -> str:
    """Steps of training."""
    return "\n".join([training.HEAD, *map(training.line, rows)])


def components(found: dict[str, Any]) -> str:
    """Principal components."""
    rows = []
    for way in ("published", "ours"):
        row = found[way]
        explained = f"{100 * row['explained']:.2f} %"
        times = found["published"]["seconds"] / row["seconds"]
        rows.append([way, f"{row['seconds']:.0f}", f"{times:.1f}", f"{row['megabytes']:.0f}", explained])
    rest = "" if found["full"] else " **Fewer rows than the full problem (29,100): its targets don't apply.**"
    head = f"512 components, {found['rows']:,} rows | seconds | times as fast | peak MB | variance explained, held out"
    return f"{table(head, rows)}\n\nRows of 49,152 pixels, one run each.{rest}"


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


def published(rows: list[dict[str, Any]]) -> str:
    """Write the study's own training loops against genretree."""
    head = "model | study, s an epoch | genretree | ratio (range) | accuracy, study | genretree"
    return table(head, list(map(published_loop.cells, rows)))


def explanations(rows: list[dict[str, Any]]) -> str:
    """Write seconds of explanations, for a loaded bundle and for the whole command."""
    head = "bundle, runtime, method | sound | explain, s (range) | processor, s | whole command, s (range)"
    lines = []
    for row in rows:
        times = [_seconds(row[name]) for name in ("explain", "processor", "command")]
        lines.append([f"{row['bundle']}, {row['runtime']}, {row['method']}", f"{row['sound']:.0f} s", *times])
    return table(head, lines)


def _seconds(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def more_cores(found: list[dict[str, Any]]) -> str:
    """Write what more processors would give."""
    return table(many_cores.HEAD, [row for item in found for row in many_cores.rows(item)])


SECTIONS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "stages": ("From sound file to batch", stages),
    "training": ("Training steps", train),
    "published": ("The study's own training loops", published),
    "components": ("Principal components", components),
    "networks": ("Networks by runtime", runtimes),
    "track": ("A track by runtime", runtimes),
    "folder": ("A folder of music", runtimes),
    "untrained": ("A folder of music, without training", runtimes),
    "explain": ("Explanations", explanations),
    "cores": ("One processor and all", runtimes),
    "many": ("Simulation of more processors", more_cores),
    "start": ("Start-up, with all that is loaded", runtimes),
    "memory": ("Peak memory", remember),
    "scaling": ("How time grows with data", scale),
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A target, and the cell of a section's tables that says whether it is reached.

    Parameters
    ----------
    what : str
        Shown on the page.
    section, after, row : str
        The cell is in the first row that begins with `row`, after the first line that contains `after`.
    column : int
        Of the cell; its first number counts.
    limit : float
        In the unit of the cell.
    at_most : bool
        Whether less is better.
    real_time : bool
        Whether the cell has milliseconds and the limit is a multiple of real time.
    """

    what: str
    section: str
    row: str
    column: int
    limit: float
    after: str = ""
    at_most: bool = False
    real_time: bool = False

    def judge(self, lines: Sequence[str]) -> str:
        """Return the figure and whether it reaches the target, or a dash if it was not measured."""
        begin = next((place for place, line in enumerate(lines) if self.after in line), len(lines))
        value = find_number(lines[begin:], self.row, self.column)
        if value is None:
            return "-"
        if self.real_time:
            sound = re.search(r"([0-9.]+) s of music", lines[0])
            if sound is None:
                return "-"
            value = 1000 * float(sound[1]) / value
        reached = value <= self.limit if self.at_most else value >= self.limit
        return f"{value:,.4g}: {'reached' if reached else '**not reached**'}"


def find_number(lines: Sequence[str], row: str, column: int) -> float | None:
    """Return the first number in a cell of the first row that begins with these words."""
    for line in lines:
        cells = line.strip("| ").split(" | ")
        if cells[0].startswith(row) and column < len(cells):
            return float(cells[column].split()[0].replace(",", ""))
    return None


TARGETS = (
    Target(what="spectra: 5 times librosa", section="stages", row="mel + CQT", column=3, limit=5),
    Target(what="decoding mp3: 1.6 times librosa", section="stages", row="mp3 to", column=3, limit=1.6),
    Target(what="33 files to stored slices: 25 times", section="stages", row="33 sound files", column=3, limit=25),
    Target(what="JPEGs of the data set: 2.5 times Pillow", section="stages", row="48 rendered", column=3, limit=2.5),
    Target(what="shuffled batches: 50 times", section="stages", row="a shuffled batch", column=3, limit=50),
    Target(
        what="principal components of 29,100 rows: 12 times",
        section="components",
        after=FULL,
        row="ours",
        column=2,
        limit=12,
    ),
    Target(what="the same: 3,000 MB", section="components", after=FULL, row="ours", column=3, limit=3000, at_most=True),
    *(
        Target(what=f"training {row}: {goal} times the study", section="published", row=row, column=3, limit=goal)
        for row, goal in (("cnn", 4), ("efficientnet-b0", 4), ("ast", 8))
    ),
    Target(
        what="four minutes to a path: 250 ms", section="track", row="openvino bf16", column=1, limit=250, at_most=True
    ),
    Target(what="the same: 6 times librosa with torch", section="track", row="openvino bf16", column=2, limit=6),
    *(
        Target(what=f"{what}: 500 times real time", section=section, row=row, column=1, limit=500, real_time=True)
        for section, row, what in (
            ("folder", "openvino bf16, 2", "a folder"),
            ("untrained", "openvino float32, 2", "without training"),
        )
    ),
    *(
        Target(
            what=f"explain a minute, {row}, start included: {goal} s",
            section="explain",
            row=row,
            column=4,
            limit=goal,
            at_most=True,
        )
        for row, goal in (
            ("cnn, openvino", 3),
            ("efficientnet-b0, openvino", 3),
            ("efficientnet-b0, torch", 5),
            ("musicnn-ours", 6),
        )
    ),
    *(
        Target(
            what=f"{name} with two processors: 1.8 times", section="cores", after=name, row="all 2", column=2, limit=1.8
        )
        for name in ("prepare", "predict")
    ),
    Target(
        what="cold start, a minute, with an export: 1,000 ms",
        section="start",
        row="genretree predict, auto, a minute",
        column=1,
        limit=1000,
        at_most=True,
    ),
    Target(what="`--help`: 300 ms", section="start", row="genretree --help", column=1, limit=300, at_most=True),
)


def find_tables(machine: dict[str, Any], section: str) -> list[str]:
    """Return the lines of a section's tables, or an empty line if it was not measured or failed."""
    lines: list[str] = machine["sections"].get(section, {}).get("tables", [""])
    return lines


def find_unmet(machine: dict[str, Any]) -> list[Target]:
    """Return the targets that a machine's results don't reach."""
    judged = [(target, target.judge(find_tables(machine, target.section))) for target in TARGETS]
    return [target for target, result in judged if "not reached" in result]


def judge_whole_run(machine: dict[str, Any]) -> str:
    """Return the minutes of the run of all benchmarks and whether they are within an hour."""
    if "whole_run" not in machine:
        return "-"
    seconds = machine["whole_run"]["seconds"]
    return f"{seconds / 60:.0f} min: {'reached' if seconds <= WHOLE_RUN else '**not reached**'}"


def write_targets(machines: dict[str, dict[str, Any]]) -> str:
    """Return a table of all targets, and whether each machine reaches them."""
    rows = []
    for target in TARGETS:
        tables = [find_tables(machine, target.section) for machine in machines.values()]
        rows.append([target.what, *(target.judge(lines) for lines in tables)])
    rows.append(["all benchmarks, music and bundles included: an hour", *map(judge_whole_run, machines.values())])
    return table(" | ".join(["target", *map(short_name, machines.values())]), rows)


WHOLE_RUN = 3600  # seconds
RESULTS = Path(__file__).parent / "results"
LEGEND = (
    "Written by `make bench`. Every ratio is one of medians of ways that took turns in one run (but principal "
    "components: one run each). Neither times nor ratios carry over to another processor: each table names its own."
)


def read_notes(name: str) -> str:
    """Read what was written by hand."""
    path = NOTES / f"{name}.md"
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def render_tables(name: str, found: Any) -> list[str]:
    """Give the lines of a benchmark's tables, from the JSON that it wrote."""
    return SECTIONS[name][1](found).split("\n")


def short_name(machine: dict[str, Any]) -> str:
    """Name a machine as headings do."""
    return f"{machine['processor']}, {machine['cores']} cores"


def describe_run(machine: dict[str, Any]) -> list[str]:
    """Return sentences on the run of all benchmarks, and on those that failed."""
    sentences = []
    if "whole_run" in machine:
        run = machine["whole_run"]
        begun = datetime.strptime(run["began"], DATE)
        ended = begun + timedelta(seconds=run["seconds"])
        days = {name: datetime.strptime(section["began"], DATE) for name, section in machine["sections"].items()}
        others = [SECTIONS[name][0] for name, day in days.items() if not begun <= day <= ended]
        text = f"Whole run: {run['seconds'] / 60:.0f} min, of which {run['material'] / 60:.0f} for music and bundles"
        text += f", begun {run['began']} UTC"
        sentences.append(f"{text}; measured at another time: {', '.join(others)}." if others else f"{text}.")
    failed = [SECTIONS[name][0] for name, section in machine["sections"].items() if "failed" in section]
    return [*sentences, f"**Failed: {', '.join(failed)}.**"] if failed else sentences


def write_page(machines: dict[str, dict[str, Any]], quick: bool = False) -> str:
    """Put the page together; `machines` are the contents of the results by their names."""
    parts = ["# Performance", LEGEND + (" **Short runs, for a look only.**" if quick else "")]
    listed = []
    for machine in machines.values():
        versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        about = f"- **{short_name(machine)}**: {machine['memory']} GB, {machine['system']}; {versions}."
        listed.append(" ".join([about, *describe_run(machine)]))
    parts.append("\n".join(listed))
    parts += [
        "## Targets",
        ("" if quick else "Why a target is not reached is said below its table. ") + "A dash: not measured.",
        write_targets(machines),
    ]
    for name, (title, _) in SECTIONS.items():
        ran = {key: machine for key, machine in machines.items() if name in machine["sections"]}
        parts += [f"## {title}"] if ran else []
        for key, machine in ran.items():
            section = machine["sections"][name]
            parts.append(f"### {short_name(machine)}: {title[0].lower()}{title[1:]}")
            version = f", genretree {section['version']}" if "version" in section else ""
            took = "**failed**" if "failed" in section else f"{section['seconds']} s"
            parts.append(f"`{section['command']}` ({took}, begun {section['began']} UTC{version})")
            if "failed" in section:
                continue
            parts.append("\n".join(section["tables"]))
            parts += [text] if (text := read_notes(f"{key}/{name}")) and not quick else []
    parts += [text] if (text := read_notes("performance")) and not quick else []
    return "\n\n".join(parts) + "\n"


def read_machines(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the results of every machine, by the names of the files."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, nargs="?")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="say that the runs were short")
    given = parser.parse_args()
    text = write_page(read_machines(given.results), given.quick)
    if given.page is None:
        print(text)
    else:
        given.page.write_text(text, encoding="utf-8")
        print(f"Wrote {given.page}")


if __name__ == "__main__":
    main()
