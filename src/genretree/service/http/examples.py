"""Responses, problems and examples for the OpenAPI document."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from genretree.service.errors import MEDIA_TYPE
from genretree.service.http.schemas import ProblemDocument

EVENTS = "text/event-stream"
_LEVELS = [
    {
        "name": "level_1",
        "label": "Non_classic",
        "probability": 0.98,
        "sure": True,
        "top": [{"label": "Non_classic", "probability": 0.98}, {"label": "Classic", "probability": 0.02}],
    },
    {
        "name": "level_2",
        "label": "rock",
        "probability": 0.71,
        "sure": True,
        "top": [{"label": "rock", "probability": 0.71}, {"label": "pop", "probability": 0.27}],
    },
]
_ROW = {
    "file": "song.mp3",
    "path": ["Non_classic", "rock"],
    "complete": True,
    "levels": _LEVELS,
    "slices": 1,
    "padded": False,
    "consistent": True,
    "runtime": "openvino bf16",
    "timeline": [{"start": 0.3, "end": 11.7, "path": ["Non_classic", "rock"], "probability": 0.71}],
}
_BAD = {"file": "notes.txt", "error": {"kind": "not_audio", "message": "notes.txt: is a text file, not audio"}}
_JOB = "/v1/jobs/Zk3vT0o6mJx1Yq8W2nLd4A"
_EXAMPLES: dict[str, Any] = {
    "models": {
        "models": [
            {
                "name": "cnn-ours",
                "id": "0c2e8a4d9b7f1356",
                "family": "cnn",
                "levels": ["level_1", "level_2"],
                "classes": [2, 4],
                "runtime": "openvino bf16",
                "methods": ["occlusion", "gradcam", "integrated-gradients"],
                "neighbours": False,
                "calibrated": True,
                "default": True,
            }
        ],
        "limits": {"upload_bytes": 209715200, "seconds": 3600.0, "files": 16},
        "corrections": False,
    },
    "tree": {
        "model": "cnn-ours",
        "levels": ["level_1", "level_2"],
        "root": {
            "name": "",
            "path": [],
            "children": [
                {
                    "name": "Classic",
                    "path": ["Classic"],
                    "children": [{"name": "classical", "path": ["Classic", "classical"], "children": []}],
                }
            ],
        },
    },
    "predict": {"model": "cnn-ours", "results": [_ROW, _BAD]},
    "explain": {
        "prediction": _ROW,
        "family": "cnn",
        "method": "occlusion",
        "unit": "log odds lost without it",
        "seconds": 1.9,
        "tree": [{"path": ["Classic"], "probability": 0.02}, {"path": ["Non_classic"], "probability": 0.98}],
        "reasons": [
            {
                "question": "why Non_classic and not Classic",
                "node": ["Non_classic"],
                "sentences": [
                    {
                        "text": "The strongest evidence for Non classic is in the bass notes (below C3).",
                        "aspect": "notes",
                        "band": "bass",
                        "supports": True,
                        "relevance": 2.63,
                        "noise": 0.01,
                        "consistency": 1.0,
                        "share": 0.19,
                        "hertz": [31.8, 127.1],
                        "passage": {"start": 5.9, "end": 9.9},
                        "loudness": -17.3,
                        "fluctuation": 15.6,
                        "tags": {},
                    }
                ],
            }
        ],
        "timelines": [{"node": ["Non_classic"], "probabilities": [0.98], "typical": [], "untypical": []}],
        "neighbours": None,
    },
    "correction": {"file": "song.mp3", "genre": ["Classic", "classical"], "corrections": 12},
    "job": {
        "id": _JOB.rpartition("/")[2],
        "do": "explain",
        "file": "song.mp3",
        "model": "cnn-ours",
        "question": {"node": None, "against": None, "method": None, "level": None},
        "of": None,
        "derived": [],
        "kept": False,
        "status": "running",
        "stage": "decoding",
        "progress": 0.12,
        "queue": 0,
        "links": {"self": _JOB, "events": f"{_JOB}/events", "result": _JOB},
    },
}
_PROBLEM_EXAMPLES = {
    400: ("bad_request", "the form has no file; send at least one as 'files'"),
    401: ("unauthorized", "access token required; send it as: Authorization: Bearer TOKEN"),
    403: ("forbidden", "the Host name 'example.org' is not allowed"),
    404: ("not_found", "unknown model 'x'; available: cnn-ours"),
    408: ("timeout", "the upload timed out"),
    413: ("too_large", "the upload is larger than the limit of 200 MB"),
    415: ("bad_request", "send the files as multipart/form-data"),
    416: ("no_range", "the requested range is outside the file"),
    422: ("not_audio", "notes.mp3: is a text file, not audio"),
    503: ("busy", "the service is busy; retry in a few seconds"),
    504: ("timeout", "song.mp3: decoding takes longer than the limit of 120 s"),
}


def json_responses(name: str, model: type[BaseModel], *problems: int, status: int = 200) -> dict[str, Any]:
    """Return the documented JSON response and problems of a route."""
    content = {"application/json": {"example": _EXAMPLES[name]}}
    return {"responses": {status: {"model": model, "content": content}, **_problem_responses(*problems)}}


def file_responses(media_type: str) -> dict[str, Any]:
    """Return the documented responses of a route that sends a file and supports ranges."""
    content = {"schema": {"type": "string", "format": "binary"}}
    parts = {206: {"description": "The requested range.", "content": {media_type: content}}}
    return {
        "responses": {
            200: {"description": "The file.", "content": {media_type: content}},
            **parts,
            **_problem_responses(400, 404, 416),
        }
    }


def clip_responses() -> dict[str, Any]:
    """Return the documented responses of the route that sends clips."""
    content = {"audio/wav": {"schema": {"type": "string", "format": "binary"}}}
    return {"responses": {200: {"description": "The clip.", "content": content}, **_problem_responses(404, 422, 503)}}


def event_responses() -> dict[str, Any]:
    """Return the documented responses of a route that streams events."""
    text = 'event: progress\ndata: {"status": "running", "stage": "decoding", "progress": 0.12, "queue": 0}\n\n'
    content = {EVENTS: {"schema": {"type": "string"}, "example": text}}
    return {"responses": {200: {"description": "Events.", "content": content}, **_problem_responses(404)}}


def empty_responses() -> dict[str, Any]:
    """Return the documented responses of a route without content."""
    return {"responses": {204: {"description": "Deleted."}, **_problem_responses(404)}}


def form_body(several: bool) -> dict[str, Any]:
    """Return the documented request body: a form with one file or several."""
    file = {"type": "string", "format": "binary"}
    one = {"type": "object", "properties": {"file": file}, "required": ["file"], "additionalProperties": False}
    many = {
        "type": "object",
        "properties": {"files": {"type": "array", "items": file, "minItems": 1}},
        "required": ["files"],
        "additionalProperties": False,
    }
    content = {"multipart/form-data": {"schema": many if several else one}}
    return {"requestBody": {"required": True, "content": content}}


def _problem_responses(*statuses: int) -> dict[int | str, Any]:
    responses: dict[int | str, Any] = {}
    for status in (401, 403, 422, *statuses):
        kind, detail = _PROBLEM_EXAMPLES[status]
        title = HTTPStatus(status).phrase
        example = {"type": "about:blank", "title": title, "status": status, "detail": detail, "kind": kind}
        content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}, "example": example}}
        responses[status] = {"description": title, "content": content}
    return responses


def add_problem_schema(document: dict[str, Any]) -> dict[str, Any]:
    """Add the schema of problem documents to an OpenAPI document."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas["ProblemDocument"] = ProblemDocument.model_json_schema()
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    return document
