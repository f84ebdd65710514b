"""Bundles that must be refused."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genretree.bundle.manifest import write_description
from genretree.files import sha256_file

# Changes of a description and a part of the expected message.
BAD_DESCRIPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"format": 99}, "format 99"),
    ({"files": None}, "files missing"),
    ({"files": {}}, "lists no weights"),
    ({"taxonomy": None}, "taxonomy missing"),
    ({"family": "magic"}, "no installed package provides"),
    ({"settings": {"colour": 3}}, "unknown setting 'colour'"),
    ({"images": {"size": -1}}, "size"),
    ({"taxonomy": {"leaves": [["a"]], "levels": ["x"]}}, "at least 2"),
    ({"files": {"../../evil": "0"}}, "outside the bundle"),
    ({"files": {"/etc/passwd": "0"}}, "outside the bundle"),
    ({"files": {"a/b/c": "0"}}, "outside the bundle"),
]


def describe(folder: Path, **changes: object) -> None:
    """Change a description and sign it anew, as a writer with other ideas would."""
    content = {**json.loads((folder / "bundle.json").read_text()), **changes}
    write_description(folder, {name: value for name, value in content.items() if value is not None})


class Trap:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Replace the content of a file of a bundle and sign it."""
    (folder / name).write_bytes(content)
    files = json.loads((folder / "bundle.json").read_text())["files"]
    describe(folder, files={**files, name: sha256_file(folder / name)})


def write_pickles(folder: Path, sprung: Path) -> None:
    """Replace all files of a bundle by pickles that create the file `sprung` when they are loaded."""
    for name in json.loads((folder / "bundle.json").read_text())["files"]:
        rewrite(folder, name, pickle.dumps(Trap(sprung)))


def write_bad_bundles(good: Path, folder: Path, sprung: Path) -> Iterator[Path]:
    """Write copies of a bundle of a network with one thing wrong in each; pickles in them create `sprung`."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(good, folder / name))

    folder.mkdir()
    for number, (changes, _) in enumerate(BAD_DESCRIPTIONS):
        describe(bundle := copy(f"description-{number}"), **changes)
        yield bundle
    write_pickles(bundle := copy("pickles"), sprung)
    yield bundle
    weights = (good / "model.safetensors").read_bytes()
    contents = {
        "empty": b"",
        "noise": bytes(range(256)) * 100,
        "truncated": weights[: len(weights) // 2],
        "huge header": struct.pack("<Q", 1 << 62) + weights[8:],
        "no header": struct.pack("<Q", 0) + weights[8:],
        "nested header": struct.pack("<Q", 200_000) + b"[" * 200_000,
        "overlapping tensors": _overlapping(weights),
        "not a number": weights[:-4000] + struct.pack("<f", float("nan")) * 1000,
    }
    for name, content in contents.items():
        rewrite(bundle := copy(f"weights, {name}"), "model.safetensors", content)
        yield bundle
    for path in sorted(good.glob("openvino/*")):
        for name, content in {
            "empty": b"",
            "noise": bytes(range(256)) * 100,
            "half": path.read_bytes()[:-1000],
        }.items():
            rewrite(bundle := copy(f"{path.name}, {name}"), f"openvino/{path.name}", content)
            yield bundle
    texts = {
        "empty": "",
        "half": (good / "bundle.json").read_text()[:100],
        "nested": "[" * 200_000,
        "numbers": '{"format": ' + "9" * 10_000 + "}",
        "list": "[]",
    }
    for name, text in texts.items():
        ((bundle := copy(f"bundle.json, {name}")) / "bundle.json").write_text(text)
        yield bundle
    ((bundle := copy("bundle.json, bytes")) / "bundle.json").write_bytes(b"\xff\xfe{\0")
    yield bundle
    (bundle := copy("linked weights"), (bundle / "model.safetensors").unlink())
    (bundle / "model.safetensors").symlink_to("/dev/zero")
    yield bundle
    (bundle := folder / "empty folder").mkdir()
    yield bundle
    yield folder / "no such folder"


def _overlapping(weights: bytes) -> bytes:
    """Let all tensors of a safetensors file begin at byte 0."""
    size = struct.unpack("<Q", weights[:8])[0]
    header = json.loads(weights[8 : 8 + size])
    for each in header.values():
        if "data_offsets" in each:
            begin, end = each["data_offsets"]
            each["data_offsets"] = [0, end - begin]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + weights[8 + size :]
