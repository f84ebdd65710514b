"""Socket, access options and uvicorn server of a service, with connection limits."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import signal
import socket
from collections.abc import Callable, Collection, Sequence
from typing import Any

import uvicorn
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from genretree.service.config import Limits
from genretree.service.engine.inference import Service
from genretree.service.errors import MEDIA_TYPE, Problem, busy
from genretree.service.http.app import create_app
from genretree.service.workers.pool import ServiceError

_CLOSE_SECONDS = 1.0
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


def open_socket(host: str, port: int) -> socket.socket:
    """Bind a port, before models are loaded. Raises ServiceError if this fails."""
    where = f"{host}:{port}"
    try:
        family, type_, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, type_, protocol)
    except OSError as error:
        raise ServiceError(f"{where}: can't resolve the address ({error.strerror or error})") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        advice = "choose another port, or 0 for any free one"
        raise ServiceError(f"{where}: can't bind ({error.strerror or error}); {advice}") from error
    return sock


def is_local(sock: socket.socket) -> bool:
    """Return whether only programs on this machine can reach a socket."""
    return ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback


def service_url(sock: socket.socket, allowed: Sequence[str] = ()) -> str:
    """Return a URL of the service whose Host name passes `allowed_hosts`."""
    host, port = sock.getsockname()[:2]
    if allowed and not is_local(sock):
        host = allowed[0]
    elif ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{port}/"


def allowed_hosts(sock: socket.socket, host: str, allowed: Collection[str]) -> set[str] | None:
    """Return the allowed Host names; None for any, if other machines can reach the socket and no name is given."""
    names = {name.lower() for name in allowed}
    if not is_local(sock):
        return names | set(_LOCAL_NAMES) if names else None
    bound = sock.getsockname()[0]
    return names | set(_LOCAL_NAMES) | {host.lower(), f"[{bound}]" if ":" in bound else bound}


def serve(
    service: Service,
    sock: socket.socket,
    token: str | None,
    hosts: Collection[str] | None,
    ready: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT; running requests get time to finish, and temporary files are removed.

    Raises
    ------
    ServiceError
        If a worker can't start.
    """
    limits = service.limits

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            service.closing = True
            await app.state.jobs.stop()  # event streams would wait for the end of their jobs
            await super().shutdown(sockets)

    app = create_app(service, token, hosts)
    config = uvicorn.Config(
        app,
        http=make_protocol(limits),
        ws="none",
        lifespan="on",
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=max(1, round(limits.closing_seconds)),
        h11_max_incomplete_event_size=limits.header_bytes,
    )
    # uvicorn handles these signals, and raises them again after the shutdown, when nothing is left to do.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    try:
        Server(config).run([sock])
    except SystemExit:
        if service.failure is not None:
            raise service.failure from None
        raise


def make_protocol(limits: Limits) -> type[asyncio.Protocol]:  # noqa: C901
    """Return uvicorn's h11 protocol with limits that it has no settings for."""

    class LimitedProtocol(H11Protocol):
        def __init__(
            self,
            config: Config,
            server_state: ServerState,
            app_state: dict[str, Any],
            _loop: asyncio.AbstractEventLoop | None = None,
        ) -> None:
            super().__init__(config, server_state, app_state, _loop)
            self.refused = False
            self.request_timer: asyncio.TimerHandle | None = None
            self.write_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self.refused = True
                self._send_problem(busy("too many connections; retry in a few seconds"))
                transport.write_eof()
                # A client that is disconnected while it sends never reads the response.
                self.request_timer = self.loop.call_later(_CLOSE_SECONDS, transport.abort)
            else:
                self._start_request_timer()

        def data_received(self, data: bytes) -> None:
            if self.refused or self.transport.is_closing():
                return
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._start_request_timer()
            else:
                self._stop_timer("request_timer")

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer("request_timer")
            self._stop_timer("write_timer")
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self.write_timer = self.loop.call_later(limits.idle_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop_timer("write_timer")

        def send_400_response(self, msg: str) -> None:
            self._send_problem(Problem("bad_request", msg))
            self.transport.close()

        def _start_request_timer(self) -> None:
            """Limit the time for a request's headers; uvicorn itself closes connections that send nothing."""
            if self.request_timer is None and not self.transport.is_closing():
                self.request_timer = self.loop.call_later(limits.idle_seconds, self.transport.close)

        def _stop_timer(self, name: str) -> None:
            timer: asyncio.TimerHandle | None = getattr(self, name)
            if timer is not None:
                timer.cancel()
            setattr(self, name, None)

        def _send_problem(self, problem: Problem) -> None:
            content = json.dumps(problem.to_json()).encode()
            head = f"HTTP/1.1 {problem.status} {problem.to_json()['title']}\r\ncontent-type: {MEDIA_TYPE}\r\n"
            rest = {**problem.headers, "content-length": str(len(content)), "connection": "close"}
            head += "".join(f"{name}: {value}\r\n" for name, value in rest.items())
            self.transport.write(head.encode() + b"\r\n" + content)

    return LimitedProtocol
