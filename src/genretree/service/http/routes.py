"""The routes below /v1."""

from __future__ import annotations

import asyncio
import difflib
import mimetypes
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from pathlib import Path as FilePath
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Query
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from genretree.explanation.api import check_question
from genretree.files import printable
from genretree.service.corrections import Corrections
from genretree.service.engine.inference import Service
from genretree.service.engine.jobs import AUDIO_NAME, Job, Jobs, JobType, iter_events
from genretree.service.engine.loaded_models import LoadedModel, check_method, find_model, taxonomy_tree
from genretree.service.errors import Problem
from genretree.service.http import examples, schemas
from genretree.service.http.file_response import RangeFileResponse, disposition
from genretree.service.http.uploads import receive_files
from genretree.service.storage import Upload, folder_missing
from genretree.taxonomy import format_path

_MAX_CLIP_SECONDS = 60
T = TypeVar("T")
ModelName = Annotated[str | None, Query(description="Name of a model (default: the first).", max_length=255)]
MinConfidence = Annotated[
    float, Query(ge=0, le=1, description="Cut the path at the first level whose probability is lower.")
]
Salvage = Annotated[bool, Query(description="Decode what is left of a truncated file.")]
MaxGenres = Annotated[
    int | None,
    Query(ge=1, le=100, description="Maximum number of genres: the path, and other probable nodes of its level."),
]
NodeName = Annotated[
    str | None,
    Query(max_length=1000, description="Node to explain, by name or path (default: the nodes of the predicted path)."),
]
Against = Annotated[str | None, Query(max_length=1000, description="Contrast with this node (default: its siblings).")]
Method = Annotated[
    str | None, Query(max_length=40, description="Explanation method of the model (default: occlusion).")
]
Level = Annotated[
    str | None,
    Query(
        max_length=255, description="Explain only this level's node of the predicted path: name or number of the level."
    ),
]
Keep = Annotated[bool, Query(description="Keep the file until the job expires, for further jobs (`of`).")]
Source = Annotated[
    str | None, Query(max_length=64, description="Use the file that this job keeps, instead of an upload.")
]
JobId = Annotated[str, Path(max_length=64, description="The job's `id`.")]


