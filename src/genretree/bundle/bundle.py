"""What training leaves: one folder with weights, tree, image settings, training settings and their hashes. No pickle.

A bundle is a folder::

    bundle.json          format, family, tree, settings, facts of the training, and the SHA-256 of every other part
    model.safetensors    weights of a network; or
    projection.safetensors, classifier-*.safetensors   of boosting
    history.csv          one row for each epoch or iteration
    openvino/, onnx/     the networks for other runtimes, after `genretree export`
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

from genretree.arrays import Array
from genretree.bundle.hub.contents import OLD_TREES
from genretree.bundle.hub.download import find_bundle
from genretree.bundle.manifest import DESCRIPTION, FORMAT, check_files, read_description, write_description
from genretree.checks import require_path
from genretree.errors import BundleError, GenretreeError
from genretree.files import sha256_file
from genretree.metrics.calibration import Calibration, Unit, temper
from genretree.models import get_family
from genretree.models.base import LevelProbabilities, Model
from genretree.models.neural.exported_model import load_exported, settings_without_torch
from genretree.models.runtime.types import FORMS, REFERENCE, Form, Precision, Runtime, RuntimeChoice
from genretree.settings import ImageSettings, Settings
from genretree.sound.features import IMAGES, SliceInputs, requested_features
from genretree.taxonomy import Taxonomy

T = TypeVar("T")
_MAX_REASON = 300  # characters of a message from another library


@dataclass(frozen=True, repr=False)
class Bundle:
    """A trained model with all that is needed to use it.

    Parameters
    ----------
    folder : Path
        Where it was loaded from.
    family : str
    taxonomy : Taxonomy
    images : ImageSettings
        How sound must be drawn for this model.
    settings : Settings
        The family's settings it was trained with.
    model : Model
    training : mapping
        Facts of the training: data, split, seed, history, versions, time.
    calibration : Calibration, optional
        Temperatures; None where there was no music to fit them on.
    runtime : str
        What runs the model's networks, and in which arithmetic.

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
        """Temper what the model says of slices, or its mean over whole tracks; as it is where nothing was fitted.

        Raises
        ------
        BundleError
            If the probabilities contain NaN or infinity, which weights that overflow lead to.
        """
        if not all(np.isfinite(level).all() for level in levels):
            what = "the model gives NaN or infinity: its weights overflow in use"
            raise BundleError(f"{self.folder}: {what}; copy or train the bundle again")
        if self.calibration is None:
            return levels
        return temper(levels, getattr(self.calibration, unit), self.taxonomy, self.model.heads)


def score_noise(bundle: Bundle) -> LevelProbabilities:
    """Score one slice of noise, to load what is loaded on first use and to see whether the model works at all.

    Raises
    ------
    BundleError
        If it gives NaN or infinity.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1, 3, bundle.images.size, bundle.images.size), np.uint8)
    inputs: dict[str, Array] = {IMAGES: images}
    for feature in requested_features(bundle.model.input_features):
        shape = (1, *feature.shape(bundle.images))
        inputs[feature.name] = rng.random(shape, np.float32).astype(feature.dtype)
    return bundle.calibrate(bundle.model.predict_proba(SliceInputs(inputs)), "slice")


def save_bundle(bundle: Bundle, extra_files: Mapping[str, Path] | None = None) -> Path:
    """Write a bundle into its folder in one step; a folder of that name must not exist.

    Parameters
    ----------
    bundle : Bundle
    extra_files : mapping, optional
        More files to keep (logs), by their name in the bundle.
    """
    if bundle.folder.exists():
        raise BundleError(f"{bundle.folder}: exists already; give another name or delete it")
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
        (draft / name).chmod(0o644)  # some writers make files that only their owner can read
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
    """Write a bundle of an earlier genretree again as this one does; what it predicts and its facts stay the same.

    Parameters
    ----------
    folder : path
        The bundle. Its exports are left out: `genretree export` makes them again.
    out : path
        The folder to make.

    Returns
    -------
    Path
        The folder made.

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
        if Path(name).parts[0] not in FORMS and Path(name).suffix != OLD_TREES
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
        Or `user/name` or `user/name@revision` on the Hugging Face Hub, if that was pulled before; a folder always wins.
    runtime : "torch", "openvino", "onnxruntime" or "auto"
        What runs its networks. The others than torch need an export (see
        `genretree.bundle.export`); auto takes the fastest
        that is installed and that there is an export for.
    precision : "float32", "bf16" or "auto"
        auto: bf16 where the processor is made for it. Torch in float32 is the reference, to the last digit what was
        trained; docs/runtimes.md says how far the others are from it. `Bundle.runtime` names what was chosen.
    download : bool
        Pull from the Hub what is named and was not pulled yet; otherwise nothing is asked of the Hub.

    Returns
    -------
    Bundle

    Raises
    ------
    BundleError
        If a part is missing, damaged or of another format; nothing is replaced by defaults or random weights. If a
        runtime was asked for by name and there is no export for it.
    MissingExtraError
        If that runtime is not installed.
    HubError
        If it is a name on the Hub that was not pulled, or can't be.

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

    folder = find_bundle(require_path("folder", folder), download)
    content = read_description(folder)
    check_files(folder, content["files"])
    exports = {form for form in FORMS if any(Path(name).parts[0] == form for name in content["files"])}
    chosen = choose_runtime(exports, runtime, precision)
    if chosen != "torch" and settings_without_torch(content["family"]) is not None:
        return _open_exported(folder, content, exports, chosen, precision)
    bundle = open_bundle(folder, content)
    return replace(bundle, runtime=use_runtime(bundle.model, folder, bundle.images.size, exports, chosen, precision))


