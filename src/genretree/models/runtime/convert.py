"""Export of networks to OpenVINO IR and ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from genretree.errors import MissingExtraError
from genretree.models.runtime.graph import Graph
from genretree.models.runtime.types import ExportFormat, graph_file

INPUT = "input"
_REQUIRED_PACKAGES = {"openvino": ("openvino",), "onnx": ("onnx", "onnxscript", "onnxruntime")}


def require_export_library(export_format: ExportFormat) -> None:
    """Check that the libraries for an export format are installed.

    Raises
    ------
    MissingExtraError
        If a library is missing; the message names the extra.
    """
    for package in _REQUIRED_PACKAGES[export_format]:
        if find_spec(package) is None:
            raise MissingExtraError(package, export_format)


def write_graph(export_format: ExportFormat, graph: Graph, name: str, folder: Path) -> None:
    """Write a graph to a folder, in float32 and for any batch size."""
    writers: dict[ExportFormat, Callable[[Graph, Path], None]] = {"openvino": _write_openvino, "onnx": _write_onnx}
    graph.module.eval()
    with torch.no_grad(), _suppress_messages():
        writers[export_format](graph, folder / graph_file(export_format, name))


def _write_openvino(graph: Graph, path: Path) -> None:
    import openvino

    shape = openvino.PartialShape([-1, *graph.example.shape[1:]])
    # See "Converting a PyTorch Model" at https://docs.openvino.ai.
    converted = openvino.convert_model(graph.module, example_input=(graph.example,), input=[shape])
    converted.inputs[0].get_tensor().set_names({INPUT})
    for output, name in zip(converted.outputs, graph.outputs, strict=True):
        output.get_tensor().set_names({name})
    openvino.save_model(converted, path, compress_to_fp16=False)


def _write_onnx(graph: Graph, path: Path) -> None:
    rows = {0: torch.export.Dim("rows")}
    program: Any = torch.onnx.export(
        graph.module,
        (graph.example,),
        dynamic_shapes=(rows,),
        input_names=[INPUT],
        output_names=list(graph.outputs),
        dynamo=True,
        verbose=False,
    )
    program.save(path, external_data=False)


@contextmanager
def _suppress_messages() -> Iterator[None]:
    """Suppress the exporters' messages on torch's internals, which are irrelevant to users."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
