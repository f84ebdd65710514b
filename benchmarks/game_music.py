r"""Label game music by the genre tags that its composers wrote, as a collection to check trained bundles on.

    python benchmarks/game_music.py FOLDER OUT [--offline]

Fetches free music from Debian's games as students_both_teachers.py does (FOLDER/music; --offline takes what is there),
and writes OUT/tracks.csv (path, genre and artist of each track) and OUT/tree.yaml. Files without a genre tag, with one
that says nothing about genre (Soundtrack, Game) or fits both branches (Ambient), under 30 s, and tracks of a single
instrument are left out. The tags are taken as they are, whether or not we agree with them.

    genretree prepare OUT/tracks.csv STORE --tree OUT/tree.yaml --group artist
    python benchmarks/shift.py BUNDLE STORE --home HOME
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path

import mutagen
from students import SUFFIXES, fetch
from students_both_teachers import DEBIAN, keep_sound

from genretree.errors import SoundError
from genretree.sound.decode import probe

MIN_SECONDS = 30.0  # shorter files are signals of the game
TREE = "Classic: [classical]\nNon_classic: [electronic, rock, other]\n"
LABELS = {
    "classical": ("classical", "romantic classical", "classique", "orchestral"),
    "electronic": ("electronic", "electronica", "house", "dnb", "chiptune"),
    "rock": ("rock", "death metal", "thrash metal", "trash metal", "female fronted metal"),
    "other": ("reggae", "blues", "folk", "psychedelic"),
}
_LABEL_OF = {tag: label for label, tags in LABELS.items() for tag in tags}


def label_music(music: Path) -> list[tuple[Path, str, str]]:
    """Return path, label and artist (or package) of every file of `music` whose tags name a genre."""
    found = []
    for path in sorted(music.glob("*/*")):
        if path.suffix.lower() not in SUFFIXES or path.stem.endswith("guitar"):  # "Frets on Fire" has them apart
            continue
        tags = mutagen.File(path, easy=True) or {}
        label = _LABEL_OF.get(tags.get("genre", [""])[0].lower())
        if label is None:
            continue
        try:
            seconds = probe(path).duration
        except SoundError:
            continue
        if seconds >= MIN_SECONDS:
            found.append((path.resolve(), label, tags.get("artist", [path.parent.name])[0]))
    return found


def main() -> None:
    """Write the list and the tree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--offline", action="store_true")
    options = parser.parse_args()
    music = options.folder / "music"
    if not options.offline:
        music.mkdir(parents=True, exist_ok=True)
        for package in DEBIAN.split():
            fetch(package, music, keep_sound)
    rows = label_music(music)
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "tracks.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "genre", "artist"])
        writer.writerows(rows)
    (options.out / "tree.yaml").write_text(TREE, encoding="utf-8")
    for label, n in Counter(label for _, label, _ in rows).most_common():
        artists = {artist for _, other, artist in rows if other == label}
        print(f"{label}: {n} tracks, {len(artists)} artists")


if __name__ == "__main__":
    main()
