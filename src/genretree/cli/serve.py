"""The command `serve`."""

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
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind; 0.0.0.0 for all interfaces.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 for any free port."
)
@click.option("--token-file", type=click.Path(path_type=Path), help="File whose first line is the access token.")
@click.option("--no-token", is_flag=True, help="Allow access from other machines without a token.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="Additional allowed Host name.")
@click.option(
    "--workers", type=click.IntRange(1, 256), help="Number of decoding processes.  [default: number of processors]"
)
@click.option("--max-upload", type=click.IntRange(1), default=200, show_default=True, help="Maximum MB in a request.")
@click.option(
    "--max-seconds",
    type=click.FloatRange(1),
    default=3600,
    show_default=True,
    help="Maximum seconds of audio in a file.",
)
@click.option(
    "--max-files", type=click.IntRange(1, 1000), default=16, show_default=True, help="Maximum files in a request."
)
@click.option(
    "--max-memory",
    type=click.IntRange(1024),
    default=2048,
    show_default=True,
    help="Memory limit for decoding a file, in MB.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1),
    default=120,
    show_default=True,
    help="Time limit for decoding a file, in seconds.",
)
@click.option(
    "--queue", type=click.IntRange(0), default=128, show_default=True, help="Maximum files in the decoding queue."
)
@click.option(
    "--connections", type=click.IntRange(1), default=256, show_default=True, help="Maximum simultaneous connections."
)
@click.option(
    "--keep", type=click.FloatRange(0.01), default=30, show_default=True, help="Minutes until finished jobs expire."
)
@click.option(
    "--corrections",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for genres that users correct on the page, with the audio; prepare reads its corrections.csv.",
)
@click.option(
    "--music",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the training music: the page then names and plays the nearest training tracks.",
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
    corrections: Path | None,
    music: Path | None,
    **options: Any,
) -> None:
    """Serve a web page and an HTTP interface for one BUNDLE or several (folders, Hub names or zoo:NAME).

    By default only this machine can reach the service (see --host), and it sends no requests to others. Models are
    named after their folders; the first is the default.
    """
    try:
        from genretree.service.http.server import allowed_hosts, is_local, open_socket, service_url
        from genretree.service.http.server import serve as serve_until_signal
    except ModuleNotFoundError as error:
        if error.name in ("fcntl", "resource"):
            raise SettingsError("serve needs Linux or macOS, which can limit the resources of its workers") from error
        raise MissingExtraError(error.name or "a package", "serve") from error
    from genretree.bundle.hub import find_bundle
    from genretree.service.config import Limits
    from genretree.service.engine.inference import Service
    from genretree.service.training_music import TrainingMusic

    if options["batch"] is not None:
        echo("warning: --batch has no effect and will be removed; leave it out", err=True)
    token = _read_token(token_file)
    for bundle in bundles if download else ():
        find_bundle(bundle, download, progress=True)
    limit_options = {
        "upload_bytes": options["max_upload"] * _MB,
        "seconds": options["max_seconds"],
        "files": options["max_files"],
        "decode_bytes": options["max_memory"] * _MB,
        "decode_seconds": options["timeout"],
        "waiting": options["queue"],
        "connections": options["connections"],
        "keep_seconds": 60 * options["keep"],
        **({} if workers is None else {"workers": workers}),
    }
    limits = Limits.build(
        {**limit_options, "stored_bytes": max(Limits().stored_bytes, 4 * limit_options["upload_bytes"])}
    )
    with open_socket(host, port) as sock:
        check_token(token, is_local(sock), no_token)
        near = None if music is None else TrainingMusic(music)
        service = Service(bundles, limits, runtime, precision, corrections, near)
        address = service_url(sock, allow_host)
        names = ", ".join(service.models)

        def ready() -> None:
            echo(f"genretree serves {names} at {address} (Ctrl-C ends it)")

        serve_until_signal(service, sock, token, allowed_hosts(sock, host, allow_host), ready)


def check_token(token: str | None, local: bool, allow_missing: bool) -> None:
    """Raise SettingsError if a token is too short, or missing although other machines can reach the service."""
    if token is not None and len(token) < 16:
        raise SettingsError(f"the token has {len(token)} characters; use at least 16")
    if token is None and not local and not allow_missing:
        raise SettingsError(
            "other machines can reach this service; set a token with --token-file FILE (or GENRETREE_TOKEN), or pass "
            "--no-token to allow access without one"
        )


def _read_token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get("GENRETREE_TOKEN", "").strip() or None
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: can't read the token ({error})") from error
    if not lines or not lines[0].strip():
        raise SettingsError(f"{file}: the first line is empty; write the token there")
    return lines[0].strip()
