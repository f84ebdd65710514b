"""What the OpenAPI document says of each address: answers, problems, examples."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from genretree.service.problems import MEDIA_TYPE
from genretree.service.schemas import ProblemDocument

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
        "reasons": [{"question": "Why Non_classic, and not Classic?", "node": ["Non_classic"]}],
        "timelines": [{"node": ["Non_classic"], "probabilities": [0.98], "typical": [], "untypical": []}],
        "neighbours": None,
    },
    "job": {
        "id": _JOB.rpartition("/")[2],
        "do": "explain",
        "status": "running",
        "stage": "decoding",
        "progress": 0.12,
        "queue": 0,
        "links": {"self": _JOB, "events": f"{_JOB}/events", "result": _JOB},
    },
}
_WHY = {
    400: ("bad_request", "the form has no file; send at least one as 'files'"),
    401: ("unauthorized", "send the service's token, as: Authorization: Bearer TOKEN"),
    403: ("forbidden", "this service doesn't go by the name 'example.org'"),
    404: ("not_found", "no model 'x'; there are: cnn-ours"),
    408: ("timeout", "the upload takes too long, or has stopped"),
    413: ("too_large", "the upload has more than 200 MB; that is the most taken here"),
    415: ("bad_request", "send the files as a form of the type multipart/form-data"),
    416: ("no_range", "there is no such part of the file"),
    422: ("not_audio", "notes.mp3: is a text file, not audio"),
    503: ("busy", "there is too much to do already; try again in some seconds"),
    504: ("timeout", "song.mp3: decoding takes longer than the 120 s that it may take here"),
}


def of(name: str, model: type[BaseModel], *problems: int, status: int = 200) -> dict[str, Any]:
    """Give what a JSON answer of this form looks like, and which problems may come instead."""
    content = {"application/json": {"example": _EXAMPLES[name]}}
    return {"responses": {status: {"model": model, "content": content}, **_problems(*problems)}}


def of_file(kind: str) -> dict[str, Any]:
    """Give what the answer looks like that is a file; parts of it can be asked for."""
    form = {"schema": {"type": "string", "format": "binary"}}
    parts = {206: {"description": "The part that was asked for.", "content": {kind: form}}}
    return {
        "responses": {200: {"description": "The file.", "content": {kind: form}}, **parts, **_problems(400, 404, 416)}
    }


def of_events() -> dict[str, Any]:
    """Give what a stream of events looks like."""
    text = 'event: progress\ndata: {"status": "running", "stage": "decoding", "progress": 0.12, "queue": 0}\n\n'
    content = {EVENTS: {"schema": {"type": "string"}, "example": text}}
    return {"responses": {200: {"description": "Events.", "content": content}, **_problems(404)}}


def of_nothing() -> dict[str, Any]:
    """Give what an answer without content looks like."""
    return {"responses": {204: {"description": "It is gone."}, **_problems(404)}}


def form(several: bool) -> dict[str, Any]:
    """Give what has to be sent: one file or several."""
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


def _problems(*statuses: int) -> dict[int | str, Any]:
    found: dict[int | str, Any] = {}
    for status in (401, 403, 422, *statuses):
        kind, detail = _WHY[status]
        title = HTTPStatus(status).phrase
        example = {"type": "about:blank", "title": title, "status": status, "detail": detail, "kind": kind}
        content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}, "example": example}}
        found[status] = {"description": title, "content": content}
    return found


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Add to an OpenAPI document the form of problems, which its answers point to."""
    known = document.setdefault("components", {}).setdefault("schemas", {})
    known["ProblemDocument"] = ProblemDocument.model_json_schema()
    for unused in ("HTTPValidationError", "ValidationError"):
        known.pop(unused, None)
    return document
