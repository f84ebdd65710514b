"""Finding a bundle by its folder, its name on the Hub, or the name of a ready model."""

from __future__ import annotations

from pathlib import Path

from genretree.bundle.hub.cache import find_pulled
from genretree.bundle.hub.download import pull
from genretree.bundle.hub.names import HubName, has_scheme, parse_name, require_name
from genretree.bundle.hub.ready import require_local_model
from genretree.bundle.ready import parse_place
from genretree.errors import HubError


def find_bundle(place: str | Path, download: bool = False, progress: bool = False) -> Path:
    """Return the folder of a bundle, given its path, its name on the Hub, or the name of a ready model.

    Parameters
    ----------
    place : path or str
        A folder, which takes precedence; or `user/name` or `user/name@revision`. `hf://user/name` and `zoo:NAME`, a
        ready model, are never folders.
    download : bool
        Pull a bundle that is not in the cache. By default no request is made; a bundle in the cache is never replaced.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    Path
        `place` itself if it is neither a folder nor a name on the Hub; it need not hold a bundle.

    Raises
    ------
    HubError
        If the named bundle is not in the cache, or can't be pulled.
    BundleError
        If the ready model does not exist or is not on this machine.
    """
    ready_model = parse_place(place)
    if ready_model is not None:
        return require_local_model(ready_model, download, progress)
    folder = Path(place)
    if has_scheme(place):
        text = place if isinstance(place, str) else place.as_posix()
        name: HubName | None = parse_name(folder) or require_name(text)  # the path has no slash at its end
    else:
        name = None if folder.exists() else parse_name(folder)
    if name is None:
        return folder
    pulled = find_pulled(name)
    if pulled is not None:
        return pulled
    if download:
        return pull(str(name), progress=progress).folder
    raise HubError(
        f"{name}: no such bundle on this machine, neither as a folder nor pulled from the Hub; "
        f"if it is there, get it with: genretree pull {name}"
    )
