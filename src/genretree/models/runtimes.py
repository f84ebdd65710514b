"""What runs a model's networks: torch, or OpenVINO or ONNX Runtime on an export of them.

The reference is torch in float32, which is what a model does if nothing is asked for. All others are runners that take
the place of its networks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from genretree.errors import BundleError, MissingExtraError, SettingsError
from genretree.machine import available_processors, fast_bf16, processors_each, sharers
from genretree.models.contract import Model
from genretree.models.graphs import Graph, HasGraphs, Runner
from genretree.models.ways import (
    REFERENCE,
    Form,
    Precision,
    Runtime,
    RuntimeChoice,
    Way,
    export_again,
    graph_file,
)

_FORMS: dict[Runtime, Form] = {"openvino": "openvino", "onnxruntime": "onnx"}


def use_runtime(
    model: Model, folder: Path, image_size: int, exports: set[Form], runtime: RuntimeChoice, precision: Precision
) -> str:
    """Let a runtime take a model's networks over.

    Parameters
    ----------
    model : Model
        As its family loaded it.
    folder : Path
        The bundle's.
    image_size : int
        Of stored images, in pixels.
    exports : set of "openvino", "onnx"
        Forms that the bundle has been exported to.
    runtime : "auto", "torch", "openvino" or "onnxruntime"
        auto: the fastest that is installed and that there is an export for.
    precision : "auto", "float32" or "bf16"
        auto: bf16 where the processor is made for it.

    Returns
    -------
    str
        What runs it now: `openvino bf16`, say.

    Raises
    ------
    SettingsError
        For an unknown name, or bf16 with ONNX Runtime, which has none on processors.
    MissingExtraError
        If the runtime is not installed.
    BundleError
        If it was asked for by name and there is no export for it.
    """
    _check(runtime, precision)
    graphs = model.graphs(image_size) if isinstance(model, HasGraphs) else {}
    if not graphs:  # nothing but trees: there is nothing to choose
        return REFERENCE
    # Some networks of an ensemble may stay in float32 while others don't.
    wanted = {name: _allow(graph, precision) for name, graph in graphs.items()}
    way = choose_way(exports, runtime, any(wanted.values()))
    if str(way) == REFERENCE:
        return REFERENCE
    if way.runtime != "torch":
        _need_export(way.runtime, folder, exports)
    runners = {
        name: _make_runner(replace(way, bf16=way.bf16 and wanted[name]), graph, name, folder)
        for name, graph in graphs.items()
    }
    model.run_by(runners)  # type: ignore[attr-defined]
    return str(way)


def _allow(graph: Graph, precision: Precision) -> bool:
    """Say whether a network may be computed in bf16."""
    return precision == "bf16" or (precision == "auto" and graph.bf16 and fast_bf16())


def choose_way(exports: set[Form], runtime: RuntimeChoice, bf16: bool) -> Way:
    """Choose the fastest way, in the order that `benchmarks/runtimes.py` found, with bf16 and without."""
    if runtime != "auto":
        return Way(runtime, bf16 and runtime != "onnxruntime")
    if "openvino" in exports and find_spec("openvino") is not None:
        return Way("openvino", bf16)
    if "onnx" in exports and find_spec("onnxruntime") is not None:
        return Way("onnxruntime", bf16=False)
    return Way("torch", bf16)


def _check(runtime: str, precision: str) -> None:
    for kind, value, known in (
        ("runtime", runtime, get_args(RuntimeChoice)),
        ("precision", precision, get_args(Precision)),
    ):
        if value not in known:
            raise SettingsError(f"no {kind} '{value}'; there are: {', '.join(known)}")
    if runtime == "onnxruntime" and precision == "bf16":
        raise SettingsError("onnxruntime computes in float32 on processors; take another precision or runtime")


def _need_export(runtime: Runtime, folder: Path, exports: set[Form]) -> None:
    form = _FORMS[runtime]
    if find_spec(runtime) is None:
        raise MissingExtraError(runtime, form)
    if form not in exports:
        raise BundleError(f"{folder}: has no export for {runtime}; make it with: genretree export {folder} --to {form}")


def _make_runner(way: Way, graph: Graph, name: str, folder: Path) -> Runner:
    if way.runtime == "torch":
        return run_torch(graph, way.bf16)
    form = _FORMS[way.runtime]
    return open_runner(way, folder / form / graph_file(form, name))


def open_runner(way: Way, path: Path) -> Runner:
    """Open an exported graph.

    Raises
    ------
    BundleError
        If the runtime can't read it.
    """
    read: Mapping[Runtime, Callable[[Path, bool], Runner]] = {"openvino": _openvino, "onnxruntime": _onnxruntime}
    try:
        return read[way.runtime](path, way.bf16)
    except Exception as error:  # each runtime has errors of its own
        raise BundleError(
            f"{path}: {way.runtime} can't read it ({str(error).strip()}); {export_again(path)}"
        ) from error


def run_torch(graph: Graph, bf16: bool) -> Runner:
    """Run a graph by torch, its matrix products in bf16 or float32."""

    def run(batch: Tensor) -> tuple[Tensor, ...]:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return tuple(output.float() for output in graph.module(batch))

    return run


class _ForEachShare:
    """What is made anew when the number of those who share the processors changes: sessions have their own threads."""

    def __init__(self, make: Callable[[int, int], Any]) -> None:
        self.make = make
        self.lock = threading.Lock()
        self.made: tuple[int, Any] | None = None

    def get(self) -> Any:
        """Give what is made for as many threads at a time as there are now, and the processors each of them has."""
        users = min(sharers(), available_processors())
        with self.lock:
            if self.made is None or self.made[0] != users:
                self.made = (users, self.make(users, processors_each()))
            return self.made[1]


@lru_cache(maxsize=1)
def _openvino_core() -> Any:
    import openvino

    return openvino.Core()


def _openvino(path: Path, bf16: bool) -> Runner:
    core = _openvino_core()
    model = core.read_model(path)
    own = threading.local()

    def compile_for(users: int, each: int) -> Any:
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "NUM_STREAMS": users,
            "INFERENCE_NUM_THREADS": users * each,
            "ENABLE_CPU_PINNING": False,  # other threads and other programs need the processors too
        }
        return core.compile_model(model, "CPU", options)

    compiled = _ForEachShare(compile_for)
    compiled.get()

    def run(batch: Tensor) -> tuple[Tensor, ...]:
        found = compiled.get()
        if getattr(own, "compiled", None) is not found:
            own.compiled, own.request = found, found.create_infer_request()
        results = own.request.infer([batch.contiguous().numpy()], share_inputs=True)
        return tuple(torch.from_numpy(results[i]) for i in range(len(found.outputs)))

    return run


def _onnxruntime(path: Path, bf16: bool) -> Runner:
    import onnxruntime

    def open_for(users: int, each: int) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = each
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    session = _ForEachShare(open_for)
    session.get()

    def run(batch: Tensor) -> tuple[Tensor, ...]:
        found = session.get()
        results = found.run(None, {found.get_inputs()[0].name: batch.contiguous().numpy()})
        return tuple(torch.from_numpy(result) for result in results)

    return run
