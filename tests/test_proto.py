"""The rules of the contracts, over their compiled descriptors; and what may not change in them."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from vlinders.api.v1 import options_pb2 as api
from vlinders_kit.errors import AppError

from .contracts import PREVIOUS, breaking_changes, compiled, summary_of

ROOT = Path(__file__).parents[1]

OURS = [file for file in compiled().file if file.name.startswith("vlinders/")]

PUBLIC = {
    *("Register", "RegisterByName", "Login", "SignUp", "RefreshSession", "RotateSession"),
    "GetKeySet",
    *("VerifyEmail", "RequestPasswordReset", "ResetPassword", "AcceptInvitation"),
    *("BeginOAuth", "FinishOAuth"),
}
"""What anybody may call: a new one is added here, and thought about."""

PACKAGES = {
    "vlinders.auth.v1": "vlinders_auth",
    "vlinders.billing.v1": "vlinders_billing",
    "vlinders.inference.v1": "vlinders_inference",
    "vlinders.gpu_scheduler.v1": "vlinders_gpu_scheduler",
}

SECRET = re.compile(r"(password|secret|_token|ticket_key)$|^key$")
"""Names of fields that hold a secret in clear; each is marked `debug_redact`."""

NOT_SECRET = {"Event.key", "PageInfo.next_token"}


def rpcs() -> Iterator[tuple[FileDescriptorProto, str, Any]]:
    """File, full name of the service, and descriptor of every RPC."""
    for file in OURS:
        importlib.import_module(file.name.removesuffix(".proto").replace("/", ".") + "_pb2")
        for service in file.service:
            full_name = f"{file.package}.{service.name}"
            for method in descriptor_pool.Default().FindServiceByName(full_name).methods:
                yield file, full_name, method


RPCS = list(rpcs())


def operation_of(method: Any) -> api.Operation:
    found: api.Operation = method.GetOptions().Extensions[api.operation]
    return found


def policy_of(method: Any) -> api.Policy:
    found: api.Policy = method.GetOptions().Extensions[api.policy]
    return found


def comments(file: FileDescriptorProto) -> dict[tuple[int, ...], str]:
    """Path of a declaration → the sentences before it."""
    return {
        tuple(place.path): place.leading_comments.strip()
        for place in file.source_code_info.location
    }


@pytest.mark.parametrize("file", OURS, ids=lambda file: file.name)
class TestEveryFile:
    def test_is_where_its_package_says(self, file: FileDescriptorProto) -> None:
        assert str(Path(file.name).parent) == file.package.replace(".", "/")

    def test_says_what_each_service_rpc_and_event_is(self, file: FileDescriptorProto) -> None:
        said = comments(file)
        silent = [
            f"{service.name}.{rpc.name}"
            for s, service in enumerate(file.service)
            for r, rpc in enumerate(service.method)
            if not said.get((6, s, 2, r), "").startswith(f"{rpc.name} ")
        ]
        silent += [row.name for s, row in enumerate(file.service) if not said.get((6, s))]
        silent += [
            message.name
            for m, message in enumerate(file.message_type)
            if message.options.HasExtension(api.event)
            and not said.get((4, m), "").startswith(f"{message.name}: ")
        ]
        assert silent == []

    def test_begins_each_enum_with_unspecified(self, file: FileDescriptorProto) -> None:
        enums = [*file.enum_type, *(enum for row in file.message_type for enum in row.enum_type)]
        assert [
            enum.name for enum in enums if not enum.value[0].name.endswith("_UNSPECIFIED")
        ] == []

    def test_keeps_money_in_integers_and_moments_in_timestamps(
        self, file: FileDescriptorProto
    ) -> None:
        wrong = []
        for message in file.message_type:
            for field in message.field:
                if field.name.endswith("_nanos") and field.type != FieldDescriptorProto.TYPE_INT64:
                    wrong.append(f"{message.name}.{field.name}")
                if field.name.endswith("_at") and field.type_name != ".google.protobuf.Timestamp":
                    wrong.append(f"{message.name}.{field.name}")
        assert wrong == []

    def test_marks_every_secret(self, file: FileDescriptorProto) -> None:
        bare = [
            f"{message.name}.{field.name}"
            for message in file.message_type
            for field in message.field
            if SECRET.search(field.name)
            and f"{message.name}.{field.name}" not in NOT_SECRET
            and field.type in (FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.TYPE_BYTES)
            and not field.options.debug_redact
        ]
        assert bare == []


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc[2].full_name)
class TestEveryRpc:
    def test_says_who_may_call_it(self, rpc: Any) -> None:
        policy = policy_of(rpc[2])
        assert policy.access != api.ACCESS_UNSPECIFIED
        assert bool(policy.services) == (policy.access == api.ACCESS_SERVICE)
        if policy.access != api.ACCESS_CALLER:
            assert not policy.scope
            assert not policy.role

    def test_is_open_to_everybody_only_where_that_was_thought_about(self, rpc: Any) -> None:
        assert (policy_of(rpc[2]).access == api.ACCESS_PUBLIC) == (rpc[2].name in PUBLIC)

    def test_asks_in_words_of_its_own(self, rpc: Any) -> None:
        method = rpc[2]
        streams = {"Pipe": "PipeFrames", "Pick": "PickRequests", "Connect": "WorkerMessage"}
        assert method.input_type.name == streams.get(method.name, f"{method.name}Request")

    def test_has_a_place_whose_fields_exist(self, rpc: Any) -> None:
        place = operation_of(rpc[2]).http
        if place:
            assert re.fullmatch(r"(GET|POST|PUT|PATCH|DELETE) (/[a-z0-9._{}-]+)+", place)
            known = {field.name for field in rpc[2].input_type.fields}
            assert set(re.findall(r"{(\w+)}", place)) <= known

    def test_pages_whatever_it_lists(self, rpc: Any) -> None:
        method = rpc[2]
        if method.name.startswith("List") and method.name not in WHOLE_LISTS:
            asked = {field.name: field.message_type for field in method.input_type.fields}
            told = {field.name: field.message_type for field in method.output_type.fields}
            assert asked["page"].full_name == "vlinders.api.v1.Page"
            assert told["page"].full_name == "vlinders.api.v1.PageInfo"

    def test_names_only_reasons_that_exist(self, rpc: Any) -> None:
        file, service, method = rpc
        package = PACKAGES[file.package]
        importlib.import_module(f"{package}.errors")
        known = {kind.reason for kind in _errors(AppError)}
        index = [row.name for row in file.service].index(service.rpartition(".")[2])
        text = comments(file)[(6, index, 2, method.index)]
        fails = text.partition("Fails ")[2]
        named = set(re.findall(r"\b[A-Z][A-Z]+(?:_[A-Z]+)+\b", fails))
        assert named <= known


WHOLE_LISTS = {"ListModels", "ListPrices"}
"""Lists that are told whole: OpenAI's shape has no pages, and prices are for a cache."""


