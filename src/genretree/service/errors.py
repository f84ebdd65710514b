"""Problem documents (RFC 9457) with the error kinds of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse

from genretree.errors import GenretreeError, SoundError

MEDIA_TYPE = "application/problem+json"
# Kinds that only a service has, in addition to those of `genretree.errors`, and their HTTP status.
STATUS: Mapping[str, int] = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "not_allowed": 405,
    "timeout": 504,
    "too_large": 413,
    "no_range": 416,
    "crashed": 422,
    "internal": 500,
    "busy": 503,
    "unavailable": 503,
    "closing": 503,
    "cancelled": 409,
}
_UNPROCESSABLE = 422  # errors in an audio file, a node's name or a setting


class Problem(Exception):  # noqa: N818 (the name of the document)
    """An error response as a problem document.

    Parameters
    ----------
    kind : str
        Kind of a `GenretreeError`, or a key of `STATUS`.
    detail : str
        Message for people.
    status : int, optional
        HTTP status; by default that of the kind, or 422.
    headers : mapping, optional
        Additional response headers.
    """

    def __init__(self, kind: str, detail: str, status: int | None = None, headers: Mapping[str, str] | None = None):
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail
        self.status = status or STATUS.get(kind, _UNPROCESSABLE)
        self.headers = dict(headers or {})

    def to_json(self) -> dict[str, Any]:
        """Return the problem document."""
        title = HTTPStatus(self.status).phrase
        return {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail, "kind": self.kind}

    def as_response(self, close: bool = False) -> JSONResponse:
        """Build the response; `close` also closes the connection."""
        headers = {**self.headers, **({"connection": "close"} if close else {})}
        return JSONResponse(self.to_json(), self.status, headers, MEDIA_TYPE)


def busy(detail: str, retry_seconds: int = 5) -> Problem:
    """Build the problem of an overloaded service, with a `Retry-After` header."""
    return Problem("busy", detail, headers={"retry-after": str(retry_seconds)})


def unavailable(detail: str, retry_seconds: int) -> Problem:
    """Build the problem of a service whose workers can't be started, with a `Retry-After` header."""
    return Problem("unavailable", detail, headers={"retry-after": str(retry_seconds)})


def file_problem(name: str, kind: str, detail: str) -> Problem:
    """Build the problem of an unusable file, with the kind and message of the command line."""
    if kind == "busy":
        return busy(f"{name}: {detail}", 30)
    return Problem(kind, f"{name}: {detail}", STATUS.get(kind) if kind != "not_found" else _UNPROCESSABLE)


def error_problem(error: GenretreeError) -> Problem:
    """Convert an error of the library to a problem."""
    if isinstance(error, SoundError):
        return file_problem(error.path, error.kind, error.detail)
    return Problem(error.kind, str(error))
