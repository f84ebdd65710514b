"""Firefox for tests of pages, by WebDriver BiDi, because Playwright can't drive Debian's Firefox.

https://w3c.github.io/webdriver-bidi
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from browsers import find_free_port

_SECONDS = 30


class Firefox:
    """A page in Firefox."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection, self._sent = connection, 0
        self.messages: list[str] = []  # in the console
        self._call("session.new", capabilities={})
        self._call("session.subscribe", events=["log.entryAdded"])
        self._page = self._call("browsingContext.getTree")["contexts"][0]["context"]

    def _call(self, method: str, **params: Any) -> Any:
        self._sent += 1
        self._connection.send(json.dumps({"id": self._sent, "method": method, "params": params}))
        while True:
            answer = json.loads(self._connection.recv(timeout=_SECONDS))
            if answer["type"] == "event":
                self.messages.append(str(answer["params"].get("text")))
            elif answer.get("id") == self._sent:
                assert answer["type"] == "success", answer
                return answer["result"]

    def open(self, address: str) -> None:
        """Open a page and wait until it is loaded."""
        self._call("browsingContext.navigate", context=self._page, url=address, wait="complete")

    def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file in an input."""
        css = {"type": "css", "value": selector}
        node = self._call("browsingContext.locateNodes", context=self._page, locator=css)["nodes"][0]
        self._call("input.setFiles", context=self._page, element={"sharedId": node["sharedId"]}, files=[str(path)])

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in JavaScript."""
        target = {"context": self._page}
        function = f"() => {expression}"
        found = self._call("script.callFunction", functionDeclaration=function, awaitPromise=True, target=target)
        return found["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + _SECONDS
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"{expression} is still false"
            time.sleep(0.1)


@contextmanager
def open_firefox(profile: Path) -> Iterator[Firefox]:
    """Start Firefox with a new profile, and end it; skips the test where there is none."""
    found = shutil.which("firefox-esr") or shutil.which("firefox")
    if found is None:
        pytest.skip("no Firefox on this machine")
    port = find_free_port()
    command = [found, "--headless", "--profile", str(profile), "--remote-debugging-port", str(port), "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + _SECONDS
        while True:
            try:
                connection = connect(f"ws://127.0.0.1:{port}/session", max_size=None)
                break
            except OSError:
                assert process.poll() is None, "Firefox ended"
                assert time.monotonic() < end, "Firefox does not start"
                time.sleep(0.1)
        with connection:
            yield Firefox(connection)
    finally:
        process.terminate()
        process.wait(_SECONDS)
