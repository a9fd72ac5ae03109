"""What is served is what the documents say: requests made from the schemas, good ones and bad."""

import re
from typing import Any
from uuid import uuid4

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from tests.platform import PASSWORD, Platform
from vlinders.api.v1 import options_pb2 as api
from vlinders_gateway.dialects import DIALECTS, Dialect

EXAMPLES = 6
"""Requests for each operation, of either kind; the same ones in each run."""

LONGEST_URL = 8_000
"""A longer one is refused before anybody knows whose it is, and so in the canonical words."""

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
]

KINDS = {"good": GenerationMode.POSITIVE, "bad": GenerationMode.NEGATIVE}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_every_answer_is_as_the_document_says(
    platform: Platform, dialect: Dialect, kind: str
) -> None:
    url = platform.stack.url
    document = schemathesis.openapi.from_url(url + dialect.mounts[0] + dialect.described_at[0])
    rows = {operation.name: operation for operation, _, _ in dialect.places()}
    user, operator = a_user(url), the_operator(platform)
    wrong = []
    for made in document.get_all_operations():
        asked = made.ok()
        name = asked.definition.raw["operationId"]
        runs_it = rows[name].policy.role == api.ROLE_OPERATOR
        token = a_user(url) if name == "Logout" else operator if runs_it else user
        if kind == "good" or has_input(asked):
            wrong += faults(asked, KINDS[kind], token)
    assert wrong == []


def faults(asked: Any, mode: GenerationMode, token: str) -> list[str]:
    """What is wrong with the answers to some requests for an operation."""
    found: list[str] = []

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=asked.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if len(case.as_transport_kwargs()["url"]) > LONGEST_URL:
            return
        answer = case.call(headers={"Authorization": f"Bearer {token}"}, timeout=30)
        try:
            case.validate_response(answer, checks=CHECKS)
        except schemathesis.errors.FailureGroup as failures:
            told = (str(each) for each in failures.exceptions)
            found.extend(f"{asked.label}: {each}" for each in told if not is_allowed(each))

    ask()
    return found


def is_allowed(failure: str) -> bool:
    """Whether what was wrong with the request is nothing: members and parameters that no contract
    knows are passed over, and no credential was left out, whatever the generator meant to do."""
    broken = re.findall(r"^ *- (.*)$", failure.partition("Invalid component")[2], re.MULTILINE)
    return bool(broken) and all(
        "additionalProperties" in each or "(was Authorization)" in each for each in broken
    )


def has_input(asked: Any) -> bool:
    """Whether there is anything to do wrong."""
    return bool(asked.body or asked.query or asked.path_parameters)


def a_user(url: str) -> str:
    """The access token of somebody who has just signed up."""
    form = {"email": f"{uuid4().hex}@example.com", "password": PASSWORD}
    asked = {**form, "full_name": "Ada", "tenant_name": "Engines"}
    assert httpx.post(f"{url}/v1/auth/register", json=asked).status_code == 201
    return signed_in(url, form)


def the_operator(platform: Platform) -> str:
    access = platform.stack.access
    form = {"email": access["admin_email"], "password": access["admin_password"]}
    return signed_in(platform.stack.url, form)


def signed_in(url: str, form: dict[str, str]) -> str:
    answer = httpx.post(f"{url}/v1/auth/login", json=form, timeout=30)
    return str(answer.json()["data"]["access_token"])
