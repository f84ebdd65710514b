"""Messages of the Python layer, which name arguments, for people who type options."""

from __future__ import annotations

import ast
import re
import shlex

import click

_ARGUMENT = re.compile(r"`([a-z_]+)(?:=([^`\n]+))?`")


def show_options(message: str, command: click.Command) -> str:
    """Replace the Python arguments in a message by options of a command.

    An argument that is not an option of the command itself is a setting, where the command has `--set`; other text in
    backticks stays as it is.

    Parameters
    ----------
    message : str
        Names arguments in backticks, with or without a value: `overwrite=True`, `part='all'`, `levels`.
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

    def show(found: re.Match[str]) -> str:
        name, value = found[1], _plain(found[2])
        option = by_name.get(aliases.get(name, name))
        if option is not None:
            flags = [other for other in options if other.name == option.name and other.is_flag]
            if flags:
                return next((flag for flag in flags if str(flag.flag_value) == value), option).opts[0]
            return option.opts[0] if value is None else f"{option.opts[0]} {shlex.quote(value)}"
        if settings is None or value is None:
            return found[0]
        family = "FAMILY:" if ":" in (settings.metavar or "") else ""
        return f"{settings.opts[0]} {family}{name}={shlex.quote(value)}"

    return _ARGUMENT.sub(show, message)


def _plain(value: str | None) -> str | None:
    """Write a Python value as the command line takes it: text without quotes, a list of names as YAML."""
    if value is None:
        return None
    try:
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a placeholder, such as FOLDER
        return value
    return f"[{', '.join(map(str, found))}]" if isinstance(found, list | tuple) else str(found)
