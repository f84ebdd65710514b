"""The Python client, against a real service."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from serving import Server

from genretree.client import Client, ServiceError

pytestmark = pytest.mark.slow


def test_predictions_explanations_and_trees_arrive(server: Server, song: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp3"
    broken.write_bytes(b"not audio")
    with Client(server.url) as client:
        assert [model["name"] for model in client.models()] == ["first", "second"]
        assert client.tree("second")["children"]
        row = client.predict(song)[0]
        assert row["file"] == "beat.mp3" and row["levels"][0]["probability"] > 0
        rows = client.predict([broken, song], model="second", min_confidence=1.0, salvage=True)
        assert rows[0]["error"]["kind"] and rows[1]["path"] == []
        assert client.explain(song, node=row["levels"][0]["label"])["reasons"]
        seen: list[tuple[str, float]] = []
        result = client.run_job(song, on_progress=lambda stage, progress: seen.append((stage, progress)))
        assert result["path"] == row["path"] and seen
        with pytest.raises(ServiceError) as failed:
            client.run_job(broken)
        assert failed.value.status == 422
    assert server.client.get("/v1/models").status_code == 200


def test_refusals_have_the_kind_of_the_problem(strict: Server, song: Path) -> None:
    with Client(strict.url) as client, pytest.raises(ServiceError, match="access token") as refused:
        client.models()
    assert (refused.value.kind, refused.value.status) == ("unauthorized", 401)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "http://[bad"])
def test_a_service_that_is_not_there_is_named(url: str) -> None:
    with pytest.raises(ServiceError, match="is the service running") as missing, Client(url) as client:
        client.models()
    assert missing.value.kind == "unreachable"


def test_a_busy_service_is_asked_again_with_the_whole_file(song: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    bodies: list[int] = []
    monkeypatch.setattr("time.sleep", waited.append)

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(len(request.read()))
        if len(bodies) < 3:
            return httpx.Response(503, headers={"retry-after": "7"}, json={"detail": "full", "kind": "busy"})
        return httpx.Response(200, json={"model": "m", "results": [{"file": "beat.mp3", "path": ["a"]}]})

    with Client("http://service", transport=httpx.MockTransport(answer)) as client:
        assert client.predict(song)[0]["path"] == ["a"]
    assert waited == [7, 7]
    assert len(set(bodies)) == 1 and bodies[0] > song.stat().st_size


def test_a_page_of_a_proxy_is_an_error_with_its_status() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(502, text="<html>bad gateway"))
    with Client("http://service", transport=transport) as client, pytest.raises(ServiceError, match="502"):
        client.models()
