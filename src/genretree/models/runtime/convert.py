"""Export of networks to OpenVINO IR and ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genretree.errors import BundleError, GenretreeError, MissingExtraError
from genretree.models.runtime.backends import open_runner
from genretree.models.runtime.graph import Graph
from genretree.models.runtime.types import EXPORT_RUNTIMES, ExportFormat, graph_file

INPUT = "input"
_MAX_DIFFERENCE = 1e-3  # relative to the largest output; rounding alone causes less than a tenth of it
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


def write_checked_graph(to: ExportFormat, graph: Graph, name: str, folder: Path) -> float:
    """Write a graph to a folder, and compare its outputs with torch for batches of 1, 2 and 3.

    Returns
    -------
    float
        The maximum difference, relative to the largest output.

    Raises
    ------
    BundleError
        If the graph can't be exported, or differs from torch.
    """
    try:
        write_graph(to, graph, name, folder)
    except GenretreeError:
        raise
    except Exception as error:  # each exporter raises errors of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BundleError(f"{name}: can't be exported to {to} ({reason})") from error
    run = open_runner(EXPORT_RUNTIMES[to], folder / graph_file(to, name))
    max_difference = 0.0
    for rows in ([0], [0, 1], [1, 0, 1]):
        batch = graph.example[rows]
        with torch.inference_mode():
            expected = [output.numpy() for output in graph.module(batch)]
        for one, other in zip(expected, run(batch.numpy()), strict=True):
            spread = max(float(np.abs(one).max()), 1e-6)
            max_difference = max(max_difference, float(np.abs(one - other).max()) / spread)
    if not max_difference < _MAX_DIFFERENCE:
        raise BundleError(f"{name}: the {to} export is {max_difference:.1%} away from torch; report this and use torch")
    return max_difference


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
