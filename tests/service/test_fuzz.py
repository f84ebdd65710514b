"""What the interface's own document allows, and what it doesn't, made up by schemathesis."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from serving import Server

from genretree.service.engine.inference import Service
from genretree.service.http.app import build_openapi, create_app

pytestmark = pytest.mark.slow

LEFT_OUT = [positive_data_acceptance]  # random bytes are allowed as files, and no sound
DOCUMENT = build_openapi(create_app(Service([])))

schema = schemathesis.openapi.from_dict(DOCUMENT)


def test_the_document_is_the_one_that_is_served(server: Server) -> None:
    assert server.client.get("/openapi.json").json() == DOCUMENT


@schema.parametrize()
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_the_document_says(case: schemathesis.Case, server: Server) -> None:
    case.call_and_validate(base_url=server.url, excluded_checks=LEFT_OUT)
    assert server.process.poll() is None
