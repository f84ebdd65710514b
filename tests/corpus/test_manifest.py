from __future__ import annotations

from pathlib import Path

import pytest
import soundfile as sf

from genretree.corpus.manifest import read_manifest
from genretree.errors import CorpusError
from genretree.settings import SAMPLE_RATE
from genretree.taxonomy import Taxonomy
from small_corpus import synthesise

TREE = Taxonomy.from_nested({"Classic": ["Chamber", "Opera"], "Non_classic": {"Rock": ["Soft_rock", "Hard_rock"]}})


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def _csv(folder: Path, text: str) -> Path:
    path = folder / "tracks.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_folder_gives_its_tree(tmp_path: Path) -> None:
    _touch(tmp_path, "Classic/Chamber/a.mp3", "Classic/Opera/b.FLAC", "Non_classic/c.ogg", "Classic/Opera/cover.jpg")
    _touch(tmp_path, "Classic/.hidden/d.mp3", "Classic/Opera/._b.mp3")
    manifest = read_manifest(tmp_path)
    assert manifest.taxonomy.leaves == (("Classic", "Chamber"), ("Classic", "Opera"), ("Non_classic",))
    assert [track.name for track in manifest.tracks] == [
        "Classic/Chamber/a.mp3",
        "Classic/Opera/b.FLAC",
        "Non_classic/c.ogg",
    ]
    assert len({track.group for track in manifest.tracks}) == 3  # untagged files are groups of their own


def test_folders_below_a_leaf_are_groups(tmp_path: Path) -> None:
    _touch(tmp_path, "Classic/Chamber/Trio/a.mp3", "Classic/Chamber/Trio/b.mp3", "Classic/Opera/c.mp3")
    for manifest in (read_manifest(tmp_path, TREE), read_manifest(tmp_path, depth=2)):
        assert [track.group for track in manifest.tracks][:2] == ["folder:Trio", "folder:Trio"]
        assert manifest.tracks[2].group.startswith("track:")


def test_a_folder_is_grouped_by_the_artist_in_its_tags(tmp_path: Path) -> None:
    import mutagen

    for i, artist in enumerate(["Ana", "Ana", "Bo"]):
        path = tmp_path / ("Rock" if i < 2 else "Pop") / f"{i}.flac"
        path.parent.mkdir(exist_ok=True)
        sf.write(path, synthesise("Drone", i, 1.0), SAMPLE_RATE)
        tags = mutagen.File(path)
        tags["artist"] = artist
        tags.save()
    manifest = read_manifest(tmp_path)
    assert manifest.group_by == "artist"
    assert sorted(track.group for track in manifest.tracks) == ["artist:Ana", "artist:Ana", "artist:Bo"]


def test_music_out_of_its_place_is_reported_and_left_out(tmp_path: Path) -> None:
    _touch(tmp_path, "Classic/a.mp3", "Classic/Chamber/b.mp3", "Pop/c.mp3", "stray.mp3")
    manifest = read_manifest(tmp_path)
    assert [track.name for track in manifest.tracks] == ["Classic/Chamber/b.mp3", "Pop/c.mp3"]
    assert {failure.path: failure.kind for failure in manifest.rejected} == {
        "Classic/a.mp3": "genre",
        "stray.mp3": "genre",
    }
    assert any("sub-genres" in failure.message for failure in manifest.rejected)
    _touch(tmp_path / "flat", "a.mp3")
    with pytest.raises(CorpusError, match="not in a genre folder"):
        read_manifest(tmp_path / "flat")


def test_a_genre_may_bear_the_name_of_another_branchs(tmp_path: Path) -> None:
    _touch(tmp_path, "Pop/a.mp3", "Non/Pop/b.mp3", "Non/Rock/c.mp3")
    manifest = read_manifest(tmp_path)
    assert not manifest.rejected
    assert [manifest.taxonomy.leaves[track.leaf] for track in manifest.tracks] == [
        ("Non", "Pop"),
        ("Non", "Rock"),
        ("Pop",),
    ]


def test_names_that_differ_in_case_only_are_one_genre(tmp_path: Path) -> None:
    _touch(tmp_path, "Rock/a.mp3", "rock/b.mp3", "Hip hop/c.mp3", "hip-hop/d.mp3")
    manifest = read_manifest(tmp_path)
    assert not manifest.rejected
    assert len(manifest.taxonomy.leaves) == 2
    assert len(manifest.tracks) == 4


