"""Names of runtimes, forms of export and precisions; nothing here needs a library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

Form = Literal["openvino", "onnx"]
Runtime = Literal["torch", "openvino", "onnxruntime"]
RuntimeChoice = Literal["auto", "torch", "openvino", "onnxruntime"]
Precision = Literal["auto", "float32", "bf16"]
Runner = Callable[[NDArray[Any]], tuple[NDArray[Any], ...]]  # of many rows, to float32 arrays of shape (rows, width)
FORMS: tuple[Form, ...] = ("openvino", "onnx")
GRAPH = "network"  # name of the only exported graph of a neural family
REFERENCE = "torch float32"
_SUFFIX = {"openvino": ".xml", "onnx": ".onnx"}


@dataclass(frozen=True)
class RuntimeConfig:
    """A runtime and the arithmetic it works in, as `genretree predict --json` names it."""

    runtime: Runtime
    bf16: bool

    def __str__(self) -> str:
        return f"{self.runtime} {'bf16' if self.bf16 else 'float32'}"


def graph_file(form: Form, name: str) -> str:
    """Name of the file of a network, in the folder of an export."""
    return name + _SUFFIX[form]


def export_again(path: Path) -> str:
    """Say how to replace an exported file of a bundle."""
    return f"make it again: genretree export {path.parent.parent} --to {path.parent.name} --overwrite"
