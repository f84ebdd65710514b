"""Resource limits of a service."""

from __future__ import annotations

from pydantic import Field

from genretree.parallel import available_processors
from genretree.settings import Settings

MB = 1 << 20
MAX_TAG_LENGTH = 300  # characters of a tag in a response


class Limits(Settings):
    """Resource limits of a service."""

    workers: int = Field(default_factory=available_processors, ge=1, le=256, description="number of decoding processes")
    upload_bytes: int = Field(200 * MB, ge=1024, description="maximum bytes of all files in a request")
    files: int = Field(16, ge=1, le=1000, description="maximum files in a request")
    seconds: float = Field(3600.0, gt=0, description="maximum seconds of audio in a file")
    stored_bytes: int = Field(4096 * MB, ge=1024, description="maximum bytes of stored uploads and results")
    upload_seconds: float = Field(300.0, gt=0, description="time limit of an upload in seconds")
    idle_seconds: float = Field(
        15.0, gt=0, description="time limit in seconds for a client that sends or reads nothing"
    )
    decode_seconds: float = Field(120.0, gt=0, description="time limit of decoding a file in seconds")
    decode_bytes: int = Field(2048 * MB, ge=1024 * MB, description="memory limit of a decoding process in bytes")
    explain_seconds: float = Field(900.0, gt=0, description="time limit of an explanation in seconds")
    waiting: int = Field(128, ge=0, description="maximum files in the decoding queue")
    waiting_explanations: int = Field(8, ge=0, description="maximum explanations in the queue")
    jobs: int = Field(256, ge=1, description="maximum stored jobs")
    keep_seconds: float = Field(1800.0, gt=0, description="seconds until a finished job expires")
    connections: int = Field(256, ge=1, description="maximum simultaneous connections")
    header_bytes: int = Field(16 * 1024, ge=1024, description="maximum bytes of a request's headers")
    header_lines: int = Field(100, ge=1, description="maximum number of a request's headers")
    wrong_token_seconds: float = Field(
        0.25,
        ge=0,
        description="delay of the second wrong token of an address in seconds; doubles with each further one",
    )
    batch_slices: int = Field(64, ge=0, description="ignored since 0.2")
    batch_seconds: float = Field(0.004, ge=0, le=1, description="ignored since 0.2")
    closing_seconds: float = Field(30.0, ge=0, description="seconds that running requests get at shutdown")
