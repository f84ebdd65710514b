"""What the interface says, for its OpenAPI document; answers are made elsewhere, and tests hold them to this."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ProblemDocument(_Schema):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    kind: str


class LabelProbability(_Schema):
    """A node's name and its probability."""

    label: str
    probability: float = Field(ge=0, le=1)


class LevelRow(_Schema):
    """One level of a path."""

    name: str
    label: str
    probability: float = Field(ge=0, le=1)
    sure: bool
    top: list[LabelProbability]


class SliceRow(_Schema):
    """One slice of a track, in seconds."""

    start: float
    end: float
    path: list[str]
    probability: float = Field(ge=0, le=1)


class Row(_Schema):
    """A file's genre path, as `genretree predict --json` prints it."""

    file: str
    path: list[str]
    complete: bool
    levels: list[LevelRow]
    slices: int
    padded: bool
    consistent: bool
    note: str | None = None
    runtime: str
    timeline: list[SliceRow]


class FileError(_Schema):
    """What is wrong with a file."""

    kind: str
    message: str


class ErrorRow(_Schema):
    """A file that can't be used."""

    file: str
    error: FileError


class Predictions(_Schema):
    """A row for each file, in the order they were sent."""

    model: str
    results: list[Row | ErrorRow]


class ModelFacts(_Schema):
    """A model that can be asked for."""

    name: str
    id: str
    family: str
    levels: list[str]
    classes: list[int]
    runtime: str
    methods: list[str]
    neighbours: bool
    calibrated: bool
    note: str | None = None
    default: bool


class ToldLimits(_Schema):
    """What is taken: bytes of all files of a request, seconds of sound in a file, files in a request."""

    upload_bytes: int
    seconds: float
    files: int


class Models(_Schema):
    """All models, the default first, and the limits."""

    models: list[ModelFacts]
    limits: ToldLimits


class Node(_Schema):
    """A node of a tree; the root has no name."""

    name: str
    path: list[str]
    children: list[Node]


class Tree(_Schema):
    """A model's tree."""

    model: str
    levels: list[str]
    root: Node


class ExplanationDocument(BaseModel):
    """Why, as `genretree explain --json` prints it; with pictures and sound if it is a job's."""

    prediction: Row
    family: str
    method: str
    unit: str
    seconds: float
    tree: list[dict[str, Any]]
    reasons: list[dict[str, Any]]
    timelines: list[dict[str, Any]]
    neighbours: list[dict[str, Any]] | None


class JobLinks(_Schema):
    """Where to look at a job."""

    self: str
    events: str
    result: str


class JobDocument(_Schema):
    """A job: how far it is, and at its end its result or its error."""

    id: str
    do: Literal["predict", "explain"]
    status: Literal["queued", "running", "done", "failed", "cancelled"]
    stage: Literal["waiting", "decoding", "spectra", "network", "explaining"]
    progress: float = Field(ge=0, le=1)
    queue: int = Field(ge=0)
    links: JobLinks
    result: dict[str, Any] | None = None
    error: ProblemDocument | None = None


class Health(_Schema):
    """Whether the service works."""

    status: Literal["ok"]
    version: str
