"""The ASGI application: web page, HTTP interface and metrics."""

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
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute

from genretree import __version__
from genretree.errors import GenretreeError
from genretree.service.engine.inference import Service
from genretree.service.engine.jobs import Jobs
from genretree.service.errors import STATUS, Problem, error_problem
from genretree.service.http import examples
from genretree.service.http.file_response import RangeFileResponse
from genretree.service.http.reference import render_reference
from genretree.service.http.routes import make_routes
from genretree.service.http.schemas import Health
from genretree.service.http.security import SecurityMiddleware

_DETAILS = {
    "not_found": "unknown URL path",
    "not_allowed": "method not allowed; see the header Allow",
}
_KINDS = {status: kind for kind, status in STATUS.items()}
_DESCRIPTION = (
    "Hierarchical music genre classification: predicts genre paths with probabilities for audio files, and explains "
    "predictions. "
    "Errors are problem documents (RFC 9457) with the `kind` of the command line."
)
# FastAPI's telemetry is off: no data leaves the machine.
_NO_TELEMETRY: Any = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}


def create_app(service: Service, token: str | None = None, hosts: Collection[str] | None = None) -> FastAPI:
    """Create the application, which starts and stops the service.

    Parameters
    ----------
    service : Service
    token : str, optional
        Bearer token that requests below /v1 need; None: no token is needed.
    hosts : collection of str, optional
        Allowed Host names, without port; None: any.
    """
    jobs = Jobs(service)
    router = make_routes(service, jobs)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        jobs.start()
        try:
            yield
        finally:
            await jobs.stop()
            await service.stop()

    async def handle_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        if error.status_code == 405:  # Starlette lists the methods of one route only
            headers["allow"] = ", ".join(_methods([*router.routes, *app.routes], request.scope["path"]))
        kind = _KINDS.get(error.status_code, "bad_request")
        problem = Problem(kind, _DETAILS.get(kind, error.detail), error.status_code, headers)
        return problem.as_response(close=request.method == "POST")

    app = FastAPI(
        title="genretree",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,  # FastAPI's pages load scripts from other hosts; see `reference`
        redoc_url=None,
        openapi_url=None,  # see `openapi`
        redirect_slashes=False,
        lifespan=lifespan,
        telemetry=_NO_TELEMETRY,
        exception_handlers={
            Problem: _handle_problem,
            GenretreeError: _handle_problem,
            HTTPException: handle_http_exception,
            RequestValidationError: _handle_invalid_request,
            ClientDisconnect: _handle_disconnect,
        },
    )
    app.add_middleware(SecurityMiddleware, metrics=service.metrics, token=token, hosts=hosts, limits=service.limits)
    app.include_router(router)
    _add_pages(app, service, token is not None)
    app.state.jobs, app.state.metrics = jobs, service.metrics
    return app


def _methods(routes: Sequence[BaseRoute], path: str) -> list[str]:
    """List the HTTP methods of a URL path."""
    matching = (route for route in routes if isinstance(route, APIRoute) and route.path_regex.match(path))
    return sorted({method for route in matching for method in route.methods or ()})


def _add_pages(app: FastAPI, service: Service, token: bool) -> None:
    files = list_page_files()

    @app.head("/healthz", include_in_schema=False)  # for monitors
    @app.get("/healthz", summary="Health of the service", **_health_responses())
    async def healthz() -> Response:
        service.check_health()
        return JSONResponse({"status": "ok", "version": __version__})

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return JSONResponse(build_openapi(app))

    @app.head("/docs", include_in_schema=False)
    @app.get("/docs", include_in_schema=False)
    async def reference(request: Request) -> Response:
        page = render_reference(build_openapi(app), str(request.base_url), token)
        return HTMLResponse(page, headers={"cache-control": "no-cache"})

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return _send_static(files, "index.html")

    @app.head("/static/{name:path}", include_in_schema=False)
    @app.get("/static/{name:path}", include_in_schema=False)
    async def static(name: str) -> Response:
        return _send_static(files, name)


def _health_responses() -> dict[str, Any]:
    """Return the documented responses of /healthz."""
    content = {"application/json": {"example": {"status": "ok", "version": __version__}}}
    problems = examples.json_responses("job", Health, 503)["responses"]
    return {"responses": {200: {"model": Health, "content": content}, 503: problems[503], 403: problems[403]}}


def build_openapi(app: FastAPI) -> dict[str, Any]:
    """Build the OpenAPI document."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        app.openapi_schema = examples.add_problem_schema(document)
    return app.openapi_schema


def list_page_files() -> dict[str, Path]:
    """List the files of the page by URL path below /static; no other files are served."""
    folder = Path(str(resources.files("genretree") / "service" / "web"))
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _send_static(files: dict[str, Path], name: str) -> Response:
    if name not in files:
        raise Problem("not_found", "no such file")
    media_types = {
        ".js": "text/javascript",
        ".css": "text/css",
        ".html": "text/html",
        ".svg": "image/svg+xml",
        ".ogg": "audio/ogg",
    }
    return RangeFileResponse(
        files[name], media_type=media_types.get(files[name].suffix), headers={"cache-control": "no-cache"}
    )


async def _handle_problem(request: Request, error: Exception) -> Response:
    return _reject(request, error if isinstance(error, Problem) else error_problem(cast(GenretreeError, error)))


def _reject(request: Request, problem: Problem) -> Response:
    if request.method == "POST":
        request.app.state.metrics.count_rejection(problem.kind)
    # The client may still be sending a refused form.
    return problem.as_response(close=request.method == "POST")


async def _handle_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    detail = "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in error.errors())
    return _reject(request, Problem("bad_request", detail, 422))


async def _handle_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # the client disconnected; the status is for the metrics
