"""The Hub's client, and the conversion of its exceptions to HubError."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from genretree.bundle.hub.names import HubName
from genretree.errors import HubError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_LOG_IN = "log in with: hf auth login"


def open_hub() -> HfApi:
    """Create the client; `$HF_ENDPOINT` selects the Hub, and the token is that of `hf auth login`."""
    from huggingface_hub import HfApi

    return HfApi(
        endpoint=os.environ.get("HF_ENDPOINT") or None,
        library_name="genretree",
        library_version=version("genretree"),
    )


@contextmanager
def explained(name: HubName) -> Iterator[None]:
    """Convert the client's exceptions to HubError."""
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise HubError(f"{name}: HF_HUB_OFFLINE forbids any request to the Hub; unset it") from error
    except errors.GatedRepoError as error:
        raise HubError(f"{name}: access is gated; request it on the model's page and {_LOG_IN}") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(f"{name}: no such model on the Hub, or it is private; {_LOG_IN}") from error
    except errors.RevisionNotFoundError as error:
        raise HubError(
            f"{name.repo}: has no revision '{name.revision}'; name a branch, a tag or a commit hash"
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise HubError(
            f"{name}: lacks a file of the bundle ({_last_line(error)}); its owner must push it again"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        why = (
            f"permission denied; {_LOG_IN} with a token that has write access"
            if status in (401, 403)
            else _last_line(error)
        )
        raise HubError(f"{name}: {why}") from error
    except errors.LocalEntryNotFoundError as error:
        raise HubError(f"{name}: the Hub can't be reached; check the connection and try again") from error
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # from the HTTP library, which differs between versions
        raise HubError(f"{name}: the Hub can't be reached ({_last_line(error)})") from error
    except (ValueError, RuntimeError) as error:  # invalid metadata or an interrupted upload
        raise HubError(f"{name}: {_last_line(error)}") from error


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
