"""The page /docs: the reference of the HTTP interface, made from the OpenAPI document."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from genretree.evaluation.report import render
from genretree.service.errors import MEDIA_TYPE

_DEFAULT_URL = "http://127.0.0.1:8000"
_SCHEMAS = "#/components/schemas/"
_MULTIPART = "multipart/form-data"
# Values for the examples: of parameters without which a request is refused, and one that shows an option.
_VALUES = {
    "id": "Zk3vT0o6mJx1Yq8W2nLd4A",
    "name": "tree.png",
    "start": "52",
    "end": "56",
    "genre": "Soft_rock",
    "track": "audio/song.mp3",
}
_OPTIONS = {"/v1/predict": {"min_confidence": "0.7"}, "/v1/explain": {"node": "Rock"}, "/v1/jobs": {"do": "explain"}}
# What the Python client does itself; the other paths are requested with httpx.
_CLIENT_CALLS = {
    ("get", "/v1/models"): "print(client.models())",
    ("get", "/v1/tree"): "print(client.tree())",
    ("post", "/v1/predict"): 'for row in client.predict(["song.mp3"], min_confidence=0.7):\n    print(row["path"])',
    ("post", "/v1/explain"): 'print(client.explain("song.mp3", node="Rock")["reasons"])',
    ("post", "/v1/jobs"): (
        "# Creates the job, follows its events, and deletes it.\n"
        'print(client.run_job("song.mp3", "explain", on_progress=print))'
    ),
}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a path."""

    name: str
    where: str
    type: str
    required: bool
    text: str


@dataclass(frozen=True)
class Operation:
    """A method of a path, with its examples."""

    method: str
    path: str
    anchor: str
    summary: str
    text: str
    parameters: list[Parameter]
    form: str | None
    responses: list[dict[str, Any]]
    problems: list[int]
    examples: dict[str, str]
    response: str | None


def render_reference(document: dict[str, Any], url: str, token: bool) -> str:
    """Render the reference as HTML without scripts.

    Parameters
    ----------
    document : dict
        OpenAPI document of the application.
    url : str
        Address of the service in the examples; replaced if it is not `http(s)://HOST[:PORT]`.
    token : bool
        Whether the service needs a token.
    """
    base = url.rstrip("/")
    if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d+)?|https?://\[[0-9a-fA-F:]+\](:\d+)?", base):
        base = _DEFAULT_URL
    operations = list(_list_operations(document, base, token))
    problems = {}
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if MEDIA_TYPE in response.get("content", {}):
                    problems[int(status)] = response["content"][MEDIA_TYPE]["example"]
    return render(
        "docs.html.j2",
        title=document["info"]["title"],
        version=document["info"]["version"],
        text=document["info"]["description"],
        url=base,
        token=token,
        operations=operations,
        problems=sorted(problems.items()),
        schemas=_list_schemas(document),
    )


def _list_operations(document: dict[str, Any], base: str, token: bool) -> Iterator[Operation]:
    for path, methods in document["paths"].items():
        for method, content in methods.items():
            parameters = content.get("parameters", [])
            field = _form_field(content)
            given = {
                **{item["name"]: _VALUES[item["name"]] for item in parameters if item.get("required")},
                **(_OPTIONS.get(path, {}) if method == "post" else {}),
            }
            success, problems = _split_responses(content["responses"])
            yield Operation(
                method=method.upper(),
                path=path,
                anchor=re.sub(r"[^a-z0-9]+", "-", f"{method}-{path}".lower()).strip("-"),
                summary=content.get("summary", ""),
                text=content.get("description", ""),
                parameters=[_describe_parameter(item) for item in parameters],
                form=field,
                responses=success,
                problems=problems,
                examples=_write_examples(method, path, _fill(path, parameters, given), field, base, token),
                response=next((item["example"] for item in success if item["example"]), None),
            )


def _describe_parameter(item: dict[str, Any]) -> Parameter:
    schema = item["schema"]
    default = schema.get("default")
    written = _write_type(schema).removesuffix(" or null") + (
        "" if default is None else f", default {json.dumps(default)}"
    )
    return Parameter(item["name"], item["in"], written, bool(item.get("required")), item.get("description", ""))


def _form_field(operation: dict[str, Any]) -> str | None:
    form = operation.get("requestBody", {}).get("content", {}).get(_MULTIPART)
    return None if form is None else next(iter(form["schema"]["properties"]))


