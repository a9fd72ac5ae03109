"""Runs the contract cases, and holds every response to the document of its dialect.

python walk_contract_cases.py RUNNER URL ADMIN_EMAIL ADMIN_PASSWORD: prints what was outside a
schema, a line each, and then how many responses were looked at. Whether the cases pass is the
runner's own to say.
"""

import contextlib
import io
import re
import runpy
import sys
from typing import Any

import httpx
from openapi_schema_validator import OAS30Validator

from vlinders_gateway import mounts
from vlinders_gateway.dialects import DIALECTS
from vlinders_gateway.openapi import document

DOCUMENTS = {dialect.name: document(dialect) for dialect in DIALECTS}


def described(name: str, verb: str, path: str) -> dict[str, Any] | None:
    """What the document says of an address: the one with the fewest fields in it."""
    for told in sorted(DOCUMENTS[name]["paths"], key=lambda it: it.count("{")):
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(told))
        if re.fullmatch(pattern, path) and verb in DOCUMENTS[name]["paths"][told]:
            found: dict[str, Any] = DOCUMENTS[name]["paths"][told][verb]
            return found
    return None


def faults(answer: httpx.Response) -> list[str] | None:
    """What is outside the schema; None where the document has no such operation."""
    dialect, mount = mounts.at(answer.request.url.path)
    path = answer.request.url.path.removeprefix(mount)
    operation = described(dialect.name, answer.request.method.lower(), path)
    if operation is None:
        return None
    components = DOCUMENTS[dialect.name]["components"]
    told = operation["responses"].get(str(answer.status_code), operation["responses"]["default"])
    if "$ref" in told:
        told = components["responses"][told["$ref"].rpartition("/")[2]]
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if kind not in told.get("content", {"": {}}):
        return [f"{operation['operationId']} {answer.status_code}: is {kind}"]
    if kind != "application/json":
        return []
    schema = {**told["content"][kind]["schema"], "components": components}
    broken = OAS30Validator(schema).iter_errors(answer.json())
    return [f"{operation['operationId']} {answer.status_code}: {it.message}" for it in broken]


def main(runner: str, url: str, email: str, password: str) -> None:
    seen: list[list[str]] = []
    send = httpx.Client.send

    def sent(self: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        answer = send(self, request, **options)
        found = faults(answer) if not options.get("stream") else None
        if found is not None:
            seen.append(found)
        return answer

    httpx.Client.send = sent  # type: ignore[method-assign]
    systems = [f"--{name}={url}{mount}" for name, mount in MOUNTS.items()]
    sys.argv = [runner, *systems, f"--admin-email={email}", f"--admin-password={password}"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        runpy.run_path(runner, run_name="__main__")
    for line in (line for found in seen for line in found):
        print(line)  # noqa: T201
    print(len(seen))  # noqa: T201


MOUNTS = {dialect.name: dialect.mounts[0] for dialect in DIALECTS} | {"vlinders": ""}

if __name__ == "__main__":
    main(*sys.argv[1:])
