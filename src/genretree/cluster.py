"""A Ray cluster, for what one machine is too small for."""

from __future__ import annotations

from genretree.errors import MissingExtraError, SettingsError


def connect(address: str | None) -> None:
    """Join a Ray cluster, or start Ray on this machine if no address is given.

    Raises
    ------
    MissingExtraError
        If Ray is not installed.
    SettingsError
        If there is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    if ray.is_initialized():
        return
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=True, logging_level="ERROR")
    except (ConnectionError, ValueError) as error:
        raise SettingsError(f"{address}: no Ray cluster there ({error})") from error
