"""Settings: what a start needs and refuses, and that each is documented."""

import re
from pathlib import Path

import pytest

from vlinders_gateway.settings import GatewaySettings

README = Path(__file__).parents[1] / "README.md"
NEEDED = {
    "CALLER_KEY": "00" * 32,
    "AUTH": "127.0.0.1:1",
    "BILLING": "127.0.0.1:2",
    "GPU_SCHEDULER": "127.0.0.1:3",
    "INFERENCE": "127.0.0.1:4",
    "PIPES": "127.0.0.1:4, inference:5",
    "REDIS": "redis://127.0.0.1:6/0",
    "BUS": "memory:",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NEEDED.items():
        monkeypatch.setenv(f"VLINDERS_GATEWAY_{name}", value)


def test_what_is_needed_is_enough() -> None:
    settings = GatewaySettings.load()

    assert settings.pipes == ("127.0.0.1:4", "inference:5")
    assert settings.plan_rates == {"free": 10, "pro": 100, "enterprise": 1000, "operator": 0}
    assert settings.max_body_bytes == 10 * 1024 * 1024


def test_lists_and_tables_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLINDERS_GATEWAY_PLAN_RATES", "free=5, gold=50")
    monkeypatch.setenv("VLINDERS_GATEWAY_TRUSTED_PROXIES", "127.0.0.0/8,::1/128")
    monkeypatch.setenv("VLINDERS_GATEWAY_CORS_ORIGINS", "")

    settings = GatewaySettings.load()

    assert settings.plan_rates == {"free": 5, "gold": 50}
    assert settings.trusted_proxies == ("127.0.0.0/8", "::1/128")
    assert settings.cors_origins == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PLAN_RATES", "free"),
        ("PLAN_RATES", "free=many"),
        ("PLAN_RATES", "free=-1"),
        ("TRUSTED_PROXIES", "somewhere"),
        ("CALLER_KEY", "short"),
        ("CALLER_KEY", "zz" * 32),
        ("PORT", "0"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name_and_without_its_value(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"VLINDERS_GATEWAY_{name}", value)

    with pytest.raises(SystemExit):
        GatewaySettings.load()

    told = capsys.readouterr().err
    assert f"VLINDERS_GATEWAY_{name}" in told
    assert "zz" not in told


def test_each_is_documented() -> None:
    rows = dict(re.findall(r"^\| `(VLINDERS_GATEWAY_\w+)` \| (.+?) \|", README.read_text(), re.M))
    assert rows == GatewaySettings.variables()
