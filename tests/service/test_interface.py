"""Every route responds as documented."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import soundfile as sf
from click.testing import CliRunner
from mutagen.id3 import ID3, TIT2, TPE1
from PIL import Image
from pydantic import TypeAdapter
from safetensors.numpy import save_file
from serving import Server, alike, read_events

from genretree import __version__, load_bundle
from genretree.bundle.manifest import update_files
from genretree.cli import main
from genretree.corpus.manifest import read_manifest
from genretree.corpus.store import Store
from genretree.explanation import explain
from genretree.files import sha256_file
from genretree.service.http import schemas
from genretree.service.http.reference import render_reference
from genretree.settings import SAMPLE_RATE
from genretree.training.train import train
from small_corpus import TREE
from small_weights import write_mn04

pytestmark = pytest.mark.slow


def upload(*paths: Path, field: str = "files") -> list[tuple[str, tuple[str, bytes]]]:
    return [(field, (path.name, path.read_bytes())) for path in paths]


def check(schema: Any, answer: httpx.Response) -> Any:
    """Validate a response against its schema."""
    assert answer.headers["content-type"] == "application/json"
    TypeAdapter(schema).validate_json(answer.content)
    return answer.json()


def check_problem(answer: httpx.Response, status: int, kind: str) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    content = schemas.ProblemDocument.model_validate_json(answer.content)
    assert (content.status, content.kind, content.type) == (status, kind, "about:blank")
    return content.detail


def test_the_command_prints_models_and_address(server: Server) -> None:
    assert server.output == f"genretree serves first, second at {server.url}/ (Ctrl-C ends it)\n"


def test_models_and_limits(server: Server) -> None:
    content = check(schemas.Models, server.client.get("/v1/models"))
    assert [(model["name"], model["default"]) for model in content["models"]] == [("first", True), ("second", False)]
    assert content["models"][0]["id"] == content["models"][1]["id"]  # the same weights
    assert content["models"][0]["classes"] == [2, 4, 5]
    assert content["models"][0]["methods"][:2] == ["occlusion", "gradcam"]
    assert content["corrections"]
    assert content["limits"] == {"upload_bytes": 200 << 20, "seconds": 3600, "files": 16}


def test_the_tree_is_nested_as_the_taxonomy(server: Server, bundles: list[Path]) -> None:
    content = check(schemas.Tree, server.client.get("/v1/tree", params={"model": "second"}))
    assert content["model"] == "second"

    def leaves(node: dict[str, Any]) -> list[tuple[str, ...]]:
        below = [leaf for child in node["children"] for leaf in leaves(child)]
        return below or [tuple(node["path"])]

    assert leaves(content["root"]) == list(load_bundle(bundles[0]).taxonomy.leaves)
    assert [child["name"] for child in content["root"]["children"]] == ["Calm", "Busy"]


def test_predict_returns_what_the_command_prints(server: Server, bundles: list[Path], song: Path) -> None:
    answer = server.client.post("/v1/predict", files=upload(song))
    content = check(schemas.Predictions, answer)
    expected_detail = CliRunner().invoke(main, ["predict", str(bundles[0]), str(song), "--json"])
    (line,) = expected_detail.stdout.splitlines()
    assert content["model"] == "first"
    assert alike(content["results"], [{**json.loads(line), "file": song.name}])
    cut = server.client.post("/v1/predict", files=upload(song), params={"min_confidence": 1.0}).json()
    assert cut["results"][0]["path"] == []
    several = check(schemas.Predictions, server.client.post("/v1/predict", files=upload(song), params={"genres": 2}))
    genres = several["results"][0]["genres"]
    assert genres[0]["path"] == content["results"][0]["path"]
    assert 1 <= len(genres) <= 2
    check_problem(server.client.post("/v1/predict", files=upload(song), params={"genres": 0}), 422, "bad_request")


def test_several_files_and_one_of_them_bad(server: Server, song: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.mp3").write_text("no sound")
    files = upload(song, tmp_path / "notes.mp3", song)
    content = check(schemas.Predictions, server.client.post("/v1/predict", files=files))["results"]
    assert [row["file"] for row in content] == [song.name, "notes.mp3", song.name]
    assert alike(content[0], content[2])
    assert content[1]["error"] == {"kind": "not_audio", "message": "notes.mp3: is a text file, not audio"}


def test_a_truncated_file_is_refused_without_salvage(server: Server, song: Path) -> None:
    half = {"file": ("half.mp3", song.read_bytes()[: song.stat().st_size // 2])}
    check_problem(server.client.post("/v1/predict", files=half), 422, "truncated")
    row = server.client.post("/v1/predict", files=half, params={"salvage": True}).json()["results"][0]
    assert 1 <= row["slices"] < 4


def test_explain_returns_what_the_library_returns(server: Server, bundles: list[Path], song: Path) -> None:
    answer = server.client.post("/v1/explain", files=upload(song, field="file"), params={"level": "2"})
    content = check(schemas.ExplanationDocument, answer)
    expected = explain(load_bundle(bundles[0], "auto", "auto"), song, level=2).to_json()
    expected["prediction"]["file"] = song.name
    for each in (content, expected):
        del each["seconds"]
    assert alike(content, json.loads(json.dumps(expected)))
    assert not alike(content, {**expected, "family": "ast"})


@pytest.mark.parametrize(
    ("params", "status", "kind", "expected_detail"),
    [
        ({"model": "third"}, 404, "not_found", "available: first, second"),
        ({"node": "Dron"}, 422, "taxonomy", "did you mean 'Drone'"),
        ({"method": "oclusion"}, 422, "settings", "did you mean 'occlusion'"),
        ({"method": "rollout"}, 422, "settings", "available: occlusion, gradcam"),
        ({"against": "Bells"}, 422, "settings", "to contrast it with"),
        ({"level": "9"}, 422, "settings", "no level '9'"),
    ],
)
def test_bad_questions_are_refused_with_the_kinds_of_the_command(
    server: Server, song: Path, params: dict[str, str], status: int, kind: str, expected_detail: str
) -> None:
    for address in ("/v1/explain", "/v1/jobs"):
        job = {"do": "explain"} if address.endswith("jobs") else {}
        answer = server.client.post(address, files=upload(song, field="file"), params={**job, **params})
        assert expected_detail in check_problem(answer, status, kind)


def test_a_job_reports_progress_and_result(server: Server, bundles: list[Path], song: Path) -> None:
    answer = server.client.post("/v1/jobs", files=upload(song, field="file"), params={"do": "predict"})
    assert answer.status_code == 202
    job = check(schemas.JobDocument, answer)
    assert answer.headers["location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    with server.client.stream("GET", job["links"]["events"]) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = read_events(stream)
    assert {name for name, _ in events[:-1]} == {"progress"}
    progress = [data["progress"] for _, data in events[:-1]]
    assert progress == sorted(progress)
    name, result = events[-1]
    assert name == "done"
    row = server.client.post("/v1/predict", files=upload(song)).json()["results"][0]
    assert alike({key: result[key] for key in row}, row)
    chances = {tuple(node["path"]): node["probability"] for node in result["tree"]}
    taxonomy = load_bundle(bundles[0]).taxonomy
    assert set(chances) == {node for level in range(taxonomy.depth) for node in taxonomy.nodes(level)}
    assert chances["Calm",] + chances["Busy",] == pytest.approx(1, abs=1e-5)
    assert [line["node"] for line in result["timelines"]] == [
        row["path"][:cut] for cut in range(1, len(row["path"]) + 1)
    ]
    done = check(schemas.JobDocument, server.client.get(job["links"]["self"]))
    assert done["status"] == "done"
    assert done["progress"] == 1
    assert done["result"] == result


def test_a_model_without_explanations_classifies_in_a_job(song: Path, store: Store, tmp_path: Path) -> None:
    train(store, "tagger", tmp_path / "tagger", {"weights": str(write_mn04(tmp_path / "weights"))})
    with Server(tmp_path / "tmp", [str(tmp_path / "tagger")]) as tagging:
        job = tagging.client.post("/v1/jobs", files=upload(song, field="file"), params={"do": "predict"}).json()
        with tagging.client.stream("GET", job["links"]["events"]) as stream:
            assert read_events(stream)[-1][0] == "done"
        answer = tagging.client.post("/v1/jobs", files=upload(song, field="file"), params={"do": "explain"})
        assert "explain a model of another family" in check_problem(answer, 422, "settings")


def test_an_explanation_has_pictures_and_the_decoded_audio(server: Server, song: Path) -> None:
    job = server.client.post("/v1/jobs", files=upload(song, field="file"), params={"do": "explain"}).json()
    with server.client.stream("GET", job["links"]["events"]) as stream:
        events = read_events(stream)
    assert "explaining" in [data.get("stage") for _, data in events]
    ((_, preview),) = [event for event in events if event[0] == "preview"]
    assert [reason["sentences"] for reason in preview["reasons"]] == [[], [], []], "they need all relevance"
    result = events[-1][1]
    assert result["view"]["marks"] == preview["view"]["marks"]
    reasons = result["view"]["reasons"]
    assert len(reasons) == len(result["reasons"]) == len(result["pictures"]["reasons"]) == 3
    assert result["view"]["end"] == pytest.approx(9.0, abs=0.1)
    addresses = [result["pictures"]["tree"], *result["pictures"]["reasons"]]
    addresses += [
        view[kind]
        for reason in (*reasons, *preview["view"]["reasons"])
        for view in reason["views"]
        for kind in ("grey", "colour")
    ]
    for address in addresses:
        answer = server.client.get(address)
        assert answer.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(answer.content)).width > 100
    answer = server.client.get(result["sound"])
    assert answer.headers["content-type"] == "audio/ogg"
    assert sf.info(io.BytesIO(answer.content)).duration == pytest.approx(9.0, abs=0.1)
    part = server.client.get(result["sound"], headers={"range": "bytes=100-199"})
    assert part.status_code == 206
    assert part.content == answer.content[100:200]
    assert part.headers["content-range"] == f"bytes 100-199/{len(answer.content)}"
    check_ranges(server, result["sound"])
    check_clips(server, job["links"]["self"], result["reasons"])
    check_problem(server.client.get(f"{job['links']['self']}/pictures/other.png"), 404, "not_found")
    check_problem(server.client.get(f"{job['links']['self']}/pictures/sound.ogg"), 404, "not_found")
    assert server.client.delete(job["links"]["self"]).status_code == 204
    check_problem(server.client.get(job["links"]["self"]), 404, "not_found")
    check_problem(server.client.get(result["sound"]), 404, "not_found")
    assert f"job-{job['id']}" not in server.left()


def check_clips(server: Server, address: str, reasons: list[dict[str, Any]]) -> None:
    """Each sentence names its passage, and any passage can be fetched, also filtered to a band."""
    for sentence in (each for reason in reasons for each in reason["sentences"]):
        assert sentence["text"].endswith(".")
        assert abs(sentence["relevance"]) > 4 * sentence["noise"]
        if sentence["clip"] is not None:
            assert sentence["clip"].startswith(f"{address}/clip.wav?start=")
    where = {"start": 2, "end": 4}
    clips = [
        server.client.get(f"{address}/clip.wav", params={**where, **band}) for band in ({}, {"low": 400, "high": 800})
    ]
    powers = []
    for answer in clips:
        assert answer.headers["content-type"] == "audio/wav"
        y, sr = sf.read(io.BytesIO(answer.content))
        assert len(y) == 2 * sr == 2 * SAMPLE_RATE
        power = np.abs(np.fft.rfft(y)) ** 2
        hertz = np.fft.rfftfreq(len(y), 1 / sr)
        powers.append(power[(hertz > 380) & (hertz < 820)].sum() / power.sum())
    assert powers[1] > 0.95 > powers[0]
    for wrong in ({"end": 1}, {"end": 99}, {"low": 400}, {"low": 800, "high": 400}, {"start": "x"}):
        check_problem(server.client.get(f"{address}/clip.wav", params={**where, **wrong}), 422, "bad_request")
    check_problem(server.client.get(f"{address}/clip.wav", params={"start": 20, "end": 22}), 422, "too_short")


def check_ranges(server: Server, address: str) -> None:
    """Invalid ranges are refused with problem documents."""
    beyond = server.client.get(address, headers={"range": "bytes=9999999-"})
    check_problem(beyond, 416, "no_range")
    assert beyond.headers["content-range"] == f"bytes */{len(server.client.get(address).content)}"
    for words in ("bytes=abc", "lines=1-2", "bytes"):
        check_problem(server.client.get(address, headers={"range": words}), 400, "bad_request")


def test_a_failed_job_has_an_error(server: Server) -> None:
    job = server.client.post("/v1/jobs", files={"file": ("a.mp3", b"no sound")}, params={"do": "predict"}).json()
    with server.client.stream("GET", job["links"]["events"]) as stream:
        name, problem = read_events(stream)[-1]
    assert name == "failed"
    assert (problem["kind"], problem["detail"]) == ("not_audio", "a.mp3: is a text file, not audio")
    content = check(schemas.JobDocument, server.client.get(job["links"]["self"]))
    assert content["status"] == "failed"
    assert content["error"] == problem


def test_health_metrics_page_and_document(server: Server) -> None:
    assert check(schemas.Health, server.client.get("/healthz")) == {"status": "ok", "version": __version__}
    text = server.client.get("/metrics").text
    for name in ("requests_total", "request_seconds_bucket", "decode_queue", "stage_seconds_bucket"):
        assert f"genretree_{name}" in text
    page = server.client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert server.client.get("/static/index.html").content == page.content
    check_ranges(server, "/static/index.html")
    for address in ("/healthz", "/", "/docs", "/static/index.html"):
        only_headers = server.client.head(address)
        assert (only_headers.status_code, only_headers.content) == (200, b"")
        assert only_headers.headers["content-length"] == server.client.get(address).headers["content-length"]
    document = server.client.get("/openapi.json").json()
    assert set(document["paths"]["/v1/predict"]["post"]["responses"]) >= {"200", "413", "422", "503"}
    assert "example" in document["paths"]["/v1/predict"]["post"]["responses"]["200"]["content"]["application/json"]
    for address in ("/redoc", "/static/../app.py", "/static/%2e%2e/app.py", "/v1/nothing"):
        check_problem(server.client.get(address), 404, "not_found")
    wrong = server.client.put("/v1/jobs/x")
    check_problem(wrong, 405, "not_allowed")
    assert wrong.headers["allow"] == "DELETE, GET"
    check_problem(server.client.post("/v1/predict", params={"min_confidence": "much"}), 422, "bad_request")


def test_the_reference_describes_every_path_with_examples_that_parse(server: Server) -> None:
    document = server.client.get("/openapi.json").json()
    answer = server.client.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert "unsafe" not in answer.headers["content-security-policy"]
    page = html.unescape(answer.text)
    assert re.findall("<script(.*?)</script>", page) == [' src="static/theme.js">']
    assert not re.search(r"<style|<[^>]*\s(style|on\w+)=", answer.text)
    assert set(re.findall(r'href="#(.*?)"', page)) <= set(re.findall(r'id="(.*?)"', page))
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"<b>{method.upper()}</b> {path}<" in page
    assert f"curl -F files=@song.mp3 '{server.url}/v1/predict" in page

    protected = html.unescape(render_reference(document, server.url, token=True))
    for text in (page, protected):
        examples = re.findall(r"<h3 id=.*?>Python</h3><pre><code>(.*?)</code>", text, re.DOTALL)
        assert len(examples) == sum(map(len, document["paths"].values()))
        for example in examples:
            compile(example, "example", "exec")
    assert 'curl -H "Authorization: Bearer $GENRETREE_TOKEN"' in protected
    hostile = render_reference(document, 'http://x"onload=alert(1)/', token=False)
    assert "onload" not in hostile


def run_job(server: Server, **params: Any) -> dict[str, Any]:
    """Create a job, wait for it, and return its document."""
    files = params.pop("files", None)
    answer = server.client.post("/v1/jobs", files=files, params=params)
    assert answer.status_code == 202, answer.text
    job = check(schemas.JobDocument, answer)
    with server.client.stream("GET", job["links"]["events"]) as stream:
        read_events(stream)
    return check(schemas.JobDocument, server.client.get(job["links"]["self"]))


def test_a_kept_file_serves_further_jobs_until_its_job_is_deleted(server: Server, song: Path, tmp_path: Path) -> None:
    tagged = tmp_path / "tagged.mp3"
    tagged.write_bytes(song.read_bytes())
    tag_with_cover(tagged)
    first = run_job(server, files={"file": ("a song.mp3", tagged.read_bytes())}, keep=True)
    assert (first["file"], first["model"], first["kept"], first["of"]) == ("a song.mp3", "first", True, None)
    result = first["result"]
    assert result["tags"] == {"title": "A title", "artist": "An artist"}
    assert result["seconds"] == pytest.approx(9.0, abs=0.1)
    assert Image.open(io.BytesIO(server.client.get(result["cover"]).content)).size == (160, 160)
    kept = server.client.get(f"/v1/jobs/{first['id']}/file")
    assert kept.content == tagged.read_bytes()
    assert kept.headers["content-type"] == "application/octet-stream"
    second = run_job(server, of=first["id"], do="explain", node="Drone")
    assert second["status"] == "done"
    assert (second["of"], second["file"], second["question"]["node"]) == (first["id"], "a song.mp3", "Drone")
    assert run_job(server, of=first["id"], model="second")["model"] == "second"
    state = server.client.get(f"/v1/jobs/{first['id']}").json()
    assert state["derived"][0] == second["id"]
    assert len(state["derived"]) == 2
    assert server.client.delete(f"/v1/jobs/{first['id']}").status_code == 204
    for id in (first["id"], *state["derived"]):
        check_problem(server.client.get(f"/v1/jobs/{id}"), 404, "not_found")
        assert f"job-{id}" not in server.left()
    check_problem(server.client.post("/v1/jobs", params={"of": first["id"]}), 404, "not_found")


def tag_with_cover(path: Path) -> None:
    """Write title, artist and a picture into an mp3."""
    from mutagen.id3 import APIC, ID3, TIT2, TPE1

    picture = io.BytesIO()
    Image.new("RGB", (400, 400), "teal").save(picture, "JPEG")
    tags = ID3()
    for frame in (TIT2(text="A title"), TPE1(text="An artist"), APIC(3, "image/jpeg", 3, "", picture.getvalue())):
        tags.add(frame)
    tags.save(path)


def test_a_file_that_is_not_kept_can_not_be_used_again(server: Server, song: Path) -> None:
    job = run_job(server, files=upload(song, field="file"))
    assert (job["kept"], job["result"]["cover"]) == (False, None)
    check_problem(server.client.get(f"/v1/jobs/{job['id']}/file"), 404, "not_found")
    check_problem(server.client.post("/v1/jobs", params={"of": job["id"]}), 404, "not_found")


def test_corrections_become_a_table_for_the_next_training(server: Server, song: Path) -> None:
    job = run_job(server, files={"file": ("=a, song.mp3", song.read_bytes())}, keep=True)
    address = f"/v1/jobs/{job['id']}/correction"
    content = check(schemas.Correction, server.client.post(address, params={"genre": "Calm > Drone"}))
    assert content == {"file": "=a, song.mp3", "genre": ["Calm", "Drone"], "corrections": 1}
    assert check(schemas.Correction, server.client.post(address, params={"genre": "bells"}))["corrections"] == 1
    assert "did you mean" in check_problem(server.client.post(address, params={"genre": "Bels"}), 422, "taxonomy")
    check_problem(server.client.post(address), 422, "bad_request")
    command = psutil.Process(server.process.pid).cmdline()
    table = Path(command[command.index("--corrections") + 1]) / "corrections.csv"
    manifest = read_manifest(table, TREE)
    assert not manifest.rejected
    (track,) = manifest.tracks
    assert TREE.leaves[track.leaf] == ("Calm", "Bells")
    assert track.path.read_bytes() == song.read_bytes()
    assert track.path.suffix == ".mp3"
    assert track.metadata["predicted"] == " > ".join(job["result"]["path"])
    removed = check(schemas.Correction, server.client.delete(address))
    assert removed == {"file": "=a, song.mp3", "genre": None, "corrections": 0}
    assert not track.path.exists()
    server.client.delete(f"/v1/jobs/{job['id']}")
    check_problem(server.client.post(address, params={"genre": "Bells"}), 404, "not_found")


def test_nearest_training_tracks_are_named_and_played(
    bundles: list[Path], song: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("near")
    bundle, music = Path(shutil.copytree(bundles[0], folder / "bundle")), folder / "music"
    (music / "deep").mkdir(parents=True)
    shutil.copyfile(song, music / "deep" / "é a.mp3")
    tags = ID3()
    tags.add(TIT2(encoding=3, text="A title"))
    tags.add(TPE1(encoding=3, text="<b>An artist"))
    tags.save(music / "deep" / "é a.mp3")
    shutil.copyfile(song, folder / "outside.mp3")
    (music / "link.mp3").symlink_to(folder / "outside.mp3")
    (music / "notes.txt").write_text("private")
    (music / "not listed.mp3").write_bytes(b"private")
    names = ["deep/é a.mp3", "../outside.mp3", "link.mp3", "gone.mp3", str(folder / "outside.mp3"), "notes.txt", "a\0b"]
    width = load_bundle(bundle, "torch", "float32").model.embed({"images": np.zeros((1, 3, 64, 64), np.uint8)}).shape[1]
    (bundle / "index").mkdir()
    vectors = {"vectors": np.ones((len(names), width), np.float16), "mean": np.zeros(width, np.float32)}
    save_file({**vectors, "scale": np.ones(width, np.float32)}, bundle / "index" / "vectors.safetensors")
    entries = [{"track": name, "genre": ["Calm", "Drone"], "learned": True} for name in names]
    (bundle / "index" / "tracks.json").write_text(json.dumps(entries))
    files = ("index/vectors.safetensors", "index/tracks.json")
    update_files(bundle, "index", {name: sha256_file(bundle / name) for name in files})
    with Server(tmp_path_factory.mktemp("tmp"), [str(bundle), "--workers", "1", "--music", str(music)]) as server:
        found = server.client.post("/v1/explain", files={"file": ("a.mp3", song.read_bytes())}).json()["neighbours"]
        assert [item.get("playable") for item in found] == [True, False, False, False, False]
        assert (found[0]["title"], found[0]["artist"]) == ("A title", "<b>An artist")
        response = server.client.get("/v1/music", params={"track": names[0]}, headers={"range": "bytes=0-2"})
        assert (response.status_code, response.content) == (206, b"ID3")
        assert response.headers["content-type"] == "audio/mpeg"
        for name in (*names[1:], "not listed.mp3", "deep/../deep/é a.mp3", "", "deep"):
            assert server.client.get("/v1/music", params={"track": name}).status_code == 404, name


def test_without_the_music_no_training_track_is_sent(server: Server) -> None:
    assert server.client.get("/v1/music", params={"track": "a.mp3"}).status_code == 404
