"""Middleware for access checks, security headers, and request metrics."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genretree.files import printable
from genretree.service.config import Limits
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
_MAX_ADDRESSES, _MAX_WAITING = 1024, 32
_MAX_DELAY_SECONDS, _FORGET_SECONDS = 4.0, 300.0
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
    limits : Limits
        `header_bytes` and `header_lines` limit the headers of a request.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, token: str | None, hosts: Collection[str] | None, limits: Limits
    ) -> None:
        self.app, self.metrics, self.limits = app, metrics, limits
        self.wrong_tokens = WrongTokens(limits.wrong_token_seconds)
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
            self._check_head(scope)
            self._check_site(scope)
            await self._check_token(scope)
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

    def _check_head(self, scope: Scope) -> None:
        # h11 limits only what has not arrived completely; a request that fits into one read passes it.
        if scope["http_version"] not in ("1.0", "1.1"):
            raise Problem("bad_request", f"HTTP/{scope['http_version'][:8]} is not supported; use HTTP/1.1")
        headers = scope["headers"]
        size = len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(k) + len(v) + 4 for k, v in headers)
        if size > self.limits.header_bytes or len(headers) > self.limits.header_lines:
            limit = f"{self.limits.header_bytes} bytes and {self.limits.header_lines} headers"
            raise Problem("too_large", f"the request line and headers are too large; the limits are {limit}", 431)

    def _check_site(self, scope: Scope) -> None:
        # Starlette's TrustedHostMiddleware responds with plain text or redirects, but here every error is a problem
        # document. FastAPI's HTTPBearer works on routes only, but unknown paths below /v1 need the token, too.
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.hosts is not None and _host_name(host) not in self.hosts:
            raise Problem("forbidden", f"the Host name {_host_name(host)[:80]!r} is not allowed")
        origin = headers.get("origin")
        if origin is not None and _origin_host(origin) != host.lower():
            raise Problem("forbidden", "requests from pages of other sites are not allowed")

    async def _check_token(self, scope: Scope) -> None:
        if self.token is None or not scope["path"].startswith("/v1"):
            return
        given = Headers(scope=scope).get("authorization", "")
        scheme, _, token = given.partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self.token):
            return
        if given:  # a page that asks for the token has sent none
            await self.wrong_tokens.slow_down((scope.get("client") or ("",))[0])
        detail = "access token required; send it as: Authorization: Bearer TOKEN"
        raise Problem("unauthorized", detail, headers={"www-authenticate": "Bearer"})

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.metrics.requests.labels(route, method, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)


class WrongTokens:
    """Delays responses to wrong tokens: the more of them an address has sent, the longer.

    A right token is never delayed, so that clients behind one proxy don't lock each other out. Memory is bounded, and
    so is the number of connections that wait: further wrong tokens are refused at once.
    """

    def __init__(self, seconds: float = 0.25) -> None:
        self.seconds = seconds
        self.counts: OrderedDict[str, tuple[int, float]] = OrderedDict()  # by address: number, and time of the last
        self.waiting = 0

    def delay(self, address: str) -> float:
        """Count a wrong token, and return the seconds to wait: none for the first, then 0.25 s, doubling up to 4 s."""
        now = time.monotonic()
        count, last = self.counts.pop(address, (0, now))
        count = 0 if now - last > _FORGET_SECONDS else count
        self.counts[address] = (count + 1, now)
        if len(self.counts) > _MAX_ADDRESSES:
            self.counts.popitem(last=False)
        return min(_MAX_DELAY_SECONDS, self.seconds * 2 ** min(count - 1, 16)) if count else 0.0

    async def slow_down(self, address: str) -> None:
        """Wait for the delay of an address. Raises Problem (429) if too many others wait."""
        seconds = self.delay(address)
        if self.waiting >= _MAX_WAITING:
            raise Problem("unauthorized", "too many wrong tokens", 429, {"retry-after": str(math.ceil(seconds))})
        self.waiting += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self.waiting -= 1


def _host_name(host: str) -> str:
    """Remove the port; the brackets of an IPv6 address stay."""
    return (host if host.endswith("]") else host.rpartition(":")[0] or host).lower()


def _origin_host(origin: str) -> str | None:
    """Return host and port of an `Origin`; None if it is malformed, which browsers never send."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None
