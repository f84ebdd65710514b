"""Streaming of uploaded files to disk, within limits."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import unquote_to_bytes
from uuid import uuid4

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from genretree.files import printable
from genretree.service.config import Limits
from genretree.service.errors import Problem
from genretree.service.storage import Storage, Upload, write_failed

FIELDS = ("files", "file")
_MAX_NAME_LENGTH = 255
_QUOTED = re.compile(rb'"(?:\\.|[^"\\])*"')
_EXTENDED_NAME = re.compile(rb"(?i);\s*filename\*\s*=\s*(utf-8|iso-8859-1)'[^']*'([^\s;]+)")
_FORM_BYTES = 4096  # of form data around each file
_DRAIN_SECONDS, _DRAIN_BYTES = 2.0, 64 << 20


@asynccontextmanager
async def receive_files(
    request: Request, limits: Limits, folder: Path, storage: Storage, max_files: int | None = None
) -> AsyncIterator[list[Upload]]:
    """Receive the files of a multipart form; removes them at the end of the block.

    Parameters
    ----------
    request : Request
    limits : Limits
    folder : Path
        Where to write the files, under random names.
    storage : Storage
        Accounts for their bytes.
    max_files : int, optional
        Maximum number of files, if lower than `limits.files`.

    Raises
    ------
    Problem
        Kinds: bad_request, too_large, timeout, busy.
    ClientDisconnect
        If the client disconnects.
    """
    form = _FormWriter(folder, storage, limits.upload_bytes, min(limits.files, max_files or limits.files))
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


async def _receive(request: Request, limits: Limits, form: _FormWriter) -> None:
    max_bytes = limits.upload_bytes + _FORM_BYTES * (limits.files + 1)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
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
            if received > max_bytes:  # in the form data around the files, whose bytes are counted separately
                raise _too_large(limits.upload_bytes)
            parser.write(body)
    except TimeoutError as error:
        raise Problem("timeout", "the upload timed out", 408) from error
    except FormParserError as error:
        raise Problem("bad_request", f"can't parse the form: {error}") from error
    except OSError as error:
        raise write_failed(error) from error
    if not form.ended:
        raise Problem("bad_request", "the form ends before its last boundary")
    if not form.uploads:
        raise Problem("bad_request", "the form has no file; send at least one as 'files'")


def _make_parser(request: Request, form: _FormWriter) -> MultipartParser:
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise Problem("bad_request", "send the files as multipart/form-data", 415)
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
        raise Problem("bad_request", f"can't parse the form: {error}") from error


@dataclass
class _FormWriter:
    """Writes the parts of a form to files; the methods are callbacks of the parser."""

    folder: Path
    storage: Storage
    max_bytes: int
    max_files: int
    uploads: list[Upload] = field(default_factory=list)
    more: bool = True  # whether more of the request follows
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
        name = extended_name(self._disposition) or _text(options.get(b"filename", b""))
        if field_name in FIELDS and b"filename" not in options and not name:
            raise Problem("bad_request", f"the field {field_name!r} has no file name; send it as a file")
        if field_name not in FIELDS:
            raise Problem("bad_request", f"unknown field {field_name[:40]!r}; send only files, as 'files'")
        if len(self.uploads) >= self.max_files:
            raise Problem("bad_request", f"the request has more than {self.max_files} file{'s' * (self.max_files > 1)}")
        path = self.folder / f"upload-{uuid4().hex}"
        self._file = path.open("xb")
        self.uploads.append(Upload(name[:_MAX_NAME_LENGTH] or "unnamed", path))

    def take(self, data: bytes, start: int, end: int) -> None:
        assert self._file is not None
        size = end - start
        if self._size + size > self.max_bytes:
            raise _too_large(self.max_bytes)
        self.storage.reserve(size)
        self._size += size
        self.uploads[-1].size += size
        self._file.write(data[start:end])

    def end(self) -> None:
        self._close()

    def finish(self) -> None:
        self.ended = True

    def remove(self) -> None:
        """Remove the remaining uploads; a job may have claimed one."""
        with contextlib.suppress(OSError):  # a full disk: the buffer can't be written
            self._close()
        for upload in self.uploads:
            upload.path.unlink(missing_ok=True)
            self.storage.release(upload.size)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def extended_name(disposition: bytes) -> str:
    """Return the file name of `filename*=UTF-8''...` (RFC 5987); empty if there is none, or it can't be decoded."""
    unquoted = _QUOTED.sub(b"", disposition)
    match = _EXTENDED_NAME.search(unquoted)
    if match is None:
        return ""
    try:
        return printable(unquote_to_bytes(match[2]).decode(match[1].decode().lower()))
    except UnicodeDecodeError:
        return ""


def _text(name: bytes) -> str:
    return printable(name.decode("utf-8", "surrogateescape"))


def _too_large(limit: int) -> Problem:
    return Problem("too_large", f"the upload is larger than the limit of {limit / (1 << 20):.4g} MB")


async def _drain(request: Request) -> None:
    """Read on for a moment: a client that is disconnected while it sends never reads the response."""
    size = 0
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while size < _DRAIN_BYTES:
                message = await request.receive()
                size += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
