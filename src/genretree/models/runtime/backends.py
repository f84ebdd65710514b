"""What runs a model's networks: torch, or OpenVINO or ONNX Runtime on an export of them.

The reference is torch in float32, which is what a model does if nothing is asked for. All others are runners that take
the place of its networks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from genretree.errors import BundleError, MissingExtraError, SettingsError
from genretree.models.base import Model
from genretree.models.runtime.types import (
    GRAPH,
    REFERENCE,
    Form,
    Precision,
    Runner,
    Runtime,
    RuntimeChoice,
    RuntimeConfig,
    export_again,
    graph_file,
)
from genretree.parallel import available_processors, fast_bf16, n_sharing_processes, processors_each

_FORMS: dict[Runtime, Form] = {"openvino": "openvino", "onnxruntime": "onnx"}


def choose_runtime(exports: set[Form], runtime: RuntimeChoice, precision: Precision) -> Runtime:
    """Choose what runs a bundle's networks, in the order that `benchmarks/runtimes.py` found.

    Parameters
    ----------
    exports : set of "openvino", "onnx"
        Forms that the bundle has been exported to.
    runtime : "auto", "torch", "openvino" or "onnxruntime"
        auto: the fastest that is installed and that there is an export for.
    precision : "auto", "float32" or "bf16"
        auto: bf16 where the processor is made for it.

    Raises
    ------
    SettingsError
        For an unknown name, or bf16 with ONNX Runtime, which has none on processors.
    """
    _check(runtime, precision)
    if runtime != "auto":
        return runtime
    ready: list[Runtime] = [name for name, form in _FORMS.items() if form in exports and find_spec(name) is not None]
    wanted = [name for name in ready if name != "onnxruntime" or precision != "bf16"]
    return wanted[0] if wanted else "torch"


def run_alone(folder: Path, exports: set[Form], runtime: Runtime, precision: Precision) -> tuple[Runner, RuntimeConfig]:
    """Run the only network of a bundle by an export, without torch; gives the way too. Raises as `use_runtime`."""
    _need_export(runtime, folder, exports)
    way = RuntimeConfig(
        runtime, runtime == "openvino" and (precision == "bf16" or (precision == "auto" and _openvino_bf16()))
    )
    return open_export(way, folder, GRAPH), way


def use_runtime(
    model: Model, folder: Path, image_size: int, exports: set[Form], runtime: Runtime, precision: Precision
) -> str:
    """Let a runtime take over the networks of a model that torch loaded.

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
    runtime : "torch", "openvino" or "onnxruntime"
        As `choose_runtime` gave it.
    precision : "auto", "float32" or "bf16"

    Returns
    -------
    str
        What runs it now: `openvino bf16`, say.

    Raises
    ------
    MissingExtraError
        If the runtime is not installed.
    BundleError
        If there is no export for it, or it can't be read.
    """
    from genretree.models.runtime.graph import HasGraphs, run_torch

    graphs = model.graphs(image_size) if isinstance(model, HasGraphs) else {}
    # Some networks of an ensemble may stay in float32 while others don't.
    wanted = {
        name: runtime != "onnxruntime" and (precision == "bf16" or (precision == "auto" and graph.bf16 and fast_bf16()))
        for name, graph in graphs.items()
    }
    way = RuntimeConfig(runtime, any(wanted.values()))
    if not graphs or str(way) == REFERENCE:  # nothing but trees: there is nothing to choose
        return REFERENCE
    if runtime != "torch":
        _need_export(runtime, folder, exports)
    runners = {
        name: run_torch(graph, wanted[name])
        if runtime == "torch"
        else open_export(RuntimeConfig(runtime, wanted[name]), folder, name)
        for name, graph in graphs.items()
    }
    model.set_backend(runners)  # type: ignore[attr-defined]
    return str(way)


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


def open_export(way: RuntimeConfig, folder: Path, name: str) -> Runner:
    """Open an exported network of a bundle. Raises BundleError if it can't be read."""
    form = _FORMS[way.runtime]
    return open_runner(way, folder / form / graph_file(form, name))


def open_runner(way: RuntimeConfig, path: Path) -> Runner:
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


class _ForEachShare:
    """What is made anew when the number of those who share the processors changes: sessions have their own threads."""

    def __init__(self, make: Callable[[int, int], Any]) -> None:
        self.make = make
        self.lock = threading.Lock()
        self.made: tuple[int, Any] | None = None

    def get(self) -> Any:
        """Give what is made for as many threads at a time as there are now, and the processors each of them has."""
        users = min(n_sharing_processes(), available_processors())
        with self.lock:
            if self.made is None or self.made[0] != users:
                self.made = (users, self.make(users, processors_each()))
            return self.made[1]


_FIRST = threading.Lock()


@lru_cache(maxsize=1)
def _openvino_core() -> Any:
    import openvino

    with _FIRST:
        # Two threads that are the first to need NumPy in OpenVINO 2026.4's bindings wait for each other for ever: one
        # holds Python and waits for a guard in C++, the other holds the guard. So it is done here, by one.
        openvino.Type.f32.to_dtype()
    return openvino.Core()


def _openvino_bf16() -> bool:
    """Say whether the processor multiplies bf16 itself; as `fast_bf16`, but without torch."""
    return "BF16" in _openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


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

    def run(batch: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        found = compiled.get()
        if getattr(own, "compiled", None) is not found:
            own.compiled, own.request = found, found.create_infer_request()
        results = own.request.infer([np.ascontiguousarray(batch)], share_inputs=True)
        return tuple(results[i] for i in range(len(found.outputs)))

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

    def run(batch: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        found = session.get()
        return tuple(found.run(None, {found.get_inputs()[0].name: np.ascontiguousarray(batch)}))

    return run