def test_a_csv_with_a_gap_between_levels_or_a_column_twice(tmp_path: Path) -> None:
    manifest = read_manifest(_csv(tmp_path, "path,level_1,level_2,level_3\na.mp3,A,,C\nb.mp3,A,B,\nc.mp3,D,,\n"))
    assert [failure.path for failure in manifest.rejected] == ["a.mp3"]
    assert manifest.taxonomy.leaves == (("A", "B"), ("D",))
    with pytest.raises(CorpusError, match="duplicate column path"):
        read_manifest(_csv(tmp_path, "path,path,genre\na.mp3,b.mp3,Opera\n"))


def test_too_deep_a_folder_asks_for_the_depth(tmp_path: Path) -> None:
    _touch(tmp_path, "a/b/c/d/e/x.mp3", "f/y.mp3")
    with pytest.raises(CorpusError, match="`depth`"):
        read_manifest(tmp_path)


def test_a_csv_with_leaf_names_and_a_tree(tmp_path: Path) -> None:
    path = _csv(tmp_path, "path,genre,artist\na.mp3,Soft rock,Ana\nsub/b.mp3,Opera,\n")
    manifest = read_manifest(path, TREE)
    assert [TREE.leaves[track.leaf][-1] for track in manifest.tracks] == ["Soft_rock", "Opera"]
    assert manifest.tracks[1].path == (tmp_path / "sub/b.mp3").absolute()
    assert [track.group for track in manifest.tracks] == ["artist:Ana", "track:sub/b.mp3"]


def test_a_csv_with_a_column_for_each_level(tmp_path: Path) -> None:
    header = "path;level_1;level_2;level_3;album\n"
    rows = header + "a.mp3;Classic;Opera;Opera;x\nb.mp3;Classic;Chamber;;y\nc.mp3;Pop;Soft;Slow;z\n"
    manifest = read_manifest(_csv(tmp_path, rows))
    assert manifest.taxonomy.leaves == (("Classic", "Chamber"), ("Classic", "Opera"), ("Pop", "Soft", "Slow"))
    assert manifest.taxonomy.levels == ("level_1", "level_2", "level_3")
    assert manifest.group_by == "album"


def test_level_columns_by_name(tmp_path: Path) -> None:
    path = _csv(tmp_path, "path,family,style\na.mp3,Classic,Opera\nb.mp3,Classic,Chamber\n")
    assert read_manifest(path, levels=["family", "style"]).taxonomy.levels == ("family", "style")
    with pytest.raises(CorpusError, match="`levels`"):
        read_manifest(path)
    with pytest.raises(CorpusError, match="no column stile"):
        read_manifest(path, levels=["family", "stile"])


def test_genre_paths_in_one_column_give_a_tree(tmp_path: Path) -> None:
    path = _csv(tmp_path, "path,genre\na.mp3,Classic/Opera\nb.mp3,Classic > Chamber\n")
    assert read_manifest(path).taxonomy.leaves == (("Classic", "Chamber"), ("Classic", "Opera"))


def test_bad_rows_are_reported_and_left_out(tmp_path: Path) -> None:
    rows = "path,genre\na.mp3,Opera\nb.mp3,Polka\n,Opera\nc.mp3,\na.mp3,Chamber\na.mp3,Opera\n"
    manifest = read_manifest(_csv(tmp_path, rows), TREE)
    assert [track.name for track in manifest.tracks] == ["a.mp3"]
    assert sorted(failure.path for failure in manifest.rejected) == ["a.mp3", "b.mp3", "c.mp3", "line 4"]
    assert any("Polka" in failure.message for failure in manifest.rejected)
    assert any("twice" in failure.message for failure in manifest.rejected)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("file,genre\na,b\n", "column 'path'"),
        ("path,genre\n", "no tracks found"),
        ("", "column 'path'"),
        ("path,genre\na.mp3,Polka\n", "no track has a genre of the tree"),
        ("path,title\na.mp3,x\n", "'genre'"),
    ],
)
def test_a_useless_csv_is_refused_by_name(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(CorpusError, match=problem) as caught:
        read_manifest(_csv(tmp_path, text), TREE)
    assert "tracks.csv" in str(caught.value)


def test_missing_sources_and_wrong_groups(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such folder or CSV"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match="no tracks found"):
        read_manifest(tmp_path)
    path = _csv(tmp_path, "path,genre\na.mp3,Opera\n")
    with pytest.raises(CorpusError, match="no column 'artist'"):
        read_manifest(path, TREE, group="artist")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorpusError, match="UTF-8"):
        read_manifest(tmp_path / "binary.csv")
