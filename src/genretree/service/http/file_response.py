"""File responses with byte ranges."""

from __future__ import annotations

from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from genretree.service.errors import Problem

_RANGE_PROBLEMS = {
    400: ("bad_request", "can't parse the header Range; send it as: bytes=0-999"),
    416: ("no_range", "the requested range is outside the file"),
}


def disposition(name: str) -> str:
    """Return a Content-Disposition with a file name in ASCII for old clients, and in UTF-8 (RFC 5987)."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\/%;' else "_" for c in name)
    return f"inline; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


class RangeFileResponse(FileResponse):
    """A file or a range of it; errors are problem documents instead of plain text."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        problem: Problem | None = None

        async def send_unless_problem(message: Message) -> None:
            nonlocal problem
            if message["type"] == "http.response.start" and message["status"] in _RANGE_PROBLEMS:
                headers = Headers(raw=message["headers"])
                size = {name: value for name, value in headers.items() if name == "content-range"}
                problem = Problem(*_RANGE_PROBLEMS[message["status"]], headers=size)
            if problem is None:
                await send(message)

        await super().__call__(scope, receive, send_unless_problem)
        if problem is not None:
            await problem.as_response()(scope, receive, send)
