"""The application: page, interface and metrics, over one service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from genretree import __version__
from genretree.errors import GenretreeError
from genretree.service.engine.inference import Service
from genretree.service.engine.jobs import Jobs
from genretree.service.errors import STATUS, Problem, of_error
from genretree.service.http import examples
from genretree.service.http.file_response import FileAnswer
from genretree.service.http.routes import make_routes
from genretree.service.http.schemas import Health
from genretree.service.http.security import Guard

_SAID = {
    "not_found": "there is nothing at this address",
    "not_allowed": "this address answers to other methods only; see Allow",
}
_KINDS = {status: kind for kind, status in STATUS.items()}
_ABOUT = (
    "Names, for any sound file, a path in a tree of music genres, with probabilities, and says why. "
    "Errors are problem documents (RFC 9457) whose `kind` is that of the command line. See docs/service.md."
)
# No word leaves the machine: FastAPI's own telemetry is off.
_SILENT: Any = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}


def create_app(service: Service, token: str | None = None, hosts: Collection[str] | None = None) -> FastAPI:
    """Make the application of a service, which it starts and stops.

    Parameters
    ----------
    service : Service
    token : str, optional
        Without which nothing of /v1 is answered.
    hosts : collection of str, optional
        Names, without port, that requests may be addressed to; None: any.
    """
    jobs = Jobs(service)
    router = make_routes(service, jobs)

    @asynccontextmanager
    async def live(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        jobs.start()
        try:
            yield
        finally:
            await jobs.stop()
            await service.stop()

    async def answer_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        if error.status_code == 405:  # the framework names the methods of one route only
            headers["allow"] = ", ".join(_methods([*router.routes, *app.routes], request.scope["path"]))
        kind = _KINDS.get(error.status_code, "bad_request")
        problem = Problem(kind, _SAID.get(kind, error.detail), error.status_code, headers)
        return problem.as_response(close=request.method == "POST")

    app = FastAPI(
        title="genretree",
        version=__version__,
        description=_ABOUT,
        docs_url=None,  # FastAPI's pages load scripts from another host
        redoc_url=None,
        openapi_url=None,  # made below
        redirect_slashes=False,
        lifespan=live,
        telemetry=_SILENT,
        exception_handlers={
            Problem: _answer,
            GenretreeError: _answer,
            HTTPException: answer_http,
            RequestValidationError: _answer_invalid,
            ClientDisconnect: _answer_nobody,
        },
    )
    app.add_middleware(Guard, metrics=service.metrics, token=token, hosts=hosts)
    app.include_router(router)
    _add_pages(app, service)
    app.state.jobs, app.state.metrics = jobs, service.metrics
    return app


def _methods(routes: Sequence[BaseRoute], path: str) -> list[str]:
    """Give the methods that an address answers to."""
    found = (route for route in routes if isinstance(route, APIRoute) and route.path_regex.match(path))
    return sorted({method for route in found for method in route.methods or ()})


def _add_pages(app: FastAPI, service: Service) -> None:
    files = page_files()

    @app.head("/healthz", include_in_schema=False)  # as monitors ask
    @app.get("/healthz", summary="Whether the service works", **examples_of_health())
    async def healthz() -> Response:
        service.check_health()
        return JSONResponse({"status": "ok", "version": __version__})

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return JSONResponse(describe_interface(app))

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return _send(files, "index.html")

    @app.head("/static/{name:path}", include_in_schema=False)
    @app.get("/static/{name:path}", include_in_schema=False)
    async def static(name: str) -> Response:
        return _send(files, name)


def examples_of_health() -> dict[str, Any]:
    """Give what the OpenAPI document says of /healthz."""
    content = {"application/json": {"example": {"status": "ok", "version": __version__}}}
    problems = examples.of("job", Health, 503)["responses"]
    return {"responses": {200: {"model": Health, "content": content}, 503: problems[503], 403: problems[403]}}


def describe_interface(app: FastAPI) -> dict[str, Any]:
    """Give the OpenAPI document."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        app.openapi_schema = examples.complete(document)
    return app.openapi_schema


def page_files() -> dict[str, Path]:
    """Give the files of the page by their address below /static; nothing else is ever sent."""
    folder = Path(str(resources.files("genretree") / "service" / "web"))
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _send(files: dict[str, Path], name: str) -> Response:
    if name not in files:
        raise Problem("not_found", "there is no such page")
    kinds = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}
    return FileAnswer(files[name], media_type=kinds.get(files[name].suffix), headers={"cache-control": "no-cache"})


async def _answer(request: Request, error: Exception) -> Response:
    return _refuse(request, error if isinstance(error, Problem) else of_error(cast(GenretreeError, error)))


def _refuse(request: Request, problem: Problem) -> Response:
    if request.method == "POST":
        request.app.state.metrics.count_refusal(problem.kind)
    # Of a form that was refused, more may come.
    return problem.as_response(close=request.method == "POST")


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    said = "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in error.errors())
    return _refuse(request, Problem("bad_request", said, 422))


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # the client hung up; only the metrics see it
