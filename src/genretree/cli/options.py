"""Options and helpers that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from genretree.cli.output import SafeOutput
from genretree.errors import SettingsError
from genretree.parallel import FILE_WORKERS

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
FOLDER = click.Path(path_type=Path)
OUT_FOLDER = click.Path(path_type=Path, file_okay=False)  # checked before the work starts


def quiet_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option `--quiet`."""
    return click.option("--quiet", is_flag=True, help="Hide progress bars.")(command)


def images_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option `--images`."""
    return click.option(
        "--images",
        "image_form",
        type=click.Choice(["auto", "drawn", "grey", "raw"]),
        default="auto",
        show_default=True,
        help="Form of input images: rendered in magma, in grey, or raw dB (.npy).",
    )(command)


def vocabulary_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option `--vocabulary`."""
    text = "YAML file with further genre names and their tags, added to the built-in vocabulary."
    return click.option("--vocabulary", type=click.Path(path_type=Path), help=text)(command)


def download_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option `--download`."""
    text = "Download BUNDLE, by a name on the Hub or zoo:NAME, if it is not in the cache."
    return click.option("--download", is_flag=True, help=text)(command)


def workers_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option `--workers`."""
    return click.option(
        "--workers",
        type=click.IntRange(1),
        default=FILE_WORKERS,
        show_default=True,
        help="Files in work at a time, at most one for each processor.",
    )(command)


def runtime_options(runtime: str, precision: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options `--runtime` and `--precision`, with these defaults."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        command = click.option(
            "--precision",
            type=click.Choice(["auto", "float32", "bf16"]),
            default=precision,
            show_default=True,
            help="Arithmetic of networks; auto: bf16 on processors with hardware support.",
        )(command)
        return click.option(
            "--runtime",
            type=click.Choice(["auto", "torch", "openvino", "onnxruntime"]),
            default=runtime,
            show_default=True,
            help="Runtime for networks; auto: the fastest with an export.",
        )(command)

    return add


def require_folder(bundle: Path) -> Path:
    """Refuse the name of a ready model where only the folder of a bundle can be used."""
    from genretree.bundle.ready import parse_place

    if parse_place(bundle) is not None:
        raise SettingsError(f"{bundle}: give the folder of the bundle instead of its name; genretree models prints it")
    return bundle


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Parse the `NAME=VALUE` arguments of `--set`; each value is YAML."""
    import yaml

    values = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise SettingsError(f"--set must be NAME=VALUE, got '{text}'")
        try:
            values[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SettingsError(f"--set {name.strip()}: cannot parse '{value}' as YAML ({error})") from error
    return values


def refuse(source: str, **options: Any) -> None:
    """Refuse options that have no effect for this type of source, instead of ignoring them silently."""
    unsupported = [f"--{name}" for name, value in options.items() if value]
    if unsupported:
        raise SettingsError(f"{', '.join(unsupported)}: not for {source}")


def write_or_print(path: Path, text: str) -> None:
    """Write text to a file, or to standard output if the path is '-'."""
    from genretree.files import write_text

    if str(path) == "-":
        SafeOutput().write(text)
    else:
        write_text(path, text)
