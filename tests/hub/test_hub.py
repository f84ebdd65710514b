"""Bundles to the Hub and back, against a stand-in of its HTTP interface; nothing leaves the machine."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import yaml
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file
from stand_in_hub import LARGE, StandIn

import genretree
from genretree.bundle.bundle import Bundle, load_bundle
from genretree.bundle.hub import find_bundle, pull, push
from genretree.bundle.hub.card import CardInfo, plain
from genretree.bundle.hub.names import HubName, parse_name
from genretree.bundle.hub.upload import staged
from genretree.bundle.manifest import read_description, write_description
from genretree.cli import main
from genretree.corpus.store import Store
from genretree.errors import BundleError, HubError
from genretree.evaluation.evaluate import evaluate
from genretree.evaluation.report import save_evaluation
from genretree.files import sha256_file
from genretree.settings import SAMPLE_RATE
from genretree.training.train import train
from small_corpus import synthesise

pytestmark = pytest.mark.slow

QUICK = {"epochs": 3, "image_size": 16, "components": 10, "min_samples_leaf": 5}


@pytest.fixture(scope="module")
def bundle(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return train(store, "boosting", tmp_path_factory.mktemp("bundles") / "boosting", QUICK)


@pytest.fixture(scope="module")
def report(bundle: Bundle, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reports") / "report"
    save_evaluation(evaluate(bundle, store), out)
    return out


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.folder, tmp_path / "copy"))


def run(*words: object) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def upload(hub: StandIn, name: str, **changed: bytes | None) -> str:
    """Change files of a repository as another client would, and give the commit."""
    files = {**hub.files(name), **{file.replace("__", "."): content for file, content in changed.items()}}
    kept = {file: content for file, content in files.items() if content is not None}
    return hub.repositories[name].commit("main", kept, "by another hand")


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("alice/rock", HubName("alice/rock")),
        ("alice/rock@v1.0", HubName("alice/rock", "v1.0")),
        ("a-b.c/d_e@refs/pr/3", HubName("a-b.c/d_e", "refs/pr/3")),
        ("alice/rock@main", HubName("alice/rock", "main")),
        ("hf://alice/rock@v1.0", HubName("alice/rock", "v1.0")),
    ],
)
def test_names_are_read(text: str, name: HubName) -> None:
    assert parse_name(text) == parse_name(Path(text)) == name
    assert parse_name(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        *("rock", "/alice/rock", "a/b/c", "../rock", "alice/..", "a--b/c", "", "alice//rock", "alice/röck"),
        *("alice/rock@", "alice/ro ck", "alice/rock@../x", "alice/rock@-x", "a/" + "b" * 99, "alice/rock\n"),
    ],
)
def test_invalid_names_are_not_parsed(text: str) -> None:
    assert parse_name(text) is None


# -- there and back ----------------------------------------------------------------------------------------------


def test_a_pulled_bundle_predicts_the_same(hub: StandIn, bundle: Bundle, tmp_path: Path) -> None:
    done = push(bundle.folder, "alice/rock", message="First")
    assert done.url == f"{hub.url}/alice/rock"
    there = hub.files("alice/rock")
    own = set(read_description(bundle.folder)["files"])
    assert set(there) == own | {"bundle.json", "README.md", ".gitattributes"}
    assert hub.repositories["alice/rock"].messages[-1] == "First"
    assert any(file.endswith(LARGE) for file in there)
    assert hub.large, "arrays go by way of the large file storage"

    found = pull("alice/rock")
    assert found.commit == done.commit
    assert found.pinned == done.pinned == f"alice/rock@{done.commit}"
    assert {path.name for path in found.folder.iterdir()} == own | {"bundle.json", "hub.json"}
    assert json.loads((found.folder / "hub.json").read_text())["commit"] == done.commit
    song = tmp_path / "song.wav"
    sf.write(song, synthesise("Drone", 1, 5.0), SAMPLE_RATE)
    again = genretree.load("alice/rock")
    assert isinstance(again, Bundle)
    assert genretree.predict_file(again, song).levels == genretree.predict_file(bundle, song).levels
    assert any(agent.startswith("genretree/") for agent in hub.agents)


def test_the_library_takes_a_pulled_bundle_for_the_one_that_was_pushed(hub: StandIn, bundle: Bundle) -> None:
    from genretree.library.scan.classifier import load_file_classifier

    push(bundle.folder, "alice/rock")
    assert (
        load_file_classifier(pull("alice/rock").folder).model_key.digest
        == load_file_classifier(bundle.folder).model_key.digest
    )


def test_a_name_stays_the_commit_that_was_pulled(hub: StandIn, bundle: Bundle, copy: Path) -> None:
    first = push(bundle.folder, "alice/rock")
    pulled = pull("alice/rock")
    content = read_description(copy)
    write_description(copy, {**content, "training": {**content["training"], "note": "another"}})
    second = push(copy, "alice/rock")
    assert second.commit != first.commit
    hub.requests.clear()
    for name in ("alice/rock", "alice/rock@main", f"alice/rock@{first.commit}", f"alice/rock@{first.commit[:8]}"):
        assert find_bundle(name) == find_bundle(name, download=True) == pulled.folder
    assert hub.requests == [], "what was pulled is never asked for again"

    moved = pull("alice/rock")
    assert moved.commit == second.commit
    assert load_bundle("alice/rock").training["note"] == "another"
    assert "note" not in load_bundle(first.pinned).training
    hub.requests.clear()
    assert pull(first.pinned).folder == pulled.folder
    assert hub.requests == [], "a commit that is here needs no Hub"


def test_branches_are_pushed_pulled_and_kept_apart(hub: StandIn, bundle: Bundle) -> None:
    push(bundle.folder, "alice/rock")
    done = push(bundle.folder, "alice/rock", revision="next", card_info=CardInfo(data="On another branch."))
    assert hub.repositories["alice/rock"].branches["next"] == done.commit
    assert pull("alice/rock@next").commit == done.commit
    assert pull("alice/rock", revision="next").commit == done.commit
    with pytest.raises(HubError, match="genretree pull alice/rock"):
        find_bundle("alice/rock")
    assert pull("alice/rock").commit != done.commit


def test_a_local_folder_wins_over_a_name(hub: StandIn, bundle: Bundle, tmp_path: Path) -> None:
    push(bundle.folder, "alice/rock")
    pull("alice/rock")
    (tmp_path / "alice" / "rock").mkdir(parents=True)
    assert find_bundle("alice/rock") == Path("alice/rock")
    with pytest.raises(BundleError, match="is not a bundle"):
        load_bundle("alice/rock", download=True)
    assert genretree.load("hf://alice/rock").family == load_bundle(Path("hf://alice/rock")).family == "boosting"
    with pytest.raises(HubError, match="not a name on the Hub"):
        genretree.load("hf://alice")


def test_nothing_is_downloaded_unasked(hub: StandIn, bundle: Bundle, tmp_path: Path) -> None:
    push(bundle.folder, "alice/rock")
    hub.requests.clear()
    song = tmp_path / "song.wav"
    sf.write(song, synthesise("Drone", 1, 5.0), SAMPLE_RATE)
    for words in (
        ["predict", "alice/rock", song],
        ["explain", "alice/rock", song],
        ["library", "analyse", tmp_path, "--bundle", "alice/rock"],
        ["info", "alice/rock"],
    ):
        result = run(*words)
        assert result.exit_code == 1
        assert "genretree pull alice/rock" in result.output
    with pytest.raises(HubError, match="genretree pull"):
        load_bundle("alice/rock")
    assert hub.requests == []
    result = run("predict", "alice/rock", song, "--download", "--json", "--quiet")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["path"]
    hub.requests.clear()
    assert run("predict", "alice/rock", song, "--quiet").exit_code == 0
    assert "boosting" in run("info", "alice/rock").output
    assert run("library", "analyse", song.parent, "--bundle", "alice/rock", "--db", tmp_path / "l.db").exit_code == 0
    assert hub.requests == []


def test_the_commands_push_and_pull(hub: StandIn, bundle: Bundle, report: Path, tmp_path: Path) -> None:
    words = ["push", bundle.folder, "alice/rock", "--report", report, "--license", "cc-by-4.0", "--data", "Made up."]
    result = run(*words, "--dry-run")
    assert "bundle.json" in result.output
    assert "Made up." in result.output
    assert hub.requests == [], "a dry run asks nothing of the Hub"
    done = json.loads(run(*words, "--private", "--json").stdout)
    assert hub.repositories["alice/rock"].private
    result = run("pull", "alice/rock", "--quiet")
    assert f"alice/rock@{done['commit']}" in result.output
    got = json.loads(run("pull", "alice/rock", "--to", tmp_path / "here", "--json", "--quiet").stdout)
    assert got["commit"] == done["commit"]
    load_bundle(tmp_path / "here")
    assert "no metrics" in run("push", bundle.folder, "alice/pop").output
    result = run("pull", "alice/rock", "--to", tmp_path / "here")
    assert "already exists" in result.output


# -- what goes up ------------------------------------------------------------------------------------------------


def test_folders_of_this_disk_stay_here(hub: StandIn, copy: Path) -> None:
    content = read_description(copy)
    store = {**content["training"]["store"], "folder": "../alice/secret/store", "source": "/home/alice/secret/all.csv"}
    (copy / "backbone.json").write_text(json.dumps({"_name_or_path": "/home/alice/secret/weights", "width": 3}))
    files = {**content["files"], "backbone.json": sha256_file(copy / "backbone.json")}
    settings = {**content["settings"], "weights": "C:\\secret\\w"}
    write_description(copy, {**content, "training": {**content["training"], "store": store}, "files": files,
                             "settings": settings})  # fmt: skip
    push(copy, "alice/rock")
    assert not any(b"secret" in content for content in hub.files("alice/rock").values())
    folder = pull("alice/rock").folder
    sent = read_description(folder)
    assert sent["training"]["store"]["source"] == "all.csv"
    assert sent["settings"]["weights"] == "w"
    assert json.loads((folder / "backbone.json").read_text()) == {"_name_or_path": "weights", "width": 3}
    assert sent["taxonomy"] == content["taxonomy"]
    assert read_description(copy)["settings"]["weights"] == "C:\\secret\\w", "the bundle here stays as it is"


def test_exports_and_the_index_stay_here(hub: StandIn, copy: Path) -> None:
    content, files = read_description(copy), {}
    for name in ("index/tracks.json", "openvino/network.bin", "onnx/network.onnx"):
        (copy / name).parent.mkdir()
        (copy / name).write_text("[]")
        files[name] = sha256_file(copy / name)
    write_description(copy, {**content, "files": {**content["files"], **files}})
    push(copy, "alice/rock")
    assert not any("/" in name for name in hub.files("alice/rock"))
    load_bundle(pull("alice/rock").folder)
    push(copy, "alice/rock", with_index=True)
    assert [name for name in hub.files("alice/rock") if "/" in name] == ["index/tracks.json"]
    assert pull("alice/rock").folder.joinpath("index", "tracks.json").is_file()


def test_what_a_bundle_no_longer_has_goes_and_what_others_put_there_stays(hub: StandIn, copy: Path) -> None:
    content = read_description(copy)
    (copy / "extra.json").write_text("{}")
    write_description(copy, {**content, "files": {**content["files"], "extra.json": sha256_file(copy / "extra.json")}})
    push(copy, "alice/rock")
    upload(hub, "alice/rock", samples__txt=b"mine", README__md=b"---\nlicense: mit\n---\nMy own words.")
    write_description(copy, content)
    push(copy, "alice/rock", keep_card=True)
    there = hub.files("alice/rock")
    assert "extra.json" not in there
    assert there["samples.txt"] == b"mine"
    assert b"My own words" in there["README.md"]
    push(copy, "alice/rock")
    assert b"My own words" not in hub.files("alice/rock")["README.md"]


def test_only_files_that_cannot_run_code_go_up(hub: StandIn, copy: Path) -> None:
    content = read_description(copy)
    (copy / "weights.pkl").write_bytes(pickle.dumps([1]))
    write_description(
        copy, {**content, "files": {**content["files"], "weights.pkl": sha256_file(copy / "weights.pkl")}}
    )
    with pytest.raises(HubError, match=r"weights\.pkl has a file type that can't be transferred"):
        push(copy, "alice/rock")
    assert hub.requests == []


def test_a_damaged_bundle_is_not_pushed(hub: StandIn, copy: Path) -> None:
    (copy / "projection.safetensors").write_bytes(b"x")
    with pytest.raises(BundleError, match="damaged"):
        push(copy, "alice/rock")
    assert hub.requests == []


def test_a_repository_that_holds_something_else_is_left_alone(hub: StandIn, bundle: Bundle) -> None:
    push(bundle.folder, "alice/rock")
    upload(hub, "alice/rock", bundle__json=None)
    before = hub.files("alice/rock")
    with pytest.raises(HubError, match="something other than a bundle"):
        push(bundle.folder, "alice/rock")
    assert hub.files("alice/rock") == before


def test_private_is_never_public(hub: StandIn, bundle: Bundle) -> None:
    push(bundle.folder, "alice/rock")
    commits = len(hub.repositories["alice/rock"].commits)
    with pytest.raises(HubError, match="is public"):
        push(bundle.folder, "alice/rock", private=True)
    assert len(hub.repositories["alice/rock"].commits) == commits


# -- what comes down ---------------------------------------------------------------------------------------------


def test_a_pickle_is_refused_before_it_is_fetched(hub: StandIn, bundle: Bundle, tmp_path: Path) -> None:
    push(bundle.folder, "alice/rock")
    (tmp_path / "evil").mkdir()
    content = json.loads(hub.files("alice/rock")["bundle.json"])
    for name, problem in (("weights.bin", "can't be transferred"), ("../../evil.json", "outside the bundle")):
        write_description(tmp_path / "evil", {**content, "files": {**content["files"], name: "0" * 64}})
        upload(hub, "alice/rock", bundle__json=(tmp_path / "evil" / "bundle.json").read_bytes())
        hub.requests.clear()
        with pytest.raises((HubError, BundleError), match=problem):
            pull("alice/rock")
        assert not any("weights.bin" in request or "evil" in request for request in hub.requests)
    assert not list((tmp_path / "cache").rglob("bundle.json"))


@pytest.mark.parametrize("place", ["hf://", "hf://a/b@", "hf://a"])
def test_a_wrong_name_is_shown_with_its_slashes(place: str) -> None:
    for each in (place, Path(place)):
        with pytest.raises(HubError) as error:
            genretree.load(each)
        assert str(error.value).startswith(f"'{place}' is not a name on the Hub")


def test_what_was_changed_on_the_way_is_refused_and_not_kept(hub: StandIn, bundle: Bundle, tmp_path: Path) -> None:
    push(bundle.folder, "alice/rock")
    upload(hub, "alice/rock", projection__safetensors=b"not the weights")
    with pytest.raises(BundleError, match="damaged"):
        pull("alice/rock")
    with pytest.raises(HubError, match="no such bundle"):
        find_bundle("alice/rock")
    with pytest.raises(BundleError):
        pull("alice/rock", to=tmp_path / "here")
    assert not (tmp_path / "here").exists()
    content = json.loads(hub.files("alice/rock")["bundle.json"])
    upload(hub, "alice/rock", bundle__json=json.dumps({**content, "family": "cnn"}).encode())
    with pytest.raises(BundleError, match="damaged or edited"):
        pull("alice/rock")


def test_a_damaged_pulled_bundle_is_detected_and_pulled_again(hub: StandIn, bundle: Bundle) -> None:
    push(bundle.folder, "alice/rock")
    folder = pull("alice/rock").folder
    for name in ("projection.safetensors", "bundle.json"):
        (folder / name).write_bytes(b"rot")
        with pytest.raises(BundleError, match="damaged"):
            load_bundle("alice/rock")
        assert pull("alice/rock").folder == folder
        load_bundle("alice/rock")


def test_a_description_of_another_shape_gets_one_clear_line(hub: StandIn, bundle: Bundle, tmp_path: Path) -> None:
    push(bundle.folder, "alice/rock")
    content = json.loads(hub.files("alice/rock")["bundle.json"])
    for changed in ({"files": ["a.json"]}, {"training": "none"}, {"settings": [1]}):
        write_description(tmp_path, {**content, **changed})
        upload(hub, "alice/rock", bundle__json=(tmp_path / "bundle.json").read_bytes())
        with pytest.raises(BundleError, match="has the wrong type"):
            pull("alice/rock")


def test_two_pulls_at_once_leave_one_whole_bundle(hub: StandIn, bundle: Bundle) -> None:
    push(bundle.folder, "alice/rock")
    with ThreadPoolExecutor(4) as pool:
        found = [future.result() for future in [pool.submit(pull, "alice/rock") for _ in range(4)]]
    assert len({each.folder for each in found}) == 1
    load_bundle("alice/rock")


def test_a_download_that_breaks_off_leaves_no_bundle_and_can_be_repeated(hub: StandIn, bundle: Bundle) -> None:
    push(bundle.folder, "alice/rock")
    hub.broken.add("projection.safetensors")
    with pytest.raises(HubError):
        pull("alice/rock")
    with pytest.raises(HubError, match="no such bundle"):
        find_bundle("alice/rock")
    hub.broken.clear()
    load_bundle(pull("alice/rock").folder)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("alice/nothing", "no such model on the Hub, or it is private"),
        ("alice/rock@nowhere", "has no revision 'nowhere'"),
        ("alice/empty", "lacks a file of the bundle"),
        ("rock", "is not a name on the Hub"),
        ("alice/rock@v1", "already names a revision"),
    ],
)
def test_mistakes_in_pulling_get_one_clear_line(hub: StandIn, bundle: Bundle, name: str, problem: str) -> None:
    push(bundle.folder, "alice/rock")
    push(bundle.folder, "alice/empty")
    hub.repositories["alice/empty"].commit("main", {".gitattributes": b""}, "emptied")
    words = ["--revision", "v2"] if "already" in problem else []
    result = run("pull", name, *words)
    assert result.exit_code == 1
    assert problem in result.output
    assert "Traceback" not in result.output


def test_pushing_without_leave_says_to_log_in(
    hub: StandIn, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    with pytest.raises(HubError, match="hf auth login"):
        push(bundle.folder, "alice/rock")


def test_without_a_network_or_offline_only_what_is_here_works(
    hub: StandIn, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = push(bundle.folder, "alice/rock")
    pull("alice/rock")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        pull("alice/rock")
    assert load_bundle("alice/rock").family == "boosting"
    assert pull(done.pinned).commit == done.commit
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(HubError, match="can't be reached"):
        pull("alice/rock")
    assert load_bundle("alice/rock").family == "boosting"


OLD = Path(__file__).parents[1] / "data" / "v0.1" / "boosting"


def test_a_bundle_of_0_1_is_converted_when_it_is_pushed(hub: StandIn) -> None:
    push(OLD / "tree", "alice/old")
    assert not any(file.endswith(".skops") for file in hub.files("alice/old"))
    expected = np.load(OLD / "expected.npz")
    found = load_bundle(pull("alice/old").folder)
    assert set(found.training) == set(load_bundle(OLD / "tree").training)
    for level, values in enumerate(found.model.predict_proba({"images": expected["images"]})):
        np.testing.assert_array_equal(values, expected[f"level_{level}"])


def test_files_of_skops_are_not_pulled(hub: StandIn, tmp_path: Path) -> None:
    push(OLD / "tree", "alice/old")
    files = {path.name: path.read_bytes() for path in (OLD / "tree").iterdir()}
    hub.repositories["alice/old"].commit("main", files, "as 0.1 did")
    with pytest.raises(HubError, match=r"classifier-0\.skops was written by genretree 0\.1 .* push it again") as raised:
        pull("alice/old")
    assert "\n" not in str(raised.value)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name == "bundle.json"]


def test_what_would_not_load_is_not_pulled(hub: StandIn, copy: Path, tmp_path: Path) -> None:
    arrays = {name: value.copy() for name, value in load_file(copy / "classifier-0.safetensors").items()}
    arrays["left"][0] = 0
    save_file(arrays, copy / "classifier-0.safetensors")
    files = {name: sha256_file(copy / name) for name in read_description(copy)["files"]}
    write_description(copy, {**read_description(copy), "files": files})
    push(copy, "alice/bad")
    with pytest.raises(BundleError, match=r"classifier-0\.safetensors: .*a cycle"):
        pull("alice/bad")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name == "bundle.json"]


# -- the cache ---------------------------------------------------------------------------------------------------


def test_the_cache_holds_only_files_that_the_bundle_lists(hub: StandIn, bundle: Bundle, tmp_path: Path) -> None:
    push(bundle.folder, "alice/rock")
    upload(hub, "alice/rock", extra__py=b"raise SystemExit", other__json=b"{}", x__pkl=pickle.dumps(1))
    hub.requests.clear()
    folder = pull("alice/rock").folder
    assert {path.name for path in folder.iterdir()} == {*bundle_files(folder), "bundle.json", "hub.json"}
    assert not any(word in request for request in hub.requests for word in ("extra", "other", "pkl"))
    assert not (tmp_path / "hf").exists(), "the cache of other programs stays as it is"


def bundle_files(folder: Path) -> list[str]:
    return list(read_description(folder)["files"])


def test_a_commit_that_is_refused_neither_replaces_nor_damages_the_one_before(
    hub: StandIn, bundle: Bundle, tmp_path: Path
) -> None:
    push(bundle.folder, "alice/rock")
    good = pull("alice/rock")
    bad = upload(hub, "alice/rock", projection__safetensors=b"not the weights")
    with pytest.raises(BundleError, match="damaged"):
        pull("alice/rock")
    assert find_bundle("alice/rock") == good.folder
    load_bundle("alice/rock")
    assert not [path for path in (tmp_path / "cache").rglob(bad) if path.is_dir()]


def test_a_damaged_file_that_two_commits_share_is_downloaded_again(hub: StandIn, bundle: Bundle) -> None:
    push(bundle.folder, "alice/rock")
    first = pull("alice/rock")
    (first.folder / "projection.safetensors").write_bytes(b"rot")
    upload(hub, "alice/rock", README__md=b"---\nlicense: mit\n---\n")
    second = pull("alice/rock")
    assert second.folder != first.folder
    for pulled in (first, second):
        load_bundle(pulled.pinned)


def test_a_file_that_the_hub_lacks_is_named(hub: StandIn, bundle: Bundle) -> None:
    push(bundle.folder, "alice/rock")
    commit = upload(hub, "alice/rock", projection__safetensors=None)
    with pytest.raises(HubError, match=r"lacks a file of the bundle .*projection\.safetensors.*; its owner must push"):
        pull("alice/rock")
    with pytest.raises(HubError, match="no such bundle"):
        find_bundle(f"alice/rock@{commit}")


def test_a_download_that_breaks_off_is_not_found_by_its_commit(hub: StandIn, bundle: Bundle) -> None:
    commit = push(bundle.folder, "alice/rock").commit
    hub.broken.add("projection.safetensors")
    with pytest.raises(HubError):
        pull("alice/rock")
    with pytest.raises(HubError, match="no such bundle"):
        find_bundle(f"alice/rock@{commit}")


def test_a_copy_outside_the_cache_has_no_links(hub: StandIn, bundle: Bundle, tmp_path: Path) -> None:
    push(bundle.folder, "alice/rock")
    folder = pull("alice/rock", to=tmp_path / "here").folder
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    with pytest.raises(HubError, match="no such bundle"):
        find_bundle("alice/rock")


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_lead_to_the_files_of_the_cache_only(hub: StandIn, bundle: Bundle, tmp_path: Path) -> None:
    push(bundle.folder, "alice/rock")
    folder = pull("alice/rock").folder
    file = folder / "projection.safetensors"
    assert file.is_symlink()
    shutil.move(file.resolve(), tmp_path / "elsewhere")
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="is a link to a file outside the bundle"):
        load_bundle("alice/rock")
    blobs = folder.parents[1] / "blobs"
    blobs.rename(tmp_path / "blobs")
    blobs.symlink_to(tmp_path / "blobs")
    with pytest.raises(BundleError, match="is a link to a file outside the bundle"):
        load_bundle("alice/rock")


def test_what_genretree_0_1_pulled_is_found(hub: StandIn, bundle: Bundle, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "cache" / "hub" / "alice" / "rock"
    folder = Path(shutil.copytree(bundle.folder, home / commit))
    (folder / "hub.json").write_text(json.dumps({"name": "alice/rock", "revision": "main", "commit": commit}))
    (home / "revisions.json").write_text(json.dumps({"main": commit}))
    for name in ("alice/rock", f"alice/rock@{commit}", f"alice/rock@{commit[:7]}"):
        assert find_bundle(name) == folder
    assert load_bundle("alice/rock").family == "boosting"
    (home / "revisions.json").write_text("[")
    with pytest.raises(HubError, match="genretree pull alice/rock"):
        find_bundle("alice/rock")
    assert hub.requests == []


# -- the card ----------------------------------------------------------------------------------------------------


def _card(bundle: Bundle, card_info: CardInfo) -> tuple[dict, str]:
    with staged(bundle.folder, "alice/rock", None, card_info) as outgoing:
        _, head, text = outgoing.card.split("---\n", 2)
    return yaml.safe_load(head), text


def test_the_card_gives_the_figures_of_the_report(bundle: Bundle, report: Path) -> None:
    head, text = _card(bundle, CardInfo(report, "cc-by-4.0", "Made-up music."))
    metrics = json.loads((report / "metrics.json").read_text())
    assert head["license"] == "cc-by-4.0"
    assert head["library_name"] == "genretree"
    measured = [item for one in head["model-index"][0]["results"] for item in one["metrics"]]
    given = {item["name"].split(",")[0] + item["name"].split(",")[1]: item["value"] for item in measured}
    for level in metrics["track"]["levels"]:
        low, high = level["ci95"]
        assert f"{100 * level['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f})" in text
        assert given[f"Accuracy {level['name']}"] == pytest.approx(level["accuracy"], abs=1e-4)
        assert given[f"Macro-F1 {level['name']}"] == pytest.approx(level["macro_f1"], abs=1e-4)
    for words in (
        "Made-up music.",
        metrics["disjoint"],
        "Slow\\_beat",
        "groups: rely on the confidence intervals",
        "cc-by-4.0",
    ):
        assert words in text
    assert str(bundle.training["slices"]["train"]) in text
    assert f"on {bundle.calibration.tracks} tracks" in text  # type: ignore[union-attr]
    assert 'genretree.load("alice/rock", download=True)' in text


def test_a_card_without_a_report_says_that_nothing_was_measured(bundle: Bundle) -> None:
    head, text = _card(bundle, CardInfo())
    assert "model-index" not in head
    assert "license" not in head
    assert "Not available: the bundle was pushed without a report" in text
    assert "ask the owner" in text


def test_figures_of_another_bundle_are_refused(bundle: Bundle, report: Path, tmp_path: Path) -> None:
    metrics = json.loads((report / "metrics.json").read_text())
    for changed in ({"training": {**metrics["training"], "finished": "2020"}}, {"training": {}}):
        (tmp_path / "metrics.json").write_text(json.dumps({**metrics, **changed}))
        with pytest.raises(HubError, match="belong to another bundle"):
            _card(bundle, CardInfo(tmp_path))
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(HubError, match="not the metrics of an evaluation"):
        _card(bundle, CardInfo(tmp_path / "metrics.json"))
    with pytest.raises(HubError, match="no such report"):
        _card(bundle, CardInfo(tmp_path / "nowhere"))


def test_the_card_says_when_the_figures_leak(bundle: Bundle, store: Store, tmp_path: Path) -> None:
    save_evaluation(evaluate(bundle, store, part="train"), tmp_path)
    assert "not for unseen artists: LEAKING" in _card(bundle, CardInfo(tmp_path))[1]


def test_a_genre_cannot_write_into_the_card() -> None:
    assert plain("<b>x</b> | [a](b)\n# *c*") == "\\<b\\>x\\</b\\> \\| \\[a\\](b) \\# \\*c\\*"
