"""Connection to a Ray cluster."""

from __future__ import annotations

from genretree.errors import MissingExtraError, SettingsError


def connect(address: str | None) -> None:
    """Connect to a Ray cluster, or start Ray locally without an address.

    Raises
    ------
    MissingExtraError
        If Ray is not installed.
    SettingsError
        If no cluster runs at the address.
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
        raise SettingsError(f"{address}: cannot connect to a Ray cluster ({error}); check it") from error
