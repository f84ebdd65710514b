"""Messages between a service and its worker processes: JSON and raw arrays.

A worker parses untrusted files. If a file takes control of it, its messages are untrusted too, so they are never
unpickled. A message is the length of its JSON (eight bytes), the JSON, and the blobs whose sizes the JSON lists.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from genretree.arrays import Array
from genretree.sound.features import requested_features

_LENGTH = struct.Struct(">Q")
_MAX_HEADER_BYTES = 64 << 20
_MAX_BLOB_BYTES = 2 << 30


class ProtocolError(Exception):
    """The other process sent an invalid message."""


@dataclass(frozen=True)
class Message:
    """A message: its type (`event`), its content as JSON (`header`), and raw bytes (`blobs`)."""

    event: str
    header: dict[str, Any] = field(default_factory=dict)
    blobs: Sequence[bytes | memoryview] = ()

    def parts(self) -> list[bytes | memoryview]:
        """Return the bytes to send, in parts."""
        sizes = [len(blob) for blob in self.blobs]
        content = json.dumps({"event": self.event, "header": self.header, "blobs": sizes}).encode()
        return [_LENGTH.pack(len(content)), content, *self.blobs]


def array_bytes(array: Array) -> memoryview:
    """Return an array's bytes in C order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def read_array(blob: bytes | memoryview, dtype: type[np.generic] | np.dtype[Any], shape: Sequence[int]) -> Array:
    """Build an array from received bytes. Raises ProtocolError if the size does not match dtype and shape."""
    try:
        return np.frombuffer(blob, dtype).reshape(tuple(shape)).copy()  # writable
    except ValueError as error:
        raise ProtocolError(f"the bytes of an array do not match its shape: {error}") from error


def read_features(
    names: Sequence[str], blobs: Sequence[bytes | memoryview], shapes: Sequence[Sequence[int]]
) -> dict[str, Array]:
    """Make arrays of the features of slices that were asked for. Raises WireError if the bytes are not those."""
    features = requested_features(names)
    if len(features) != len(blobs) or len(features) != len(shapes):
        raise ProtocolError(f"{len(blobs)} features where {len(features)} were asked for")
    arrays = zip(features, blobs, shapes, strict=True)
    return {feature.name: read_array(blob, np.dtype(feature.dtype), shape) for feature, blob, shape in arrays}


def send(stream: IO[bytes], message: Message) -> None:
    """Send a message from a worker."""
    for part in message.parts():
        stream.write(part)
    stream.flush()


def receive(stream: IO[bytes]) -> Message | None:
    """Wait for a message in a worker; None if the service is gone."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    content, sizes = _read_json(stream.read(_LENGTH.unpack(head)[0]))
    return Message(content["event"], content["header"], [stream.read(size) for size in sizes])


async def receive_async(stream: asyncio.StreamReader) -> Message:
    """Wait for a message from a worker.

    Raises
    ------
    WireError
        If the message is invalid or too large.
    asyncio.IncompleteReadError
        If the worker has ended.
    """
    (length,) = _LENGTH.unpack(await stream.readexactly(_LENGTH.size))
    if length > _MAX_HEADER_BYTES:
        raise ProtocolError(f"the header of a message has {length} bytes, more than {_MAX_HEADER_BYTES}")
    content, sizes = _read_json(await stream.readexactly(length))
    if sum(sizes) > _MAX_BLOB_BYTES:
        raise ProtocolError(f"the blobs of a message have {sum(sizes)} bytes, more than {_MAX_BLOB_BYTES}")
    return Message(content["event"], content["header"], [await stream.readexactly(size) for size in sizes])


def _read_json(content: bytes) -> tuple[dict[str, Any], list[int]]:
    try:
        parsed = json.loads(content)
        sizes = [int(size) for size in parsed["blobs"]]
        if min(sizes, default=0) < 0 or not isinstance(parsed["event"], str) or not isinstance(parsed["header"], dict):
            raise ValueError("wrong structure")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolError(f"invalid message: {error}") from error
    return parsed, sizes
