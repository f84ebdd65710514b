"""A reader of TensorFlow's checkpoints (the "tensor bundle" of index and data files) without TensorFlow.

The index is a sorted string table in LevelDB's format (https://github.com/google/leveldb/blob/main/doc/table_format.md).
Its values are protocol buffers of type BundleEntryProto (tensorflow/core/protobuf/tensor_bundle.proto) with the
position of each array in the data file. Only float32 arrays of an uncompressed checkpoint with one shard are supported.
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
        Arrays of other types, such as step counts, are omitted.

    Raises
    ------
    ValueError
        If this is not such a checkpoint, or it is compressed, sharded or truncated.
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
                raise ValueError(f"the array {key.decode()} is outside the data file")
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
        raise ValueError("not the index of a TensorFlow checkpoint")
    _, position = _read_handle(footer, 0)  # of the meta index, which is not needed
    handle, _ = _read_handle(footer, position)
    for _, value in _read_block(content, handle):
        yield from _read_block(content, _read_handle(value, 0)[0])


def _read_handle(content: bytes, position: int) -> tuple[tuple[int, int], int]:
    offset, position = _read_varint(content, position)
    size, position = _read_varint(content, position)
    return (offset, size), position


def _read_block(content: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of a block. Keys are prefix-compressed."""
    offset, size = handle
    if content[offset + size] != 0:
        raise ValueError("the checkpoint's index is compressed")
    block = content[offset : offset + size]
    end = size - 4 * (
        1 + int.from_bytes(block[-4:], "little")
    )  # the block ends with the restart points and their number
    position, key = 0, b""
    while position < end:
        shared, position = _read_varint(block, position)
        unshared, position = _read_varint(block, position)
        length, position = _read_varint(block, position)
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + length]
        position += length


def _read_message(content: bytes) -> dict[int, list[int | bytes]]:
    """Read a protocol buffer into lists of numbers and bytes by field."""
    fields: dict[int, list[int | bytes]] = {}
    position = 0
    while position < len(content):
        tag, position = _read_varint(content, position)
        wire_type = tag & 7
        value: int | bytes
        if wire_type == _VARINT:
            value, position = _read_varint(content, position)
        elif wire_type == _BYTES:
            length, position = _read_varint(content, position)
            value, position = content[position : position + length], position + length
        elif wire_type in (_FIXED32, _FIXED64):
            length = 4 if wire_type == _FIXED32 else 8
            value, position = int.from_bytes(content[position : position + length], "little"), position + length
        else:
            raise ValueError("the checkpoint's index is damaged (unknown field type)")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _read_varint(content: bytes, position: int) -> tuple[int, int]:
    number, shift = 0, 0
    while True:
        byte = content[position]
        number |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return number, position
        shift += 7
