"""Checkpoints of audio backbones: fetched from the Hub at one commit, with their licence, and found on this machine.

A fetched checkpoint is a folder in genretree's cache: configuration, weights as safetensors, the tokenizer if it has
one, the model card, and `source.json` with commit, licence and hashes. Nothing here downloads unless `fetch_checkpoint`
is called, and no code from a repository is ever run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from safetensors.torch import save_file

from genretree.errors import TrainingError
from genretree.files import read_json_text, sha256_file, write_text
from genretree.models.pretrained.names import WEIGHTS_FILE
from genretree.models.pretrained.sources import CHECKPOINT_FILE, WeightSource, checkpoint_folder, find_source
from genretree.models.pretrained.weight_files import CONFIG, list_parts, read_weights

HUB_PREFIX = "hf://"
PREPROCESSOR = "preprocessor_config.json"
NOT_STATED = "not stated"
# Architectures by the `model_type` of config.json; all are classes of transformers itself.
ARCHITECTURES: Mapping[str, str] = {
    "audio-spectrogram-transformer": "AST",
    "clap": "CLAP",
    "hubert": "HuBERT",
    "wav2vec2": "wav2vec 2.0",
    "wavlm": "WavLM",
    "whisper": "Whisper",
}
_CARD = "README.md"
_INDEX = f"{WEIGHTS_FILE}.index.json"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
_MAX_JSON_BYTES = 8 << 20
_MAIN = "main"
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_NON_COMMERCIAL = re.compile(r"(?:^|-)nc(?:-|$)", re.IGNORECASE)


@dataclass(frozen=True)
class CheckpointPlan:
    """What a fetch is about to download.

    Parameters
    ----------
    name : str
        The name that was asked for.
    repo : str
        Repository on the Hub, `user/name`.
    commit : str
        The commit that the revision refers to, 40 hex digits.
    licence : str
        Licence in the model card; "not stated" if the card names none.
    architecture : str
        Such as "AST".
    files : tuple of str
        Names of the files.
    size : int
        Their size in bytes, as far as the Hub states it.
    """

    name: str
    repo: str
    commit: str
    licence: str
    architecture: str
    files: tuple[str, ...]
    size: int

    @property
    def text(self) -> str:
        """One line for people: source, commit, size and licence."""
        size = f", {self.size / 1e6:.0f} MB" if self.size else ""
        return (
            f"{self.name}: {self.architecture} from https://huggingface.co/{self.repo} at {self.commit}{size}; "
            f"licence: {explain_licence(self.licence)}"
        )


@dataclass(frozen=True)
class BackboneCheckpoint:
    """A checkpoint on this machine.

    Parameters
    ----------
    name : str
        The name that was asked for.
    folder : Path
    model_type : str
        A key of `ARCHITECTURES`.
    config, preprocessor : mapping
        Contents of `config.json` and `preprocessor_config.json`.
    origin : mapping of str to str
        source, revision, licence, file and sha256, as far as known, for the bundle.
    """

    name: str
    folder: Path
    model_type: str
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any]
    origin: Mapping[str, str]


def explain_licence(licence: str) -> str:
    """Add what a licence identifier means for users, if it restricts them.

    Examples
    --------
    >>> explain_licence("cc-by-nc-sa-4.0")
    'cc-by-nc-sa-4.0 (no commercial use)'
    >>> explain_licence("apache-2.0")
    'apache-2.0'
    """
    if licence == NOT_STATED:
        return f"{NOT_STATED} in the model card; ask the publishers before you use it"
    return f"{licence} (no commercial use)" if _NON_COMMERCIAL.search(licence) else licence


def is_checkpoint_name(name: str) -> bool:
    """Check whether a name is for a backbone: one of the list, or `hf://user/name`."""
    source = find_source(name)
    return name.startswith(HUB_PREFIX) or (source is not None and source.access == "checkpoint")


def find_checkpoint(
    name: str, *, download: bool = False, show: Callable[[CheckpointPlan], None] | None = None
) -> BackboneCheckpoint:
    """Find a checkpoint on this machine.

    Parameters
    ----------
    name : str
        `clap`, `maest` or `ast-audioset`; `hf://user/name` or `hf://user/name@revision`; or a folder with
        `config.json`, `preprocessor_config.json` and `model.safetensors`.
    download : bool
        Fetch it if it is not on this machine; by default no request is made.
    show : callable, optional
        As for `fetch_checkpoint`.

    Raises
    ------
    TrainingError
        If it is not on this machine, is damaged, or is not of a supported architecture.
    """
    if Path(name).is_dir():
        return _open_folder(name, Path(name), {})
    repo, revision, _ = _parse(name)
    commit = _find_commit(repo, revision)
    folder = checkpoint_folder(repo, commit) if commit else None
    if download and (folder is None or not (folder / CHECKPOINT_FILE).is_file()):
        folder = fetch_checkpoint(name, show)
    if folder is None or not (folder / CHECKPOINT_FILE).is_file():
        raise TrainingError(
            f"the backbone '{name}' is not on this machine; show its licence and download it with "
            f"`genretree weights get {name}`"
        )
    recorded = _read_json(folder / CHECKPOINT_FILE)
    files = recorded.get("files")
    if not isinstance(files, Mapping):
        raise TrainingError(f"{folder / CHECKPOINT_FILE}: damaged; delete {folder} and fetch '{name}' again")
    for file, digest in files.items():
        if Path(file).name != file or not (folder / file).is_file() or sha256_file(folder / file) != digest:
            raise TrainingError(f"{folder / file}: missing or damaged; delete {folder} and fetch '{name}' again")
    keys: tuple[str, ...] = ("source", "revision", "licence")
    origin = {key: str(recorded[key]) for key in keys if key in recorded}
    return _open_folder(name, folder, origin)


def fetch_checkpoint(name: str, show: Callable[[CheckpointPlan], None] | None = None) -> Path:
    """Download a checkpoint from the Hub at one commit, unless it is in the cache.

    The weights are stored as safetensors. Repositories with other formats are refused, except those of the list whose
    file has a pinned hash: it is read with `weights_only=True`, which runs no code, and converted.

    Parameters
    ----------
    name : str
        `clap`, `maest`, `ast-audioset`, `hf://user/name` or `hf://user/name@revision`.
    show : callable, optional
        Called with the plan, which contains the licence, before anything but the card and the configuration is
        downloaded. An exception from it ends the fetch.

    Returns
    -------
    Path
        The folder in the cache.

    Raises
    ------
    TrainingError
        If the Hub can't be reached, or the repository has no safetensors or is of another architecture.
    """
    repo, revision, source = _parse(name)
    try:
        return _fetch(name, repo, revision, source, show)
    except (TrainingError, KeyboardInterrupt):
        raise
    except Exception as error:  # the Hub's client and its HTTP library raise many types of errors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise TrainingError(
            f"the backbone '{name}' can't be downloaded from the Hub ({reason}); try again on a machine with network "
            f"access, or give a folder with the files of {repo} as `backbone`"
        ) from error


def _fetch(
    name: str,
    repo: str,
    revision: str | None,
    source: WeightSource | None,
    show: Callable[[CheckpointPlan], None] | None,
) -> Path:
    from huggingface_hub import HfApi

    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="genretree")
    info: Any = hub.model_info(repo, revision=revision or _MAIN, files_metadata=True)
    commit = str(info.sha)
    if source is not None and source.revision is not None and commit != source.revision:
        raise TrainingError(f"{name}: the Hub answers with commit {commit} instead of {source.revision}; try again")
    sizes = {sibling.rfilename: int(sibling.size or 0) for sibling in info.siblings or ()}
    weights = _choose_weights(name, repo, source, sizes)
    for required in (CONFIG, PREPROCESSOR):
        if required not in sizes:
            raise TrainingError(f"{name}: {repo} has no {required}; use a checkpoint that transformers saved")
    folder = checkpoint_folder(repo, commit)
    draft = folder.with_name(f"{folder.name}.partial")  # kept after an interruption, so that the Hub's client resumes
    draft.mkdir(parents=True, exist_ok=True)

    def download(file: str) -> Path:
        return Path(hub.hf_hub_download(repo, file, revision=commit, local_dir=draft))

    model_type = _require_architecture(name, _read_json(download(CONFIG)))
    licence = read_licence(download(_CARD)) if _CARD in sizes else NOT_STATED
    further = [file for file in (PREPROCESSOR, *_TOKENIZER) if file in sizes]
    plan = CheckpointPlan(
        name,
        repo,
        commit,
        licence,
        ARCHITECTURES[model_type],
        (CONFIG, *further, weights),
        sum(sizes[file] for file in (CONFIG, *further, weights)),
    )
    if show is not None:
        show(plan)
    if not (folder / CHECKPOINT_FILE).is_file():
        for file in further:
            download(file)
        files = [CONFIG, *further, *([_CARD] if _CARD in sizes else []), *_download_weights(weights, source, download)]
        recorded = {
            "source": repo,
            "revision": commit,
            "requested": revision or _MAIN,
            "licence": licence,
            "files": {file: sha256_file(draft / file) for file in files},
        }
        shutil.rmtree(draft / ".cache", ignore_errors=True)  # the client's records of partial downloads
        write_text(draft / CHECKPOINT_FILE, json.dumps(recorded, indent=1))
        draft.rename(folder)
    shutil.rmtree(draft, ignore_errors=True)
    write_text(_reference(repo, revision), commit)
    return folder


def _choose_weights(name: str, repo: str, source: WeightSource | None, sizes: Mapping[str, int]) -> str:
    for file in (WEIGHTS_FILE, _INDEX):
        if file in sizes:
            return file
    if source is not None and source.sha256 is not None and source.file in sizes:
        return source.file
    raise TrainingError(
        f"{name}: {repo} has no {WEIGHTS_FILE} at this revision, and other formats can run code; name a revision that "
        f"has one, such as a conversion in a pull request: {HUB_PREFIX}{repo}@refs/pr/1"
    )


def _download_weights(file: str, source: WeightSource | None, download: Callable[[str], Path]) -> list[str]:
    """Download the weights and return the names of their files; a pickled file with a pinned hash is converted."""
    path = download(file)
    if file == _INDEX:
        return [file, *(download(part.name).name for part in list_parts(path))]
    if file == WEIGHTS_FILE:
        return [file]
    assert source is not None
    digest = sha256_file(path)
    if digest != source.sha256:
        path.unlink()
        raise TrainingError(
            f"{source.name}: {file} is not the published file (SHA-256 {digest[:12]}... instead of "
            f"{str(source.sha256)[:12]}...); fetch it again"
        )
    weights = read_weights(source.name, path).weights
    save_file({key: value.clone().contiguous() for key, value in weights.items()}, path.with_name(WEIGHTS_FILE))
    path.unlink()
    return [WEIGHTS_FILE]


def read_licence(card: Path) -> str:
    """Read the licence from the metadata of a model card; "not stated" if there is none."""
    try:
        match = _FRONT_MATTER.match(card.read_text(encoding="utf-8"))
        content = yaml.safe_load(match[1]) if match else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return NOT_STATED
    if not isinstance(content, Mapping):
        return NOT_STATED
    licence = content.get("license")
    names = [licence] if isinstance(licence, str) else licence if isinstance(licence, Sequence) else []
    stated = ", ".join(str(name) for name in names)
    if stated == "other" and content.get("license_name"):
        stated = str(content["license_name"])
    return stated or NOT_STATED


def _open_folder(name: str, folder: Path, origin: Mapping[str, str]) -> BackboneCheckpoint:
    for required in (CONFIG, PREPROCESSOR):
        if not (folder / required).is_file():
            raise TrainingError(
                f"{folder}: has no {required}; give a folder that transformers' `save_pretrained` wrote"
            )
    weights = next((file for file in (WEIGHTS_FILE, _INDEX) if (folder / file).is_file()), None)
    if weights is None:
        raise TrainingError(f"{folder}: has no {WEIGHTS_FILE}, and only safetensors are loaded; convert the weights")
    config, preprocessor = _read_json(folder / CONFIG), _read_json(folder / PREPROCESSOR)
    model_type = _require_architecture(name, config)
    card = folder / _CARD
    complete = {
        "source": folder.resolve().name,
        "licence": read_licence(card) if card.is_file() else NOT_STATED,
        **origin,
        "file": weights,
    }
    return BackboneCheckpoint(name, folder, model_type, config, preprocessor, complete)


def _require_architecture(name: str, config: Mapping[str, Any]) -> str:
    model_type = config.get("model_type")
    if model_type not in ARCHITECTURES:
        raise TrainingError(
            f"{name}: a model of type '{model_type}', which can't be used as a backbone; choose one of "
            f"{', '.join(ARCHITECTURES.values())}"
        )
    return str(model_type)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_json_text(path, _MAX_JSON_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise TrainingError(f"{path}: can't be read ({error}); get the checkpoint again") from error
    if not isinstance(content, dict):
        raise TrainingError(f"{path}: not a JSON object; get the checkpoint again")
    return content


def _parse(name: str) -> tuple[str, str | None, WeightSource | None]:
    """Resolve a name to repository, revision and, for names in the list, its entry."""
    source = find_source(name)
    if source is not None and source.access == "checkpoint":
        return source.location.removeprefix("https://huggingface.co/"), source.revision, source
    repo, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
    if not name.startswith(HUB_PREFIX) or not re.fullmatch(r"[\w.-]+/[\w.-]+", repo) or ".." in name:
        raise TrainingError(
            f"unknown backbone '{name}'; choose clap, maest or ast-audioset, a folder, or a checkpoint on the Hub as "
            f"{HUB_PREFIX}user/name@revision"
        )
    return repo, revision or None, None


def _reference(repo: str, revision: str | None) -> Path:
    return checkpoint_folder(repo, "refs") / quote(revision or _MAIN, safe="")


def _find_commit(repo: str, revision: str | None) -> str | None:
    """Return the commit that a revision referred to when it was fetched."""
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    reference = _reference(repo, revision)
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else ""
    return commit if re.fullmatch(r"[0-9a-f]{40}", commit) else None