def _split_responses(responses: dict[str, Any]) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the successful responses, and the statuses of the problems."""
    success, problems = [], []
    for status, response in responses.items():
        content = response.get("content", {})
        if MEDIA_TYPE in content:
            problems.append(int(status))
            continue
        empty: tuple[str, dict[str, Any]] = ("", {})
        media_type, body = next(iter(content.items()), empty)
        example = body.get("example")
        written = example if isinstance(example, str) or example is None else json.dumps(example, indent=2)
        reference = body.get("schema", {}).get("$ref", "")
        success.append(
            {
                "status": status,
                "media_type": media_type,
                "schema": reference.removeprefix(_SCHEMAS) or None,
                "text": response.get("description", ""),
                "example": written,
            }
        )
    return success, sorted(problems)


def _fill(path: str, parameters: list[dict[str, Any]], given: dict[str, str]) -> str:
    """Return a path with the values of its parameters, and a query of the others."""
    inside = {item["name"] for item in parameters if item["in"] == "path"}
    for name in inside:
        path = path.replace(f"{{{name}}}", quote(given[name], safe=""))
    query = urlencode({name: value for name, value in given.items() if name not in inside})
    return f"{path}?{query}" if query else path


def _write_examples(method: str, path: str, request: str, field: str | None, base: str, token: bool) -> dict[str, str]:
    protected = token and path.startswith("/v1")
    file_name = request.partition("?")[0].rpartition("/")[2]
    saves = re.search(r"\.(png|ogg|wav)$|/file$", request.partition("?")[0]) is not None
    events = path.endswith("/events")
    return {
        "curl": _write_curl(method, base + request, field, saves, events, protected),
        "Python": _write_python(method, path, request, file_name if saves else None, events, base, protected),
        "JavaScript": _write_javascript(method, request, field, saves, events, protected),
    }


def _write_curl(method: str, url: str, field: str | None, saves: bool, events: bool, protected: bool) -> str:
    words = ["curl"]
    if field is None and method != "get":
        words += ["-X", method.upper()]
    words += ["-N"] * events + ["-OJ"] * saves
    command = " ".join(words)
    if protected:
        command += ' -H "Authorization: Bearer $GENRETREE_TOKEN"'
    if field is not None:
        command += f" -F {field}=@song.mp3"
    return f"{command} {shlex.quote(url)}"


def _write_python(
    method: str, path: str, request: str, saved: str | None, events: bool, base: str, protected: bool
) -> str:
    call = _CLIENT_CALLS.get((method, path))
    if call is not None:
        token = ', token=os.environ["GENRETREE_TOKEN"]' if protected else ""
        body = "\n".join(f"    {line}" for line in call.splitlines())
        imports = ("import os\n\n" if protected else "") + "from genretree.client import Client\n"
        return f'{imports}\nwith Client("{base}"{token}) as client:\n{body}'
    headers = ', headers={"Authorization": f"Bearer {os.environ[\'GENRETREE_TOKEN\']}"}' if protected else ""
    imports = ("import os\n" if protected else "") + ("from pathlib import Path\n" if saved else "")
    imports += "\n" if imports else ""
    url = f'"{base}{request}"'
    if events:
        return (
            f'{imports}import httpx\n\nwith httpx.stream("GET", {url}{headers}, timeout=None) as response:\n'
            "    for line in response.iter_lines():\n        print(line)"
        )
    start = f"{imports}import httpx\n\nresponse = httpx.{method}({url}{headers})\nresponse.raise_for_status()"
    if saved:
        return f'{start}\nPath("{saved}").write_bytes(response.content)'
    return start if method == "delete" and not path.endswith("correction") else f"{start}\nprint(response.json())"


def _write_javascript(method: str, request: str, field: str | None, saves: bool, events: bool, protected: bool) -> str:
    lines, options = [], []
    if protected:
        options.append("headers: { Authorization: `Bearer ${token}` }")
    elif events:
        return (
            f'const events = new EventSource("{request}");\n'
            'for (const name of ["progress", "preview", "done", "failed"])\n'
            "  events.addEventListener(name, (event) => {\n"
            "    console.log(name, JSON.parse(event.data));\n"
            '    if (name === "done" || name === "failed") events.close();\n'
            "  });"
        )
    if field is not None:
        lines += ["const form = new FormData();", f'form.append("{field}", input.files[0]);']
        options.append("body: form")
    if method != "get":
        options.insert(0, f'method: "{method.upper()}"')
    given = f", {{ {', '.join(options)} }}" if options else ""
    lines.append(f'const response = await fetch("{request}"{given});')
    if events:
        lines += [
            "const text = response.body.pipeThrough(new TextDecoderStream());",
            "for await (const part of text) console.log(part);",
        ]
    else:
        lines.append("if (!response.ok) throw new Error((await response.json()).detail);")
        if saves:
            lines.append("audioOrImage.src = URL.createObjectURL(await response.blob());")
        elif method != "delete" or request.endswith("correction"):
            lines.append("console.log(await response.json());")
    return "\n".join(lines)


def _list_schemas(document: dict[str, Any]) -> list[dict[str, Any]]:
    """List the schemas with the name, type, necessity and description of their properties."""
    return [
        {
            "name": name,
            "text": schema.get("description", ""),
            "properties": [
                (field, _write_type(content), field in schema.get("required", ()))
                for field, content in schema.get("properties", {}).items()
            ],
        }
        for name, schema in sorted(document["components"]["schemas"].items())
    ]


def _write_type(schema: dict[str, Any]) -> str:
    """Write a type as people read it, such as `number, 0 to 1` or `list of Row or ErrorRow`."""
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(_SCHEMAS)
    if "anyOf" in schema:
        return " or ".join(_write_type(item) for item in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
    written = str(schema.get("type", "any"))
    if written == "array":
        return f"list of {_write_type(schema.get('items', {}))}"
    if written == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_write_type(schema['additionalProperties'])}"
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    if low is not None and high is not None:
        return f"{written}, {low:,g} to {high:,g}"
    if low is not None:
        return f"{written}, {'above' if 'exclusiveMinimum' in schema else 'at least'} {low:,g}"
    if "maxLength" in schema:
        return f"{written}, at most {schema['maxLength']:,} characters"
    return written
