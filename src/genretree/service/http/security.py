"""Middleware for access checks, security headers, and request metrics."""

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

# The page loads nothing from other hosts.
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


class SecurityMiddleware:
    """Checks host, origin and token of each request, adds security headers, and counts requests.

    Parameters
    ----------
    app : ASGI application
    metrics : Metrics
    token : str, optional
        Bearer token that requests below /v1 need; None: no token is needed.
    hosts : collection of str, optional
        Allowed Host names, without port; None: any. The check stops DNS rebinding, with which a page of another site
        makes its own host name resolve to this machine.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, token: str | None, hosts: Collection[str] | None) -> None:
        self.app, self.metrics = app, metrics
        self.token = None if token is None else token.encode()
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request and pass it to the application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.monotonic()
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
            internal = Problem("internal", "internal error; see the service's log")
            await internal.as_response(close=True)(scope, receive, send_more)
        finally:
            self._count(scope, status, time.monotonic() - start)

    def _check(self, scope: Scope) -> None:
        # Starlette's TrustedHostMiddleware responds with plain text or redirects, but here every error is a problem
        # document. FastAPI's HTTPBearer works on routes only, but unknown paths below /v1 need the token, too.
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.hosts is not None and _host_name(host) not in self.hosts:
            raise Problem("forbidden", f"the Host name {_host_name(host)[:80]!r} is not allowed")
        origin = headers.get("origin")
        if origin is not None and _origin_host(origin) != host.lower():
            raise Problem("forbidden", "requests from pages of other sites are not allowed")
        if self.token is not None and scope["path"].startswith("/v1"):
            scheme, _, token = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self.token):
                detail = "access token required; send it as: Authorization: Bearer TOKEN"
                raise Problem("unauthorized", detail, headers={"www-authenticate": "Bearer"})

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.metrics.requests.labels(route, method, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)


def _host_name(host: str) -> str:
    """Remove the port; the brackets of an IPv6 address stay."""
    return (host if host.endswith("]") else host.rpartition(":")[0] or host).lower()


def _origin_host(origin: str) -> str | None:
    """Return host and port of an `Origin`; None if it is malformed, which browsers never send."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None
