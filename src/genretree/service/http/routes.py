"""The addresses under /v1."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Query
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from genretree.explanation.api import check_question
from genretree.service.engine.inference import Service
from genretree.service.engine.jobs import SOUND, Do, Jobs, events
from genretree.service.engine.loaded_models import Served, check_method, find_model, nest
from genretree.service.errors import Problem
from genretree.service.http import examples, schemas
from genretree.service.http.file_response import FileAnswer
from genretree.service.http.uploads import received_files
from genretree.service.storage import Upload, folder_gone

T = TypeVar("T")
ModelName = Annotated[str | None, Query(description="Name of a model; the first by default.", max_length=255)]
Least = Annotated[
    float, Query(ge=0, le=1, description="Name the path only as far down as its probability reaches this.")
]
Salvage = Annotated[bool, Query(description="Use what can be decoded of a truncated file.")]
NodeName = Annotated[
    str | None, Query(max_length=1000, description="Ask for this node, by its name or path; by default the path's.")
]
Against = Annotated[str | None, Query(max_length=1000, description="Hold it against this node, not its siblings.")]
Method = Annotated[str | None, Query(max_length=40, description="One of the model's methods; occlusion by default.")]
Level = Annotated[
    str | None, Query(max_length=255, description="Ask for the path's node of this level only: its name or number.")
]
JobId = Annotated[str, Path(max_length=64, description="As the job's `id` says.")]


def make_routes(service: Service, jobs: Jobs) -> APIRouter:  # noqa: C901
    """Give all routes of a service."""
    router = APIRouter(prefix="/v1")
    limits = service.limits

    def receive(request: Request, most: int | None = None) -> AbstractAsyncContextManager[list[Upload]]:
        return received_files(request, limits, service.folder, service.storage, most)

    @router.get("/models", summary="Which models there are", **examples.of("models", schemas.Models))
    async def models() -> Response:
        told = {"upload_bytes": limits.upload_bytes, "seconds": limits.seconds, "files": limits.files}
        return JSONResponse({"models": [dict(served.facts) for served in service.models.values()], "limits": told})

    @router.get("/tree", summary="A model's tree", **examples.of("tree", schemas.Tree, 404, 422))
    async def tree(model: ModelName = None) -> Response:
        served = find_model(service.models, model)
        taxonomy = served.bundle.taxonomy
        return JSONResponse({"model": served.name, "levels": list(taxonomy.levels), "root": nest(taxonomy)})

    @router.post(
        "/predict",
        summary="Name the genre path of one or several sound files",
        **examples.of("predict", schemas.Predictions, 400, 404, 408, 413, 415, 422, 503, 504),
        openapi_extra=examples.form(several=True),
    )
    async def predict(
        request: Request, model: ModelName = None, min_confidence: Least = 0.0, salvage: Salvage = False
    ) -> Response:
        served = find_model(service.models, model)
        service.check_room()

        async def name(upload: Upload) -> dict[str, Any]:
            sound = await service.score_file(served, upload.name, upload.path, salvage)
            heard = await service.score(served, sound)
            return await asyncio.to_thread(service.describe, served, upload.name, heard, min_confidence)

        unserved: list[Problem] = []

        async def name_safely(upload: Upload) -> dict[str, Any]:
            try:
                return await name(upload)
            except Problem as problem:
                unserved.extend([problem] if problem.kind == "unavailable" else [])
                service.metrics.count_refusal(problem.kind)
                return {"file": upload.name, "error": {"kind": problem.kind, "message": problem.detail}}

        async with receive(request) as uploads:
            work = [name(uploads[0])] if len(uploads) == 1 else [name_safely(upload) for upload in uploads]
            rows = await while_connected(request, asyncio.gather(*work))
        if unserved and len(unserved) == len(rows):
            raise unserved[0]
        return JSONResponse({"model": served.name, "results": rows})

    @router.post(
        "/explain",
        summary="Say which part of the sound decided",
        **examples.of("explain", schemas.ExplanationDocument, 400, 404, 408, 413, 415, 422, 503, 504),
        openapi_extra=examples.form(several=False),
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
        served = find_model(service.models, model)
        question = check(served, node, against, method, level)
        service.check_room(explain=True)

        async def work(upload: Upload) -> dict[str, Any]:
            sound = await service.score_file(served, upload.name, upload.path, salvage)
            return (await service.explain(served, sound, question)).content

        async with receive(request, 1) as uploads:
            return JSONResponse(await while_connected(request, work(uploads[0])))

    @router.post(
        "/jobs",
        status_code=202,
        summary="Ask for something that takes long",
        **examples.of("job", schemas.JobDocument, 400, 404, 408, 413, 415, 422, 503, status=202),
        openapi_extra=examples.form(several=False),
    )
    async def submit(
        request: Request,
        do: Annotated[Do, Query(description="What to do.")] = "predict",
        model: ModelName = None,
        min_confidence: Least = 0.0,
        node: NodeName = None,
        against: Against = None,
        method: Method = None,
        level: Level = None,
        salvage: Salvage = False,
    ) -> Response:
        served = find_model(service.models, model)
        question = check(served, node, against, method, level)
        service.check_room(explain=do == "explain")
        jobs.check_room()
        options = question if do == "explain" else {"min_confidence": min_confidence}
        async with receive(request, 1) as uploads:
            job = jobs.submit(do, served, uploads, salvage, options)
        return JSONResponse(job.to_json(), 202, {"location": job.address})

    @router.get("/jobs/{id}", summary="How far a job is", **examples.of("job", schemas.JobDocument, 404))
    async def state(id: JobId) -> Response:
        return JSONResponse(jobs.find(id).to_json())

    @router.get(
        "/jobs/{id}/events",
        summary="A job's progress as server-sent events",
        description="`progress` at every change; then `done` with the result, or `failed` with a problem.",
        **examples.of_events(),
    )
    async def follow(id: JobId) -> Response:
        # A proxy in between must not wait for more before it passes an event on.
        return StreamingResponse(events(jobs.find(id)), headers={"x-accel-buffering": "no"}, media_type=examples.EVENTS)

    @router.get("/jobs/{id}/pictures/{name}", summary="A picture of a job's result", **examples.of_file("image/png"))
    async def picture(id: JobId, name: Annotated[str, Path(max_length=64)]) -> Response:
        return send_file(id, name, "image/png")

    @router.get(
        f"/jobs/{{id}}/{SOUND}", summary="What the model heard: mono, Ogg Vorbis", **examples.of_file("audio/ogg")
    )
    async def sound(id: JobId) -> Response:
        return send_file(id, SOUND, "audio/ogg")

    @router.delete("/jobs/{id}", status_code=204, summary="Cancel and forget a job", **examples.of_nothing())
    async def forget(id: JobId) -> Response:
        await jobs.forget(id)
        return Response(status_code=204)

    def check(
        served: Served, node: str | None, against: str | None, method: str | None, level: str | None
    ) -> dict[str, Any]:
        check_method(served, method)
        check_question(served.bundle, node, against, method, level)
        return {"node": node, "against": against, "method": method, "level": level}

    def send_file(id: str, name: str, kind: str) -> Response:
        files = jobs.find(id).files  # only what the job says is there; no name in a request is ever opened
        if name not in files or name.endswith(".png") != (kind == "image/png"):
            raise Problem("not_found", "this job has no such file, or not yet")
        if not files[name].exists():
            raise folder_gone()
        return FileAnswer(files[name], media_type=kind)

    return router


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Wait for some work, unless the client hangs up. Raises ClientDisconnect then; the work is cancelled."""
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_hung_up(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
