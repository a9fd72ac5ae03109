"""Settings: what a start refuses, and that each is documented."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlinders_auth.carriers import Server
from vlinders_auth.settings import AuthSettings
from vlinders_kit import api_keys

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    keys = tmp_path / "sealing.json"
    keys.write_text(json.dumps({"current": "k1", "keys": {"k1": "00" * 32}}))
    usual = {
        "PORT": "50051",
        "CALLER_KEY": "00" * 32,
        "DATABASE_URL": "postgresql://auth@127.0.0.1/auth",
        "BUS": "memory:",
        "SEALING_KEY_FILE": str(keys),
        "ADMIN_EMAIL": "admin@example.com",
        "ADMIN_PASSWORD": "twelve chars",
        "OPERATOR_API_KEY": api_keys.new(),
    }

    def given(**over: str | None) -> None:
        for name, value in {**usual, **over}.items():
            if value is None:
                monkeypatch.delenv(f"VLINDERS_AUTH_{name}", raising=False)
            else:
                monkeypatch.setenv(f"VLINDERS_AUTH_{name}", value)

    return given


def test_what_is_needed_is_enough(environment: Any) -> None:
    environment()

    assert AuthSettings.load().admin_username == "admin"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ADMIN_PASSWORD", None),
        ("ADMIN_PASSWORD", "eleven char"),
        ("ADMIN_EMAIL", "nobody"),
        ("SEALING_KEY_FILE", None),
        ("SEALING_KEY_FILE", "/nowhere/sealing.json"),
        ("SEALING_KEY_FILE", __file__),
        ("OPERATOR_API_KEY", "vlinders_sk_live_mistyped"),
        pytest.param(
            "OPERATOR_API_KEY", api_keys.new(api_keys.MASSROUTER), id="OPERATOR_API_KEY-mr_sk_"
        ),
        ("CALLER_KEY", "short"),
        ("PASSWORD_MEMORY_KIB", "1024"),
        ("SIGNING_KEY_LIFETIME", "PT1M"),
        ("PUBLIC_URL", "vlinders.example"),
        ("PUBLIC_URL", "https://vlinders.example/somewhere"),
        ("SMTP_ENCRYPTION", "perhaps"),
        ("SMTP_AUTHORITY_FILE", __file__),
        ("MAIL_SENDER", "nobody"),
        ("OAUTH_FILE", "/nowhere/oauth.json"),
        ("OAUTH_FILE", __file__),
    ],
)
def test_a_start_that_would_not_be_safe_is_refused(
    environment: Any, capsys: pytest.CaptureFixture[str], name: str, value: str | None
) -> None:
    environment(**{name: value})

    with pytest.raises(SystemExit):
        AuthSettings.load()

    said = capsys.readouterr().err
    assert said.startswith(f"VLINDERS_AUTH_{name}: ")
    assert value is None or name.endswith("FILE") or value not in said.partition(". ")[0]


@pytest.mark.parametrize(
    "given",
    [
        {"SMTP_USERNAME": "vlinders"},
        {"SMTP_PASSWORD": "secret"},
        {"SMTP_USERNAME": "vlinders", "SMTP_PASSWORD": "secret", "SMTP_ENCRYPTION": "none"},
    ],
)
def test_a_password_of_a_mail_server_is_said_to_it_alone(
    environment: Any, capsys: pytest.CaptureFixture[str], given: dict[str, str]
) -> None:
    environment(SMTP_HOST="mail.example.com", **given)

    with pytest.raises(SystemExit):
        AuthSettings.load()

    assert "secret" not in capsys.readouterr().err


def test_a_mail_server_is_spoken_to_as_the_settings_say(environment: Any) -> None:
    environment()
    assert AuthSettings.load().mail_server is None

    environment(
        SMTP_HOST="mail.example.com",
        SMTP_PORT="465",
        SMTP_ENCRYPTION="tls",
        SMTP_USERNAME="vlinders",
        SMTP_PASSWORD="secret",
    )

    told = Server("mail.example.com", 465, "tls", None, "vlinders", "secret")
    assert AuthSettings.load().mail_server == told


def test_every_setting_is_in_the_readme_with_its_sentence() -> None:
    rows = dict(re.findall(r"^\| `(VLINDERS_AUTH_\w+)` \| (.+?) \|", README.read_text(), re.M))

    assert rows == AuthSettings.variables()


def test_mint_prints_what_a_first_start_accepts(environment: Any) -> None:
    command = [sys.executable, "-m", "vlinders_auth.mint"]
    minted = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    environment(OPERATOR_API_KEY=minted["api_key"], ADMIN_PASSWORD=minted["password"])
    AuthSettings.load()
