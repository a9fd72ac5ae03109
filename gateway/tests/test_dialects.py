"""What every dialect promises, and what its tables must not say."""

import re
from typing import Any

import pytest
from buf.validate import validate_pb2 as rules

from vlinders.api.v1 import options_pb2 as api
from vlinders.auth.v1.api_keys_pb2 import CreateApiKeyRequest
from vlinders_gateway import failures, refusals
from vlinders_gateway.dialects import DIALECTS, Dialect, Meta, vlinders
from vlinders_gateway.dialects.paging import Shown
from vlinders_gateway.failures import Refusal
from vlinders_gateway.operations import operations
from vlinders_gateway.schemas import comments
from vlinders_kit import pipe
from vlinders_kit.errors import AppError

MESSAGES = {
    message.full_name: message
    for operation in operations()
    for message in (operation.request.DESCRIPTOR, operation.response.DESCRIPTOR)
}
META = Meta("req_1", "2026-02-28T10:30:00Z")
FIELDS = [field for message in MESSAGES.values() for field in message.fields]


OURS = (refusals, pipe)
"""Modules whose errors no contract names."""


def reasons() -> set[str]:
    """What can be the reason of a failure: what contracts name, the edge's own and the kit's."""
    said = {
        word for text in comments().values() for word in re.findall(r"\b[A-Z]+_[A-Z_]+\b", text)
    }
    return said | {kind.reason for kind in _all(AppError)}


def _all(kind: Any) -> Any:
    for sub in kind.__subclasses__():
        yield sub
        yield from _all(sub)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
class TestEvery:
    def test_says_where_each_operation_is_or_why_not(self, dialect: Dialect) -> None:
        named = {operation.name for operation in operations()}
        spelt = named if dialect.routes is None else set(dialect.routes)
        assert spelt | set(dialect.without) == named
        assert all(dialect.without.values())

    def test_has_no_two_operations_at_one_address(self, dialect: Dialect) -> None:
        places = [(verb, re.sub(r"{\w+}", "{}", path)) for _, verb, path in dialect.places()]
        assert len(places) == len(set(places))

    def test_names_in_paths_are_fields_of_the_request(self, dialect: Dialect) -> None:
        for operation, _, path in dialect.places():
            spelt = {dialect.codec.spelling(field) for field in operation.request.DESCRIPTOR.fields}
            assert set(re.findall(r"{(\w+)}", path)) <= spelt

    def test_renames_only_what_exists(self, dialect: Dialect) -> None:
        known = {field.name for field in FIELDS}
        known |= {f"{field.containing_type.name}.{field.name}" for field in FIELDS}
        assert set(dialect.codec.names) | dialect.codec.hidden <= known

    def test_calls_no_two_fields_of_a_message_the_same(self, dialect: Dialect) -> None:
        for message in MESSAGES.values():
            spelt = [dialect.codec.spelling(field) for field in message.fields]
            assert len(spelt) == len(set(spelt))

    def test_its_tables_name_only_operations(self, dialect: Dialect) -> None:
        named = {operation.name for operation in operations()}
        tables = (dialect.bare, dialect.asks, dialect.answers, dialect.without)
        assert all(set(table) <= named for table in tables)
        assert len(dialect.asks) + len(dialect.answers) <= 5

    def test_has_an_envelope_for_every_failure(self, dialect: Dialect) -> None:
        for http in {*failures.HTTP.values(), *failures.BY_REASON.values(), 500}:
            refusal = Refusal(http, "REASON", "It failed.", (), {}, None)
            status, _ = dialect.failure(refusal, META)
            assert 400 <= status <= 599
            assert dialect.event(refusal)


def test_undeclared_policies_are_not_served() -> None:
    for operation in operations():
        assert operation.policy.access in (api.ACCESS_PUBLIC, api.ACCESS_CALLER), operation.name


def test_operations_for_keys_need_a_scope_that_keys_can_have() -> None:
    field = CreateApiKeyRequest.DESCRIPTOR.fields_by_name["permissions"]
    items = field.GetOptions().Extensions[rules.field].repeated.items.string
    scopes = {operation.policy.scope for operation in operations()} - {""}
    assert scopes <= set(getattr(items, "in"))


def test_tables_name_only_reasons_that_exist() -> None:
    assert set(failures.BY_REASON) | set(vlinders.CODES_BY_REASON) <= reasons()


@pytest.mark.parametrize(
    ("total", "limit", "pages"), [(150, 20, 8), (50, 20, 3), (0, 20, 0), (20, 20, 1), (21, 20, 2)]
)
def test_pages_are_counted_as_the_contracts_count(total: int, limit: int, pages: int) -> None:
    assert Shown(1, limit, total).pages == pages
