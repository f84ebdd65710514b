"""What a service and its worker processes say to each other: JSON and raw arrays, no pickle.

A worker reads what strangers sent. Should one of them take it over, it can say wrong things; if they were unpickled,
its code would run here. A message is eight bytes with the length of its JSON, that JSON, and the blobs it announces.
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
_MOST_JSON = 64 << 20
_MOST_BLOBS = 2 << 30


class WireError(Exception):
    """The other side said something that makes no sense."""


@dataclass(frozen=True)
class Message:
    """What is said: `event` tells its sort, `facts` the rest; `blobs` are raw bytes."""

    event: str
    facts: dict[str, Any] = field(default_factory=dict)
    blobs: Sequence[bytes | memoryview] = ()

    def parts(self) -> list[bytes | memoryview]:
        """Give the bytes to send."""
        sizes = [len(blob) for blob in self.blobs]
        content = json.dumps({"event": self.event, "facts": self.facts, "blobs": sizes}).encode()
        return [_LENGTH.pack(len(content)), content, *self.blobs]


def array_blob(array: Array) -> memoryview:
    """Give an array's bytes, in C order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def take_array(blob: bytes | memoryview, kind: type[np.generic] | np.dtype[Any], shape: Sequence[int]) -> Array:
    """Make an array of bytes that the other side said are one of this kind and shape. Raises WireError if not."""
    try:
        return np.frombuffer(blob, kind).reshape(tuple(shape)).copy()  # one that may be written to
    except ValueError as error:
        raise WireError(f"an array isn't what it was said to be: {error}") from error


def take_features(
    names: Sequence[str], blobs: Sequence[bytes | memoryview], shapes: Sequence[Sequence[int]]
) -> dict[str, Array]:
    """Make arrays of the features of slices that were asked for. Raises WireError if the bytes are not those."""
    features = requested_features(names)
    if len(features) != len(blobs) or len(features) != len(shapes):
        raise WireError(f"{len(blobs)} features where {len(features)} were asked for")
    arrays = zip(features, blobs, shapes, strict=True)
    return {feature.name: take_array(blob, np.dtype(feature.dtype), shape) for feature, blob, shape in arrays}


def send(stream: IO[bytes], message: Message) -> None:
    """Send a message, from a worker."""
    for part in message.parts():
        stream.write(part)
    stream.flush()


def receive(stream: IO[bytes]) -> Message | None:
    """Wait for a message, in a worker; None when the other side is gone."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    content, sizes = _read_json(stream.read(_LENGTH.unpack(head)[0]))
    return Message(content["event"], content["facts"], [stream.read(size) for size in sizes])


async def receive_from(stream: asyncio.StreamReader) -> Message:
    """Wait for a worker's message.

    Raises
    ------
    WireError
        If it makes no sense, or is larger than any worker's.
    asyncio.IncompleteReadError
        If the worker is gone.
    """
    (length,) = _LENGTH.unpack(await stream.readexactly(_LENGTH.size))
    if length > _MOST_JSON:
        raise WireError(f"a message of {length} bytes")
    content, sizes = _read_json(await stream.readexactly(length))
    if sum(sizes) > _MOST_BLOBS:
        raise WireError(f"blobs of {sum(sizes)} bytes")
    return Message(content["event"], content["facts"], [await stream.readexactly(size) for size in sizes])


def _read_json(content: bytes) -> tuple[dict[str, Any], list[int]]:
    try:
        found = json.loads(content)
        sizes = [int(size) for size in found["blobs"]]
        if min(sizes, default=0) < 0 or not isinstance(found["event"], str) or not isinstance(found["facts"], dict):
            raise ValueError("of another form")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WireError(f"no message: {error}") from error
    return found, sizes