def test_no_two_operations_have_one_place_or_one_name() -> None:
    placed = [method for _, _, method in RPCS if operation_of(method).http]
    places = [re.sub(r"{\w+}", "{}", operation_of(method).http) for method in placed]
    assert len(set(places)) == len(places)
    assert len({method.name for method in placed}) == len(placed)


def test_an_events_topic_is_its_services_and_its_key_is_a_field() -> None:
    for file in OURS:
        for message in file.message_type:
            if message.options.HasExtension(api.event):
                event = message.options.Extensions[api.event]
                assert event.topic == file.package.removesuffix(".v1"), message.name
                assert event.key in {field.name for field in message.field}, message.name


def test_nothing_that_has_landed_breaks() -> None:
    """After a change that is meant: `make baseline` writes the new state down."""
    assert breaking_changes(PREVIOUS, summary_of(compiled())) == []


def test_the_landed_state_is_written_down() -> None:
    """What is new is in the baseline too, so that it cannot break later. See above."""
    assert summary_of(compiled()) == PREVIOUS


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"m": {"fields": {"1": "a int64"}}}, {"m": {"fields": {}, "reserved": []}}, "m.1"),
        ({"m": {"fields": {"1": "a int64"}}}, {"m": {"fields": {"1": "a string"}}}, "m.1"),
        ({"m": {"fields": {"1": "a int64"}}}, {"m": {"fields": {"1": "b int64"}}}, "m.1"),
        ({"m": {"fields": {}}}, {}, "m"),
        ({"s.R": {"rpc": "A -> B"}}, {"s.R": {"rpc": "A -> stream B"}}, "s.R"),
        ({"s.R": {"policy": "caller x developer"}}, {"s.R": {"policy": "public  "}}, "s.R"),
        ({"e": {"values": {"1": "ON"}}}, {"e": {"values": {"1": "OFF"}}}, "e.1"),
    ],
)
def test_what_breaks_is_found(before: Any, after: Any, told: str) -> None:
    assert [change.split(":")[0] for change in breaking_changes(before, after)] == [told]


def test_a_field_that_is_gone_and_reserved_breaks_nothing() -> None:
    before = {"m": {"fields": {"1": "a int64"}, "reserved": []}}
    after = {"m": {"fields": {}, "reserved": ["1", "a"]}}
    assert breaking_changes(before, after) == []


def _errors(kind: type[AppError]) -> Iterator[type[AppError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _errors(child)
