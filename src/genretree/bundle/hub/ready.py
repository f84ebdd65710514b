"""Ready models in the cache: lookup, and pulls by the pinned commit or copies, both checked against the digest."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genretree.bundle.hub.cache import find_pulled
from genretree.bundle.hub.card import CARD
from genretree.bundle.hub.contents import check_types
from genretree.bundle.hub.download import pull
from genretree.bundle.hub.names import HubName
from genretree.bundle.manifest import DESCRIPTION, check_files, read_description
from genretree.bundle.ready import ReadyModel, find_ready_model
from genretree.checks import require_path
from genretree.errors import BundleError

Origin = Literal["published", "made here"]


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """A ready model on this machine.

    Parameters
    ----------
    folder : Path
        The bundle.
    origin : "published" or "made here"
    """

    folder: Path
    origin: Origin


def find_local_model(model: ReadyModel) -> LocalModel | None:
    """Find a ready model in the cache, the published one first; None if it is not there. Makes no request."""
    if model.is_published:
        assert model.hub is not None and model.commit is not None
        for folder in (find_pulled(HubName(model.hub, model.commit)), model.copied):
            if folder is not None and folder.is_dir():
                _check_digest(model, folder)
                return LocalModel(folder=folder, origin="published")
    # The card is written last, after the evaluation.
    return LocalModel(folder=model.made, origin="made here") if (model.made / CARD).is_file() else None


def require_local_model(name: str, download: bool = False, progress: bool = False) -> Path:
    """Return the folder of a ready model by name.

    Parameters
    ----------
    name : str
    download : bool
        Pull a published model that is not in the cache. By default no request is made.
    progress : bool
        Show a progress bar on standard error.

    Raises
    ------
    BundleError
        If there is no such model, or it is not on this machine.
    HubError
        If it can't be pulled.
    """
    model = find_ready_model(name)
    local = find_local_model(model)
    if local is not None:
        return local.folder
    if not model.is_published:
        nothing = ", so there is nothing to download" if download else ""
        raise BundleError(
            f"{model.place}: not on this machine, and not published yet{nothing}; make it with: "
            f"genretree models make {name}"
        )
    if not download:
        raise BundleError(f"{model.place}: not on this machine; get it with: genretree models get {name}")
    return get_model(name, progress=progress).folder


def get_model(name: str, *, source: str | Path | None = None, progress: bool = False) -> LocalModel:
    """Put the published bundle of a ready model into the cache.

    Parameters
    ----------
    name : str
    source : path, optional
        A copy of the published bundle, for machines without a network. By default it is pulled from the Hub, by its
        pinned commit.
    progress : bool
        Show a progress bar on standard error.

    Raises
    ------
    BundleError
        If there is no such model, it is not published, or the bundle is not the published one.
    HubError
        If it can't be pulled.
    """
    model = find_ready_model(name)
    if not model.is_published:
        raise BundleError(
            f"{model.place} is not published yet, so no digest is known to check a bundle against; make it with: "
            f"genretree models make {name}"
        )
    if source is None:
        folder = pull(model.pinned, progress=progress).folder
        _check_digest(model, folder)
    else:
        folder = _copy(model, require_path("source", source))
    return LocalModel(folder=folder, origin="published")


def _check_digest(model: ReadyModel, folder: Path) -> None:
    """Check that a bundle's description is that of the published one; loading it checks the other files."""
    digest = read_description(folder)["sha256"]
    if digest != model.sha256:
        raise BundleError(
            f"{folder}: not the published bundle of {model.place} (digest {digest[:12]}... instead of "
            f"{str(model.sha256)[:12]}...); get it from https://huggingface.co/{model.hub}/tree/{model.commit}"
        )


def _copy(model: ReadyModel, source: Path) -> Path:
    """Copy the files that the description lists, and the card."""
    _check_digest(model, source)
    content = read_description(source)
    check_types(str(source), content["files"])
    check_files(source, content["files"])
    target = model.copied
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    for name in (DESCRIPTION, *content["files"], *([CARD] if (source / CARD).is_file() else [])):
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, draft / name)
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    return target
