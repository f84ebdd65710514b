"""Types and names of runtimes, export formats and precisions; importing them loads no runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

ExportFormat = Literal["openvino", "onnx"]
Runtime = Literal["torch", "openvino", "onnxruntime"]
RuntimeChoice = Literal["auto", "torch", "openvino", "onnxruntime"]
Precision = Literal["auto", "float32", "bf16"]
Runner = Callable[[NDArray[Any]], tuple[NDArray[Any], ...]]  # a batch to float32 arrays of shape (n, width)
EXPORT_FORMATS: tuple[ExportFormat, ...] = ("openvino", "onnx")
GRAPH = "network"  # name of the exported graph of a neural family
REFERENCE = "torch float32"
_SUFFIX = {"openvino": ".xml", "onnx": ".onnx"}


@dataclass(frozen=True)
class RuntimeConfig:
    """A runtime and its precision, in the form of `genretree predict --json`."""

    runtime: Runtime
    bf16: bool

    def __str__(self) -> str:
        return f"{self.runtime} {'bf16' if self.bf16 else 'float32'}"


EXPORT_RUNTIMES: Mapping[ExportFormat, RuntimeConfig] = {  # each format in the precision in which it is written
    "openvino": RuntimeConfig("openvino", bf16=False),
    "onnx": RuntimeConfig("onnxruntime", bf16=False),
}


def graph_file(export_format: ExportFormat, name: str) -> str:
    """Return the file name of a network in an export folder."""
    return name + _SUFFIX[export_format]


def export_again(path: Path) -> str:
    """Return advice on replacing an exported file of a bundle."""
    return f"export again with `genretree export {path.parent.parent} --to {path.parent.name} --overwrite`"
