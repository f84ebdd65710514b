"""Files out of a request's form, written piece by piece as they come, within limits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from uuid import uuid4

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from genretree.files import printable
from genretree.service.config import Limits
from genretree.service.errors import Problem
from genretree.service.storage import Storage, Upload, cant_write

FIELDS = ("files", "file")
_LONGEST_NAME = 255
_FORM_BYTES = 4096  # that a form may have around each file
_DRAIN_SECONDS, _DRAIN_BYTES = 2.0, 64 << 20


@asynccontextmanager
async def received_files(
    request: Request, limits: Limits, folder: Path, storage: Storage, most: int | None = None
) -> AsyncIterator[list[Upload]]:
    """Receive the files of a multipart form; they are removed at the end of the block, whatever happens.

    Parameters
    ----------
    request : Request
    limits : Limits
    folder : Path
        Where they are written, under names of ours.
    storage : Storage
        Counts their bytes.
    most : int, optional
        How many there may be, if fewer than the limits say.

    Raises
    ------
    Problem
        Of kind bad_request, too_large, timeout or busy.
    ClientDisconnect
        If the client hangs up.
    """
    form = _Form(folder, storage, limits.upload_bytes, min(limits.files, most or limits.files))
    try:
        try:
            await _receive(request, limits, form)
        except Problem:
            if form.more:
                await _drain(request)
            raise
        yield form.uploads
    finally:
        form.remove()


async def _receive(request: Request, limits: Limits, form: _Form) -> None:
    most = limits.upload_bytes + _FORM_BYTES * (limits.files + 1)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise _too_large(limits.upload_bytes)
    parser = _make_parser(request, form)
    received = 0
    loop = asyncio.get_running_loop()
    until = loop.time() + limits.upload_seconds
    try:
        while form.more:
            left = until - loop.time()
            async with asyncio.timeout(max(0.0, min(left, limits.idle_seconds))):
                message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            form.more = message.get("more_body", False)
            body = message.get("body", b"")
            received += len(body)
            if received > most:  # before, between or behind the files, which are counted by themselves
                raise _too_large(limits.upload_bytes)
            parser.write(body)
    except TimeoutError as error:
        raise Problem("timeout", "the upload takes too long, or has stopped", 408) from error
    except FormParserError as error:
        raise Problem("bad_request", f"the form can't be read: {error}") from error
    except OSError as error:
        raise cant_write(error) from error
    if not form.ended:
        raise Problem("bad_request", "the form ends before its last boundary")
    if not form.uploads:
        raise Problem("bad_request", "the form has no file; send at least one as 'files'")


def _make_parser(request: Request, form: _Form) -> MultipartParser:
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise Problem("bad_request", "send the files as a form of the type multipart/form-data", 415)
    try:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin,
                "on_part_data": form.take,
                "on_part_end": form.end,
                "on_header_field": form.header_name,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_headers_finished": form.open,
                "on_end": form.finish,
            },
            max_header_count=8,
            max_header_size=4096,
        )
    except FormParserError as error:
        raise Problem("bad_request", f"the form can't be read: {error}") from error


@dataclass
class _Form:
    """What a parser finds, on its way into files."""

    folder: Path
    storage: Storage
    most_bytes: int
    most_files: int
    uploads: list[Upload] = field(default_factory=list)
    more: bool = True  # whether more of the request is to come
    ended: bool = False
    _name: bytes = b""
    _value: bytes = b""
    _disposition: bytes = b""
    _file: IO[bytes] | None = None
    _size: int = 0

    def begin(self) -> None:
        self._name = self._value = self._disposition = b""

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def open(self) -> None:
        _, options = parse_options_header(self._disposition)
        field_name = _text(options.get(b"name", b""))
        if field_name in FIELDS and b"filename" not in options:
            raise Problem(
                "bad_request", f"what the form sends as {field_name!r} has no file name; send it as a file with one"
            )
        if field_name not in FIELDS:
            raise Problem(
                "bad_request", f"the form has a field {field_name[:40]!r}; it may only have files, as 'files'"
            )
        if len(self.uploads) >= self.most_files:
            raise Problem("bad_request", f"more than {self.most_files} file{'s' * (self.most_files > 1)} in a request")
        path = self.folder / f"upload-{uuid4().hex}"
        self._file = path.open("xb")
        name = _text(options[b"filename"])[:_LONGEST_NAME]
        self.uploads.append(Upload(name or "unnamed", path))

    def take(self, data: bytes, start: int, end: int) -> None:
        assert self._file is not None
        size = end - start
        if self._size + size > self.most_bytes:
            raise _too_large(self.most_bytes)
        self.storage.take(size)
        self._size += size
        self.uploads[-1].size += size
        self._file.write(data[start:end])

    def end(self) -> None:
        self._close()

    def finish(self) -> None:
        self.ended = True

    def remove(self) -> None:
        """Remove what is still there; a job may have taken a file over."""
        with contextlib.suppress(OSError):  # of a full disk: what was left to write
            self._close()
        for upload in self.uploads:
            upload.path.unlink(missing_ok=True)
            self.storage.give_back(upload.size)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _text(name: bytes) -> str:
    return printable(name.decode("utf-8", "surrogateescape"))


def _too_large(limit: int) -> Problem:
    return Problem("too_large", f"the upload has more than {limit / (1 << 20):.4g} MB; that is the most taken here")


async def _drain(request: Request) -> None:
    """Read on for a moment: a client that is cut off while it sends never reads why."""
    size = 0
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while size < _DRAIN_BYTES:
                message = await request.receive()
                size += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
