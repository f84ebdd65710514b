"""Client of the HTTP service: predict and explain files on another machine, without the models or torch.

Needs httpx: `pip install 'genretree[client]'`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, Self, TypedDict

from genretree.errors import GenretreeError, MissingExtraError

if TYPE_CHECKING:
    import httpx

_RETRIES = 5
_MAX_WAIT = 60.0  # seconds between two attempts
JobType = Literal["predict", "explain"]


class LabelProbability(TypedDict):
    """A node and its probability."""

    label: str
    probability: float


class LevelRow(TypedDict):
    """A level of a predicted path."""

    name: str
    label: str
    probability: float
    sure: bool
    top: list[LabelProbability]


class FileError(TypedDict):
    """Why a file could not be processed."""

    kind: str
    message: str


class PredictionRow(TypedDict):
    """The prediction of a file, in the format of `genretree predict --json`, or its error."""

    file: str
    path: NotRequired[list[str]]
    complete: NotRequired[bool]
    levels: NotRequired[list[LevelRow]]
    slices: NotRequired[int]
    padded: NotRequired[bool]
    consistent: NotRequired[bool]
    note: NotRequired[str]
    training_distance: float | None
    runtime: NotRequired[str]
    timeline: NotRequired[list[dict[str, Any]]]
    error: NotRequired[FileError]


class ServiceError(GenretreeError):
    """The service answered with an error, or could not be reached.

    Parameters
    ----------
    detail : str
    kind : str
        `kind` of the problem document, such as `not_audio`, `too_large` or `busy`; "unreachable" without an answer.
    status : int
        HTTP status; 0 without an answer.
    """

    def __init__(self, detail: str, kind: str = "unreachable", status: int = 0) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status = status


class Client:
    """A connection to a service that `genretree serve` has started.

    Parameters
    ----------
    url : str
        Such as `http://127.0.0.1:8000`.
    token : str, optional
        Access token of the service.
    timeout : float
        Seconds without any data after which a request fails.
    transport : httpx.BaseTransport, optional
        For proxies and tests.

    Raises
    ------
    MissingExtraError
        If httpx is not installed.

    See Also
    --------
    genretree.predict : Predict on this machine.

    Examples
    --------
    >>> from genretree.client import Client
    >>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
    ...     print(client.predict("song.mp3")[0]["path"])
    ['Non_classic', 'Rock', 'Soft_rock']
    """

    def __init__(
        self, url: str, token: str | None = None, timeout: float = 300.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        try:
            import httpx
        except ImportError as error:
            raise MissingExtraError("httpx", "client") from error
        self._errors = (httpx.HTTPError, httpx.InvalidURL)
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(
        self,
        files: str | Path | Sequence[str | Path],
        *,
        model: str | None = None,
        min_confidence: float | None = None,
        genres: int | None = None,
        salvage: bool = False,
    ) -> list[PredictionRow]:
        """Upload files and predict their paths.

        Parameters
        ----------
        files : path, or sequence of path
        model : str, optional
            Name of a model of the service; by default the first.
        min_confidence : float, optional
            End the path above the first level whose probability is below this, 0 to 1.
        genres : int, optional
            Further genres of the same level, at most this many in all.
        salvage : bool
            Use what can be decoded of a truncated file.

        Returns
        -------
        list of dict
            A row for each file, in this order; of several files, those that can't be used have an `error`.

        Raises
        ------
        ServiceError
            If the service refuses the request or its only file, or can't be reached.
        OSError
            If a file can't be read.
        """
        paths = [files] if isinstance(files, (str, os.PathLike)) else list(files)
        query = {"model": model, "min_confidence": min_confidence, "genres": genres, "salvage": salvage or None}
        rows: list[PredictionRow] = self._upload("/v1/predict", "files", paths, query)["results"]
        return rows

    def explain(
        self,
        file: str | Path,
        *,
        model: str | None = None,
        node: str | None = None,
        against: str | None = None,
        method: str | None = None,
    ) -> dict[str, Any]:
        """Upload a file and explain its prediction, as `genretree explain --json`.

        Parameters
        ----------
        file : path
        model : str, optional
        node : str, optional
            Name or path of the node to explain; by default the predicted path.
        against : str, optional
            The node to compare it with; by default its siblings.
        method : str, optional
            Name of an explanation method of the model.

        Raises
        ------
        ServiceError
            If the service refuses the request or the file, or can't be reached.
        OSError
            If the file can't be read.
        """
        query = {"model": model, "node": node, "against": against, "method": method}
        return self._upload("/v1/explain", "file", [file], query)

    def models(self) -> list[dict[str, Any]]:
        """Return the models of the service, the default first."""
        found: list[dict[str, Any]] = self._send("GET", "/v1/models").json()["models"]
        return found

    def tree(self, model: str | None = None) -> dict[str, Any]:
        """Return the genre tree of a model, as nested nodes with `name`, `path` and `children`."""
        query = {} if model is None else {"model": model}
        root: dict[str, Any] = self._send("GET", "/v1/tree", params=query).json()["root"]
        return root

    def run_job(
        self,
        file: str | Path,
        do: JobType = "predict",
        *,
        on_progress: Callable[[str, float], object] = lambda stage, progress: None,
        **options: str | float | bool,
    ) -> dict[str, Any]:
        """Run a job on a file in the background, follow its progress, and delete it.

        Parameters
        ----------
        file : path
        do : "predict" or "explain"
        on_progress : callable
            Called with the stage (waiting, decoding, spectra, network, explaining) and the progress, 0 to 1.
        **options
            Parameters of `/v1/jobs`, such as `model` or `node`.

        Returns
        -------
        dict
            The result: that of `predict --json` with all nodes and the timelines, or of `explain --json`.

        Raises
        ------
        ServiceError
            If the service refuses the request, the job fails, or the service can't be reached.
        """
        job = self._upload("/v1/jobs", "file", [file], {"do": do, **options})
        try:
            for event, content in self._events(job["links"]["events"]):
                if event == "progress":
                    on_progress(content["stage"], content["progress"])
                elif event == "done":
                    return content
                elif event == "failed":
                    raise ServiceError(content["detail"], content["kind"], content["status"])
            raise ServiceError(f"{file}: the service ended before the job did; try again")
        finally:
            self._send("DELETE", job["links"]["self"], accept=(404,))

    def _events(self, url: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the server-sent events of a job: their name and content."""
        name = ""
        try:
            with self._http.stream("GET", url) as response:
                if not response.is_success:
                    response.read()
                    raise _problem(response)
                for line in response.iter_lines():
                    field, _, value = line.partition(": ")
                    if field == "event":
                        name = value
                    elif field == "data":
                        yield name, json.loads(value)
        except self._errors as error:
            raise self._unreachable(error) from error

    def _upload(self, url: str, field: str, paths: Sequence[str | Path], query: dict[str, Any]) -> dict[str, Any]:
        params = {name: value for name, value in query.items() if value is not None}
        with ExitStack() as stack:
            streams = [stack.enter_context(Path(path).open("rb")) for path in paths]
            form = [(field, (Path(path).name, stream)) for path, stream in zip(paths, streams, strict=True)]
            content: dict[str, Any] = self._send("POST", url, params=params, files=form).json()
        return content

    def _send(self, method: str, url: str, accept: Sequence[int] = (), **options: Any) -> httpx.Response:
        """Send a request; while the service is busy, wait as long as it says and send it again."""
        for attempt in range(_RETRIES):
            for _, (_, stream) in options.get("files", ()):
                stream.seek(0)
            try:
                response = self._http.request(method, url, **options)
            except self._errors as error:
                raise self._unreachable(error) from error
            wait = response.headers.get("retry-after", "")
            if response.status_code != 503 or attempt == _RETRIES - 1 or not wait.isdigit():
                break
            time.sleep(min(float(wait), _MAX_WAIT))
        if not response.is_success and response.status_code not in accept:
            raise _problem(response)
        return response

    def _unreachable(self, error: Exception) -> ServiceError:
        return ServiceError(
            f"{self._http.base_url}: no answer ({error or type(error).__name__}); is the service running?"
        )


def _problem(response: httpx.Response) -> ServiceError:
    """Read a problem document (RFC 9457); a proxy's page has none."""
    try:
        content = response.json()
        return ServiceError(content["detail"], content["kind"], response.status_code)
    except (ValueError, KeyError, TypeError):
        return ServiceError(f"{response.url}: HTTP status {response.status_code}", "internal", response.status_code)
