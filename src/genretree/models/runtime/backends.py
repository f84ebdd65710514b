"""Selection and loading of the runtime for a model's networks: torch, OpenVINO or ONNX Runtime.

The reference and default is torch in float32. The other runtimes are functions that replace the model's networks.
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
    ExportFormat,
    Precision,
    Runner,
    Runtime,
    RuntimeChoice,
    RuntimeConfig,
    export_again,
    graph_file,
)
from genretree.parallel import available_processors, fast_bf16, n_sharing_processes, processors_each

_FORMAT_OF: dict[Runtime, ExportFormat] = {"openvino": "openvino", "onnxruntime": "onnx"}


def choose_runtime(exports: set[ExportFormat], runtime: RuntimeChoice, precision: Precision) -> Runtime:
    """Choose the runtime of a bundle's networks, in the order of speed that `benchmarks/runtimes.py` measured.

    Parameters
    ----------
    exports : set of "openvino", "onnx"
        Formats that the bundle has been exported to.
    runtime : "auto", "torch", "openvino" or "onnxruntime"
        auto: the fastest installed runtime that the bundle has an export for.
    precision : "auto", "float32" or "bf16"
        auto: bf16 if the processor supports it.

    Raises
    ------
    SettingsError
        If a name is unknown, or for bf16 with ONNX Runtime, which doesn't support it on CPUs.

    Examples
    --------
    >>> from genretree.models.runtime.backends import choose_runtime
    >>> choose_runtime(set(), "auto", "auto")
    'torch'
    """
    _check(runtime, precision)
    if runtime != "auto":
        return runtime
    ready: list[Runtime] = [
        name for name, export_format in _FORMAT_OF.items() if export_format in exports and find_spec(name) is not None
    ]
    requested = [name for name in ready if name != "onnxruntime" or precision != "bf16"]
    return requested[0] if requested else "torch"


def open_standalone(
    folder: Path, exports: set[ExportFormat], runtime: Runtime, precision: Precision
) -> tuple[Runner, RuntimeConfig]:
    """Open the export of a bundle with a single network, without torch. Raises the errors of `use_runtime`."""
    _require_export(runtime, folder, exports)
    config = RuntimeConfig(
        runtime, runtime == "openvino" and (precision == "bf16" or (precision == "auto" and _openvino_bf16()))
    )
    return open_export(config, folder, GRAPH), config


def use_runtime(
    model: Model, folder: Path, image_size: int, exports: set[ExportFormat], runtime: Runtime, precision: Precision
) -> str:
    """Run the networks of a loaded model with another runtime.

    Parameters
    ----------
    model : Model
        The model as loaded by its family.
    folder : Path
        Folder of the bundle.
    image_size : int
        Size of stored images, in pixels.
    exports : set of "openvino", "onnx"
        Formats that the bundle has been exported to.
    runtime : "torch", "openvino" or "onnxruntime"
        Result of `choose_runtime`.
    precision : "auto", "float32" or "bf16"

    Returns
    -------
    str
        Runtime and precision, such as `openvino bf16`.

    Raises
    ------
    MissingExtraError
        If the runtime is not installed.
    BundleError
        If the bundle has no export for it, or the export can't be read.
    """
    from genretree.models.runtime.graph import HasGraphs, run_torch

    graphs = model.graphs(image_size) if isinstance(model, HasGraphs) else {}
    # Precision is chosen for each network: some members of an ensemble may stay in float32.
    requested = {
        name: runtime != "onnxruntime" and (precision == "bf16" or (precision == "auto" and graph.bf16 and fast_bf16()))
        for name, graph in graphs.items()
    }
    config = RuntimeConfig(runtime, any(requested.values()))
    if not graphs or str(config) == REFERENCE:  # a model without networks always runs in the same way
        return REFERENCE
    if runtime != "torch":
        _require_export(runtime, folder, exports)
    runners = {
        name: run_torch(graph, requested[name])
        if runtime == "torch"
        else open_export(RuntimeConfig(runtime, requested[name]), folder, name)
        for name, graph in graphs.items()
    }
    model.set_backend(runners)  # type: ignore[attr-defined]
    return str(config)


def _check(runtime: str, precision: str) -> None:
    for setting, value, known in (
        ("runtime", runtime, get_args(RuntimeChoice)),
        ("precision", precision, get_args(Precision)),
    ):
        if value not in known:
            raise SettingsError(f"unknown {setting} '{value}'; choose from: {', '.join(known)}")
    if runtime == "onnxruntime" and precision == "bf16":
        raise SettingsError("onnxruntime doesn't support bf16 on CPUs; choose precision float32 or another runtime")


def _require_export(runtime: Runtime, folder: Path, exports: set[ExportFormat]) -> None:
    export_format = _FORMAT_OF[runtime]
    if find_spec(runtime) is None:
        raise MissingExtraError(runtime, export_format)
    if export_format not in exports:
        raise BundleError(
            f"{folder}: the bundle has no export for {runtime}; export it with `genretree export {folder} --to "
            f"{export_format}`"
        )


def open_export(config: RuntimeConfig, folder: Path, name: str) -> Runner:
    """Open an exported network of a bundle. Raises BundleError if the file can't be read."""
    export_format = _FORMAT_OF[config.runtime]
    return open_runner(config, folder / export_format / graph_file(export_format, name))


