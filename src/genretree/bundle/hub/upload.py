"""Pushing a bundle to the Hub: files are staged first, so that they can be inspected."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from genretree.bundle.hub.card import CARD, CardInfo, read_metrics, write_card
from genretree.bundle.hub.client import explained, open_hub
from genretree.bundle.hub.contents import OLD_TREES, check_types, clean_config, clean_description, read_json
from genretree.bundle.hub.names import MAIN, HubName, require_name
from genretree.bundle.manifest import DESCRIPTION, check_files, read_description, write_description
from genretree.checks import require_path, require_text
from genretree.errors import BundleError, HubError
from genretree.files import sha256_file
from genretree.models.runtime.types import EXPORT_FORMATS

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_INDEX = "index"  # contains the names of the training tracks
_COMMON_FILES = (CARD, ".gitattributes", "LICENSE", "LICENSE.txt", "LICENSE.md")  # may be in any repository


@dataclass(frozen=True)
class Outgoing:
    """A staged push: local files by their names on the Hub, and the model card."""

    name: HubName
    files: dict[str, Path]
    card: str

    @property
    def size(self) -> int:
        """Total size in bytes."""
        return sum(path.stat().st_size for path in self.files.values())


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """A bundle that was pushed: its name, the commit hash and the URL of its page."""

    name: HubName
    commit: str
    url: str

    @property
    def pinned(self) -> str:
        """Name that always refers to the same bytes: `user/name@COMMIT`."""
        return f"{self.name.repo}@{self.commit}"


def push(
    folder: str | Path,
    name: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    card_info: CardInfo | None = None,
    with_index: bool = False,
    keep_card: bool = False,
) -> Pushed:
    """Push a bundle to the Hub with a model card; creates the repository if necessary.

    Parameters
    ----------
    folder : path
        The bundle.
    name : str
        `user/name`.
    private : bool
        Create a private repository; an existing public one is refused.
    revision : str, optional
        The branch to push to, created if necessary; default `main`.
    message : str, optional
        Commit message.
    card_info : CardInfo, optional
        Metrics, licence and data description for the model card.
    with_index : bool
        Include the index of `genretree index`, which contains the names of its tracks.
    keep_card : bool
        Keep an existing card.

    Returns
    -------
    Pushed

    Raises
    ------
    HubError
        If access is denied, the bundle has files of types that are not allowed, or the Hub can't be reached.
    BundleError
        If the bundle is damaged.

    See Also
    --------
    genretree.pull : Download a bundle.

    Examples
    --------
    >>> import genretree
    >>> genretree.push("BUNDLE", "you/rock", private=True)  # doctest: +SKIP

    A name that can't be on the Hub is refused without a connection:

    >>> try:
    ...     genretree.push("BUNDLE", "you/rock/punk")
    ... except genretree.GenretreeError as error:
    ...     print(error.kind)
    hub
    """
    folder = require_path("folder", folder)
    require_text("name", name)
    with staged(folder, name, revision, card_info or CardInfo(), with_index) as outgoing:
        return _send(outgoing, private, message or "Push a genretree bundle", keep_card)


@contextmanager
def staged(
    folder: str | Path, name: str, revision: str | None, card_info: CardInfo, with_index: bool = False
) -> Iterator[Outgoing]:
    """Stage the files of a push in a temporary folder that is deleted when the block ends.

    Boosting trees written by genretree 0.1 are converted to arrays. Exports are left out, since `genretree export` can
    create them again, and local paths are reduced to their last components.
    """
    folder, target = Path(folder), require_name(name, revision)
    content = read_description(folder)
    excluded = (*EXPORT_FORMATS, *(() if with_index else (_INDEX,)))
    included = {file: digest for file, digest in content["files"].items() if Path(file).parts[0] not in excluded}
    metrics = read_metrics(card_info.report, content)  # before the conversion, which changes the description
    with tempfile.TemporaryDirectory(prefix="genretree-") as place:
        draft = Path(place) / "draft"
        draft.mkdir()
        check_files(folder, included)
        if any(Path(file).suffix == OLD_TREES for file in included):
            folder = _convert(folder, Path(place) / "converted")
            content = read_description(folder)
            included = {
                file: digest for file, digest in content["files"].items() if Path(file).parts[0] not in excluded
            }
        check_types(f"{folder}", included)
        card = write_card(content, card_info, target.repo, metrics)
        files = {file: _clean(folder / file, draft / file) for file in included}
        digests = {file: sha256_file(path) for file, path in files.items()}
        write_description(draft, {**clean_description(content), "files": digests})
        (draft / CARD).write_text(card, encoding="utf-8")
        for file in (DESCRIPTION, CARD):
            files[file] = draft / file
        yield Outgoing(target, files, card)


def _convert(folder: Path, out: Path) -> Path:
    """Convert a bundle of genretree 0.1 to file types that can be transferred."""
    # That module imports this package.
    converted: Path = import_module("genretree.bundle.bundle").resave(folder, out)
    return converted


def _clean(path: Path, draft: Path) -> Path:
    """Return the file, or the path of a copy without local paths."""
    if path.suffix != ".json":
        return path
    content = read_json(path)
    cleaned = clean_config(content)
    if cleaned == content:
        return path
    draft.parent.mkdir(exist_ok=True)
    draft.write_text(json.dumps(cleaned, indent=1, ensure_ascii=False), encoding="utf-8")
    return draft


def _send(outgoing: Outgoing, private: bool, message: str, keep_card: bool) -> Pushed:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    name, files, hub = outgoing.name, dict(outgoing.files), open_hub()
    with explained(name):
        hub.create_repo(name.repo, private=private or None, exist_ok=True)
        if name.revision != MAIN:
            hub.create_branch(name.repo, branch=name.revision, exist_ok=True)
        info = hub.model_info(name.repo, revision=name.revision)
        if private and not info.private:
            raise HubError(f"{name.repo}: exists and is public; make it private on its page or pass `private=False`")
        remote_files = hub.list_repo_files(name.repo, revision=info.sha)
        outdated = _outdated(hub, name, info.sha, remote_files) - set(files)
        if keep_card and CARD in remote_files:
            del files[CARD]
        added = [CommitOperationAdd(file, path) for file, path in files.items()]
        removed = [CommitOperationDelete(file) for file in sorted(outdated)]
        commit = hub.create_commit(
            name.repo,
            [*added, *removed],
            commit_message=message,
            revision=name.revision,
            parent_commit=info.sha,
        )
    return Pushed(name=name, commit=str(commit.oid), url=f"{hub.endpoint}/{name.repo}")


def _outdated(hub: HfApi, name: HubName, commit: str | None, remote_files: list[str]) -> set[str]:
    """List the files of the bundle that the repository contains now.

    Raises
    ------
    HubError
        If the repository contains something other than a bundle.
    """
    if DESCRIPTION not in remote_files:
        others = [file for file in remote_files if file not in _COMMON_FILES]
        if others:
            raise HubError(f"{name}: contains something other than a bundle ({others[0]} ...); choose another name")
        return set()
    folder = Path(tempfile.mkdtemp(prefix="genretree-"))
    try:
        hub.hf_hub_download(name.repo, DESCRIPTION, revision=commit, local_dir=folder)
        return set(read_description(folder)["files"]) & set(remote_files)
    except BundleError:  # perhaps of a later version: delete nothing
        return set()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
