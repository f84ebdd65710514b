"""Registry of pretrained weights: where they come from, their licence, size, and pinned hash or revision.

The command `genretree weights list` and the documentation print this registry. Nothing here needs torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from genretree.files import cache_folder
from genretree.models.pretrained.names import MUSICNN_NAMES, Weights

IMAGENET = "imagenet1k-v1"  # torchvision's name for these weights, in lower case
MUSICNN = "musicnn"
MN04 = "mn04"
MN04_FILE = f"{MN04}.safetensors"
CHECKPOINT_FILE = "source.json"  # commit, licence and hashes of a fetched backbone
Access = Literal["package", "url", "hub", "wheel", "checkpoint"]


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """Pretrained weights that genretree knows by name.

    Parameters
    ----------
    name : str
        Value of the setting `weights`, or argument of `genretree weights get`.
    families : tuple of str
        Model families that can use them.
    summary : str
        Architecture and training data.
    licence : str
        Licence as stated by the publishers.
    size : int
        Size of the file in bytes.
    access : str
        package: installed with genretree; url: one file on the web; hub: a repository on the Hugging Face Hub;
        wheel: a package on PyPI; checkpoint: a repository on the Hub with a backbone, stored in genretree's cache.
    location : str
        Path inside the package, or the address of the file, repository or wheel.
    sha256 : str, optional
        Hash of the file, in hex. A file with another hash is rejected.
    file : str
        Name of the file, if it is not the last part of `location`.
    revision : str, optional
        Default commit of the Hub repository.
    note : str
        Further information for users.
    """

    name: str
    families: tuple[str, ...]
    summary: str
    licence: str
    size: int
    access: Access
    location: str
    sha256: str | None = None
    file: str = ""
    revision: str | None = None
    note: str = ""

    @property
    def pinned(self) -> str:
        """Identity of the weights: the file's hash or the commit."""
        if self.sha256 is not None:
            return f"sha256 {self.sha256}"
        return "revision of the first download" if self.revision is None else f"revision {self.revision}"

    @property
    def command(self) -> str:
        """Command that downloads the weights."""
        return "installed with genretree" if self.access == "package" else f"genretree weights get {self.name}"

    def describe(self) -> dict[str, Any]:
        """Return all fields as JSON types, with the path of the local copy (None if there is none)."""
        local = find_local(self)
        return {
            "name": self.name,
            "families": list(self.families),
            "summary": self.summary,
            "licence": self.licence,
            "size": self.size,
            "access": self.access,
            "location": self.location,
            "sha256": self.sha256,
            "file": self.file or Path(self.location).name,
            "revision": self.revision,
            "note": self.note,
            "command": self.command,
            "local": None if local is None else str(local),
        }


PACKAGED = {Weights.STUDENT.value: "students", Weights.STUDENT_BOTH.value: "students/both"}  # folders, by name


def _student(name: Weights, family: str, size: int, sha256: str) -> WeightSource:
    teachers = "MusiCNN's outputs" if name == Weights.STUDENT else "the outputs of MusiCNN and mn04"
    return WeightSource(
        name=name.value,
        families=(family,),
        summary=f"{family} pretrained on {teachers} for the music of free games",
        licence="MIT",
        size=size,
        access="package",
        location=f"{PACKAGED[name.value]}/{family}/model.safetensors",
        sha256=sha256,
    )


