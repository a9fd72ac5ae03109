"""Settings: what a start refuses, and that each is documented."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from vlinders_billing.settings import BillingSettings
from vlinders_billing.wallets import Grants

README = Path(__file__).parents[1] / "README.md"
NEEDED = {
    "PORT": "50052",
    "CALLER_KEY": "00" * 32,
    "DATABASE_URL": "postgresql://billing@127.0.0.1/billing",
    "BUS": "memory:",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NEEDED.items():
        monkeypatch.setenv(f"VLINDERS_BILLING_{name}", value)


def test_what_is_needed_is_enough() -> None:
    settings = BillingSettings.load()

    assert (settings.currency, settings.lease_lifetime) == ("CNY", timedelta(seconds=60))


def test_grants_are_written_in_units_and_kept_in_nanos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLINDERS_BILLING_SIGNUP_GRANT", "0.000000001")
    monkeypatch.setenv("VLINDERS_BILLING_OPERATOR_GRANT", "2.5")
    monkeypatch.setenv("VLINDERS_BILLING_LEASE_GRACE", "PT5S")

    settings = BillingSettings.load()

    assert settings.grants == Grants(signup_nanos=1, operator_nanos=2_500_000_000)
    assert settings.lease_grace == timedelta(seconds=5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SIGNUP_GRANT", "-1"),
        ("SIGNUP_GRANT", "0.0000000001"),
        ("SIGNUP_GRANT", "NaN"),
        ("OPERATOR_GRANT", "1e10"),
        ("CURRENCY", "yuan"),
        ("LEASE_LIFETIME", "PT0S"),
        ("CALLER_KEY", "short"),
    ],
)
def test_a_start_with_what_makes_no_sense_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(f"VLINDERS_BILLING_{name}", value)

    with pytest.raises(SystemExit):
        BillingSettings.load()

    assert capsys.readouterr().err.startswith(f"VLINDERS_BILLING_{name}: ")


def test_every_setting_is_in_the_readme_with_its_sentence() -> None:
    rows = dict(re.findall(r"^\| `(VLINDERS_BILLING_\w+)` \| (.+?) \|", README.read_text(), re.M))

    assert rows == BillingSettings.variables()