def open_bundle(folder: Path, content: Mapping[str, Any]) -> Bundle:
    """Make what a description says of files that were checked; torch runs it, in float32."""
    family = _explain_bundle_error(folder, lambda: get_family(content["family"]))
    return _assemble(folder, content, family.settings_type, partial(family.load, folder))


def _open_exported(
    folder: Path, content: Mapping[str, Any], exports: set[Form], runtime: Runtime, precision: Precision
) -> Bundle:
    """Make it of an export alone: torch is not even imported, which would take longer than all else."""
    from genretree.models.runtime.backends import run_alone

    settings_type = settings_without_torch(content["family"])
    assert settings_type is not None
    run, way = run_alone(folder, exports, runtime, precision)
    bundle = _assemble(folder, content, settings_type, partial(load_exported, folder, run))
    return replace(bundle, runtime=str(way))


def _assemble(
    folder: Path, content: Mapping[str, Any], settings_type: type[Settings], load: Callable[[Taxonomy, Any], Model]
) -> Bundle:
    try:
        return _build(folder, content, settings_type, load)
    except (GenretreeError, ImportError):
        raise
    except Exception as error:  # whatever values of a stranger make the libraries below raise
        said = " ".join(f"{type(error).__name__}: {error}".split())[:_MAX_REASON]
        raise BundleError(f"{folder}: can't be loaded ({said}); copy or train the bundle again") from error


def _build(
    folder: Path, content: Mapping[str, Any], settings_type: type[Settings], load: Callable[[Taxonomy, Any], Model]
) -> Bundle:
    taxonomy = _explain_bundle_error(folder, lambda: Taxonomy.from_json(content["taxonomy"]))
    images = _explain_bundle_error(folder, lambda: ImageSettings.build(content["images"]))
    settings = _explain_bundle_error(folder, lambda: settings_type.build(content["settings"]))
    model = load(taxonomy, settings)
    known = content.get("calibration")  # bundles of old have none
    try:
        calibration = None if known is None else Calibration.from_json(known, taxonomy.depth)
    except ValueError as error:
        raise BundleError(f"{folder / DESCRIPTION}: {error}; copy or train the bundle again") from error
    return Bundle(folder, content["family"], taxonomy, images, settings, model, content["training"], calibration)


def _explain_bundle_error(folder: Path, make: Callable[[], T]) -> T:
    """Make a part of what the description says, and name it if that can't be."""
    try:
        return make()
    except BundleError:
        raise
    except GenretreeError as error:
        raise BundleError(f"{folder / DESCRIPTION}: {error}") from error
