"""What the commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from genretree.cli.output import SafeOutput
from genretree.errors import SettingsError

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
FOLDER = click.Path(path_type=Path)
OUT_FOLDER = click.Path(path_type=Path, file_okay=False)  # checked before the work, not after it


def quiet_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option `--quiet`."""
    return click.option("--quiet", is_flag=True, help="Show no progress bars.")(command)


def images_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option `--images`."""
    return click.option(
        "--images",
        "image_form",
        type=click.Choice(["auto", "drawn", "grey", "raw"]),
        default="auto",
        show_default=True,
        help="Form of images given instead of sound: drawn in magma, in grey, or raw dB (.npy).",
    )(command)


def download_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option `--download`."""
    text = "Pull BUNDLE from the Hub if it is not here."
    return click.option("--download", is_flag=True, help=text)(command)


def runtime_options(runtime: str, precision: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options `--runtime` and `--precision`, with these defaults."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        command = click.option(
            "--precision",
            type=click.Choice(["auto", "float32", "bf16"]),
            default=precision,
            show_default=True,
            help="auto: bf16 where the processor is made for it.",
        )(command)
        return click.option(
            "--runtime",
            type=click.Choice(["auto", "torch", "openvino", "onnxruntime"]),
            default=runtime,
            show_default=True,
            help="What runs networks; auto: the fastest there is an export for.",
        )(command)

    return add


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Read the words NAME=VALUE of `--set`, each value as YAML."""
    import yaml

    values = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise SettingsError(f"--set takes NAME=VALUE, not '{text}'")
        try:
            values[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SettingsError(f"--set {name.strip()}: '{value}' is no value ({error})") from error
    return values


def refuse(source: str, **given: Any) -> None:
    """Refuse options that say nothing about this kind of source, rather than leave them out silently."""
    unfit = [f"--{name}" for name, value in given.items() if value]
    if unfit:
        raise SettingsError(f"{', '.join(unfit)}: not for {source}")


def write_or_print(path: Path, text: str) -> None:
    """Write a file, or to standard output for '-'."""
    from genretree.files import write_text

    if str(path) == "-":
        SafeOutput().write(text)
    else:
        write_text(path, text)
