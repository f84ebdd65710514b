"""Trained models as folders: weights, taxonomy, settings, metadata and hashes, without pickle.

A bundle is a folder::

    bundle.json          format, family, taxonomy, settings, training metadata, and the SHA-256 of every other file
    model.safetensors    weights of a network; or
    projection.safetensors, classifier-*.safetensors   for boosting
    history.csv          one row per epoch or iteration
    openvino/, onnx/     networks exported by `genretree export`
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from genretree.arrays import Array, Int64Array
from genretree.bundle.hub.contents import OLD_TREES
from genretree.bundle.hub.find import find_bundle
from genretree.bundle.manifest import DESCRIPTION, FORMAT, check_files, read_description, write_description
from genretree.checks import require_path
from genretree.errors import BundleError, GenretreeError
from genretree.files import sha256_file
from genretree.metrics.calibration import Calibration, Unit, average_by, temper
from genretree.models import family_names, get_family
from genretree.models.base import ExportedFamily, LevelProbabilities, Model
from genretree.models.registry import get_exported_family
from genretree.models.runtime.types import EXPORT_FORMATS, REFERENCE, ExportFormat, Precision, Runtime, RuntimeChoice
from genretree.settings import ImageSettings, Settings
from genretree.sound.features import IMAGES, SliceInputs, requested_features
from genretree.taxonomy import Taxonomy

T = TypeVar("T")
_MAX_REASON = 300  # characters of another library's message


@dataclass(frozen=True, repr=False, kw_only=True)
class Bundle:
    """A trained model with its taxonomy, settings and calibration.

    Parameters
    ----------
    folder : Path
        The folder it was loaded from.
    family : str
    taxonomy : Taxonomy
    images : ImageSettings
        Settings of the spectrogram images that the model expects.
    settings : Settings
        The family's training settings.
    model : Model
    training : mapping
        Training metadata: data, split, seed, history, versions, time.
    calibration : Calibration, optional
        Temperatures; None if there was no held-out music to fit them on.
    runtime : str
        Runtime and precision of the model's networks.

    See Also
    --------
    genretree.load : Load a bundle as a `Classifier`, which adds prediction methods.
    genretree.load_bundle : Load a bundle.

    Examples
    --------
    >>> import genretree
    >>> bundle = genretree.load_bundle("BUNDLE")
    >>> bundle.family
    'boosting'
    >>> bundle.taxonomy.leaves
    (('Jazz',), ('Rock', 'Indie'), ('Rock', 'Punk'))
    """

    folder: Path
    family: str
    taxonomy: Taxonomy
    images: ImageSettings
    settings: Settings
    model: Model
    training: Mapping[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None
    runtime: str = REFERENCE

    def __repr__(self) -> str:
        shown = f"'{self.folder}', family='{self.family}', n_leaves={len(self.taxonomy.leaves)}"
        return f"{type(self).__name__}({shown}, runtime='{self.runtime}')"

    def calibrate(self, levels: LevelProbabilities, unit: Unit) -> LevelProbabilities:
        """Apply temperature scaling to probabilities of slices or tracks, if the bundle has temperatures.

        Parameters
        ----------
        levels : list of arrays, one for each level, shape (n, n_nodes)
        unit : "slice" or "track"

        Returns
        -------
        list of arrays of the same shapes

        Raises
        ------
        BundleError
            If the probabilities contain NaN or infinity, which happens if weights overflow.
        """
        if not all(np.isfinite(level).all() for level in levels):
            reason = "the model gives NaN or infinity: its weights overflow"
            raise BundleError(f"{self.folder}: {reason}; copy or train the bundle again")
        if self.calibration is None:
            return levels
        return temper(levels, getattr(self.calibration, unit), self.taxonomy, self.model.heads)

    def average_slices(self, levels: LevelProbabilities, tracks: Int64Array | None = None) -> LevelProbabilities:
        """Compute calibrated track probabilities: the mean over each track's slices, then the track temperatures.

        Parameters
        ----------
        levels : list of arrays, one for each level, shape (n_slices, n_nodes)
            Probabilities of slices before calibration.
        tracks : array of int, shape (n_slices,), optional
            Index of each slice's track, 0 to n_tracks - 1; by default all slices belong to one track.

        Returns
        -------
        list of arrays, one for each level, shape (n_tracks, n_nodes)

        Raises
        ------
        BundleError
            If the probabilities contain NaN or infinity.
        """
        index = np.zeros(len(levels[0]), np.int64) if tracks is None else tracks
        return self.calibrate([average_by(level, index, int(index.max()) + 1) for level in levels], "track")


def score_noise(bundle: Bundle) -> LevelProbabilities:
    """Score one slice of noise, to check that the model works and to trigger lazy loading.

    Raises
    ------
    BundleError
        If the probabilities contain NaN or infinity.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1, 3, bundle.images.size, bundle.images.size), np.uint8)
    inputs: dict[str, Array] = {IMAGES: images}
    for feature in requested_features(bundle.model.input_features):
        shape = (1, *feature.shape(bundle.images))
        inputs[feature.name] = rng.random(shape, np.float32).astype(feature.dtype)
    return bundle.calibrate(bundle.model.predict_proba(SliceInputs(inputs)), "slice")


