"""The command serve."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genretree.cli.options import FOLDER, download_option, runtime_options
from genretree.cli.output import echo
from genretree.errors import MissingExtraError, SettingsError

if TYPE_CHECKING:
    from genretree.models.runtime.types import Precision, RuntimeChoice

_MB = 1 << 20


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=FOLDER, metavar="BUNDLE...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve at; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any that is free.")
@click.option("--token-file", type=click.Path(path_type=Path), help="File whose first line all requests must bring.")
@click.option("--no-token", is_flag=True, help="Serve other machines without a token.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="A further name that the service goes by.")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes that decode.  [default: one a processor]")
@click.option("--max-upload", type=click.IntRange(1), default=200, show_default=True, help="MB in a request.")
@click.option("--max-seconds", type=click.FloatRange(1), default=3600, show_default=True, help="Of sound in a file.")
@click.option("--max-files", type=click.IntRange(1, 1000), default=16, show_default=True, help="In a request.")
@click.option("--max-memory", type=click.IntRange(1024), default=2048, show_default=True, help="MB to decode a file.")
@click.option("--timeout", type=click.FloatRange(0.1), default=120, show_default=True, help="Seconds to decode a file.")
@click.option(
    "--queue", type=click.IntRange(0), default=128, show_default=True, help="Files that may wait for a worker."
)
@click.option("--connections", type=click.IntRange(1), default=256, show_default=True, help="At a time.")
@click.option(
    "--keep", type=click.FloatRange(0.01), default=30, show_default=True, help="Minutes that results are kept."
)
@click.option("--batch", type=click.IntRange(0), help="Deprecated: has no effect.")
@runtime_options("auto", "auto")
@download_option
def serve(
    bundles: tuple[Path, ...],
    host: str,
    port: int,
    token_file: Path | None,
    no_token: bool,
    allow_host: tuple[str, ...],
    workers: int | None,
    runtime: RuntimeChoice,
    precision: Precision,
    download: bool,
    **given: Any,
) -> None:
    """Serve a page to drop songs on, and an interface for programs, with one BUNDLE or several (folders, or Hub names).

    Only this machine can reach it, unless --host says otherwise. No request leaves the machine. Models go by their
    folder's name; the first is the default.
    """
    try:
        from genretree.service.http.server import address_of, check_token, choose_hosts, is_local, open_socket
        from genretree.service.http.server import serve as serve_until_signal
    except ModuleNotFoundError as error:
        if error.name in ("fcntl", "resource"):
            raise SettingsError("serve needs Linux or macOS: elsewhere workers can't be bounded") from error
        raise MissingExtraError(error.name or "a package", "serve") from error
    from genretree.bundle.hub import find_bundle
    from genretree.service.config import Limits
    from genretree.service.engine.inference import Service

    if given["batch"] is not None:
        echo("warning: --batch has no effect and will be removed; leave it out", err=True)
    token = _read_token(token_file)
    for bundle in bundles if download else ():
        find_bundle(bundle, download, progress=True)
    chosen = {
        "upload_bytes": given["max_upload"] * _MB,
        "seconds": given["max_seconds"],
        "files": given["max_files"],
        "decode_bytes": given["max_memory"] * _MB,
        "decode_seconds": given["timeout"],
        "waiting": given["queue"],
        "connections": given["connections"],
        "keep_seconds": 60 * given["keep"],
        **({} if workers is None else {"workers": workers}),
    }
    limits = Limits.build({**chosen, "stored_bytes": max(Limits().stored_bytes, 4 * chosen["upload_bytes"])})
    with open_socket(host, port) as taken:
        check_token(token, is_local(taken), no_token)
        service = Service(bundles, limits, runtime, precision)
        address = address_of(taken, allow_host)
        names = ", ".join(service.models)

        def ready() -> None:
            echo(f"genretree serves {names} at {address} (Ctrl-C ends it)")

        serve_until_signal(service, taken, token, choose_hosts(taken, host, allow_host), ready)


def _read_token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get("GENRETREE_TOKEN", "").strip() or None
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: the token can't be read ({error})") from error
    if not lines or not lines[0].strip():
        raise SettingsError(f"{file}: has no token in its first line")
    return lines[0].strip()
