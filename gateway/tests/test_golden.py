"""What goes over the wire, as its clients know it: a file for each operation of each dialect."""

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from vlinders.api.v1 import options_pb2 as api
from vlinders_gateway.dialects import DIALECTS
from vlinders_gateway.operations import named
from vlinders_gateway.testing import Running, bearer
from vlinders_kit.errors import AppError

pytestmark = pytest.mark.anyio

GOLDEN = Path(__file__).parent / "golden"
WRITE = False
"""True writes the answers of today into the files; read the difference before you keep it."""

CASES = [
    (path, number)
    for path in sorted(GOLDEN.glob("*/*.json"))
    for number in range(len(json.loads(path.read_text())))
]


def test_every_operation_of_every_dialect_has_its_file() -> None:
    for dialect in DIALECTS:
        served = {operation.name for operation, _, _ in dialect.places() if not operation.piped}
        assert {path.stem for path in (GOLDEN / dialect.name).glob("*.json")} == served


@pytest.mark.parametrize(
    ("path", "number"), CASES, ids=[f"{path.parent.name}-{path.stem}-{n}" for path, n in CASES]
)
async def test_is_as_its_clients_know_it(running: Running, path: Path, number: int) -> None:
    cases = json.loads(path.read_text())
    case, operation = cases[number], named(path.stem)
    script = running.script
    script.answers[operation.name] = answer_of(case, operation)
    told = case["request"]
    headers = bearer(credential(running, case.get("as"))) if "as" in case else {}

    answer = await running.http.request(
        told["method"], told["path"], json=told.get("body"), headers=headers
    )

    asked = script.requests(operation.name)
    if "asked" in case:
        assert [as_dict(request) for request in asked] == [case["asked"]]
    else:
        assert asked == []
    body = answer.json()
    if "meta" in body:
        assert body["meta"].pop("request_id") == answer.headers["x-request-id"]
        assert body["meta"].pop("timestamp")
    found = {"status": answer.status_code, "body": body}
    if WRITE:
        case["response"] = found
        path.write_text(json.dumps(cases, indent=2, ensure_ascii=False) + "\n")
    assert found == case["response"]


def credential(running: Running, who: str) -> str:
    if who == "key":
        return running.script.key()
    roles = [api.ROLE_OPERATOR] if who == "operator" else [api.ROLE_OWNER]
    return running.script.user_key(roles=roles)


def answer_of(case: dict[str, Any], operation: Any) -> Any:
    if "failed" in case:
        told = case["failed"]
        failure = type("Failed", (AppError,), {"__doc__": told["message"]})
        failure.reason = told["reason"]
        failure.status = grpc.StatusCode[told["status"]]
        return failure()
    return ParseDict(case.get("answered", {}), operation.response())


def as_dict(message: Any) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True)
