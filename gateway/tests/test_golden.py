"""What goes over the wire, as its clients know it: a file for each operation of each dialect."""

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from openapi_schema_validator import OAS30Validator

from vlinders.api.v1 import options_pb2 as api
from vlinders_gateway.dialects import DIALECTS
from vlinders_gateway.openapi import document
from vlinders_gateway.operations import named
from vlinders_gateway.testing import Running, bearer
from vlinders_kit.errors import AppError, Violation
from vlinders_kit.policies import method_of

pytestmark = pytest.mark.anyio

GOLDEN = Path(__file__).parent / "golden"
WRITE = False
"""True writes the answers of today into the files; read the difference before you keep it."""

JOINS = [join for dialect in DIALECTS for joins in dialect.joins.values() for join in joins]
DOCUMENTS = {dialect.name: document(dialect) for dialect in DIALECTS}
FILES = sorted(GOLDEN.glob("*/*.json"))


def test_every_operation_of_every_dialect_has_its_file() -> None:
    for dialect in DIALECTS:
        served = {operation.name for operation, _, _ in dialect.places() if not operation.piped}
        assert {path.stem for path in (GOLDEN / dialect.name).glob("*.json")} == served


@pytest.mark.parametrize("path", FILES, ids=[f"{path.parent.name}-{path.stem}" for path in FILES])
async def test_is_as_its_clients_know_it(running: Running, path: Path) -> None:
    cases = read(path)
    for case in cases:
        asked, told = await exchange(running, case, path)
        if WRITE:
            case |= {"asked": asked[0]} if asked else {}
            case["response"] = told
        assert asked == ([case["asked"]] if "asked" in case else []), case["request"]
        assert told == case["response"], case["request"]
    if WRITE:
        write(path, cases)


async def exchange(
    running: Running, case: dict[str, Any], path: Path
) -> tuple[list[Any], dict[str, Any]]:
    """What the service was asked, and what the client was told."""
    script, told, operation = running.script, case["request"], named(path.stem)
    script.asked.clear()
    script.answers[operation.name] = answer_of(case, operation)
    script.answers |= joined(case.get("joined", {}))
    headers = bearer(credential(running, case["as"])) if "as" in case else {}

    answer = await running.http.request(
        told["method"],
        told["path"],
        json=told.get("body"),
        headers=headers | told.get("headers", {}),
    )

    assert_described(DOCUMENTS[path.parent.name], operation.name, answer)
    asked = [as_dict(request) for request in script.requests(operation.name)]
    return asked, {"status": answer.status_code, **shown(answer)}


def assert_described(document: dict[str, Any], name: str, answer: Any) -> None:
    """The answer is as the dialect's own document says."""
    rows = [row for verbs in document["paths"].values() for row in verbs.values()]
    responses = next(row["responses"] for row in rows if row["operationId"] == name)
    found = responses.get(str(answer.status_code), responses["default"])
    if "$ref" in found:
        found = document["components"]["responses"][found["$ref"].rpartition("/")[2]]
    if "content" in found:
        schema = found["content"]["application/json"]["schema"]
        checked = OAS30Validator({**schema, "components": document["components"]})
        assert [fault.message for fault in checked.iter_errors(answer.json())] == []
    else:
        assert answer.content == b""


def shown(answer: Any) -> dict[str, Any]:
    """What a client sees of an answer, without what is new in each."""
    kept = ("location", "set-cookie")
    headers = {name: answer.headers[name] for name in kept if name in answer.headers}
    if not answer.content:
        return {"headers": headers}
    body = answer.json()
    request_id = answer.headers["x-request-id"]
    for part in (body, body.get("meta"), body.get("error")):
        if part is not None:
            assert part.pop("request_id", request_id) == request_id
            assert part.pop("timestamp", "now")
    return {"body": body} | ({"headers": headers} if headers else {})


def joined(told: dict[str, Any]) -> dict[str, Any]:
    """The answers of the RPCs that dialects join, as a case tells them."""
    rpcs = {join.rpc.rpartition("/")[2]: method_of(join.rpc) for join in JOINS}
    return {
        name: ParseDict(told.get(name, {}), GetMessageClass(method.output_type)())
        for name, method in rpcs.items()
        if method is not None
    }


def read(path: Path) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads(path.read_text())
    return cases


def write(path: Path, cases: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(cases, indent=2, ensure_ascii=False) + "\n")


def credential(running: Running, who: str) -> str:
    if who == "key":
        return running.script.key()
    roles = [api.ROLE_OPERATOR] if who == "operator" else [api.ROLE_OWNER]
    return running.script.user_key(roles=roles)


def answer_of(case: dict[str, Any], operation: Any) -> Any:
    if "failed" in case:
        told = case["failed"]
        broken = tuple(Violation(*row) for row in told.get("violations", ()))
        said = {"__doc__": told["message"], "violations": broken}
        failure = type("Failed", (AppError,), said)
        failure.reason = told["reason"]
        failure.status = grpc.StatusCode[told["status"]]
        return failure()
    return ParseDict(case.get("answered", {}), operation.response())


def as_dict(message: Any) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True)
