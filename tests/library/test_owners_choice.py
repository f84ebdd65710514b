"""A preview edited in a spreadsheet is written exactly; albums, selected paths, placeholders and separators."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from library_fakes import FORMATS, FakeClassifier, fake_classifier, levels_of
from mutagen.id3 import ID3, TALB, TCMP, TPE2

from genretree.cli import main
from genretree.library.database.connection import open_database
from genretree.library.database.records import FileResult
from genretree.library.plan.albums import find_outlier, identify_album
from genretree.library.plan.mapping import Decision
from genretree.library.scan.analyse import analyse
from genretree.library.tags.adapters import read_tags, write_tags

NAMES = ("v23.mp3", "v24.mp3", "flac.flac")


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class _Library:
    """A library of three files, and the command line on it."""

    def __init__(self, folder: Path, music: Path) -> None:
        self.db, self.music, self.plan = folder / "library.db", music, folder / "plan.csv"

    def analyse(self, classifier: Callable[[], FakeClassifier] = FakeClassifier) -> None:
        with open_database(self.db, create=True) as database:
            analyse(database, [self.music], classifier)

    def run(self, *words: object, code: int = 0) -> Result:
        result = CliRunner().invoke(main, ["library", *map(str, words), "--db", str(self.db), "--quiet"])
        assert result.exit_code == code, result.output
        return result

    def preview(self, *words: object) -> list[dict[str, str]]:
        self.run("preview", "--csv", self.plan, *words)
        return list(csv.DictReader(io.StringIO(self.plan.read_text(encoding="utf-8-sig"))))

    def save(self, rows: list[dict[str, str]], delimiter: str = ",", encoding: str = "utf-8", end: str = "\n") -> None:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter, lineterminator=end)
        writer.writeheader()
        writer.writerows(rows)
        self.plan.write_bytes(stream.getvalue().encode(encoding))

    def genres(self) -> dict[str, tuple[str, ...]]:
        return {path.name: read_tags(path).genres for path in self.music.rglob("*.*")}


@pytest.fixture
def library(formats: Path, tmp_path: Path) -> Iterator[_Library]:
    music = tmp_path / "müsic"
    music.mkdir()
    for name in NAMES:
        shutil.copy(formats / name, music)
    yield _Library(tmp_path, music)


def _by_name(rows: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    return {Path(row["file"]).name: row for row in rows}


# -- edited plans ------------------------------------------------------------------------------------------------


def test_an_edited_plan_is_written_exactly_and_undone(library: _Library) -> None:
    library.analyse()
    before = _bytes(library.music)
    rows = library.preview()
    by_name = _by_name(rows)
    by_name["v23.mp3"]["genre"] = "Folk; Acid  Jazz"
    library.save([by_name["v23.mp3"], by_name["flac.flac"]])
    dry = library.run("apply", "--plan", library.plan)
    assert "Nothing was written" in dry.output
    assert _bytes(library.music) == before
    library.run("apply", "--plan", library.plan, "--write")
    assert library.genres() == {"v23.mp3": ("Folk/Acid Jazz",), "v24.mp3": (), "flac.flac": ("Soft_rock",)}
    assert read_tags(library.music / "v23.mp3").own == {}, "a genre that the owner typed is the owner's"
    assert read_tags(library.music / "flac.flac").own["GENRETREE_PATH"] == "Other > Rock > Soft_rock"
    again = library.run("apply", "--plan", library.plan, "--write")
    assert "0 files written" in again.output and "2 up to date" in again.output
    # Later runs don't replace the owner's genre, and add to it on request.
    library.run("apply", "--write")
    assert library.genres()["v23.mp3"] == ("Folk/Acid Jazz",)
    library.run("apply", "--append", "--write")
    assert read_tags(library.music / "v23.mp3").own["GENRETREE_PREVIOUS"] == '["Folk", "Acid Jazz"]'
    library.run("undo", 1)
    library.run("undo")
    assert _bytes(library.music) == before


@pytest.mark.parametrize(
    ("delimiter", "encoding", "end"),
    [(";", "utf-8-sig", "\r\n"), ("\t", "utf-16", "\r\n"), (";", "cp1252", "\r\n"), (",", "utf-8", "\r")],
)
def test_what_spreadsheets_do_to_a_table_is_tolerated(
    library: _Library, delimiter: str, encoding: str, end: str
) -> None:
    library.analyse()
    rows = library.preview()
    rows = [
        {"": ""} | {name.upper(): value for name, value in row.items() if name not in ("now", "slices")} for row in rows
    ]
    for row in rows:
        row["CONFIDENCE"] = row["CONFIDENCE"].replace(".", ",")
        row["GENRE"] = f"\xa0{row['GENRE']} "
    library.save([*rows, dict.fromkeys(rows[0], "")], delimiter, encoding, end)
    library.run("apply", "--plan", library.plan, "--write")
    assert set(library.genres().values()) == {("Soft_rock",)}
    assert read_tags(library.music / "flac.flac").own["GENRETREE_CONFIDENCE"] == "0.800"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp1252"])
def test_utf8_that_excel_took_for_windows_1252_is_repaired(library: _Library, tmp_path: Path, encoding: str) -> None:
    (tmp_path / "map.yaml").write_text("nodes: {Soft_rock: Variété}\n", encoding="utf-8")
    library.analyse()
    library.preview("--mapping", tmp_path / "map.yaml")
    text = library.plan.read_bytes().decode("cp1252")
    lines = [line.replace("VariÃ©tÃ©", "Fête") if "v24" in line else line for line in text.splitlines(keepends=True)]
    library.plan.write_bytes("".join(lines).encode(encoding))
    library.run("apply", "--plan", library.plan, "--write")
    assert library.genres() == {"v23.mp3": ("Variété",), "v24.mp3": ("Fête",), "flac.flac": ("Variété",)}


def test_a_hint_for_excel_in_the_first_line_is_skipped(library: _Library) -> None:
    library.analyse()
    rows = library.preview()
    rows[1]["action"] = "odd"
    library.save(rows, ";", end="\r\n")
    library.plan.write_text("sep=;\r\n" + library.plan.read_text())
    assert "line 4: unknown action 'odd'" in library.run("apply", "--plan", library.plan, code=1).output


def test_rows_can_be_left_out_and_skipped_files_be_given_a_genre(library: _Library) -> None:
    write_tags(library.music / "flac.flac", ["Skiffle"], {})
    library.analyse(fake_classifier(confidence=0.3))
    by_name = _by_name(library.preview("--append"))
    assert {row["action"] for row in by_name.values()} == {"unsure"}
    by_name["v23.mp3"]["genre"] = "Folk"
    by_name["v24.mp3"] |= {"genre": "Folk", "action": "Skip"}
    by_name["flac.flac"] |= {"genre": "", "action": "write"}
    library.save(list(by_name.values()))
    done = library.run("apply", "--plan", library.plan, "--write")
    assert "1 left out of the plan" in done.output
    assert library.genres() == {"v23.mp3": ("Folk",), "v24.mp3": (), "flac.flac": ("Skiffle",)}


def test_genres_of_the_owner_stay_the_owners(library: _Library) -> None:
    write_tags(library.music / "flac.flac", ["Rhythm; Blues"], {})
    library.analyse()
    assert _by_name(library.preview("--append"))["flac.flac"]["genre"] == "Rhythm; Blues; Soft_rock"
    library.run("apply", "--plan", library.plan, "--write")
    assert library.genres()["flac.flac"] == ("Rhythm; Blues", "Soft_rock")
    library.analyse(fake_classifier(confidence=0.6, digest="1" * 16))
    assert "1 skipped: already have a genre" in library.run("apply", "--write").output


def test_files_that_changed_since_the_plan_are_refused(library: _Library) -> None:
    library.analyse()
    library.preview()
    write_tags(library.music / "flac.flac", ["Mine"], {})
    with (library.music / "v24.mp3").open("ab") as stream:
        stream.write(b"\0")
    library.analyse()
    done = library.run("apply", "--plan", library.plan, "--write", code=1)
    assert "1 files written" in done.output
    assert done.output.count("has changed since the plan was made; make a new preview") == 2
    assert library.genres() == {"v23.mp3": ("Soft_rock",), "v24.mp3": (), "flac.flac": ("Mine",)}


def _repeat(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [*rows, rows[0]]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_repeat, "line 5: repeats the file of line 2"),
        (lambda rows: [{**row, "mood": "calm"} for row in rows], "unknown columns: 'mood'"),
        (lambda rows: [{n: v for n, v in row.items() if n != "key"} for row in rows], "lacks the column key"),
        (lambda rows: [{**rows[0], "file": "/none.mp3"}], "no such files: line 2 (/none.mp3)"),
        (lambda rows: [{**rows[0], "key": "1E+25"}], "line 2: the key '1E+25' is damaged"),
        (lambda rows: [{**rows[0], "genre": "a\x01b"}], "contains control characters"),
    ],
)
def test_a_damaged_plan_is_refused_as_a_whole(
    library: _Library, edit: Callable[[list[dict[str, str]]], list[dict[str, str]]], message: str
) -> None:
    library.analyse()
    before = _bytes(library.music)
    library.save(edit(library.preview()))
    assert message in library.run("apply", "--plan", library.plan, "--write", code=1).output.replace("\n", " ")
    assert _bytes(library.music) == before


def test_options_without_effect_and_other_files_are_refused(library: _Library) -> None:
    library.analyse()
    library.preview()
    assert "--append has no effect with --plan" in library.run(
        "apply", "--plan", library.plan, "--append", code=2
    ).output.replace("\n", " ")
    library.plan.write_bytes(b"PK\x03\x04")
    assert "is a spreadsheet; save it as CSV" in library.run("apply", "--plan", library.plan, code=1).output
    library.plan.write_text("file,action,genre,key\n")
    assert "has no rows" in library.run("apply", "--plan", library.plan, code=1).output


def test_a_tag_is_not_run_as_a_formula(library: _Library) -> None:
    write_tags(library.music / "flac.flac", ["=1+1"], {})
    library.analyse()
    row = _by_name(library.preview("--append"))["flac.flac"]
    assert (row["now"], row["genre"]) == ("'=1+1", "'=1+1; Soft_rock")
    library.run("apply", "--plan", library.plan, "--write")
    assert library.genres()["flac.flac"] == ("=1+1", "Soft_rock")


def test_names_that_are_not_text_are_found_again(library: _Library) -> None:
    name = os.fsdecode(b"\xff \xe9.mp3")
    try:
        (library.music / "v24.mp3").rename(library.music / name)
    except OSError:
        pytest.skip("the file system takes text only")
    library.analyse()
    by_name = _by_name(library.preview())
    assert by_name["\\xff \\xe9.mp3"]["action"] == "write"
    library.save([by_name["\\xff \\xe9.mp3"]])
    library.run("apply", "--plan", library.plan, "--write")
    assert library.genres() == {"v23.mp3": (), name: ("Soft_rock",), "flac.flac": ()}


# -- single files and folders --------------------------------------------------------------------------------------


def test_single_files_and_folders_are_written_and_undone(library: _Library) -> None:
    sub = library.music / "sub"
    sub.mkdir()
    (library.music / "v24.mp3").rename(sub / "v24.mp3")
    library.analyse()
    before = _bytes(library.music)
    assert "no file at or below" in library.run("apply", "--only", library.music / "none", code=1).output.replace(
        "\n", " "
    )
    library.run("apply", "--only", sub, "--only", library.music / "flac.flac", "--write")
    assert library.genres() == {"v23.mp3": (), "v24.mp3": ("Soft_rock",), "flac.flac": ("Soft_rock",)}
    library.run("apply", "--skip", sub, "--write")
    assert "1 files restored" in library.run("undo", "--only", sub).output
    assert library.genres() == {"v23.mp3": ("Soft_rock",), "v24.mp3": (), "flac.flac": ("Soft_rock",)}
    assert "run 1: 0 files restored" in library.run("undo", 1, "--skip", library.music).output
    moved = (library.music / "flac.flac").rename(sub / "moved.flac")
    library.analyse()
    assert "run 1: 1 files restored" in library.run("undo", "--only", moved).output
    moved.rename(library.music / "flac.flac")
    assert "run 2: 1 files restored" in library.run("undo").output
    assert _bytes(library.music) == before
    assert "nothing to undo" in library.run("undo", "--only", sub, code=1).output


# -- albums --------------------------------------------------------------------------------------------------------


class _Album(FakeClassifier):
    """Predicts Soft_rock for two files of three, Pop for the flac."""

    def score_file(self, path: Path) -> FileResult:
        if path.suffix == ".flac":
            return FileResult(levels_of(0, 0, 0.1, 0.1, 0.8), 4, 0.8, 3, False, "none")
        return FileResult(levels_of(0, 0, 0.9, 0.1, 0), 2, 0.9, 3, False, "none")


def test_an_album_gets_the_genre_of_its_mean(library: _Library) -> None:
    library.analyse(_Album)
    before = _bytes(library.music)
    assert {row["genre"] for row in library.preview()} == {"Soft_rock", "Pop"}
    by_name = _by_name(library.preview("--by", "album"))
    assert {row["genre"] for row in by_name.values()} == {"Soft_rock"}
    assert {row["confidence"] for row in by_name.values()} == {"0.633333"}
    assert {name: row["outlier"] for name, row in by_name.items()} == dict.fromkeys(NAMES, "") | {
        "flac.flac": "Pop 80%"
    }
    assert {row["album"] for row in by_name.values()} == {f"folder {library.music}"}
    shown = library.run("preview", "--by", "album").output
    assert "1 albums, 0 of them compilations; 1 outliers" in shown
    library.run("preview", "--by", "album", "--html", library.plan.with_suffix(".html"))
    page = library.plan.with_suffix(".html").read_text()
    assert "<h2>Outliers</h2>" in page and "Pop 80%" in page
    library.run("apply", "--by", "album", "--write")
    assert set(library.genres().values()) == {("Soft_rock",)}
    library.run("undo")
    assert _bytes(library.music) == before


def test_albums_are_identified_by_album_and_album_artist(library: _Library) -> None:
    for name, artist, album in (("v23.mp3", "A", "Best of"), ("v24.mp3", "B", "Best of")):
        tags = ID3(library.music / name)
        tags.add(TALB(text=album))
        tags.add(TPE2(text=artist))
        tags.save(v2_version=3 if name == "v23.mp3" else 4)
    library.analyse(_Album)
    rows = _by_name(library.preview("--by", "album"))
    assert rows["v23.mp3"]["album"] == "A: Best of"
    assert rows["v24.mp3"]["album"] == "B: Best of"
    assert rows["flac.flac"]["genre"] == "Pop"


@pytest.mark.parametrize("mark", [TPE2(text="Various Artists"), TCMP(text="1")])
def test_a_compilation_is_one_album_and_named_as_one(library: _Library, mark: object) -> None:
    (library.music / "flac.flac").unlink()
    for name in ("v23.mp3", "v24.mp3"):
        disc = library.music / f"CD {name[2]}"
        disc.mkdir()
        (library.music / name).rename(disc / name)
        tags = ID3(disc / name)
        tags.add(TALB(text="Hits"))
        tags.add(mark)
        tags.save(v2_version=4)
    library.analyse(_Album)
    assert {row["album"] for row in library.preview("--by", "album")} == {"Hits (compilation)"}
    assert "1 albums, 1 of them compilations" in library.run("preview", "--by", "album").output


@pytest.mark.parametrize(
    ("paths", "tags", "same"),
    [
        (("/m/x/CD1/a", "/m/x/cd 2 - live/a"), {"album": "X"}, True),
        (("/m/x/Disc 1 (live)/a", "/m/x/Side B/a"), {"album": "X"}, True),
        (("/m/x/Disco 1/a", "/m/x/a"), {"album": "X"}, False),
        (("/m/CD1/a", "/m/CD2/a"), {}, False),
        (("/m/x/a", "/m/y/a"), {"album": "X"}, False),
        (("/m/x/a", "/m/y/a"), {"album": "X", "albumartist": "A"}, True),
        (("/m/x/a", "/m/y/a"), {"album": "Unknown Album", "albumartist": "Unknown Artist"}, False),
        (("/m/x/a", "/m/x/b"), {"album": "unknown album"}, True),
        (("/m/x/a", "/m/y/a"), {"album": "X", "albumartist": "various artists"}, False),
        (("/m/x/a", "/m/y/a"), {"album": "X", "albumartist": "A", "compilation": "1"}, False),
        (("s3://m/x/a", "s3://m/x/b"), {}, True),
    ],
)
def test_tracks_of_one_album_share_a_key(paths: tuple[str, str], tags: dict[str, str], same: bool) -> None:
    one, other = (identify_album(path, tags)[0] for path in paths)
    assert (one == other) == same


def test_a_node_above_or_below_the_albums_is_not_an_outlier() -> None:
    def decision(*path: str) -> Decision:
        return Decision(genres=path[-1:], path=path, confidence=0.7)

    rock, soft, pop = decision("O", "Rock"), decision("O", "Rock", "Soft"), decision("O", "Pop")
    unsure = Decision(genres=(), path=("O", "Pop"), confidence=0.4, reason="unsure")
    assert find_outlier(pop, rock) == "Pop 70%"
    assert [find_outlier(*pair) for pair in ((soft, rock), (rock, soft), (unsure, rock))] == [""] * 3
    assert find_outlier(pop, unsure) == "Pop 70%", "the album has no genre"


@pytest.mark.parametrize("names", [("X (Disc 1)", "X (Disc 2)"), ("X [CD1]", "X - cd 2"), ("X, Disk 01", "X")])
def test_discs_in_the_name_of_an_album_are_one_album(names: tuple[str, str]) -> None:
    keys = {identify_album("/m/a", {"album": name, "albumartist": "A"}) for name in names}
    assert len(keys) == 1
    assert identify_album("/m/a", {"album": "Disc 1"})[1] == "Disc 1"


def test_single_files_of_a_folder_are_decided_one_by_one_if_they_disagree(library: _Library) -> None:
    library.analyse(_Album)
    rows = library.preview("--by", "album", "--min-confidence", "0.75")
    alone = library.preview("--min-confidence", "0.75")
    assert [row["genre"] for row in rows] == [row["genre"] for row in alone]
    assert {row["genre"] for row in rows} == {"Pop", "Soft_rock"}
    assert {row["album"] for row in rows} == {""}


@pytest.mark.parametrize("cell", [";", ";;", " ; "])
def test_a_cell_without_a_genre_leaves_the_file_out(library: _Library, cell: str) -> None:
    write_tags(library.music / "flac.flac", ["Mine"], {})
    library.analyse()
    before = _bytes(library.music)
    rows = library.preview("--append")
    _by_name(rows)["flac.flac"].update(genre=cell, action="write")
    library.save([_by_name(rows)["flac.flac"]])
    library.run("apply", "--plan", library.plan, "--write")
    assert _bytes(library.music) == before


@pytest.mark.parametrize("name", ["Á.mp3", "Ýmir.mp3", "Стас.mp3", "ひら.mp3", "Sigur Rós à.mp3"])
def test_names_that_excel_garbled_are_found(library: _Library, name: str) -> None:
    (library.music / "v23.mp3").rename(library.music / name)
    library.analyse()
    library.preview()
    content = library.plan.read_bytes()
    assert content.startswith(codecs.BOM_UTF8), "so that Excel does not garble them"
    undefined = {0x81, 0x8D, 0x8F, 0x90, 0x9D}  # which Windows maps to control characters
    shown = "".join(chr(byte) if byte in undefined else bytes([byte]).decode("cp1252") for byte in content[3:])
    library.plan.write_text(shown, encoding="utf-8-sig")
    library.run("apply", "--plan", library.plan, "--write")
    assert library.genres()[name] == ("Soft_rock",)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_plan_in_utf_16_needs_no_byte_order_mark(library: _Library, encoding: str) -> None:
    library.analyse()
    library.save(library.preview(), encoding=encoding)
    library.run("apply", "--plan", library.plan, "--write")
    assert set(library.genres().values()) == {("Soft_rock",)}


# -- placeholders and separators -----------------------------------------------------------------------------------


def test_placeholders_count_as_no_genre(library: _Library, formats: Path, tmp_path: Path) -> None:
    write_tags(library.music / "v23.mp3", ["OTHER"], {})
    write_tags(library.music / "v24.mp3", ["Misc", "Jazz"], {})
    write_tags(library.music / "flac.flac", ["unknown"], {})
    v1 = b"TAG" + bytes(124)
    for name, number in (("blues1.mp3", 0), ("blues2.mp3", 0), ("jazz.mp3", 8)):
        content = (formats / "none.mp3").read_bytes()
        (library.music / name).write_bytes(content + v1 + bytes([number]))
    write_tags(library.music / "blues2.mp3", ["Blues"], {})  # in an ID3v2 tag, it was chosen
    library.analyse()
    before = _bytes(library.music)
    actions = {name: row["action"] for name, row in _by_name(library.preview()).items()}
    empty = {"v23.mp3", "flac.flac", "blues1.mp3"}
    assert actions == {path.name: "write" if path.name in empty else "has_genre" for path in library.music.iterdir()}
    library.run("apply", "--append", "--only", library.music / "v23.mp3", "--write")
    assert library.genres()["v23.mp3"] == ("Soft_rock",)
    library.run("undo")
    assert _bytes(library.music) == before
    (tmp_path / "map.yaml").write_text("placeholders: [jazz, Misc]\n")
    rows = _by_name(library.preview("--mapping", tmp_path / "map.yaml"))
    assert {name for name, row in rows.items() if row["action"] == "write"} == {"v24.mp3", "jazz.mp3"}


def test_a_placeholder_that_the_owner_typed_stays(library: _Library, tmp_path: Path) -> None:
    library.analyse()
    rows = library.preview()
    _by_name(rows)["v23.mp3"]["genre"] = "Other"
    library.save(rows)
    library.run("apply", "--plan", library.plan, "--write")
    library.run("apply", "--write")
    assert library.genres()["v23.mp3"] == ("Other",)
    (tmp_path / "map.yaml").write_text("placeholders: [' ']\n")
    assert "placeholders" in library.run("preview", "--mapping", tmp_path / "map.yaml", code=1).output


class _Undecided(FakeClassifier):
    """Predicts Rock at 55 % and Pop at 35 %."""

    def score_file(self, path: Path) -> FileResult:
        return FileResult(levels_of(0.05, 0.05, 0.3, 0.25, 0.35), 4, 0.35, 3, False, "none")


def test_several_genres_are_written_as_one_text(library: _Library, tmp_path: Path) -> None:
    write_tags(library.music / "flac.flac", ["Skiffle"], {})
    library.analyse(_Undecided)
    before = _bytes(library.music)
    options = ("--genres", 2, "--separator", "; ", "--append")
    library.run("apply", *options, "--write")
    expected = dict.fromkeys(NAMES, ("Rock; Pop",)) | {"flac.flac": ("Skiffle; Rock; Pop",)}
    assert library.genres() == expected
    assert "3 up to date" in library.run("apply", *options, "--write").output
    other = _Library(tmp_path / "other", library.music)  # without the journal: the fields tell whose genre it is
    other.db.parent.mkdir()
    other.analyse(_Undecided)
    assert "3 up to date" in other.run("apply", *options).output
    actions = {name: row["action"] for name, row in _by_name(other.preview()).items()}
    assert actions == dict.fromkeys(NAMES, "write") | {"flac.flac": "has_genre"}
    library.run("undo")
    assert _bytes(library.music) == before
    library.preview(*options)
    library.run("apply", "--plan", library.plan, "--write")
    assert library.genres() == expected, "the plan remembers the separator"
    assert "not a separator" in library.run("apply", "--separator", "and", code=1).output


def test_every_format_has_the_joined_text(music: Path, tmp_path: Path) -> None:
    library = _Library(tmp_path, music)
    library.analyse(_Undecided)
    library.run("apply", "--genres", 2, "--separator", "; ", "--write")
    assert library.genres() == dict.fromkeys(FORMATS, ("Rock; Pop",))


# -- the tree --------------------------------------------------------------------------------------------------------


class _Graded(FakeClassifier):
    """Predicts Soft_rock for mp3 files, with a confidence of their own, and Pop for the flac."""

    def score_file(self, path: Path) -> FileResult:
        if path.suffix == ".flac":
            return FileResult(levels_of(0, 0, 0.1, 0.1, 0.8), 4, 0.8, 3, False, "none")
        confidence = {"v23.mp3": 0.9, "v24.mp3": 0.6}.get(path.name, 0.7)
        return FileResult(levels_of(0, 0, confidence, 1 - confidence, 0), 2, confidence, 3, False, "none")


def test_the_tree_shows_counts_and_the_most_and_least_confident_files(library: _Library) -> None:
    for number in range(3):
        shutil.copy(library.music / "v24.mp3", library.music / f"{number} [b].mp3")
        with (library.music / f"{number} [b].mp3").open("ab") as stream:
            stream.write(bytes([number]))  # a content of its own
    library.analyse(_Graded)

    def shown(*words: str) -> str:
        done = CliRunner().invoke(
            main, ["library", "status", "--tree", *words, "--db", str(library.db)], env={"COLUMNS": "200"}
        )
        assert done.exit_code == 0, done.output
        return done.stdout

    tree = json.loads(shown("--json"))["tree"]
    assert (tree["path"], tree["files"]) == ([], 6)
    (other,) = tree["children"]
    rock, pop = other["children"]
    assert (rock["path"], rock["files"], pop["path"], pop["files"]) == (["Other", "Rock"], 5, ["Other", "Pop"], 1)
    (soft,) = rock["children"]
    most, least = (
        [(Path(file["file"]).name, file["confidence"]) for file in soft[f"{name}_confident"]]
        for name in ("most", "least")
    )
    assert most[0] == ("v23.mp3", 0.9) and least[0] == ("v24.mp3", 0.6)
    assert len(most) == len(least) == 2 and not set(most) & set(least)
    assert [file["confidence"] for file in pop["most_confident"]] == [0.8] and pop["least_confident"] == []
    text = shown()
    assert "all genres: 6" in text and "Soft_rock: 5" in text and "least confident 60%" in text and "[b].mp3" in text
