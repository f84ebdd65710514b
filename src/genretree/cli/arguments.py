"""Translate argument names in error messages into command-line options."""

from __future__ import annotations

import ast
import re
import shlex

import click

_ARGUMENT = re.compile(r"`([a-z_]+)(?:=([^`\n]+))?`")


def show_options(message: str, command: click.Command) -> str:
    """Replace the Python arguments in a message with options of a command.

    If the command has `--set`, an argument with a value that is not an option is shown as a setting. Other text in
    backticks is not changed.

    Parameters
    ----------
    message : str
        Has arguments in backticks, with or without a value: `overwrite=True`, `part='all'`, `levels`.
    command : click.Command

    Examples
    --------
    >>> command = click.Command("x", params=[click.Option(["--overwrite"], is_flag=True), click.Option(["--part"])])
    >>> show_options("exists already; replace it with `overwrite=True`", command)
    'exists already; replace it with --overwrite'
    >>> show_options("the part 'test' is empty; try `part='all'`", command)
    "the part 'test' is empty; try --part all"
    """
    options = [param for param in command.params if isinstance(param, click.Option)]
    by_name: dict[str, click.Option] = {}
    for option in options:
        by_name[option.opts[0].lstrip("-").replace("-", "_")] = option
        by_name.setdefault(option.name or "", option)
    settings = by_name.get("set")
    aliases = {"path": "db"} if "db" in by_name else {}

    def show(match: re.Match[str]) -> str:
        name, value = match[1], _format_value(match[2])
        option = by_name.get(aliases.get(name, name))
        if option is not None:
            flags = [other for other in options if other.name == option.name and other.is_flag]
            if flags:
                return next((flag for flag in flags if str(flag.flag_value) == value), option).opts[0]
            return option.opts[0] if value is None else f"{option.opts[0]} {shlex.quote(value)}"
        if settings is None or value is None:
            return match[0]
        family = "FAMILY:" if ":" in (settings.metavar or "") else ""
        return f"{settings.opts[0]} {family}{name}={shlex.quote(value)}"

    return _ARGUMENT.sub(show, message)


def show_current_options(message: str) -> str:
    """Replace the Python arguments in a message by options of the command that is running, if there is one."""
    context = click.get_current_context(silent=True)
    return message if context is None else show_options(message, context.command)


def _format_value(value: str | None) -> str | None:
    """Format a Python literal for the command line: text without quotes, a list of names as YAML."""
    if value is None:
        return None
    try:
        parsed = ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a placeholder, such as FOLDER
        return value
    return f"[{', '.join(map(str, parsed))}]" if isinstance(parsed, list | tuple) else str(parsed)
