"""What `make up` is told is checked before anything starts."""

from pathlib import Path

import pytest

from vlinders_embedded.options import BadOption, Options


def test_what_is_not_told_is_as_the_readme_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    options = Options.read({"DETACH": "", "PROVIDERS": "", "KAFKA": ""})

    assert (options.port, options.var) == (8080, tmp_path / "var")
    assert (options.providers, options.kafka, options.admin_password) == (None, None, None)
    assert (options.catalogue.name, options.engines.name) == ("default.yaml", "default.yaml")
    assert options.count("gateway") == options.count("worker") == 1


def test_replicas_are_of_parts() -> None:
    options = Options.read({"REPLICAS": "gateway=2 inference=3 gpu-scheduler=2"})

    parts = ("gateway", "inference", "gpu-scheduler", "auth")
    assert [options.count(part) for part in parts] == [2, 3, 2, 1]


def test_contracts_have_two_workers_unless_told_otherwise() -> None:
    assert Options.read({"PROFILE": "contracts"}).count("worker") == 2
    assert Options.read({"PROFILE": "contracts", "REPLICAS": "worker=3"}).count("worker") == 3


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("PORT", "http", "a port is a number"),
        ("PORT", "0", "a port is a number"),
        ("PORT", "65536", "a port is a number"),
        ("PROFILE", "fast", "there is default and contracts"),
        ("PROVIDERS", "nowhere.yaml", "there is no such file"),
        ("REPLICAS", "gateway", "is not understood"),
        ("REPLICAS", "gateway=0", "is not understood"),
        ("REPLICAS", "postgres=2", "is not understood"),
    ],
)
def test_what_is_wrong_is_said(name: str, value: str, told: str) -> None:
    with pytest.raises(BadOption, match=told) as error:
        Options.read({name: value})

    assert name in str(error.value)
