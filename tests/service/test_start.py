"""The command starts, refuses bad arguments, and cleans up."""

from __future__ import annotations

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest
from click.testing import CliRunner
from serving import Server, read_events, wait_until

from genretree.cli import main
from genretree.cli.serve import check_token
from genretree.errors import SettingsError
from genretree.service.errors import Problem
from genretree.service.http.server import allowed_hosts, is_local, open_socket, service_url
from genretree.service.storage import PrivateFolder, Storage, clear_leftovers

pytestmark = pytest.mark.slow


def refuse(*words: object, **environment: str) -> str:
    result = CliRunner().invoke(main, ["serve", *map(str, words)], env=environment)
    assert result.exit_code == 1, result.output
    return result.output


def test_bad_arguments_are_refused_at_once(bundles: list[Path], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        output = refuse(bundles[0], "--port", port)
        assert f"127.0.0.1:{port}: can't bind (Address already in use); choose another port" in output
    assert "can't resolve the address" in refuse(bundles[0], "--host", "nowhere.invalid", "--port", 0)
    assert "no such bundle" in refuse(tmp_path / "missing", "--port", 0)
    assert "two bundles are named 'first'" in refuse(bundles[0], bundles[0], "--port", 0)
    (tmp_path / "token").write_text("\n")
    assert "the first line is empty" in refuse(bundles[0], "--token-file", tmp_path / "token", "--port", 0)
    assert "can't read the token" in refuse(bundles[0], "--token-file", tmp_path / "none", "--port", 0)
    assert "use at least 16" in refuse(bundles[0], "--port", 0, GENRETREE_TOKEN="sesame")


def test_other_machines_need_a_token_or_the_option_no_token(bundles: list[Path]) -> None:
    output = refuse(bundles[0], "--host", "0.0.0.0", "--port", 0)
    assert "other machines can reach this service" in output
    assert "--token-file" in output
    assert "--no-token" in output
    check_token("sesame-open-sesame", local=False, allow_missing=False)
    check_token(None, local=True, allow_missing=False)
    check_token(None, local=False, allow_missing=True)
    with pytest.raises(SettingsError):
        check_token(None, local=False, allow_missing=False)


def test_allowed_host_names() -> None:
    with open_socket("127.0.0.1", 0) as near, open_socket("0.0.0.0", 0) as far:
        assert is_local(near)
        assert not is_local(far)
        assert service_url(near) == f"http://127.0.0.1:{near.getsockname()[1]}/"
        assert socket.gethostname() in service_url(far)
        assert service_url(near, ["music.local"]) == service_url(near)
        assert service_url(far, ["music.local", "other"]) == f"http://music.local:{far.getsockname()[1]}/"
        assert service_url(far, ["[::1]"]) == f"http://[::1]:{far.getsockname()[1]}/"
        assert allowed_hosts(near, "127.0.0.1", ["Music.Local"]) == {"127.0.0.1", "localhost", "[::1]", "music.local"}
        assert allowed_hosts(far, "0.0.0.0", []) is None
        assert allowed_hosts(far, "0.0.0.0", ["music.local"]) == {"127.0.0.1", "localhost", "[::1]", "music.local"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_requests_end_and_leaves_nothing(
    bundles: list[Path], song: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with Server(tmp_path, [str(bundles[0]), "--workers", "1"]) as server, ThreadPoolExecutor(1) as pool:
        workers = [*server.workers(), *server.workers("explain")]
        files = {"file": ("song.mp3", song.read_bytes())}
        workers[0].suspend()
        job = server.client.post("/v1/jobs", files=files, params={"do": "explain"}).json()
        running = pool.submit(httpx.post, f"{server.url}/v1/predict", files=files, timeout=30)
        with httpx.stream("GET", server.url + job["links"]["events"], timeout=30) as following:
            wait_until(lambda: server.metric("genretree_decode_queue") == 1)
            server.process.send_signal(number)
            assert read_events(following)[-1][1]["kind"] == "cancelled"
        assert server.process.poll() is None
        workers[0].resume()
        assert running.result().status_code == 200
        assert server.process.wait(20) == 0
        wait_until(lambda: not any(worker.is_running() for worker in workers))
    assert list(tmp_path.iterdir()) == []


def test_after_a_kill_the_workers_end_and_the_next_service_clears_up(
    bundles: list[Path], song: Path, tmp_path: Path
) -> None:
    with Server(tmp_path, [str(bundles[0]), "--workers", "1"]) as server:
        workers = [*server.workers(), *server.workers("explain")]
        workers[0].suspend()
        connection = server.connect()
        head = "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        part = '--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf'
        connection.sendall(f"{head}Content-Length: 5000\r\n\r\n{part}".encode())
        wait_until(lambda: server.left() != [])
        server.process.kill()
        server.process.wait()
        connection.close()
        workers[0].resume()
        wait_until(lambda: not any(worker.is_running() for worker in workers))
        (left,) = tmp_path.iterdir()
    mine = tmp_path / "genretree-serve-alive"
    foreign = tmp_path / "genretree-serve-link"
    foreign.symlink_to(Path(__file__).parent)
    mine.mkdir()
    with Server(tmp_path, [str(bundles[0]), "--workers", "1"]):
        assert not left.exists()
        assert mine.exists()  # just made, it may be another service's that has no lock yet
        assert foreign.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {mine.name, foreign.name}


def test_leftovers_are_only_what_no_living_service_owns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    alive = PrivateFolder()
    assert alive.path.stat().st_mode & 0o777 == 0o700
    open_to_all = tmp_path / "genretree-serve-open"
    dead, old, file = (tmp_path / f"genretree-serve-{name}" for name in ("dead", "old", "file"))
    for folder in (open_to_all, dead, old):
        folder.mkdir()
    (open_to_all / "lock").touch()
    open_to_all.chmod(0o777)
    (dead / "lock").touch()
    (dead / "upload").touch()
    os.utime(old, (time.time() - 3600,) * 2)
    file.touch()
    assert set(clear_leftovers(tmp_path)) == {dead, old}
    assert {path.name for path in tmp_path.iterdir()} == {alive.path.name, open_to_all.name, file.name}
    os.utime(alive.path, (0, 0))
    alive.touch()
    assert time.time() - alive.path.stat().st_mtime < 60
    assert alive.exists
    alive.close()
    assert not alive.path.exists()
    assert not alive.exists
    alive.touch()


def test_storage_is_limited() -> None:
    storage = Storage(100)
    storage.reserve(60)
    with pytest.raises(Problem, match="storage for uploads is full"):
        storage.reserve(41)
    storage.release(60)
    storage.reserve(100)


def test_storage_is_limited_by_the_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000 if path == folder.path else 0))
    folder = PrivateFolder()
    assert folder.available_bytes(500) == 500
    assert folder.available_bytes(5000) == 900
    folder.close()


def test_workers_do_not_see_the_token(strict: Server) -> None:
    assert "sesame" not in "".join(psutil.Process(strict.process.pid).children()[0].environ())
