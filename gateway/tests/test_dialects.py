"""What every dialect promises, and what its tables must not say."""

import re
from typing import Any, cast

import pytest
from buf.validate import validate_pb2 as rules
from google.protobuf.message_factory import GetMessageClass

from vlinders.api.v1 import options_pb2 as api
from vlinders.auth.v1.api_keys_pb2 import CreateApiKeyRequest
from vlinders_gateway import failures, refusals
from vlinders_gateway.dialects import (
    DIALECTS,
    Dialect,
    Meta,
    chinese,
    english,
    lyss,
    maas,
    massrouter,
    owl,
    vlinders,
)
from vlinders_gateway.dialects.codes import Codes
from vlinders_gateway.dialects.paging import Numbers, Shown
from vlinders_gateway.dialects.shapes import shaped
from vlinders_gateway.failures import Refusal
from vlinders_gateway.operations import named, operations
from vlinders_gateway.rules import limits_of
from vlinders_gateway.schemas import comments
from vlinders_kit import pipe
from vlinders_kit.errors import AppError, InvalidRequest, Violation
from vlinders_kit.policies import method_of, policy_of

JOINED = [join for dialect in DIALECTS for joins in dialect.joins.values() for join in joins]
MESSAGES: dict[str, Any] = {
    message.full_name: message
    for operation in operations()
    for message in (operation.request.DESCRIPTOR, operation.response.DESCRIPTOR, operation.row)
} | {join.rows.message_type.full_name: join.rows.message_type for join in JOINED}
CODES = [table.CODES for table in (vlinders, maas, massrouter, lyss, owl)]
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
        for operation in operations():
            placed = dialect.routes is None or operation.name in dialect.routes
            excused = dialect.lacks(operation)
            assert placed or excused, operation.name
            assert dialect.routes is None or not (placed and excused), operation.name

    def test_excuses_only_what_exists(self, dialect: Dialect) -> None:
        named = {name for row in operations() for name in (row.name, row.service)}
        assert set(dialect.without) <= named
        assert all(dialect.without.values())

    def test_has_no_two_operations_at_one_address(self, dialect: Dialect) -> None:
        places = [(verb, re.sub(r"{\w+}", "{}", path)) for _, verb, path in dialect.places()]
        assert len(places) == len(set(places))

    def test_names_in_paths_are_fields_of_the_request(self, dialect: Dialect) -> None:
        for operation, _, path in dialect.places():
            spelt = {dialect.codec.spelling(field) for field in operation.request.DESCRIPTOR.fields}
            assert set(re.findall(r"{(\w+)}", path)) <= spelt

    def test_its_codec_names_only_what_exists(self, dialect: Dialect) -> None:
        codec = dialect.codec
        known = {field.name for field in FIELDS}
        known |= {f"{field.containing_type.name}.{field.name}" for field in FIELDS}
        for table in (codec.names, codec.values, codec.units, codec.nulls, codec.hidden):
            assert set(table) <= known

    def test_tells_in_units_only_what_is_counted_in_nanos(self, dialect: Dialect) -> None:
        told = {name.rpartition(".")[2] for name in dialect.codec.units}
        assert all(name.endswith("_nanos") for name in told)

    def test_asks_besides_for_what_its_answer_can_tell_of_whom(self, dialect: Dialect) -> None:
        served = {operation.name: operation for operation, _, _ in dialect.places()}
        for name, besides in dialect.besides.items():
            own, other = served[name], named(besides.operation)
            assert own.policy == other.policy
            assert besides.by in own.response.DESCRIPTOR.fields_by_name
            assert besides.by in other.request.DESCRIPTOR.fields_by_name
            asked: list[Any] = [own.request.DESCRIPTOR, other.request.DESCRIPTOR]
            spelt = [dialect.codec.spelling(field) for kind in asked for field in kind.fields]
            assert len(spelt) == len(set(spelt))

    def test_a_table_of_values_reads_what_it_writes(self, dialect: Dialect) -> None:
        for table in dialect.codec.values.values():
            here = [(type(value), value) for value in table.values()]
            assert len(set(here)) == len(here)

    def test_its_shapes_lead_to_what_is_there(self, dialect: Dialect) -> None:
        for operation, _, _ in dialect.places():
            shape = dialect.shape(operation)
            if shape is None:
                continue
            row = GetMessageClass(operation.row)()
            told = dialect.codec.dump(row)
            for field in operation.row.fields:
                if field.message_type is not None and not field.is_repeated:
                    kind: Any = field.message_type
                    told[dialect.codec.spelling(field)] = dialect.codec.dump(
                        GetMessageClass(kind)()
                    )
            for join in dialect.joins.get(operation.name, ()):
                kind = join.rows.message_type
                told[join.name] = dialect.codec.dump(GetMessageClass(kind)())
            assert set(shaped(shape, told)) == set(shape)

    def test_each_list_sorts_by_fields_of_its_items(self, dialect: Dialect) -> None:
        for operation, _, _ in dialect.places():
            assert set(operation.sorts) <= set(operation.row.fields_by_name), operation.name

    def test_joins_ask_what_the_gateway_may_ask(self, dialect: Dialect) -> None:
        served = {operation.name: operation for operation, _, _ in dialect.places()}
        for name, joins in dialect.joins.items():
            for join in joins:
                policy = policy_of(method_of(join.rpc))
                assert (policy.access, list(policy.services)) == (api.ACCESS_SERVICE, ["gateway"])
                assert join.by in served[name].row.fields_by_name
                assert join.by in cast(Any, join.rows.message_type).fields_by_name

    def test_words_each_rule_of_the_contracts(self, dialect: Dialect) -> None:
        for operation, _, _ in dialect.places():
            asked: Any = operation.request.DESCRIPTOR
            for field in asked.fields:
                for rule in ("string.min_len", "string.max_len", "string.email", "type", "new.one"):
                    broken = Violation(field.name, "is wrong", rule)
                    assert dialect.words(broken, limits_of(field))

    def test_calls_no_two_fields_of_a_message_the_same(self, dialect: Dialect) -> None:
        for message in MESSAGES.values():
            shown = filter(dialect.codec.shown, message.fields)
            spelt = [dialect.codec.spelling(field) for field in shown]
            assert len(spelt) == len(set(spelt))

    def test_its_tables_name_only_operations(self, dialect: Dialect) -> None:
        served = {operation.name for operation, _, _ in dialect.places()}
        rows = {operation.row.name for operation, _, _ in dialect.places()}
        assert dialect.bare | set(dialect.joins) | set(dialect.credentials) <= served
        assert set(dialect.shapes) <= served | rows
        for name, field in dialect.credentials.items():
            assert field in named(name).request.DESCRIPTOR.fields_by_name

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
    known = set(getattr(items, "in"))
    assert {f"all:{scope.partition(':')[2]}" for scope in scopes - known} <= known


