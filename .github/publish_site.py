"""Put a built site of the documentation into a folder of its version, next to those of other versions.

    python .github/publish_site.py docs/_build SITE v0.2.0

SITE is a checkout of the branch `gh-pages`. The version is a tag, or `dev` for the branch `main`. SITE/index.html leads
to the newest release, or to `dev` before there is one, and SITE/versions.html lists all versions.
"""

from __future__ import annotations

import html
import re
import shutil
import sys
from pathlib import Path

DEV = "dev"
_TITLE = "Versions of genretree's documentation"
_VERSION = re.compile(r"v?(\d+(?:\.\d+)*)")


def publish(built: Path, site: Path, name: str) -> list[str]:
    """Copy a built site, and return all versions of the site, the newest first.

    Raises
    ------
    ValueError
        If the name is neither a version nor `dev`.
    """
    match = _VERSION.fullmatch(name)
    if match is None and name != DEV:
        raise ValueError(f"'{name}' is neither a version such as v0.2.0 nor '{DEV}'")
    version = match[1] if match else DEV
    shutil.rmtree(site / version, ignore_errors=True)
    shutil.copytree(built, site / version)
    (site / ".nojekyll").touch()  # pages whose names begin with an underscore are shown, too
    found = [path.name for path in site.iterdir() if path.is_dir() and _VERSION.fullmatch(path.name)]
    releases = sorted(found, key=lambda each: [int(part) for part in each.split(".")], reverse=True)
    versions = [*releases, *([DEV] if (site / DEV).is_dir() else [])]
    first = html.escape(versions[0])
    (site / "index.html").write_text(
        '<!doctype html><meta charset="utf-8"><title>genretree</title>'
        f'<meta http-equiv="refresh" content="0; url={first}/"><a href="{first}/">genretree {first}</a>\n',
        encoding="utf-8",
    )
    items = "".join(f'<li><a href="{html.escape(each)}/">{html.escape(each)}</a>\n' for each in versions)
    (site / "versions.html").write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{_TITLE}</title><h1>{_TITLE}</h1>\n<ul>\n{items}</ul>\n",
        encoding="utf-8",
    )
    return versions


if __name__ == "__main__":
    print("\n".join(publish(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])))  # noqa: T201
