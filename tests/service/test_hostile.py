"""Hostile requests: the service stays up, responds correctly, and leaks nothing."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import soundfile as sf
from hostile_inputs import (
    BOUNDARY,
    END,
    FIELD,
    MALFORMED_FORMS,
    NAMES,
    NOT_AUDIO,
    TOKEN,
    Killer,
    flac_of_silence,
    part,
    read_all,
    start_of_upload,
)
from serving import Server, alike, read_events, wait_until
from test_interface import check_problem, upload

from genretree.files import printable
from genretree.service.engine.inference import Service
from genretree.service.http.app import create_app
from genretree.service.http.file_response import disposition as content_disposition
from genretree.service.http.security import WrongTokens
from genretree.service.http.uploads import extended_name
from genretree.service.storage import PrivateFolder
from genretree.settings import SAMPLE_RATE
from other_files import canary, hls, write_all
from small_corpus import synthesise

pytestmark = pytest.mark.slow

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


@pytest.fixture(autouse=True)
def nothing_is_left(server: Server) -> Any:
    """After each test no upload lies about, no worker is busy, and the service names a song."""
    yield
    wait_until(lambda: server.metric("genretree_decode_busy") == server.metric("genretree_decode_queue") == 0)
    wait_until(lambda: not [name for name in server.left() if name.startswith("upload")])
    assert server.client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("content", "kinds"),
    NOT_AUDIO.values(),
    ids=NOT_AUDIO,
)
def test_files_without_audio_are_refused_whatever_their_name(server: Server, content: bytes, kinds: list[str]) -> None:
    answer = server.client.post("/v1/predict", files={"file": ("song.mp3", content, "audio/mpeg")})
    assert answer.json()["kind"] in kinds
    detail = check_problem(answer, 422, answer.json()["kind"])
    assert detail.startswith("song.mp3: ")
    assert "genretree-serve" not in answer.text
    assert "upload-" not in answer.text


@pytest.mark.parametrize("declared", [True, False])
def test_hours_of_silence_in_a_small_file_are_refused(strict: Server, declared: bool) -> None:
    content = flac_of_silence(2 * 3600, declared)
    assert len(content) < 1 << 20
    begun = time.monotonic()
    answer = strict.client.post("/v1/predict", files={"file": ("bomb.flac", content)}, headers=TOKEN)
    assert "the limit is 20 s" in check_problem(answer, 422, "too_long")
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_only_repeated(server: Server, song: Path, name: str) -> None:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode("utf-8", "surrogateescape") + song.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()
    answer = post(server, body)
    assert answer.status_code == 200, answer.text
    file = answer.json()["results"][0]["file"]
    assert file == {"\udcff": "\\xff", "a\x00b": "a\\x00b"}.get(name, name[:255])


def post(server: Server, body: bytes, **headers: str) -> httpx.Response:
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    return server.client.post("/v1/predict", content=body, headers={"content-type": kind, **headers})


@pytest.mark.parametrize(
    ("body", "expected_detail"),
    MALFORMED_FORMS.values(),
    ids=MALFORMED_FORMS,
)
def test_malformed_forms_are_refused(server: Server, body: bytes, expected_detail: str) -> None:
    assert expected_detail in check_problem(post(server, body), 400, "bad_request")


def test_other_types_than_forms_are_refused(server: Server) -> None:
    answer = server.client.post("/v1/predict", content=b"{}", headers={"content-type": "application/json"})
    check_problem(answer, 415, "bad_request")
    answer = server.client.post("/v1/predict", content=b"x", headers={"content-type": "multipart/form-data"})
    check_problem(answer, 415, "bad_request")
    check_problem(server.client.post("/v1/explain", files=[*upload_two()]), 400, "bad_request")


def upload_two() -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", ("a", b"x")), ("files", ("b", b"x"))]


def test_large_uploads_are_refused_while_they_arrive(strict: Server) -> None:
    answer = strict.client.post("/v1/predict", files={"file": ("a", bytes(3 << 20))}, headers=TOKEN)
    assert "limit of 1 MB" in check_problem(answer, 413, "too_large")

    def pieces(first: bytes) -> Any:  # without a declared length
        yield first
        for _ in range(40):
            yield bytes(1 << 16)

    kind = f"multipart/form-data; boundary={BOUNDARY}"
    for first in (part(FIELD, b"")[:-2], part(FIELD) + END):  # in a file, and behind the whole form
        answer = strict.client.post("/v1/predict", content=pieces(first), headers={"content-type": kind, **TOKEN})
        check_problem(answer, 413, "too_large")
    wait_until(lambda: strict.metric("genretree_stored_bytes") == 0)
    assert [name for name in strict.left() if name.startswith("upload")] == []


def test_a_partial_upload_times_out_and_is_removed(strict: Server) -> None:
    with start_of_upload(strict) as connection:
        wait_until(lambda: "upload" in "".join(strict.left()))
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["kind"] == "timeout"
    with start_of_upload(strict) as connection:
        wait_until(lambda: "upload" in "".join(strict.left()))
    wait_until(lambda: strict.left() == [])  # the client hung up
    assert strict.metric("genretree_stored_bytes") == 0


def test_a_slow_upload_times_out(strict: Server) -> None:
    begun = time.monotonic()
    with start_of_upload(strict) as connection:
        connection.settimeout(0.2)
        answer = b""
        while not answer and time.monotonic() - begun < 10:
            try:
                answer = connection.recv(100)
            except TimeoutError:
                connection.sendall(b"x")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert 1 < time.monotonic() - begun < 5


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: local"])
def test_a_partial_request_times_out(strict: Server, sent: bytes) -> None:
    with strict.connect() as connection:
        connection.sendall(sent)
        begun = time.monotonic()
        assert read_all(connection) == b""
        assert time.monotonic() - begun < 4


def test_other_versions_of_http_are_refused(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/9.9\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_headers_are_limited(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100_000)
        answer = connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer


def test_a_client_that_reads_nothing_is_disconnected(strict: Server, song: Path) -> None:
    files = {"file": ("a.mp3", song.read_bytes())}
    job = strict.client.post("/v1/jobs", files=files, params={"do": "explain"}, headers=TOKEN).json()
    wait_until(lambda: strict.client.get(job["links"]["self"], headers=TOKEN).json().get("status") == "done")
    with strict.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        words = (
            f"GET {job['links']['self']} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {TOKEN['authorization']}\r\n\r\n"
        )
        connection.sendall(words.encode() * 200)
        with pytest.raises(OSError, match=r"reset|Broken"):
            while True:  # nothing is read; the service is another process, which waits for its own `idle_seconds`
                connection.sendall(words.encode())
                time.sleep(0.05)


def test_connections_above_the_limit_get_503(strict: Server) -> None:
    held = [strict.connect() for _ in range(11)]
    try:
        wait_until(lambda: _is_refused(strict), 5)
    finally:
        for connection in held:
            connection.close()
    wait_until(lambda: not _is_refused(strict))


def _is_refused(server: Server) -> bool:
    with server.connect() as first, server.connect() as connection:
        first.sendall(b"")
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = read_all(connection)
    refused = answer.startswith(b"HTTP/1.1 503 ")
    assert refused is (b'"kind": "busy"' in answer)
    assert refused or answer.startswith(b"HTTP/1.1 200 ")
    return refused


def test_two_hundred_simultaneous_requests_get_correct_responses(server: Server, song: Path) -> None:
    content = song.read_bytes()
    expected = server.client.post("/v1/predict", files=upload(song)).json()["results"][0]

    async def ask(client: httpx.AsyncClient, number: int) -> tuple[int, Any]:
        bad = number % 5 == 0
        files = {"file": (f"{number}", b"no sound" if bad else content)}
        answer = await client.post("/v1/predict", files=files)
        return answer.status_code, answer.json()

    async def ask_all() -> list[tuple[int, Any]]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(200)))

    for number, (status, found) in enumerate(asyncio.run(ask_all())):
        if status == 503:  # more than the queue holds
            assert found["kind"] == "busy"
        elif number % 5 == 0:
            assert (status, found["kind"]) == (422, "not_audio")
        else:
            assert status == 200
            assert alike(found["results"], [{**expected, "file": str(number)}])


def test_a_full_queue_refuses_before_the_upload_and_says_when_to_come_back(strict: Server, song: Path) -> None:
    (worker,) = strict.workers()
    worker.suspend()
    files = {"file": ("a.mp3", song.read_bytes())}
    try:
        with ThreadPoolExecutor(3) as pool:
            waiting = [
                pool.submit(httpx.post, f"{strict.url}/v1/predict", files=files, headers=TOKEN, timeout=30)
                for _ in range(3)
            ]
            wait_until(lambda: strict.metric("genretree_decode_queue") == 2)
            answer = strict.client.post("/v1/predict", files=files, headers=TOKEN)
            check_problem(answer, 503, "busy")
            assert int(answer.headers["retry-after"]) > 0
            worker.resume()
            assert [each.result().status_code for each in waiting] == [200, 200, 200]
    finally:
        worker.resume()


def test_a_worker_that_is_killed_loses_only_what_it_had_begun(server: Server, song: Path) -> None:
    first, second = server.workers()
    for worker in (first, second):
        worker.suspend()
    with ThreadPoolExecutor(4) as pool:
        waiting = [
            pool.submit(httpx.post, f"{server.url}/v1/predict", files=upload(song), timeout=60) for _ in range(4)
        ]
        wait_until(lambda: server.metric("genretree_decode_busy") == 2)
        first.kill()  # it has not expected_detail that it began
        second.resume()
        assert [each.result().status_code for each in waiting] == [200] * 4
    wait_until(lambda: len(server.workers()) == 2)


def test_a_worker_killed_in_the_middle_fails_that_file_and_is_replaced(server: Server, tmp_path: Path) -> None:
    long = np.tile(synthesise("Noise", 1, 60.0), 20)
    sf.write(tmp_path / "long.wav", long, SAMPLE_RATE)
    files = upload(tmp_path / "long.wav", field="file")
    job = server.client.post("/v1/jobs", files=files, params={"do": "predict"}).json()
    wait_until(lambda: server.client.get(job["links"]["self"]).json()["progress"] > 0.05)
    busy = max(server.workers(), key=lambda process: sum(process.cpu_times()[:2]))
    os.kill(busy.pid, signal.SIGKILL)
    with server.client.stream("GET", job["links"]["events"]) as stream:
        name, problem = read_events(stream)[-1]
    assert (name, problem["kind"]) == ("failed", "crashed")
    wait_until(lambda: len(server.workers()) == 2)


def _predict_12_times(server: Server, song: Path) -> list[httpx.Response]:
    with ThreadPoolExecutor(12) as pool:
        files = upload(song)
        futures = [pool.submit(httpx.post, f"{server.url}/v1/predict", files=files, timeout=60) for _ in range(12)]
        return [each.result() for each in futures]


def test_workers_killed_while_they_start_fail_no_request(server: Server, song: Path) -> None:
    killer = Killer(server, 6)
    killer.start()
    assert [answer.status_code for answer in _predict_12_times(server, song)] == [200] * 12
    killer.join(20)
    assert killer.left == 0
    assert server.metric('genretree_workers_replaced_total{pool="decode",reason="start"}') >= 4
    wait_until(lambda: server.metric("genretree_decode_ready") == 2)


def test_workers_that_never_start_are_answered_with_503_until_they_do(server: Server, song: Path) -> None:
    killer = Killer(server, float("inf"))
    killer.start()
    try:
        wait_until(lambda: server.metric("genretree_decode_ready") == 0)
        for answer in (*_predict_12_times(server, song), *_predict_12_times(server, song)):  # queued, and refused
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["kind"] == "unavailable"
            assert int(answer.headers["retry-after"]) > 0
        two = [("files", ("a.mp3", song.read_bytes())), ("files", ("b.mp3", song.read_bytes()))]
        assert server.client.post("/v1/predict", files=two).status_code == 503
        health = server.client.get("/healthz")
        assert (health.status_code, health.json()["kind"]) == (503, "unavailable")
        assert server.metric('genretree_rejected_total{kind="unavailable"}') >= 24
    finally:
        killer.done.set()
        killer.join()
    wait_until(lambda: server.client.get("/healthz").status_code == 200, 60)
    wait_until(lambda: server.metric("genretree_decode_ready") == 2, 60)
    assert server.client.post("/v1/predict", files=upload(song)).status_code == 200


def test_a_client_that_hangs_up_is_no_longer_served(server: Server, song: Path) -> None:
    workers = server.workers()
    for worker in workers:
        worker.suspend()
    try:
        for _ in range(6):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{server.url}/v1/predict", files=upload(song), timeout=0.2)
        wait_until(lambda: server.metric("genretree_decode_queue") == 0)
        assert [name for name in server.left() if name.startswith("upload")] == []
    finally:
        for worker in workers:
            worker.resume()
    assert server.client.post("/v1/predict", files=upload(song)).status_code == 200


def test_a_job_that_is_deleted_stops_at_once(server: Server, song: Path) -> None:
    (worker,) = server.workers("explain")
    job = server.client.post("/v1/jobs", files=upload(song, field="file"), params={"do": "explain"}).json()
    wait_until(lambda: server.metric("genretree_explain_busy") == 1)
    assert server.client.delete(job["links"]["self"]).status_code == 204
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    assert f"job-{job['id']}" not in server.left()
    wait_until(lambda: server.workers("explain") != [])


def test_jobs_expire_and_their_number_is_limited(strict: Server, song: Path) -> None:
    def submit() -> str:
        files = {"file": ("a.mp3", song.read_bytes())}
        answer = strict.client.post("/v1/jobs", files=files, headers=TOKEN)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["links"]["self"])

    def status(address: str) -> int:
        return strict.client.get(address, headers=TOKEN).status_code

    first = submit()
    wait_until(lambda: status(first) == 404)  # a second after it was done
    addresses = []
    for _ in range(4):
        addresses.append(submit())
        wait_until(lambda: strict.client.get(addresses[-1], headers=TOKEN).json()["status"] == "done")
    refused = strict.client.post("/v1/jobs", content=b"x", headers={"content-type": "text/plain", **TOKEN})
    check_problem(refused, 415, "bad_request")  # and nothing is forgotten for it
    assert [status(address) for address in addresses] == [404, 404, 200, 200]


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic sesame-open-sesame"}, {"authorization": "é"}],
)
def test_requests_without_the_token_are_refused(strict: Server, headers: dict[str, str]) -> None:
    options = {name: value.encode() for name, value in headers.items()}
    for method, address in (
        ("GET", "/v1/models"),
        ("POST", "/v1/predict"),
        ("GET", "/v1/nothing"),
        ("DELETE", "/v1/jobs/x"),
    ):
        answer = strict.client.request(method, address, headers=options)
        check_problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert strict.client.get("/").status_code == 200
    assert strict.client.get("/v1/models", headers=TOKEN).status_code == 200


def test_other_sites_may_not_use_a_browser_to_ask(server: Server) -> None:
    for host in ("evil.example", "evil.example:8000", f"127.0.0.1.evil.example:{server.port}", ""):
        check_problem(server.client.get("/v1/models", headers={"host": host}), 403, "forbidden")
    for host in ("[", "[x]:1"):
        check_problem(server.client.get("/v1/models", headers={"host": host}), 403, "forbidden")
    for origin in (
        "http://evil.example",
        "null",
        f"http://localhost:{server.port + 1}",
        "http://[",
        "http://[x]:1",
        "",
    ):
        check_problem(server.client.get("/v1/models", headers={"origin": origin}), 403, "forbidden")
    for host in (f"127.0.0.1:{server.port}", f"localhost:{server.port}", "[::1]", "LOCALHOST"):
        answer = server.client.get("/v1/models", headers={"host": host, "origin": f"http://{host}"})
        assert answer.status_code == 200


def ask_unstarted(service: Service, method: str, address: str, **options: Any) -> httpx.Response:
    """Ask a service that has no workers, and goes by any name."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(service, "sesame-open-sesame"))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, address, headers={**options.pop("headers", {}), **TOKEN}, **options)

    return asyncio.run(ask())


