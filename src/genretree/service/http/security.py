"""What every request passes: who may ask, what browsers are told, and the counting."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genretree.files import printable
from genretree.service.errors import Problem
from genretree.service.metrics import Metrics

# Everything comes from here; nothing is asked of any other host.
_POLICY = "; ".join(
    [
        "default-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "style-src 'self'",
        "script-src 'self'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'self'",
    ]
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
_METHODS = frozenset(("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH", "TRACE"))

log = logging.getLogger(__name__)


class Guard:
    """Wraps the application.

    Parameters
    ----------
    app : ASGI application
    metrics : Metrics
    token : str, optional
        Without which nothing of /v1 is answered.
    hosts : collection of str, optional
        Names, without port, that requests may be addressed to. A page of another site can have its own name lead to
        this machine (DNS rebinding), but not send another name. None: any.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, token: str | None, hosts: Collection[str] | None) -> None:
        self.app, self.metrics = app, metrics
        self.token = None if token is None else token.encode()
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the application do it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.monotonic()
        status = 0

        async def send_more(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                if scope["path"].startswith("/v1"):
                    headers.setdefault("cache-control", "no-store")
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, receive, send_more)
        except Problem as problem:
            await problem.as_response(close=True)(scope, receive, send_more)
        except Exception:
            log.exception("%s %s failed", printable(scope["method"]), printable(scope["path"]))
            if status:
                raise
            answer = Problem("internal", "something went wrong here; the service's log has more")
            await answer.as_response(close=True)(scope, receive, send_more)
        finally:
            self._count(scope, status, time.monotonic() - begun)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.hosts is not None and _host_name(host) not in self.hosts:
            raise Problem("forbidden", f"this service doesn't go by the name {_host_name(host)[:80]!r}")
        origin = headers.get("origin")
        if origin is not None and _origin_host(origin) != host.lower():
            raise Problem("forbidden", "pages of other sites may not use this service")
        if self.token is not None and scope["path"].startswith("/v1"):
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.token):
                detail = "send the service's token, as: Authorization: Bearer TOKEN"
                raise Problem("unauthorized", detail, headers={"www-authenticate": "Bearer"})

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.metrics.requests.labels(route, method, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)


def _host_name(host: str) -> str:
    """Cut the port off; of an IPv6 address, the brackets stay."""
    return (host if host.endswith("]") else host.rpartition(":")[0] or host).lower()


def _origin_host(origin: str) -> str | None:
    """Give name and port of an `Origin`; None if it can't be read, as no browser sends it."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None
