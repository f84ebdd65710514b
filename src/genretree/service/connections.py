"""Connections that can't be held for nothing: at most so many, none that sends half a request or takes no answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from genretree.service.limits import Limits
from genretree.service.problems import MEDIA_TYPE, Problem, busy

_LINGER_SECONDS = 1.0


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
