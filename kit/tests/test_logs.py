"""Logs are lines of JSON, and no secret is in them wherever it stood."""

import json
import subprocess
import sys
from typing import Any

import pytest
from pydantic import SecretStr

from vlinders.auth.v1.api_keys_pb2 import CreateApiKeyResponse
from vlinders_kit import logs
from vlinders_kit.logs import redact

SECRET = "hunter2hunter2"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhY2NfMSJ9.c2lnbmF0dXJl"


def redacted(**event: Any) -> str:
    return json.dumps(redact(None, "info", event))


@pytest.mark.parametrize(
    "text",
    [
        "vlinders_sk_live_{}",
        "the key vlinders_sk_live_{} is not known",
        "vlinders_rt_{}",
        "vlinders_lt_{}",
        "sk-proj-{}",
        "Authorization: Bearer {}",
        "authorization: basic {}==",
        "postgresql://auth:{}@127.0.0.1:5432/auth",
        "postgresql://auth:p@{}@127.0.0.1:5432/auth",
        "redis://:{}@127.0.0.1:6379/0",
        "host=127.0.0.1 password={} dbname=auth",
        "GET /v1/models?api_key={}&limit=1",
        "GET /callback?code=1&access_token={}",
        "https://example.org/?X-Amz-Signature={}",
        '{{"password": "{}", "email": "a@b.c"}}',
        "{{'access_token': '{}'}}",
        "{{'x-api-key': b'{}'}}",
    ],
)
def test_a_secret_in_a_text_is_taken_out(text: str) -> None:
    for value in (
        text.format(SECRET),
        text.format(SECRET).encode(),
        ValueError(text.format(SECRET)),
    ):
        assert SECRET not in redacted(event=value)


def test_a_token_of_our_own_is_taken_out_of_a_text() -> None:
    assert JWT not in redacted(event=f"cannot read {JWT}.")


@pytest.mark.parametrize(
    "name",
    [
        *("password", "new_password", "secret", "client_secret", "authorization", "Cookie"),
        *("set-cookie", "api_key", "apiKey", "x-api-key", "token", "access_token", "refreshToken"),
        *("private_key", "signature", "database_url", "dsn", "ticket", "credential"),
    ],
)
def test_a_secret_under_its_name_is_taken_out(name: str) -> None:
    for value in (SECRET, SECRET.encode(), [SECRET], {"inner": SECRET}, 123456):
        said = redacted(**{name: value})
        assert SECRET not in said
        assert "123456" not in said


def test_a_secret_deep_inside_is_taken_out() -> None:
    said = redacted(request={"headers": [{"authorization": SECRET}, (f"Bearer {SECRET}",)]})

    assert SECRET not in said


def test_what_is_no_secret_stays() -> None:
    event: dict[str, Any] = {
        "input_tokens": 7,
        "api_key_id": "key_1",
        "path": "/v1/models?limit=1",
        "url": "https://example.org:8443/v1",
        "text": "a basic idea, the bearer of news",
    }
    assert redact(None, "info", dict(event)) == {
        **event,
        "text": "a basic idea, the [redacted] news",
    }


def test_a_message_is_named_and_not_told() -> None:
    said = redacted(answer=CreateApiKeyResponse(key=SECRET))

    assert json.loads(said) == {"answer": "[vlinders.auth.v1.CreateApiKeyResponse]"}


def test_a_secret_that_says_so_itself_is_not_told() -> None:
    assert SECRET not in redacted(value=SecretStr(SECRET))


def test_no_value_writes_a_book() -> None:
    nested: Any = "x"
    for _ in range(200):
        nested = [nested] * 3

    said = redacted(long="x" * 5_000_000, deep=nested, wide=dict.fromkeys(range(100_000), "x"))

    assert len(said) < 10_000


def test_an_exception_keeps_its_end() -> None:
    trace = "Traceback\n" + "  File x\n" * 5_000 + "KeyError: 'model'"

    assert "KeyError: 'model'" in redacted(exception=trace)


def test_no_value_breaks_out_of_its_line() -> None:
    assert redacted(name="a\x1b[31m\x00b\x7f") == '{"name": "a?[31m?b?"}'


PROGRAM = """
import logging
from vlinders_kit import logs
logs.configure("vlinders.test", level="INFO")
logs.get("x").debug("unheard")
logs.get("x").info("charged", account_id="acc_1", token="t0p")
try:
    1 / 0
except ZeroDivisionError as error:
    logs.get("x").error("failed", exc_info=error)
for _ in range(50):
    logging.getLogger("aiokafka").warning("no broker at %s", "kafka://u:t0p@host")
logging.getLogger("library").info("unheard")
"""


def test_every_line_of_a_process_is_json_of_the_service() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, check=True, text=True
    )

    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == [
        "charged",
        "failed",
        "no broker at kafka://[redacted]@host",
    ]
    assert {line["service"] for line in lines} == {"vlinders.test"}
    assert "t0p" not in done.stderr
    assert "ZeroDivisionError" in lines[1]["exception"]


def test_a_librarys_line_speaks_again_after_a_while() -> None:
    now = [0.0]
    seldom = logs._Seldom(lambda: now[0])
    record = logs.logging.makeLogRecord({"pathname": "conn.py", "lineno": 1})

    heard = []
    for now[0] in (0.0, 1.0, 29.0, 31.0, 32.0):
        heard.append(seldom.filter(record))

    assert heard == [True, False, False, True, False]