@pytest.fixture
def unstarted(bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    service: Any = Service(bundles[:1])
    service.private = PrivateFolder()
    service.decoders = service.explainers = SimpleNamespace(unavailable=False, check_capacity=lambda: None)
    yield service
    service.private.close()


def test_an_address_that_no_browser_sends_is_refused_by_its_kind(unstarted: Service) -> None:
    foreign = ask_unstarted(unstarted, "GET", "/v1/models", headers={"host": "[", "origin": "http://["})
    check_problem(foreign, 403, "forbidden")
    check_problem(ask_unstarted(unstarted, "PUT", "/v1/models", headers={"host": "["}), 405, "not_allowed")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize("size", [1, 100_000], ids=["when closed", "when written"])
def test_a_full_disk_is_busy_and_not_internal(
    unstarted: Service, size: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original_open = Path.open

    def open_full(path: Path, *words: Any) -> Any:
        return (
            original_open(Path("/dev/full"), "wb") if path.name.startswith("upload-") else original_open(path, *words)
        )

    monkeypatch.setattr(Path, "open", open_full)
    for address in ("/v1/predict", "/v1/jobs"):
        answer = ask_unstarted(unstarted, "POST", address, files={"file": ("a", bytes(size))})
        check_problem(answer, 503, "busy")
        assert int(answer.headers["retry-after"]) > 0
    assert unstarted.storage.used == 0
    assert [record.exc_info for record in caplog.records if record.levelname != "INFO"] == [None, None]
    assert "No space left on device" in caplog.text


def test_refusals_are_counted_by_kind(unstarted: Any) -> None:
    def count(kind: str) -> float:
        return unstarted.metrics.registry.get_sample_value("genretree_rejected_total", {"kind": kind}) or 0.0

    big = {"content-length": str(1 << 40)}
    for number, address in enumerate(("/v1/predict", "/v1/explain", "/v1/jobs"), 1):
        for content, kind in ((b"{}", "application/json"), (END, f"multipart/form-data; boundary={BOUNDARY}")):
            ask_unstarted(unstarted, "POST", address, content=content, headers={"content-type": kind})
        ask_unstarted(unstarted, "POST", address, content=b"", headers=big)
        ask_unstarted(unstarted, "POST", address, params={"model": "third"})
        ask_unstarted(unstarted, "GET", "/v1/jobs/none")
        assert [count(kind) for kind in ("bad_request", "too_large", "not_found")] == [2 * number, number, number]


def test_a_missing_folder_is_reported(unstarted: Any) -> None:
    assert ask_unstarted(unstarted, "GET", "/healthz").status_code == 200
    shutil.rmtree(unstarted.folder)
    for method, address in (("GET", "/healthz"), ("POST", "/v1/predict"), ("POST", "/v1/jobs")):
        files = {"file": ("a", b"x")} if method == "POST" else None
        answer = ask_unstarted(unstarted, method, address, files=files)
        assert "folder is gone" in check_problem(answer, 503, "busy")
        assert int(answer.headers["retry-after"]) > 0


def test_a_full_disk_is_reported(unstarted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    answer = ask_unstarted(unstarted, "GET", "/healthz")
    assert "disk" in check_problem(answer, 503, "busy")
    assert int(answer.headers["retry-after"]) > 0


def test_unknown_parameters_are_refused_by_name(unstarted: Any) -> None:
    for method, address, params, expected in (
        ("POST", "/v1/predict", {"min_confidnce": "0.5"}, "'min_confidnce'; did you mean 'min_confidence'?"),
        ("POST", "/v1/explain", {"genres": "3"}, "unknown parameter 'genres'; use: model, node"),
        ("GET", "/v1/models", {"x": "1"}, "unknown parameter 'x'; this path has none"),
        ("GET", "/v1/tree", {"model": ["first", "first"]}, "the parameter 'model' is given 2 times"),
    ):
        assert expected in check_problem(ask_unstarted(unstarted, method, address, params=params), 422, "bad_request")
    assert ask_unstarted(unstarted, "GET", "/v1/tree", params={"model": "first"}).status_code == 200


def test_complete_headers_are_limited_too(unstarted: Any) -> None:
    for headers in ({"x": "y" * 17_000}, {f"x{number}": "y" for number in range(120)}):
        answer = ask_unstarted(unstarted, "GET", "/healthz", headers=headers)
        assert "16384 bytes and 100 headers" in check_problem(answer, 431, "too_large")
    assert ask_unstarted(unstarted, "GET", "/healthz", headers={"x": "y" * 15_000}).status_code == 200


def test_wrong_tokens_wait_longer_each_time_in_bounded_memory() -> None:
    wrong = WrongTokens()
    assert [wrong.delay("a") for _ in range(7)] == [0, 0.25, 0.5, 1, 2, 4, 4]
    assert wrong.delay("b") == 0
    wrong.counts["a"] = (7, time.monotonic() - 1000)
    assert wrong.delay("a") == 0
    for number in range(3000):
        wrong.delay(str(number))
    assert len(wrong.counts) == 1024

    async def flood() -> list[Any]:
        wrong.seconds = 0.01
        return await asyncio.gather(*(wrong.slow_down("c") for _ in range(40)), return_exceptions=True)

    refused = [each for each in asyncio.run(flood()) if each is not None]
    assert len(refused) == 8
    assert {each.status for each in refused} == {429}
    assert wrong.waiting == 0


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (b"; filename*=UTF-8''na%C3%AFve%20%E2%82%AC.mp3", "naïve €.mp3"),
        (b"; filename=\"old.mp3\"; FILENAME*=utf-8'en'new%3Bname.mp3", "new;name.mp3"),
        (b"; filename*=ISO-8859-1''na%EFve.mp3", "naïve.mp3"),
        (b"; filename*=UTF-8''%FF.mp3; filename=plain.mp3", ""),
        (b"; filename=\"a; filename*=UTF-8''b.mp3\"", ""),
        (b"; filename*=klingon''a.mp3", ""),
    ],
)
def test_extended_file_names_are_read(disposition: bytes, name: str) -> None:
    assert extended_name(b'form-data; name="files"' + disposition) == name


def test_extended_file_names_are_sent() -> None:
    sent = content_disposition('na"ïve\r\n €.png')
    assert sent == "inline; filename=\"na__ve__ _.png\"; filename*=UTF-8''na%22%C3%AFve%0D%0A%20%E2%82%AC.png"
    assert extended_name(sent.encode()) == printable('na"ïve\r\n €.png')


@needs_ffmpeg
def test_uploads_that_name_other_files_get_none_opened(server: Server, tmp_path: Path) -> None:
    with canary(tmp_path / "elsewhere") as other:
        found = write_all(tmp_path / "songs", other.path)
        for path in found:
            if " bad-byte" not in path.name and " id3-bad-byte" not in path.name and " box" not in path.name:
                continue
            answer = server.client.post("/v1/predict", files={"file": (path.name, path.read_bytes())})
            assert answer.status_code == 422, path.name
            assert answer.json()["kind"] in ("not_audio", "truncated")
            assert not other.opened, path.name
        content = hls(str(other.path)) + b"# \xff\n"
        job = server.client.post("/v1/jobs", files={"file": ("a.m4a", content)}, params={"do": "explain"}).json()
        wait_until(lambda: server.client.get(job["links"]["self"]).json()["status"] == "failed")
        assert server.client.get(f"{job['links']['self']}/sound.ogg").status_code != 200
        assert not other.opened


@needs_ffmpeg
def test_files_that_name_other_files_get_none_opened_by_the_command(bundles: list[Path], tmp_path: Path) -> None:
    """On the command line; traced where strace is installed."""
    with canary(tmp_path / "elsewhere") as other:
        write_all(tmp_path / "songs", other.path)
        traced = shutil.which("strace") is not None
        calls = ["strace", "-f", "-qq", "-e", "trace=open,openat,openat2,connect", "-o", str(tmp_path / "trace")]
        command = [sys.executable, "-m", "genretree", "predict", "--json", str(bundles[0]), str(tmp_path / "songs")]
        done = subprocess.run(calls * traced + command, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        assert "hls bad-byte.m" in done.stdout + done.stderr
        assert not other.opened
    if traced:
        lines = (tmp_path / "trace").read_text(errors="replace").splitlines()
        assert any("hls bad-byte" in line for line in lines)
        assert not [line for line in lines if "elsewhere" in line]
