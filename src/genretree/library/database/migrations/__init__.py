"""Create the database's schema, and migrate earlier formats with numbered SQL scripts.

`schema.sql` is the current format. `NNN_name.sql` in this folder migrates from format NNN - 1 to format NNN. The format
is stored in `PRAGMA user_version`; earlier versions stored it in the table `setting`, which is still updated, so that
they refuse a format that they don't know.
"""

from __future__ import annotations

import sqlite3
from importlib.resources import files

FORMAT = 4


def create_schema(connection: sqlite3.Connection) -> None:
    """Create the tables of the current format in an empty database."""
    schema = files("genretree.library.database").joinpath("schema.sql").read_text(encoding="utf-8")
    connection.executescript(
        f"BEGIN; {schema} INSERT INTO setting VALUES ('format', '{FORMAT}'); PRAGMA user_version = {FORMAT}; COMMIT;"
    )


def read_format(connection: sqlite3.Connection) -> int | None:
    """Read the format of a database; None if it records none."""
    row = connection.execute("SELECT value FROM setting WHERE name = 'format'").fetchone()  # fails in other databases
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    setting = int(row[0]) if row is not None and str(row[0]).isdecimal() else 0
    return max(version, setting) or None


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a database to the current format.

    The caller holds the write transaction: the format is read inside it, because another process may have migrated the
    database in the meantime, and a failure leaves the database as it was.
    """
    format_ = read_format(connection)
    assert format_ is not None
    for number, script in _scripts():
        if number > format_:
            for statement in _statements(script):
                connection.execute(statement)
    connection.execute("UPDATE setting SET value = ? WHERE name = 'format'", (str(FORMAT),))
    connection.execute(f"PRAGMA user_version = {FORMAT}")


def emulate_current_format(connection: sqlite3.Connection) -> None:
    """Present an earlier format as the current one, for this connection only, without writing to the database."""
    if "own" not in {row[1] for row in connection.execute("PRAGMA table_info(file)")}:
        connection.execute("CREATE TEMP VIEW file AS SELECT *, NULL AS own FROM main.file")
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'embedding'").fetchone():
        connection.execute("CREATE TEMP TABLE embedding (id, model, content, vector, error, message)")


def _scripts() -> list[tuple[int, str]]:
    folder = files(__name__)
    names = sorted(item.name for item in folder.iterdir() if item.name.endswith(".sql"))
    return [(int(name.partition("_")[0]), folder.joinpath(name).read_text(encoding="utf-8")) for name in names]


def _statements(script: str) -> list[str]:
    """Split a script, since `executescript` would commit the caller's transaction."""
    statements, begun = [], ""
    for line in script.splitlines(keepends=True):
        begun += line
        if sqlite3.complete_statement(begun):
            statements.append(begun)
            begun = ""
    return statements
