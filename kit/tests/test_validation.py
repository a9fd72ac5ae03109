"""Requests are held against their contracts, and what is wrong is told field by field."""

from typing import Any

import pytest
from google.protobuf.message import Message

from vlinders.auth.v1.api_keys_pb2 import CreateApiKeyRequest
from vlinders.auth.v1.identity_pb2 import IntrospectRequest, ReportKeyUseRequest
from vlinders_kit.errors import MOST_VIOLATIONS, InvalidRequest
from vlinders_kit.validation import validate


def key(**over: Any) -> CreateApiKeyRequest:
    return CreateApiKeyRequest(**{"name": "laptop", "permissions": ["usage:read"], **over})


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (key(name=""), ["name"]),
        (key(permissions=[]), ["permissions"]),
        (key(name="", permissions=["usage:read", "all"]), ["name", "permissions[1]"]),
        (IntrospectRequest(), ["credential"]),
        (key(name="lap\0top"), ["name"]),
        (ReportKeyUseRequest(uses=[{}, {"api_key_id": "\0"}]), ["uses[1].api_key_id"]),
    ],
)
def test_each_field_that_is_wrong_is_named(request_: Message, fields: list[str]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        validate(request_)

    assert [violation.field for violation in refused.value.violations] == fields


def test_a_number_or_the_length_of_nothing_is_no_text() -> None:
    validate(ReportKeyUseRequest(uses=[{}]))
    validate(IntrospectRequest(api_key_sha256=bytes(32)))


def test_of_a_thousand_faults_the_first_hundred_are_told() -> None:
    with pytest.raises(InvalidRequest) as refused:
        validate(key(permissions=["all"] * 1_000))

    assert len(refused.value.violations) == MOST_VIOLATIONS
