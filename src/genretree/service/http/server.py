"""From options to a running server, and to its end."""

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

from genretree.errors import SettingsError
from genretree.service.config import Limits
from genretree.service.engine.inference import Service
from genretree.service.errors import MEDIA_TYPE, Problem, busy
from genretree.service.http.app import create_app
from genretree.service.workers.pool import ServiceError

_LINGER_SECONDS = 1.0
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


def open_socket(host: str, port: int) -> socket.socket:
    """Take a port before anything is loaded. Raises ServiceError if that can't be."""
    where = f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ServiceError(f"{where}: no address to serve at ({error.strerror or error})") from error
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        advice = "give another with --port, or 0 for any that is free"
        raise ServiceError(f"{where}: can't serve there ({error.strerror or error}); {advice}") from error
    return taken


def is_local(taken: socket.socket) -> bool:
    """Say whether only programs of this machine can reach a socket."""
    return ipaddress.ip_address(taken.getsockname()[0].partition("%")[0]).is_loopback


def address_of(taken: socket.socket, allowed: Sequence[str] = ()) -> str:
    """Give a URL of a socket's service that it answers to, where it goes by these names, too (`choose_hosts`)."""
    host, port = taken.getsockname()[:2]
    if allowed and not is_local(taken):
        host = allowed[0]
    elif ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{port}/"


def choose_hosts(taken: socket.socket, host: str, allowed: Collection[str]) -> set[str] | None:
    """Give the names that requests may be addressed to; None for any, where it is reached from elsewhere."""
    names = {name.lower() for name in allowed}
    if not is_local(taken):
        return names | set(_LOCAL_NAMES) if names else None
    bound = taken.getsockname()[0]
    return names | set(_LOCAL_NAMES) | {host.lower(), f"[{bound}]" if ":" in bound else bound}


def check_token(token: str | None, local: bool, without: bool) -> None:
    """Refuse to be reached from other machines without a token, unless that is wished. Raises SettingsError."""
    if token is not None and len(token) < 16:
        raise SettingsError("the token is too short to be safe; take 16 characters or more")
    if token is None and not local and not without:
        raise SettingsError(
            "other machines could use this service; give a token with --token-file FILE (or GENRETREE_TOKEN), "
            "or say --no-token if everyone who reaches it may"
        )


def serve(
    service: Service,
    taken: socket.socket,
    token: str | None,
    hosts: Collection[str] | None,
    ready: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT; running requests are ended, and nothing is left behind.

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
            await app.state.jobs.stop()  # who follows them would wait for their end
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
    # uvicorn answers these signals, and passes them on when all is done: then there is nothing left to do.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    try:
        Server(config).run([taken])
    except SystemExit:
        if service.failure is not None:
            raise service.failure from None
        raise


def make_protocol(limits: Limits) -> type[asyncio.Protocol]:  # noqa: C901
    """Give uvicorn's protocol with the limits that it has no settings for."""

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
            self.until_request: asyncio.TimerHandle | None = None
            self.until_taken: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self.refused = True
                self._say(busy("there are too many connections; try again in some seconds"))
                transport.write_eof()
                # Cut off at once, a client that still sends would not read why.
                self.until_request = self.loop.call_later(_LINGER_SECONDS, transport.abort)
            else:
                self._wait_for_request()

        def data_received(self, data: bytes) -> None:
            if self.refused or self.transport.is_closing():
                return
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._wait_for_request()
            else:
                self._stop_timer("until_request")

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer("until_request")
            self._stop_timer("until_taken")
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self.until_taken = self.loop.call_later(limits.idle_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop_timer("until_taken")

        def send_400_response(self, msg: str) -> None:
            self._say(Problem("bad_request", msg))
            self.transport.close()

        def _wait_for_request(self) -> None:
            """Give a client so long for the headers of its next request; uvicorn ends connections that say nothing."""
            if self.until_request is None and not self.transport.is_closing():
                self.until_request = self.loop.call_later(limits.idle_seconds, self.transport.close)

        def _stop_timer(self, name: str) -> None:
            timer: asyncio.TimerHandle | None = getattr(self, name)
            if timer is not None:
                timer.cancel()
            setattr(self, name, None)

        def _say(self, problem: Problem) -> None:
            content = json.dumps(problem.to_json()).encode()
            head = f"HTTP/1.1 {problem.status} {problem.to_json()['title']}\r\ncontent-type: {MEDIA_TYPE}\r\n"
            rest = {**problem.headers, "content-length": str(len(content)), "connection": "close"}
            head += "".join(f"{name}: {value}\r\n" for name, value in rest.items())
            self.transport.write(head.encode() + b"\r\n" + content)

    return LimitedProtocol