def save_bundle(bundle: Bundle, extra_files: Mapping[str, Path] | None = None) -> Path:
    """Write a bundle atomically into `bundle.folder`, which must not exist.

    Parameters
    ----------
    bundle : Bundle
    extra_files : mapping, optional
        Paths of further files, such as logs, by their names in the bundle.

    Returns
    -------
    Path
        `bundle.folder`.

    Raises
    ------
    BundleError
        If the folder exists.
    """
    if bundle.folder.exists():
        raise BundleError(f"{bundle.folder}: already exists; choose another name or delete it")
    bundle.folder.parent.mkdir(parents=True, exist_ok=True)
    draft = bundle.folder.with_name(f".{bundle.folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    names = bundle.model.save(draft)
    for name, source in (extra_files or {}).items():
        if name in names:
            continue
        (draft / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, draft / name)
        names.append(name)
    for name in names:
        (draft / name).chmod(0o644)  # some writers create files that only the owner can read
    content = {
        "format": FORMAT,
        "genretree": version("genretree"),
        "family": bundle.family,
        "taxonomy": bundle.taxonomy.to_json(),
        "images": bundle.images.model_dump(),
        "settings": bundle.settings.model_dump(mode="json"),
        "training": dict(bundle.training),
        "calibration": None if bundle.calibration is None else bundle.calibration.to_json(),
        "files": {name: sha256_file(draft / name) for name in names},
    }
    write_description(draft, content)
    draft.rename(bundle.folder)
    return bundle.folder


def resave(folder: str | Path, out: str | Path) -> Path:
    """Convert a bundle of an earlier version to the current file formats; predictions and metadata are unchanged.

    Parameters
    ----------
    folder : path
        The bundle. Exports are left out; `genretree export` creates them again.
    out : path
        The output folder, which must not exist.

    Returns
    -------
    Path
        The output folder.

    Raises
    ------
    BundleError
        If the bundle can't be loaded, or `out` exists.
    """
    folder, out = Path(folder), Path(out)
    content = read_description(folder)
    check_files(folder, content["files"])
    bundle = replace(open_bundle(folder, content), folder=out)
    others = {
        name: folder / name
        for name in content["files"]
        if Path(name).parts[0] not in EXPORT_FORMATS and Path(name).suffix != OLD_TREES
    }
    return save_bundle(bundle, others)


def load_bundle(
    folder: str | Path,
    runtime: RuntimeChoice = "torch",
    precision: Precision = "float32",
    *,
    download: bool = False,
) -> Bundle:
    """Load a trained bundle.

    Parameters
    ----------
    folder : path or str
        A folder, which takes precedence; or `user/name` or `user/name@revision` on the Hugging Face Hub, also written
        `hf://user/name`; or `zoo:NAME`, a ready model.
    runtime : "torch", "openvino", "onnxruntime" or "auto"
        Runtime of the networks. All except torch need an export (see `genretree.bundle.export`); auto selects the
        fastest installed runtime that the bundle has an export for.
    precision : "float32", "bf16" or "auto"
        auto selects bf16 if the processor supports it natively. Torch in float32 is the reference and reproduces
        training exactly; docs/figures-methods.md lists the deviations of the others. `Bundle.runtime` names the
        selection.
    download : bool
        Pull the bundle if it is not in the cache; by default no request is made.

    Returns
    -------
    Bundle

    Raises
    ------
    BundleError
        If a file is missing, damaged or of another format, or the bundle has no export for the selected runtime.
        Missing values are never replaced by defaults or random weights.
    MissingExtraError
        If the selected runtime is not installed.
    HubError
        If a name on the Hub is not in the cache, or can't be pulled.

    See Also
    --------
    genretree.load : Load a bundle as a `Classifier`, which adds prediction methods.
    genretree.pull : Download a bundle from the Hub.

    Examples
    --------
    >>> import genretree
    >>> genretree.load_bundle("BUNDLE").taxonomy.depth
    2
    """
    from genretree.models.runtime.backends import choose_runtime, use_runtime

    path = require_path("folder", folder)
    folder = find_bundle(folder if isinstance(folder, str) else path, download)  # a path loses a slash of `hf://`
    content = read_description(folder)
    check_files(folder, content["files"])
    exports = {form for form in EXPORT_FORMATS if any(Path(name).parts[0] == form for name in content["files"])}
    selected = choose_runtime(exports, runtime, precision)
    exported = None if selected == "torch" else get_exported_family(content["family"])
    if exported is not None and exported.is_standalone(content["settings"]):
        return _open_exported(exported, folder, content, exports, selected, precision)
    bundle = open_bundle(folder, content)
    return replace(bundle, runtime=use_runtime(bundle.model, folder, bundle.images.size, exports, selected, precision))


def open_bundle(folder: Path, content: Mapping[str, Any]) -> Bundle:
    """Load a bundle from files that were checked, to run in torch and float32."""
    name = content["family"]
    if isinstance(name, str) and name not in family_names():
        raise BundleError(
            f"{folder / DESCRIPTION}: made by the family '{name}', which no installed package provides; install the "
            "package that provides it, or register the family with `genretree.models.register_family` before loading"
        )
    family = _explain_bundle_error(folder, lambda: get_family(name))
    return _assemble(folder, content, family.settings_type, partial(family.load, folder))


def _open_exported(
    family: ExportedFamily,
    folder: Path,
    content: Mapping[str, Any],
    exports: set[ExportFormat],
    runtime: Runtime,
    precision: Precision,
) -> Bundle:
    """Load a bundle from an export without importing torch, which takes most of the time."""
    from genretree.models.runtime.backends import open_standalone

    allowed = "float32" if precision == "auto" and not family.bf16 else precision
    run, config = open_standalone(folder, exports, runtime, allowed)
    bundle = _assemble(folder, content, family.settings_type, partial(family.load, folder, run))
    return replace(bundle, runtime=str(config))


def _assemble(
    folder: Path, content: Mapping[str, Any], settings_type: type[Settings], load: Callable[[Taxonomy, Any], Model]
) -> Bundle:
    try:
        return _build(folder, content, settings_type, load)
    except (GenretreeError, ImportError):
        raise
    except Exception as error:  # untrusted values make libraries raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:_MAX_REASON]
        raise BundleError(f"{folder}: can't be loaded ({reason}); copy or train the bundle again") from error


def _build(
    folder: Path, content: Mapping[str, Any], settings_type: type[Settings], load: Callable[[Taxonomy, Any], Model]
) -> Bundle:
    taxonomy = _explain_bundle_error(folder, lambda: Taxonomy.from_json(content["taxonomy"]))
    images = _explain_bundle_error(folder, lambda: ImageSettings.build(content["images"]))
    settings = _explain_bundle_error(folder, lambda: settings_type.build(content["settings"]))
    model = load(taxonomy, settings)
    temperatures = content.get("calibration")  # absent in old bundles
    try:
        calibration = None if temperatures is None else Calibration.from_json(temperatures, taxonomy.depth)
    except ValueError as error:
        raise BundleError(f"{folder / DESCRIPTION}: {error}; copy or train the bundle again") from error
    return Bundle(
        folder=folder,
        family=content["family"],
        taxonomy=taxonomy,
        images=images,
        settings=settings,
        model=model,
        training=content["training"],
        calibration=calibration,
    )


def _explain_bundle_error(folder: Path, make: Callable[[], T]) -> T:
    """Call `make` and add the description's path to its errors."""
    try:
        return make()
    except BundleError:
        raise
    except GenretreeError as error:
        raise BundleError(f"{folder / DESCRIPTION}: {error}") from error
