"""Networks written as OpenVINO IR or ONNX."""

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
from genretree.models.runtime.types import Form, graph_file

INPUT = "input"
_NEEDS = {"openvino": ("openvino",), "onnx": ("onnx", "onnxscript", "onnxruntime")}


def require_export_library(form: Form) -> None:
    """Refuse if what writes and runs a form is not installed.

    Raises
    ------
    MissingExtraError
        It names the extra.
    """
    for package in _NEEDS[form]:
        if find_spec(package) is None:
            raise MissingExtraError(package, form)


def write_graph(form: Form, graph: Graph, name: str, folder: Path) -> None:
    """Write a graph in float32, for any number of rows, into a folder."""
    writers: dict[Form, Callable[[Graph, Path], None]] = {"openvino": _write_openvino, "onnx": _write_onnx}
    graph.module.eval()
    with torch.no_grad(), _quietly():
        writers[form](graph, folder / graph_file(form, name))


def _write_openvino(graph: Graph, path: Path) -> None:
    import openvino

    shape = openvino.PartialShape([-1, *graph.example.shape[1:]])
    # By openvino's own converter: https://docs.openvino.ai, "Converting a PyTorch Model".
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
def _quietly() -> Iterator[None]:
    """Keep back what the exporters say of torch's inside: nothing in it is for the user."""
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
