"""The Hub's client, which travels under our name, and its errors in one sentence each."""

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
    """Give the client; the Hub is `$HF_ENDPOINT` if that is set, the token the one the user logged in with."""
    from huggingface_hub import HfApi

    return HfApi(
        endpoint=os.environ.get("HF_ENDPOINT") or None,
        library_name="genretree",
        library_version=version("genretree"),
    )


@contextmanager
def explained(name: HubName) -> Iterator[None]:
    """Raise whatever goes wrong with the Hub as a HubError that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise HubError(f"{name}: HF_HUB_OFFLINE forbids any request to the Hub; unset it") from error
    except errors.GatedRepoError as error:
        raise HubError(f"{name}: its owner asks for consent; give it on its page, and {_LOG_IN}") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(f"{name}: there is no such model on the Hub, or it is private; {_LOG_IN}") from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{name.repo}: has no revision '{name.revision}'") from error
    except errors.RemoteEntryNotFoundError as error:
        raise HubError(f"{name}: lacks a file of the bundle ({_said(error)}); its owner must push it again") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        why = f"not allowed; {_LOG_IN}, with a token that may write" if status in (401, 403) else _said(error)
        raise HubError(f"{name}: {why}") from error
    except errors.LocalEntryNotFoundError as error:
        raise HubError(f"{name}: the Hub can't be reached; check the connection and try again") from error
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # of the HTTP library, whichever it is
        raise HubError(f"{name}: the Hub can't be reached ({_said(error)})") from error
    except (ValueError, RuntimeError) as error:  # metadata that the Hub refuses; an upload that breaks off
        raise HubError(f"{name}: {_said(error)}") from error


def _said(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
