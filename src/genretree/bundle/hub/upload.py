"""Putting a bundle on the Hub: what goes is laid out first, and can be looked at before it does."""

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

from genretree.bundle.hub.card import CardInfo, read_figures, write_card
from genretree.bundle.hub.client import explained, open_hub
from genretree.bundle.hub.contents import OLD_TREES, check_types, clean_description, clean_part, read_json
from genretree.bundle.hub.names import MAIN, HubName, require_name
from genretree.bundle.manifest import DESCRIPTION, check_files, read_description, write_description
from genretree.checks import require_path, require_text
from genretree.errors import BundleError, HubError
from genretree.files import sha256_file
from genretree.models.runtime.types import FORMS

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
_INDEX = "index"  # names the tracks that were learned from
_EVERY = (CARD, ".gitattributes", "LICENSE", "LICENSE.txt", "LICENSE.md")  # what any repository may hold


@dataclass(frozen=True)
class Outgoing:
    """What would be pushed: every file by its name on the Hub, and the text of the card."""

    name: HubName
    files: dict[str, Path]
    card: str

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files.values())


@dataclass(frozen=True)
class Pushed:
    """A bundle that is on the Hub: its name, the hash of the commit, and the page."""

    name: HubName
    commit: str
    url: str

    @property
    def pinned(self) -> str:
        """The name that means these very bytes for good: `user/name@COMMIT`."""
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
    """Put a bundle on the Hub, with a card written from it; the repository is made if there is none.

    Parameters
    ----------
    folder : path
        The bundle.
    name : str
        `user/name`.
    private : bool
        Only for its owner. One that is public already is refused.
    revision : str, optional
        The branch to push to, made if there is none; `main` by default.
    message : str, optional
        Of the commit.
    card_info : CardInfo, optional
        What the card is to say that the bundle doesn't: the figures of a report, the licence, the data.
    with_index : bool
        Also the index of `genretree index`, which names the tracks it was made of.
    keep_card : bool
        Leave the card as it is on the Hub, if there is one.

    Returns
    -------
    Pushed

    Raises
    ------
    HubError
        If it may not be pushed, holds files of types that don't travel, or the Hub can't be reached.
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
    with laid_out(folder, name, revision, card_info or CardInfo(), with_index) as outgoing:
        return _send(outgoing, private, message or "Push a genretree bundle", keep_card)


@contextmanager
def laid_out(
    folder: str | Path, name: str, revision: str | None, card_info: CardInfo, with_index: bool = False
) -> Iterator[Outgoing]:
    """Lay out what would be pushed, as long as the block runs.

    Boosting trees as genretree 0.1 stored them are written again as arrays.
    Exports stay behind (`genretree export` makes them again), and so do the folders of this disk that a bundle notes.
    """
    folder, target = Path(folder), require_name(name, revision)
    content = read_description(folder)
    behind = (*FORMS, *(() if with_index else (_INDEX,)))
    kept = {file: digest for file, digest in content["files"].items() if Path(file).parts[0] not in behind}
    figures = read_figures(card_info.report, content)  # of the bundle as it was evaluated
    with tempfile.TemporaryDirectory(prefix="genretree-") as place:
        draft = Path(place) / "draft"
        draft.mkdir()
        check_files(folder, kept)
        if any(Path(file).suffix == OLD_TREES for file in kept):
            folder = _converted(folder, Path(place) / "converted")
            content = read_description(folder)
            kept = {file: digest for file, digest in content["files"].items() if Path(file).parts[0] not in behind}
        check_types(f"{folder}", kept)
        card = write_card(content, card_info, target.repo, figures)
        files = {file: _cleaned(folder / file, draft / file) for file in kept}
        digests = {file: sha256_file(path) for file, path in files.items()}
        write_description(draft, {**clean_description(content), "files": digests})
        (draft / CARD).write_text(card, encoding="utf-8")
        for file in (DESCRIPTION, CARD):
            files[file] = draft / file
        yield Outgoing(target, files, card)


def _converted(folder: Path, out: Path) -> Path:
    """Write a bundle of genretree 0.1 again, without the files that don't travel any more."""
    # By name, as that module itself finds bundles on the Hub.
    made: Path = import_module("genretree.bundle.bundle").resave(folder, out)
    return made


def _cleaned(path: Path, draft: Path) -> Path:
    """Give the file itself, or a copy without what need not be known of this disk."""
    if path.suffix != ".json":
        return path
    content = read_json(path)
    cleaned = clean_part(content)
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
            raise HubError(
                f"{name.repo}: exists and is public; make it private on its page, or push with `private=False`"
            )
        there = hub.list_repo_files(name.repo, revision=info.sha)
        gone = _outdated(hub, name, info.sha, there) - set(files)
        if keep_card and CARD in there:
            del files[CARD]
        added = [CommitOperationAdd(file, path) for file, path in files.items()]
        removed = [CommitOperationDelete(file) for file in sorted(gone)]
        done = hub.create_commit(
            name.repo,
            [*added, *removed],
            commit_message=message,
            revision=name.revision,
            parent_commit=info.sha,
        )
    return Pushed(name, str(done.oid), f"{hub.endpoint}/{name.repo}")


def _outdated(hub: HfApi, name: HubName, commit: str | None, there: list[str]) -> set[str]:
    """Name the files of the bundle that is there now.

    Raises
    ------
    HubError
        If something else than a bundle is there.
    """
    if DESCRIPTION not in there:
        others = [file for file in there if file not in _EVERY]
        if others:
            raise HubError(f"{name}: holds something else than a bundle ({others[0]} ...); give another name")
        return set()
    folder = Path(tempfile.mkdtemp(prefix="genretree-"))
    try:
        hub.hf_hub_download(name.repo, DESCRIPTION, revision=commit, local_dir=folder)
        return set(read_description(folder)["files"]) & set(there)
    except BundleError:  # made by a later version, say: then nothing is taken away
        return set()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
