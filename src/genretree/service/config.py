"""How much a service takes on."""

from __future__ import annotations

from pydantic import Field

from genretree.parallel import available_processors
from genretree.settings import Settings

MB = 1 << 20


class Limits(Settings):
    """What a service takes on before it refuses."""

    workers: int = Field(default_factory=available_processors, ge=1, le=256, description="processes that decode")
    upload_bytes: int = Field(200 * MB, ge=1024, description="of all files of a request")
    files: int = Field(16, ge=1, le=1000, description="in a request")
    seconds: float = Field(3600.0, gt=0, description="of sound in a file")
    stored_bytes: int = Field(4096 * MB, ge=1024, description="of all uploads and results at a time")
    upload_seconds: float = Field(300.0, gt=0, description="until an upload has to be complete")
    idle_seconds: float = Field(15.0, gt=0, description="that a client may send, or take, nothing")
    decode_seconds: float = Field(120.0, gt=0, description="until a file has to be decoded")
    decode_bytes: int = Field(2048 * MB, ge=1024 * MB, description="of memory that decoding a file may take")
    explain_seconds: float = Field(900.0, gt=0, description="until an explanation has to be there")
    waiting: int = Field(128, ge=0, description="files that wait to be decoded")
    waiting_explanations: int = Field(8, ge=0, description="that wait while another one is made")
    jobs: int = Field(64, ge=1, description="kept with their results")
    keep_seconds: float = Field(1800.0, gt=0, description="that a job is kept after it is done")
    connections: int = Field(256, ge=1, description="at a time")
    header_bytes: int = Field(16 * 1024, ge=1024, description="of a request's headers")
    batch_slices: int = Field(64, ge=0, description="ignored since 0.2")
    batch_seconds: float = Field(0.004, ge=0, le=1, description="ignored since 0.2")
    closing_seconds: float = Field(30.0, ge=0, description="that running requests have when the service ends")