def make_routes(service: Service, jobs: Jobs) -> APIRouter:  # noqa: C901
    """Build the routes of a service."""
    router = APIRouter(prefix="/v1", dependencies=[Depends(refuse_unknown)])
    limits = service.limits
    correcting = asyncio.Lock()  # the table is read, changed and written as a whole

    def receive(request: Request, max_files: int | None = None) -> AbstractAsyncContextManager[list[Upload]]:
        return receive_files(request, limits, service.folder, service.storage, max_files)

    @router.get("/models", summary="List the models", **examples.json_responses("models", schemas.Models))
    async def models() -> Response:
        request_limits = {"upload_bytes": limits.upload_bytes, "seconds": limits.seconds, "files": limits.files}
        return JSONResponse(
            {
                "models": [dict(loaded.metadata) for loaded in service.models.values()],
                "limits": request_limits,
                "corrections": service.corrections is not None,
            }
        )

    @router.get("/tree", summary="The genre tree of a model", **examples.json_responses("tree", schemas.Tree, 404, 422))
    async def tree(model: ModelName = None) -> Response:
        loaded = find_model(service.models, model)
        taxonomy = loaded.bundle.taxonomy
        return JSONResponse({"model": loaded.name, "levels": list(taxonomy.levels), "root": taxonomy_tree(taxonomy)})

    @router.post(
        "/predict",
        summary="Predict the genre paths of audio files",
        **examples.json_responses("predict", schemas.Predictions, 400, 404, 408, 413, 415, 422, 503, 504),
        openapi_extra=examples.form_body(several=True),
    )
    async def predict(
        request: Request,
        model: ModelName = None,
        min_confidence: MinConfidence = 0.0,
        genres: MaxGenres = None,
        salvage: Salvage = False,
    ) -> Response:
        loaded = find_model(service.models, model)
        service.check_capacity()

        async def predict_one(upload: Upload) -> dict[str, Any]:
            track = await service.decode(loaded, upload.name, upload.path, salvage)
            scores = await service.score(loaded, track)
            return await asyncio.to_thread(service.describe, loaded, upload.name, scores, min_confidence, genres)

        unavailable: list[Problem] = []

        async def predict_or_error(upload: Upload) -> dict[str, Any]:
            try:
                return await predict_one(upload)
            except Problem as problem:
                unavailable.extend([problem] if problem.kind == "unavailable" else [])
                service.metrics.count_rejection(problem.kind)
                return {"file": upload.name, "error": {"kind": problem.kind, "message": problem.detail}}

        async with receive(request) as uploads:
            work = [predict_one(uploads[0])] if len(uploads) == 1 else [predict_or_error(upload) for upload in uploads]
            rows = await while_connected(request, asyncio.gather(*work))
        if unavailable and len(unavailable) == len(rows):
            raise unavailable[0]
        return JSONResponse({"model": loaded.name, "results": rows})

    @router.post(
        "/explain",
        summary="Explain which parts of the audio drove the prediction",
        **examples.json_responses("explain", schemas.ExplanationDocument, 400, 404, 408, 413, 415, 422, 503, 504),
        openapi_extra=examples.form_body(several=False),
    )
    async def explain(
        request: Request,
        model: ModelName = None,
        node: NodeName = None,
        against: Against = None,
        method: Method = None,
        level: Level = None,
        salvage: Salvage = False,
    ) -> Response:
        loaded = find_model(service.models, model)
        question = check(loaded, node, against, method, level)
        service.check_capacity(explain=True)

        async def work(upload: Upload) -> dict[str, Any]:
            track = await service.decode(loaded, upload.name, upload.path, salvage, explained=True)
            return (await service.explain(loaded, track, question)).content

        async with receive(request, 1) as uploads:
            return JSONResponse(await while_connected(request, work(uploads[0])))

    @router.post(
        "/jobs",
        status_code=202,
        summary="Create a job",
        **examples.json_responses("job", schemas.JobDocument, 400, 404, 408, 413, 415, 422, 503, status=202),
        openapi_extra=examples.form_body(several=False),
    )
    async def submit(
        request: Request,
        do: Annotated[JobType, Query(description="Type of the job.")] = "predict",
        model: ModelName = None,
        min_confidence: MinConfidence = 0.0,
        genres: MaxGenres = None,
        node: NodeName = None,
        against: Against = None,
        method: Method = None,
        level: Level = None,
        salvage: Salvage = False,
        keep: Keep = False,
        of: Source = None,
    ) -> Response:
        loaded = find_model(service.models, model)
        options: dict[str, Any] = {"min_confidence": min_confidence, "n_genres": genres}
        if do == "explain":  # which some models don't support
            options = check(loaded, node, against, method, level)
        service.check_capacity(explain=do == "explain")
        jobs.check_capacity()
        if of is not None:
            job = jobs.submit_derived(do, loaded, of, salvage, options)
            return JSONResponse(job.to_json(), 202, {"location": job.address})
        async with receive(request, 1) as uploads:
            job = jobs.submit(do, loaded, uploads, salvage, options, keep)
        return JSONResponse(job.to_json(), 202, {"location": job.address})

    @router.get(
        "/music",
        summary="A training track that an explanation lists among the nearest",
        description="Only if the service was started with the folder of the training music, and the track is there.",
        **examples.file_responses("audio/*"),
    )
    async def training_track(
        track: Annotated[str, Query(max_length=4096, description="`track` of a neighbour.")], model: ModelName = None
    ) -> Response:
        loaded = find_model(service.models, model)
        path = None
        if service.music is not None and track in service.indexed[loaded.name]:
            path = await asyncio.to_thread(service.music.find, track)
        if path is None:
            raise Problem("not_found", "this service has no such training track")
        media_type = mimetypes.guess_type(path.name)[0] or ""
        if not media_type.startswith("audio/"):
            media_type = "application/octet-stream"
        return RangeFileResponse(path, media_type=media_type, headers={"content-disposition": disposition(path.name)})

    @router.get("/jobs/{id}", summary="State of a job", **examples.json_responses("job", schemas.JobDocument, 404))
    async def state(id: JobId) -> Response:
        return JSONResponse(jobs.find(id).to_json())

    @router.get(
        "/jobs/{id}/events",
        summary="A job's progress as server-sent events",
        description="`progress` at each change; `preview` with a coarse explanation, if there is one; then `done` "
        "with the result, or `failed` with a problem.",
        **examples.event_responses(),
    )
    async def follow(id: JobId) -> Response:
        # Proxies must not buffer events.
        return StreamingResponse(
            iter_events(jobs.find(id)), headers={"x-accel-buffering": "no"}, media_type=examples.EVENTS
        )

    @router.get(
        "/jobs/{id}/pictures/{name}", summary="A picture of a job's result", **examples.file_responses("image/png")
    )
    async def picture(id: JobId, name: Annotated[str, Path(max_length=64)]) -> Response:
        return send_file(id, name, "image/png")

    @router.get(
        f"/jobs/{{id}}/{AUDIO_NAME}",
        summary="The decoded audio of a job: mono, Ogg Vorbis",
        **examples.file_responses("audio/ogg"),
    )
    async def sound(id: JobId) -> Response:
        return send_file(id, AUDIO_NAME, "audio/ogg")

    @router.get(
        "/jobs/{id}/clip.wav",
        summary="A passage of an explained track, optionally filtered to a band: mono, 16 bits",
        **examples.clip_responses(),
    )
    async def clip(
        id: JobId,
        start: Annotated[float, Query(ge=0, le=1e6, description="Start in seconds.")],
        end: Annotated[float, Query(gt=0, le=1e6, description="End in seconds, at most 60 after the start.")],
        low: Annotated[float | None, Query(ge=0, le=1e6, description="Lower edge of the band in Hz.")] = None,
        high: Annotated[float | None, Query(gt=0, le=1e6, description="Upper edge of the band in Hz.")] = None,
    ) -> Response:
        path = find_file(id, AUDIO_NAME)
        if not start < end <= start + _MAX_CLIP_SECONDS:
            raise Problem("bad_request", f"end must be after start, by at most {_MAX_CLIP_SECONDS} s", 422)
        if (low is None) != (high is None) or (low is not None and high is not None and low >= high):
            raise Problem("bad_request", "a band needs low and high, in Hz, with low < high", 422)
        hertz = None if low is None or high is None else (low, high)
        wav = await service.cut_clip(path, start, end, hertz)
        name = f"{jobs.find(id).stem} - {start:g} to {end:g} s.wav"
        return Response(wav, media_type="audio/wav", headers={"content-disposition": disposition(name)})

    @router.get(
        "/jobs/{id}/file",
        summary="The uploaded file, if the job keeps it",
        **examples.file_responses("application/octet-stream"),
    )
    async def kept_file(id: JobId) -> Response:
        job = jobs.find(id)
        if not (job.keep and job.upload.exists()):
            raise Problem("not_found", "this job keeps no file")
        return RangeFileResponse(job.upload, media_type="application/octet-stream")  # a client's file: never a page

    @router.post(
        "/jobs/{id}/correction",
        summary="Keep the right genre of a job's file for the next training",
        **examples.json_responses("correction", schemas.Correction, 404, 503),
    )
    async def correct(
        id: JobId, genre: Annotated[str, Query(max_length=1000, description="Leaf of the tree, by name or path.")]
    ) -> Response:
        job, corrections = correctable(id)
        taxonomy = find_model(service.models, job.model).bundle.taxonomy
        leaf = taxonomy.leaves[taxonomy.find_leaf(genre)]
        result = job.result or {}
        metadata = {**result.get("tags", {}), "predicted": format_path(result.get("path", ()))}
        async with correcting:
            saved = await asyncio.to_thread(corrections.add, job.model, job.upload, leaf, job.name, metadata)
        return JSONResponse({"file": job.name, "genre": list(leaf), "corrections": saved})

    @router.delete(
        "/jobs/{id}/correction",
        summary="Remove the correction of a job's file",
        **examples.json_responses("correction", schemas.Correction, 404),
    )
    async def delete_correction(id: JobId) -> Response:
        job, corrections = correctable(id)
        async with correcting:
            saved = await asyncio.to_thread(corrections.remove, job.model, job.upload, job.name)
        return JSONResponse({"file": job.name, "genre": None, "corrections": saved})

    def correctable(id: str) -> tuple[Job, Corrections]:
        job = jobs.find(id)
        if service.corrections is None:
            raise Problem("not_found", "this service keeps no corrections; start it with a folder for them")
        if not (job.keep and job.upload.exists()):
            raise Problem("not_found", "this job keeps no file; upload the file again")
        return job, service.corrections

    @router.delete("/jobs/{id}", status_code=204, summary="Cancel and delete a job", **examples.empty_responses())
    async def forget(id: JobId) -> Response:
        await jobs.delete(id)
        return Response(status_code=204)

    def check(
        loaded: LoadedModel, node: str | None, against: str | None, method: str | None, level: str | None
    ) -> dict[str, Any]:
        check_method(loaded, method)
        check_question(loaded.bundle, node, against, method, level)
        return {"node": node, "against": against, "method": method, "level": level}

    def find_file(id: str, name: str) -> FilePath:
        files = jobs.find(id).files  # look names up in the job; never open a name from a request
        if name not in files:
            raise Problem("not_found", "this job has no such file, or is not done")
        if not files[name].exists():
            raise folder_missing()
        return files[name]

    def send_file(id: str, name: str, media_type: str) -> Response:
        path = find_file(id, name)
        if name.endswith(".png") != (media_type == "image/png"):
            raise Problem("not_found", "this job has no such file, or is not done")
        stem = jobs.find(id).stem
        return RangeFileResponse(
            path, media_type=media_type, headers={"content-disposition": disposition(f"{stem} - {name}")}
        )

    return router


def refuse_unknown(request: Request) -> None:
    """Raise Problem (bad_request) for parameters that a route doesn't have, or that are given twice."""
    known = [field.alias for field in request.scope["route"].dependant.query_params]  # codespell:ignore dependant
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            listed = f"use: {', '.join(known)}" if known else "this path has none"
            hint = f"did you mean {close[0]!r}?" if close else listed
            raise Problem("bad_request", f"unknown parameter {printable(name[:40])!r}; {hint}", 422)
        if given.count(name) > 1:
            raise Problem(
                "bad_request", f"the parameter {name!r} is given {given.count(name)} times; give it once", 422
            )


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Await `work`, and cancel it if the client disconnects. Raises ClientDisconnect then."""
    task = asyncio.ensure_future(work)
    disconnect = asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, disconnect):
            each.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
