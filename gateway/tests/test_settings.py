"""Settings: what a start needs and refuses, and that each is documented."""

import re
from pathlib import Path

import pytest

from vlinders_gateway.rates import HOUR, UNLIMITED, Rate, Rates
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


def test_each_dialect_has_the_rates_of_its_contract() -> None:
    settings = GatewaySettings.load()
    vlinders, maas, massrouter, lyss, owl = (
        settings.rates_of(dialect) for dialect in ("vlinders", "maas", "massrouter", "lyss", "owl")
    )

    assert [vlinders.of(plan, None) for plan in ("free", "pro", "enterprise", "operator")] == [
        Rate(10),
        Rate(100),
        Rate(1000),
        UNLIMITED,
    ]
    assert (vlinders.writes, vlinders.anonymous) == (Rate(30), Rate(100))
    assert maas == Rates(Rate(1000), anonymous=Rate(100), calls=Rate(100))
    assert massrouter == Rates(Rate(1000, HOUR), anonymous=Rate(100, HOUR))
    assert lyss == owl == Rates(Rate(1000), anonymous=Rate(100))


def test_rates_are_configured_for_all_dialects_or_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLINDERS_GATEWAY_RATES", "0, owl=5/h")
    monkeypatch.setenv("VLINDERS_GATEWAY_ANONYMOUS_RATES", "7")

    settings = GatewaySettings.load()

    assert settings.rates_of("maas").known == UNLIMITED
    assert settings.rates_of("owl").known == Rate(5, HOUR)
    assert {settings.rates_of(name).anonymous for name in ("vlinders", "massrouter")} == {Rate(7)}


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
        ("RATES", "owl=5"),
        ("RATES", "5,nobody=5"),
        ("ANONYMOUS_RATES", "5/day"),
        ("CALL_RATES", ""),
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