def test_tables_name_only_reasons_that_exist() -> None:
    coded = {reason for codes in CODES for row in codes.rows for reason in row.reasons}
    worded = {rule for rule in chinese.WORDS if rule.isupper()}
    assert (set(failures.BY_REASON) | coded | worded) - reasons() == set()


@pytest.mark.parametrize("codes", CODES)
class TestCodes:
    def test_are_distinct(self, codes: Codes) -> None:
        names = [row.name for row in codes.rows]
        assert len(names) == len(set(names))

    def test_come_by_reason_else_by_status(self, codes: Codes) -> None:
        for row in codes.rows:
            for reason in row.reasons:
                assert told(codes, 418, reason) == (row.http, row.name)
            for http in row.becomes:
                assert told(codes, http) == (row.http, row.name)
            for http in row.keeps:
                assert told(codes, http) == (http, row.name)
            if not row.reasons:
                assert told(codes, row.http) == (row.http, row.name)

    def test_keep_the_status_of_what_no_row_is_for(self, codes: Codes) -> None:
        assert told(codes, 504) == (504, codes.rows[-1].name)

    def test_tell_their_own_words_or_the_failures(self, codes: Codes) -> None:
        for row in codes.rows:
            refusal = Refusal(row.http, (*row.reasons, "REASON")[0], "It failed.", (), {}, None)
            assert codes.of(refusal).message == (row.message or "It failed.")


def told(codes: Codes, http: int, reason: str = "REASON") -> tuple[int, str]:
    found = codes.of(Refusal(http, reason, "It failed.", (), {}, None))
    return found.http, found.code


def test_a_password_is_as_long_as_the_dialects_own_rules_demand() -> None:
    broken = Violation("password", "is too short", "string.min_len")
    assert chinese.chinese(broken, {"minLength": 6}) == "密码长度至少6位"
    assert chinese.chinese(broken, {"minLength": 6, "shortest": "8"}) == "密码长度至少8位"


@pytest.mark.parametrize(
    ("field", "rule", "limits", "said"),
    [
        ("name", "string.min_len", {"minLength": 1}, "is required"),
        ("password", "string.min_len", {"minLength": 8}, "as the rule says"),
        ("email", "string.email_empty", {}, "is required"),
        ("permissions", "repeated.min_items", {"minItems": 1}, "is required"),
        ("avatar_url", "string.pattern", {}, "must be an absolute http or https URL"),
    ],
)
def test_english_words_are_for_people(
    field: str, rule: str, limits: dict[str, int], said: str
) -> None:
    assert english.english(Violation(field, "as the rule says", rule), limits) == said


def test_a_success_of_lyss_has_a_message_of_its_own() -> None:
    assert set(lyss.MESSAGES) == {operation.name for operation, _, _ in lyss.LYSS.places()}


@pytest.mark.parametrize(
    ("query", "sort"),
    [
        ({"sort_by": "name"}, "name"),
        ({"sort_by": "name", "order": "asc"}, "name"),
        ({"sort_by": "name", "order": "desc"}, "-name"),
        ({"order": "desc"}, ""),
    ],
)
def test_an_order_has_a_word_of_its_own(query: dict[str, str], sort: str) -> None:
    assert Numbers(sort="sort_by", order="order").read(query).sort == sort


@pytest.mark.parametrize(
    ("query", "field"),
    [({"sort_by": "-name"}, "sort_by"), ({"order": "down"}, "order"), ({"order": ""}, "order")],
)
def test_what_is_no_order_is_refused(query: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Numbers(sort="sort_by", order="order").read(query)
    assert [row.field for row in refused.value.broken] == [field]


@pytest.mark.parametrize(
    ("total", "limit", "pages"), [(150, 20, 8), (50, 20, 3), (0, 20, 0), (20, 20, 1), (21, 20, 2)]
)
def test_pages_are_counted_as_the_contracts_count(total: int, limit: int, pages: int) -> None:
    assert Shown(1, limit, total).pages == pages
