"""Immutable, validated settings, and the constants of the image recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from genretree.checks import suggest
from genretree.errors import SettingsError

# The image recipe of ccmusic-database/music_genre (librosa's defaults). These values are fixed by the data set: images
# computed with others would not be comparable.
SAMPLE_RATE = 22050  # Hz
N_FFT = 2048  # samples
HOP_LENGTH = 512  # samples
N_MELS = 128
CQT_BINS = 84  # from C1, 12 per octave
CHROMA_BINS = 12
MEL_16K_RATE = 16000  # Hz: the input of MusiCNN
MEL_16K_BANDS = 96
MEL_16K_FFT = 512
TOP_DB = 80.0
Modality = Literal["mel", "cqt", "chroma"]
MODALITIES: tuple[Modality, ...] = ("mel", "cqt", "chroma")


class Settings(BaseModel):
    """Base class of all settings: immutable, rejects unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    renamed: ClassVar[Mapping[str, str]] = {}  # former name -> current name; former names are still accepted

    if not TYPE_CHECKING:  # type checkers use the signature that pydantic generates

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise SettingsError("; ".join(_explain(type(self), item) for item in error.errors())) from error

    @model_validator(mode="before")
    @classmethod
    def _read_former_names(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        for old, new in cls.renamed.items():
            if old in values and new in values:
                raise ValueError(f"'{old}' is the former name of '{new}'; set only one of them")
        return {cls.renamed.get(name, name): value for name, value in values.items()}

    @classmethod
    def build(cls, values: Mapping[str, Any] | None = None) -> Self:
        """Validate settings from a mapping of names to values.

        Parameters
        ----------
        values : mapping of str to value, optional
            Settings that differ from the defaults.

        Returns
        -------
        Self

        Raises
        ------
        SettingsError
            For an unknown name (with the closest known one), or a value of the wrong type or range.
        """
        if not isinstance(values, Mapping | None):
            raise SettingsError(f"settings must be a mapping of names to values, got {type(values).__name__}")
        values = values or {}
        for name in values:
            if not isinstance(name, str):
                raise SettingsError(f"names of settings must be text, got {name!r}")
        return cls(**values)

    @property
    def digest(self) -> str:
        """Short hash of all values; equal settings have equal digests."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


class ImageSettings(Settings):
    """Settings of the spectrogram images.

    Parameters
    ----------
    slice_seconds : float
        Length of a slice in seconds, 1 to 60.
    size : int
        Height and width of an image in pixels, 32 to 1024.

    See Also
    --------
    genretree.prepare : Compute the images of a corpus.

    Examples
    --------
    >>> import genretree
    >>> genretree.ImageSettings(slice_seconds=5.0).slice_frames
    215
    """

    slice_seconds: float = Field(11.4, ge=1.0, le=60.0, description="length of a slice in seconds")
    size: int = Field(224, ge=32, le=1024, description="height and width of an image in pixels")

    @property
    def slice_frames(self) -> int:
        """Number of frames in a slice: 491 for 11.4 s."""
        return round(self.slice_seconds * SAMPLE_RATE / HOP_LENGTH)


Heads = Literal["tree", "independent"]


def _explain(cls: type[BaseModel], item: Any) -> str:
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown setting '{name}'; {suggest(name, cls.model_fields)}"
    return f"setting '{name}': {item['msg']} (got {item['input']!r})"
