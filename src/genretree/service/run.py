"""From options to a running server, and to its end."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Callable, Collection, Sequence

import uvicorn

from genretree.errors import SettingsError
from genretree.service.app import create_app
from genretree.service.connections import make_protocol
from genretree.service.core import Service
from genretree.service.pool import ServiceError

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