SOURCES: tuple[WeightSource, ...] = (
    WeightSource(
        name=IMAGENET,
        families=("efficientnet-b0",),
        summary="EfficientNet-B0 on ImageNet-1k, torchvision's IMAGENET1K_V1: the weights of the published study",
        licence="BSD-3-Clause",
        size=21_444_401,
        access="url",
        location="https://download.pytorch.org/models/efficientnet_b0_rwightman-7f5810bc.pth",
        sha256="7f5810bc96def8f7552d5b7e68d53c4786f81167d28291b21c0d90e1fca14934",
        note="ported from timm (Apache-2.0); older versions of torchvision name the same file ...-3dd342df.pth",
    ),
    WeightSource(
        name="timm/efficientnet_b0.ra_in1k",
        families=("efficientnet-b0",),
        summary="EfficientNet-B0 on ImageNet-1k, timm's original of torchvision's weights",
        licence="Apache-2.0",
        size=21_355_344,
        access="hub",
        location="https://huggingface.co/timm/efficientnet_b0.ra_in1k",
        sha256="d569899762ea9b1384ee07f4af64805cf8caa1c55f9253ebb1080dc40e87a2cd",
        file="model.safetensors",
        revision="1b5383e5f79cc0f7fc067e372f8f26a5fa73f26a",
    ),
    WeightSource(
        name="google/efficientnet-b0",
        families=("efficientnet-b0",),
        summary="EfficientNet-B0 on ImageNet-1k, the authors' TensorFlow weights in transformers' layout",
        licence="Apache-2.0",
        size=21_400_000,
        access="hub",
        location="https://huggingface.co/google/efficientnet-b0",
        file="pytorch_model.bin",
        revision="3d8d75d0812b65064f0151b456f869c6344bf20c",
        note="as safetensors in a pull request: google/efficientnet-b0@refs/pr/3",
    ),
    WeightSource(
        name="MIT/ast-finetuned-audioset-10-10-0.4593",
        families=("ast",),
        summary="Audio Spectrogram Transformer on AudioSet",
        licence="BSD-3-Clause",
        size=346_000_000,
        access="hub",
        location="https://huggingface.co/MIT/ast-finetuned-audioset-10-10-0.4593",
        file="model.safetensors",
        revision="f826b80d28226b62986cc218e5cec390b1096902",
    ),
    WeightSource(
        name=MUSICNN,
        families=("musicnn",),
        summary="MusiCNN on the Million Song Dataset and MagnaTagATune",
        licence="ISC",
        size=30_000_000,
        access="wheel",
        location="https://pypi.org/project/musicnn/0.1.0/#files",
        sha256="f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa",
        file="the wheel musicnn-0.1.0",
        note="also the teacher of `genretree pretrain`; not a value of `weights`",
    ),
    WeightSource(
        name=MN04,
        families=(),
        summary="EfficientAT mn04_as, an AudioSet tagger of 1 million weights (MobileNetV3, mAP 43.2)",
        licence="MIT",
        size=4_066_513,
        access="url",
        location="https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/mn04_as_mAP_432.pt",
        sha256="899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c",
        note="stored as safetensors; not a value of `weights`",
    ),
    WeightSource(
        name="clap",
        families=("backbone",),
        summary="CLAP (HTSAT-base) on music and speech: embeddings of audio and text",
        licence="Apache-2.0",
        size=776_000_000,
        access="checkpoint",
        location="https://huggingface.co/laion/larger_clap_music_and_speech",
        sha256="b73c5e596fda5b29b522a1ab3f0842977fe2b147bf8b78c2ec5f7ae6267038a1",
        file="pytorch_model.bin",
        revision="195c3a3e68faebb3e2088b9a79e79b43ddbda76b",
        note="a value of `backbone`, also for zero-shot prediction; stored as safetensors",
    ),
    WeightSource(
        name="maest",
        families=("backbone",),
        summary="MAEST (AST architecture, 30 s) on 400 styles of Discogs",
        licence="CC-BY-NC-SA-4.0",
        size=347_000_000,
        access="checkpoint",
        location="https://huggingface.co/mtg-upf/discogs-maest-30s-pw-73e-ts",
        file="model.safetensors",
        note="a value of `backbone`; no commercial use",
    ),
    WeightSource(
        name="ast-audioset",
        families=("backbone",),
        summary="Audio Spectrogram Transformer on AudioSet",
        licence="BSD-3-Clause",
        size=346_000_000,
        access="checkpoint",
        location="https://huggingface.co/MIT/ast-finetuned-audioset-10-10-0.4593",
        file="model.safetensors",
        revision="f826b80d28226b62986cc218e5cec390b1096902",
        note="a value of `backbone`",
    ),
    _student(Weights.STUDENT, "cnn", 5_683_912, "9c85b7d9f2d29dcd9c523533020c196019031b59808486dd950ebebba0968bd2"),
    _student(
        Weights.STUDENT,
        "efficientnet-b0",
        8_326_872,
        "d9631bb89d1427c954871edc1fc35ae694fd930aa4b09c6eeb845664f18357bf",
    ),
    _student(Weights.STUDENT, "ast", 21_996_728, "b95ac36e771f548b4274ac9a4167b8f611222e772804d93156f1c08567895718"),
    _student(
        Weights.STUDENT_BOTH, "cnn", 5_683_912, "ad528fe46613c14939a6e1012c268dc67193509831837067a2721a0da52a9006"
    ),
    WeightSource(
        name="recover",
        families=(),
        summary="the network that joins slices of one track for `prepare` with `recover_tracks=True`",
        licence="MIT",
        size=363_748,
        access="package",
        location="recovery/recover.safetensors",
        sha256="bc8de05a3a5f8c5986a19d1b3421e4710527bfc47717465bcfdc45e9c359009d",
        note="not a value of `weights`",
    ),
)


def find_source(name: str, family: str | None = None) -> WeightSource | None:
    """Find weights by name, and by family if several have the same name; None if the name is unknown."""
    for source in SOURCES:
        if source.name == name and (family is None or family in source.families):
            return source
    return None


def find_by_hash(sha256: str) -> WeightSource | None:
    """Find weights by the hash of their file; None if there are none."""
    return next((source for source in SOURCES if source.sha256 == sha256), None)


def cached_path(source: WeightSource) -> Path:
    """Return the path in genretree's cache of a file that is downloaded from the web."""
    return cache_folder() / Path(source.location).name


def mn04_path() -> Path:
    """Return the path of mn04's weights in genretree's cache."""
    return cache_folder() / MN04_FILE


def has_mn04() -> bool:
    """Return whether the weights of mn04 are on this machine."""
    return mn04_path().is_file()


def checkpoint_folder(repo: str, commit: str) -> Path:
    """Return the folder in genretree's cache of a commit of a backbone's repository, `user/name`."""
    return cache_folder() / "backbones" / repo.replace("/", "--") / commit


def find_local(source: WeightSource) -> Path | None:
    """Find the copy on this machine, without network access; None if there is none.

    Files that torchvision downloaded are found, too. Hashes are not checked here.
    """
    return next((path for path in _local_paths(source) if path.is_file()), None)


def _local_paths(source: WeightSource) -> Iterator[Path]:
    if source.access == "package":
        yield Path(str(resources.files("genretree").joinpath(*source.location.split("/"))))
    elif source.name == MN04:
        yield mn04_path()
    elif source.access == "url":
        yield cached_path(source)
        yield _torch_home() / "hub" / "checkpoints" / cached_path(source).name
    elif source.access == "wheel":
        yield cache_folder() / f"musicnn-{MUSICNN_NAMES[0]}.safetensors"
    elif source.access == "checkpoint":
        repo = source.location.removeprefix("https://huggingface.co/")
        commits = checkpoint_folder(repo, source.revision or "*")
        yield from sorted(commits.parent.glob(f"{commits.name}/{CHECKPOINT_FILE}"))
    else:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(source.name, source.file, revision=source.revision)
        if isinstance(cached, str):
            yield Path(cached)


def _torch_home() -> Path:
    """Return torch's download folder, as documented for `torch.hub.get_dir`."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TORCH_HOME") or Path(cache) / "torch")
