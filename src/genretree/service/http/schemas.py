"""Schemas of the HTTP interface for the OpenAPI document; tests check the responses against them."""

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
    """A node and its probability."""

    label: str
    probability: float = Field(ge=0, le=1)


class PathProbability(_Schema):
    """A path and the probability of its last node."""

    path: list[str]
    probability: float = Field(ge=0, le=1)


class LevelRow(_Schema):
    """A level of a predicted path."""

    name: str
    label: str
    probability: float = Field(ge=0, le=1)
    sure: bool
    top: list[LabelProbability]


class SliceRow(_Schema):
    """A slice of a track; times in seconds."""

    start: float
    end: float
    path: list[str]
    probability: float = Field(ge=0, le=1)


class Row(_Schema):
    """The prediction of a file, in the format of `genretree predict --json`."""

    file: str
    path: list[str]
    complete: bool
    genres: list[PathProbability] | None = None
    levels: list[LevelRow]
    slices: int
    padded: bool
    consistent: bool
    note: str | None = None
    training_distance: float | None = Field(None, ge=0)
    runtime: str
    timeline: list[SliceRow]


class FileError(_Schema):
    """The error of a file."""

    kind: str
    message: str


class ErrorRow(_Schema):
    """A file that could not be processed."""

    file: str
    error: FileError


class Predictions(_Schema):
    """A row for each file, in the order of the request."""

    model: str
    results: list[Row | ErrorRow]


class ModelInfo(_Schema):
    """A model of the service."""

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


class RequestLimits(_Schema):
    """Limits: bytes of all files in a request, seconds of audio in a file, files in a request."""

    upload_bytes: int
    seconds: float
    files: int


class Models(_Schema):
    """All models, the default first, the limits, and whether corrections are kept."""

    models: list[ModelInfo]
    limits: RequestLimits
    corrections: bool


class Correction(_Schema):
    """The genre that was saved for a file, and the number of corrections; null if it was removed."""

    file: str
    genre: list[str] | None
    corrections: int


class Node(_Schema):
    """A node of a tree; the root has no name."""

    name: str
    path: list[str]
    children: list[Node]


class Tree(_Schema):
    """The genre tree of a model."""

    model: str
    levels: list[str]
    root: Node


class ExplanationDocument(BaseModel):
    """An explanation in the format of `genretree explain --json`; a job adds pictures and audio."""

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
    """URL paths of a job."""

    self: str
    events: str
    result: str


class JobDocument(_Schema):
    """A job with its progress, and its result or error when it has ended."""

    id: str
    do: Literal["predict", "explain"]
    status: Literal["queued", "running", "done", "failed", "cancelled"]
    stage: Literal["waiting", "decoding", "spectra", "network", "explaining"]
    progress: float = Field(ge=0, le=1)
    queue: int = Field(ge=0)
    file: str
    model: str
    question: dict[str, str | None]
    of: str | None
    derived: list[str]
    kept: bool
    links: JobLinks
    result: dict[str, Any] | None = None
    error: ProblemDocument | None = None


class Health(_Schema):
    """Health of the service."""

    status: Literal["ok"]
    version: str
