"""Files as answers, whole or in part."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from genretree.service.errors import Problem

_SAID = {
    400: ("bad_request", "the header Range can't be read; send it as, say: bytes=0-999"),
    416: ("no_range", "there is no such part of the file"),
}


class FileAnswer(FileResponse):
    """A file, or the part that `Range` asks for; where that can't be given, a problem document, not plain text."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        refused: Problem | None = None

        async def send_unless_refused(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] in _SAID:
                headers = Headers(raw=message["headers"])
                size = {name: value for name, value in headers.items() if name == "content-range"}
                refused = Problem(*_SAID[message["status"]], headers=size)
            if refused is None:
                await send(message)

        await super().__call__(scope, receive, send_unless_refused)
        if refused is not None:
            await refused.as_response()(scope, receive, send)