def open_runner(config: RuntimeConfig, path: Path) -> Runner:
    """Open an exported graph.

    Raises
    ------
    BundleError
        If the runtime can't read the file.
    """
    read: Mapping[Runtime, Callable[[Path, bool], Runner]] = {"openvino": _openvino, "onnxruntime": _onnxruntime}
    try:
        return read[config.runtime](path, config.bf16)
    except Exception as error:  # each runtime raises its own errors
        raise BundleError(
            f"{path}: {config.runtime} can't read this file ({str(error).strip()}); {export_again(path)}"
        ) from error


class _PerWorkerCount:
    """A session that is created again when the number of workers changes, since sessions have their own threads."""

    def __init__(self, create: Callable[[int, int], Any]) -> None:
        self.create = create
        self.lock = threading.Lock()
        self.cached: tuple[int, Any] | None = None

    def get(self) -> Any:
        """Return the session for the current number of workers and of processors for each of them."""
        workers = min(n_sharing_processes(), available_processors())
        with self.lock:
            if self.cached is None or self.cached[0] != workers:
                self.cached = (workers, self.create(workers, processors_each()))
            return self.cached[1]


_FIRST = threading.Lock()


@lru_cache(maxsize=1)
def _openvino_core() -> Any:
    import openvino

    with _FIRST:
        # OpenVINO 2026.4's bindings deadlock if two threads initialise NumPy at once: one holds the GIL and waits for a
        # guard in C++, the other holds the guard. So one thread does it here.
        openvino.Type.f32.to_dtype()
    return openvino.Core()


def _openvino_bf16() -> bool:
    """Check whether the processor supports bf16, as `fast_bf16` does, but without torch."""
    return "BF16" in _openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _openvino(path: Path, bf16: bool) -> Runner:
    core = _openvino_core()
    model = core.read_model(path)
    own = threading.local()

    def compile_for(workers: int, processors: int) -> Any:
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "NUM_STREAMS": workers,
            "INFERENCE_NUM_THREADS": workers * processors,
            "ENABLE_CPU_PINNING": False,  # leaves the processors to other threads and programs
        }
        return core.compile_model(model, "CPU", options)

    compiled = _PerWorkerCount(compile_for)
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

    def open_for(workers: int, processors: int) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = processors
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    session = _PerWorkerCount(open_for)
    session.get()

    def run(batch: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        found = session.get()
        return tuple(found.run(None, {found.get_inputs()[0].name: np.ascontiguousarray(batch)}))

    return run
