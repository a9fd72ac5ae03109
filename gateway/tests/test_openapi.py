"""The documents: valid, complete, and readable without another host."""

import re

import pytest
from openapi_spec_validator import OpenAPIV30SpecValidator

from vlinders_gateway.dialects import DIALECTS, VLINDERS, Dialect
from vlinders_gateway.dialects.massrouter import MASSROUTER
from vlinders_gateway.dialects.owl import OWL
from vlinders_gateway.openapi import document
from vlinders_gateway.pages import pages
from vlinders_gateway.testing import Running


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
class TestEvery:
    def test_is_valid_openapi(self, dialect: Dialect) -> None:
        assert list(OpenAPIV30SpecValidator(document(dialect)).iter_errors()) == []

    def test_has_every_operation_piped_ones_too(self, dialect: Dialect) -> None:
        told = {
            operation["operationId"]: operation
            for verbs in document(dialect)["paths"].values()
            for operation in verbs.values()
        }
        assert set(told) == {operation.name for operation, _, _ in dialect.places()}
        assert all(entry["summary"] for entry in told.values())

    def test_its_pages_need_no_other_host(self, dialect: Dialect) -> None:
        found = pages(document(dialect))
        for path in ("/docs", "/redoc"):
            shown = found[path].body.decode()
            loaded = re.findall(r'(?:src|href|spec-url)="([^"]*)"', shown)
            assert all(f"/{name}" in {*found, "/openapi.json", "/data:,"} for name in loaded)
            assert not re.search(r"<script>|<script [^s]", shown)


def test_the_canonical_one_is_as_the_contract_says() -> None:
    told = document(VLINDERS)
    assert told["openapi"].startswith("3.0.")
    assert (told["info"]["title"], told["info"]["version"]) == ("Vlinders Platform API", "1.0.0")
    assert told["components"]["securitySchemes"] == {
        "BearerAuth": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    }
    assert {"Error", "User"} <= told["components"]["schemas"].keys()


def test_rules_of_the_contracts_are_told() -> None:
    schemas = document(VLINDERS)["components"]["schemas"]
    made = schemas["CreateApiKeyRequest"]
    assert made["required"] == ["name", "permissions"]
    assert made["properties"]["name"] == {"type": "string", "minLength": 1, "maxLength": 100}
    assert made["properties"]["permissions"]["minItems"] == 1
    assert made["properties"]["expires_at"]["nullable"]
    assert schemas["RegisterRequest"]["properties"]["email"]["format"] == "email"


def test_what_may_be_absent_may_be_null() -> None:
    asked = document(OWL)["components"]["schemas"]["UpdateAccountRequest"]["properties"]
    assert asked["role"] == {"type": "string", "nullable": True, "enum": ["user", "admin", None]}
    assert asked["is_active"] == {"type": "boolean", "nullable": True}


def test_what_a_list_sorts_by_is_told_in_the_dialects_words() -> None:
    parameters = document(OWL)["paths"]["/api/admin/users"]["get"]["parameters"]
    told = {row["name"]: row["schema"].get("enum") for row in parameters}
    assert told["sort_by"] == ["created_at", "email", "username"]
    assert told["sort_order"] == ["asc", "desc"]
    paths = document(VLINDERS)["paths"]
    told = {row["name"]: row["schema"] for row in paths["/v1/api-keys"]["get"]["parameters"]}
    assert "-last_used_at" in told["sort"]["enum"]
    assert "sort" not in {row["name"] for row in paths["/v1/members"]["get"]["parameters"]}


def test_what_keys_need_is_told_in_the_dialects_words_where_it_has_keys() -> None:
    def told(dialect: Dialect) -> dict[str, str]:
        rows = [row for verbs in document(dialect)["paths"].values() for row in verbs.values()]
        permissions = ((row["operationId"], row.get("x-api-key-permission")) for row in rows)
        return {name: permission for name, permission in permissions if permission is not None}

    assert told(VLINDERS)["CreateChatCompletion"] == "inference:write"
    assert "GetMyAccount" not in told(VLINDERS), "which its keys cannot be allowed"
    assert told(MASSROUTER) == {
        "CreateChatCompletion": "write",
        "GetMyAccount": "read",
        "UpdateMyAccount": "write",
    }
    assert told(OWL) == {}


def test_a_bearer_token_that_is_a_field_is_in_no_body() -> None:
    told = document(MASSROUTER)["paths"]["/api/v1/auth/refresh"]["post"]
    assert "requestBody" not in told
    assert "security" not in told, "the document's own, which is a bearer token"


def test_only_public_operations_need_no_credential() -> None:
    told = document(VLINDERS)["paths"]
    open_ones = {
        entry["operationId"]
        for verbs in told.values()
        for entry in verbs.values()
        if entry.get("security") == []
    }
    assert open_ones == {row.name for row, _, _ in VLINDERS.places() if row.public}


def test_an_answer_of_an_engine_need_not_have_every_field() -> None:
    schemas = document(VLINDERS)["components"]["schemas"]
    message = schemas["ChatCompletionAssistantMessage"]
    assert "tool_calls" in message["properties"]
    assert "tool_calls" not in message.get("required", ())


def test_the_stream_of_a_chat_is_told() -> None:
    chat = document(VLINDERS)["paths"]["/v1/chat/completions"]["post"]
    assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    embeddings = document(VLINDERS)["paths"]["/v1/embeddings"]["post"]
    assert set(embeddings["responses"]["200"]["content"]) == {"application/json"}


@pytest.mark.anyio
async def test_the_documents_are_served_to_anybody(running: Running) -> None:
    for path in ("/openapi.json", "/v1/openapi.json", "/vlinders/v1/openapi.json"):
        answer = await running.http.get(path)
        assert answer.status_code == 200
        assert answer.json() == document(VLINDERS)
    for path in ("/docs", "/vlinders/docs", "/redoc", "/lyss/docs", "/lyss/redoc", "/owl/docs"):
        answer = await running.http.get(path)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        for name in re.findall(r'(?:src|href)="(docs/[^"]*)"', answer.text):
            loaded = await running.http.get(path.rpartition("/")[0] + "/" + name)
            assert (loaded.status_code, len(loaded.content) > 100) == (200, True)


@pytest.mark.anyio
async def test_probes_are_answered(running: Running) -> None:
    assert (await running.http.get("/healthz")).text == "alive\n"
    assert (await running.http.get("/readyz")).status_code == 200
