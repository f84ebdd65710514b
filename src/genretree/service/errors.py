"""Errors as problem documents (RFC 9457), of the same kinds as on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse

from genretree.errors import GenretreeError, SoundError

MEDIA_TYPE = "application/problem+json"
# Kinds of problem that a service has beside those of `genretree.errors`, and what is answered.
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
_OF_THE_REQUEST = 422  # what is wrong with a sound file, a node's name, a setting


class Problem(Exception):  # noqa: N818 (it is the document's name)
    """Something that ends a request.

    Parameters
    ----------
    kind : str
        As `genretree.errors` has them, or of `STATUS`.
    detail : str
        For people.
    status : int, optional
        By default that of the kind.
    headers : mapping, optional
    """

    def __init__(self, kind: str, detail: str, status: int | None = None, headers: Mapping[str, str] | None = None):
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail
        self.status = status or STATUS.get(kind, _OF_THE_REQUEST)
        self.headers = dict(headers or {})

    def to_json(self) -> dict[str, Any]:
        """Return the problem document."""
        title = HTTPStatus(self.status).phrase
        return {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail, "kind": self.kind}

    def as_response(self, close: bool = False) -> JSONResponse:
        """Answer with it; `close` ends the connection too."""
        headers = {**self.headers, **({"connection": "close"} if close else {})}
        return JSONResponse(self.to_json(), self.status, headers, MEDIA_TYPE)


def busy(what: str, seconds: int = 5) -> Problem:
    """Give the problem of a service that has enough to do; clients are told when to ask again."""
    return Problem("busy", what, headers={"retry-after": str(seconds)})


def unavailable(what: str, seconds: int) -> Problem:
    """Give the problem of a service whose workers can't be started; clients are told when to ask again."""
    return Problem("unavailable", what, headers={"retry-after": str(seconds)})


def of_sound(name: str, kind: str, detail: str) -> Problem:
    """Give the problem of a file that can't be used, as the command line names it."""
    if kind == "busy":
        return busy(f"{name}: {detail}", 30)
    return Problem(kind, f"{name}: {detail}", STATUS.get(kind) if kind != "not_found" else _OF_THE_REQUEST)


def of_error(error: GenretreeError) -> Problem:
    """Give the problem that an error of ours is."""
    if isinstance(error, SoundError):
        return of_sound(error.path, error.kind, error.detail)
    return Problem(error.kind, str(error))
