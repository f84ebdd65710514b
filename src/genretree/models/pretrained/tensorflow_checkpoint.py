"""Reads TensorFlow's checkpoints (the "tensor bundle" of index and data files) without TensorFlow.

The index is a sorted string table as LevelDB writes them (https://github.com/google/leveldb/blob/main/doc/table_format.md),
its values protocol buffers of the type BundleEntryProto (tensorflow/core/protobuf/tensor_bundle.proto), which say where
in the data file an array lies. Only what float32 checkpoints of one uncompressed shard need is read; anything else is
refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_MAGIC = bytes.fromhex("57fb808b247547db")
_FOOTER = 48  # bytes at the end of a table: two block handles, padding, the magic number
_FLOAT = 1  # tensorflow's DT_FLOAT
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers


def read_tensors(index: bytes, data: bytes) -> dict[str, NDArray[np.float32]]:
    """Read all float32 arrays of a checkpoint.

    Parameters
    ----------
    index, data : bytes
        Contents of the files `*.index` and `*.data-00000-of-00001`.

    Returns
    -------
    dict of name to array
        Arrays of other types, such as step counts, are left out.

    Raises
    ------
    ValueError
        If this is no such checkpoint, a compressed or sharded one, or cut short.
    """
    tensors = {}
    try:
        for key, value in _read_table(index):
            if not key:
                continue  # the header: number of shards and byte order
            entry = _read_message(value)
            if entry.get(1, [0])[0] != _FLOAT:
                continue
            if entry.get(3, [0])[0]:
                raise ValueError("the checkpoint has several data files")
            shape = [int(_read_message(part).get(1, [0])[0]) for part in _dimensions(entry)]
            offset, size = int(entry.get(4, [0])[0]), int(entry.get(5, [0])[0])
            if size != 4 * math.prod(shape) or offset + size > len(data):
                raise ValueError(f"the array {key.decode()} doesn't lie in the data file")
            tensors[key.decode()] = np.frombuffer(data, "<f4", size // 4, offset).reshape(shape).copy()
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"the checkpoint's index is damaged ({error})") from error
    return tensors


def _dimensions(entry: dict[int, list[int | bytes]]) -> list[bytes]:
    shapes = [part for part in entry.get(2, []) if isinstance(part, bytes)]
    return [part for shape in shapes for part in _read_message(shape).get(2, []) if isinstance(part, bytes)]


def _read_table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a sorted string table."""
    footer = content[-_FOOTER:]
    if len(content) < _FOOTER or footer[-8:] != _MAGIC:
        raise ValueError("no index of a TensorFlow checkpoint")
    _, at = _read_handle(footer, 0)  # of the meta index, which holds nothing needed
    handle, _ = _read_handle(footer, at)
    for _, value in _read_block(content, handle):
        yield from _read_block(content, _read_handle(value, 0)[0])


def _read_handle(content: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = _read_varint(content, at)
    size, at = _read_varint(content, at)
    return (offset, size), at


def _read_block(content: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of a block: each key shares a stretch with the one before it."""
    offset, size = handle
    if content[offset + size] != 0:
        raise ValueError("the checkpoint's index is compressed")
    block = content[offset : offset + size]
    end = size - 4 * (1 + int.from_bytes(block[-4:], "little"))  # restart points, and their number, come last
    at, key = 0, b""
    while at < end:
        shared, at = _read_varint(block, at)
        fresh, at = _read_varint(block, at)
        length, at = _read_varint(block, at)
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        yield key, block[at : at + length]
        at += length


def _read_message(content: bytes) -> dict[int, list[int | bytes]]:
    """Read a protocol buffer into lists of numbers and bytes by field."""
    fields: dict[int, list[int | bytes]] = {}
    at = 0
    while at < len(content):
        tag, at = _read_varint(content, at)
        kind = tag & 7
        value: int | bytes
        if kind == _VARINT:
            value, at = _read_varint(content, at)
        elif kind == _BYTES:
            length, at = _read_varint(content, at)
            value, at = content[at : at + length], at + length
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
            value, at = int.from_bytes(content[at : at + length], "little"), at + length
        else:
            raise ValueError("the checkpoint's index is damaged (unknown field type)")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    number, shift = 0, 0
    while True:
        byte = content[at]
        number |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return number, at
        shift += 7
