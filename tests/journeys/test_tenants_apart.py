"""Tenants do not see each other: somebody else's thing is answered as one that does not exist."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.platform import Platform, User
from vlinders.api.v1 import options_pb2 as api
from vlinders_gateway.dialects import DIALECTS
from vlinders_gateway.dialects.dialect import Dialect
from vlinders_gateway.operations import Operation
from vlinders_kit.ids import new_id

EACH = 60
"""Organizations and keys of the tenant that is spied on."""

SPIES = 4
LEAST_TRIES = 2_000

ACCEPTED: dict[str, dict[str, Any]] = {
    "AddOrganizationMember": {"role": "member"},
    "SetMemberRole": {"role": "viewer"},
    "SetOrganizationMemberRole": {"role": "admin"},
    "UpdateOrganization": {"name": "taken over"},
}
"""A body that would do, where one is needed, beside the ids."""

Place = tuple[Dialect, Operation, str, str]
"""Dialect, operation, and its verb and path there."""


@pytest.fixture
async def spied_on(platform: Platform) -> dict[str, list[str]]:
    """Kind of thing → the ids of those that somebody has."""
    owner = await platform.sign_up()
    made: dict[str, list[str]] = {"user": [owner.account_id], "org": [], "key": []}
    for number in range(EACH):
        made["org"].append(
            (await owner.data("POST", "/v1/organizations", json={"name": f"team {number}"}))["id"]
        )
        made["key"].append((await owner.key("inference:read"))["id"])
    return made


async def test_nobody_reaches_another_tenants_things_by_their_ids(
    platform: Platform, spied_on: dict[str, list[str]]
) -> None:
    spies = [await platform.sign_up() for _ in range(SPIES)]
    told = await asyncio.gather(*(spy_out(spy, spied_on) for spy in spies))

    assert [line for _, wrong in told for line in wrong] == []
    assert sum(tries for tries, _ in told) >= LEAST_TRIES


async def spy_out(spy: User, ids: dict[str, list[str]]) -> tuple[int, list[str]]:
    """How many foreign ids the spy has shown, and which were not answered as missing ones."""
    own = {"org": (await spy.data("POST", "/v1/organizations", json={"name": "own"}))["id"]}
    own["user"] = spy.account_id
    tries, wrong = 0, []
    for place, field, kind, named in swaps(ids):
        usual = {name: own.get(other, new_id(other)) for name, other in named.items()}
        missing = await answer_to(spy, place, usual | {field: new_id(kind)})
        assert missing[0] == 404
        for id in ids[kind]:
            tries += 1
            if await answer_to(spy, place, usual | {field: id}) != missing:
                wrong.append(f"{place[0].name} {place[1].name}: {field} {id}")
    return tries, wrong


def swaps(ids: dict[str, list[str]]) -> Iterator[tuple[Place, str, str, dict[str, str]]]:
    """Each field that can be swapped, of each operation of each dialect, and kinds of its ids."""
    for dialect in DIALECTS:
        for operation, verb, path in dialect.places():
            if operation.policy.role == api.ROLE_OPERATOR or operation.public:
                continue
            fields: Any = operation.request.DESCRIPTOR.fields
            kinds = {field.name: field.GetOptions().Extensions[api.id_of] for field in fields}
            named = {name: kind for name, kind in kinds.items() if kind in ids}
            for field, kind in named.items():
                yield (dialect, operation, verb, path), field, kind, named


async def answer_to(spy: User, place: Place, ids: dict[str, str]) -> tuple[int, str]:
    """Status and body of the answer, but for the request's id and the time."""
    dialect, operation, verb, path = place
    fields = operation.request.DESCRIPTOR.fields_by_name
    spelt = {dialect.codec.spelling(fields[name]): id for name, id in ids.items()}
    in_path = set(re.findall(r"{(\w+)}", path))
    body = {name: id for name, id in spelt.items() if name not in in_path}
    sent = {"json": body | ACCEPTED.get(operation.name, {})} if verb[0] == "P" else {}
    answer = await spy.call(verb, dialect.mounts[0] + path.format_map(spelt), **sent)
    return answer.status_code, re.sub(r"req_\w+|\d{4}-\d\d-\d\dT[\d:]+Z", "", answer.text)
