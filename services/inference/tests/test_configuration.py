"""The configured catalogue: read strictly, told in full, kept sealed."""

from pathlib import Path

import pytest

from vlinders_inference import catalogue, configuration
from vlinders_inference.configuration import CatalogueInvalid, Configured
from vlinders_inference.errors import ModelNotFound, ModelNotPriced
from vlinders_inference.models import ProviderKeyRow, Table
from vlinders_kit.db import Database
from vlinders_kit.migrations import drift
from vlinders_kit.sealing import Sealer

SEALER = Sealer({"a": b"\0" * 32}, "a")
OWN = """
models:
  tiny: {worker_model: tiny, context_length: 32768, max_tokens: 2048,
         input_price: "0.0000001", output_price: "0.0000002", function_calling: true}
"""
MOCK = """
providers:
  - name: mock
    base_url: http://127.0.0.1:9100/v1/
    api_key_env: MOCK_KEY
    models:
      gpt-x: {upstream: gpt-x-2026, input_price: "0.000001", output_price: "0.000002"}
"""
ENVIRONMENT = {"MOCK_KEY": "sk-canary-1"}


def read(folder: Path, own: str | None = OWN, providers: str | None = MOCK) -> Configured:
    files: dict[str, Path | None] = {"own.yaml": None, "providers.yaml": None}
    for name, text in zip(files, (own, providers), strict=True):
        if text is not None:
            files[name] = folder / name
            (folder / name).write_text(text)
    return configuration.read(files["own.yaml"], files["providers.yaml"], ENVIRONMENT)


def problems(folder: Path, own: str | None = OWN, providers: str | None = MOCK) -> str:
    with pytest.raises(CatalogueInvalid) as error:
        read(folder, own, providers)
    assert "sk-canary" not in str(error.value)
    return str(error.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("was", "becomes", "told"),
    [
        ("max_tokens: 2048", "max_tokns: 2048", "own.yaml: models.tiny.max_tokns: is not known"),
        ("max_tokens: 2048,", "", "own.yaml: models.tiny.max_tokens: is missing"),
        ("max_tokens: 2048", "max_tokens: lots", "own.yaml: models.tiny.max_tokens: "),
        ("max_tokens: 2048", "max_tokens: -1", "own.yaml: models.tiny.max_tokens: "),
        ('"0.0000001"', "0.0000001", "own.yaml: models.tiny.input_price: must be a decimal number"),
        ('"0.0000001"', '"0.00000000001"', "own.yaml: models.tiny.input_price: must be a multiple"),
        ("worker_model: tiny", "worker_model: [a]", "own.yaml: models.tiny.worker_model: "),
        ("max_tokens: 2048", "max_tokens: 0", "own.yaml: models.tiny: max_tokens must be 1"),
        ("models:", "model:", "own.yaml: models: is missing"),
        ("models:", "models: [", "own.yaml:"),
        ("tiny: {", "tiny: {max_tokens: 1, ", "the key max_tokens is there twice"),
    ],
)
def test_a_problem_is_told_with_its_file_and_key(
    tmp_path: Path, was: str, becomes: str, told: str
) -> None:
    assert told in problems(tmp_path, own=OWN.replace(was, becomes, 1))


@pytest.mark.parametrize(
    ("was", "becomes", "told"),
    [
        ("MOCK_KEY", "OTHER_KEY", "providers[0].api_key_env: set the variable OTHER_KEY"),
        ("http://127.0.0.1:9100/v1/", "ftp://x", "providers[0].base_url: must be an http"),
        ("http://127", "http://user:sk-canary-2@127", "providers[0].base_url: must have no user"),
        ("v1/", "v1?key=sk-canary-2", "providers[0].base_url: must have no user"),
        ("name: mock", "name: worker", "providers[0].name: worker is taken"),
        ("name: mock", "name: Mock Inc", "providers[0].name: "),
        ("gpt-x:", "tiny:", "providers[0].models.tiny.input_price: differs"),
        ("api_key_env: MOCK_KEY", "api_key: {a: sk-canary-2}", "providers[0].api_key"),
    ],
)
def test_a_problem_of_a_provider_is_told_without_its_secrets(
    tmp_path: Path, was: str, becomes: str, told: str
) -> None:
    assert told in problems(tmp_path, providers=MOCK.replace(was, becomes, 1))


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    wrong = OWN.replace("2048", "x").replace("32768", "y")

    assert len(problems(tmp_path, own=wrong).splitlines()) == 2


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CatalogueInvalid, match=r"gone\.yaml: cannot be read"):
        configuration.read(tmp_path / "gone.yaml", None, {})


async def stored(db: Database, configured: Configured) -> catalogue.Catalogue:
    async with db.begin() as tx:
        await catalogue.store(tx, configured, SEALER)
        return await catalogue.load(tx, SEALER)


@pytest.mark.anyio
async def test_what_is_configured_is_what_is_served(tmp_path: Path, db: Database) -> None:
    found = await stored(db, read(tmp_path))

    tiny, gpt = found.model("tiny"), found.model("gpt-x")
    assert (tiny.worker_model, tiny.owned_by, tiny.max_tokens) == ("tiny", "vlinders", 2048)
    assert (gpt.worker_model, gpt.owned_by) == (None, "mock")
    (offer,) = gpt.offers
    assert (offer.base_url, offer.upstream) == ("http://127.0.0.1:9100/v1", "gpt-x-2026")
    assert [key.secret for key in offer.keys] == ["sk-canary-1"]
    assert "sk-canary" not in repr(gpt)


@pytest.mark.anyio
async def test_keys_are_kept_sealed(tmp_path: Path, db: Database) -> None:
    await stored(db, read(tmp_path))

    async with db.begin() as tx:
        (row,) = await tx.scalars(
            ProviderKeyRow.__table__.select().with_only_columns(ProviderKeyRow.sealed)
        )

    assert b"canary" not in row


@pytest.mark.anyio
async def test_what_is_not_configured_any_more_is_not_served(tmp_path: Path, db: Database) -> None:
    await stored(db, read(tmp_path))

    found = await stored(db, read(tmp_path, providers=None))

    assert list(found.models) == ["tiny"]
    with pytest.raises(ModelNotFound):
        found.model("gpt-x")
    assert (await stored(db, read(tmp_path))).model("gpt-x").offers


@pytest.mark.anyio
async def test_a_model_keeps_the_time_it_was_first_there(tmp_path: Path, db: Database) -> None:
    first = (await stored(db, read(tmp_path))).model("tiny").created_at

    assert (await stored(db, read(tmp_path))).model("tiny").created_at == first


@pytest.mark.anyio
async def test_providers_of_a_model_are_tried_by_priority(tmp_path: Path, db: Database) -> None:
    second = MOCK.replace("providers:\n", "").replace("name: mock", "name: cheap\n    priority: -1")
    both = MOCK + second.replace("api_key_env: MOCK_KEY", 'api_key: ["sk-1", "sk-2"]')

    found = await stored(db, read(tmp_path, providers=both))

    offers = found.model("gpt-x").offers
    assert [offer.provider for offer in offers] == ["cheap", "mock"]
    assert [key.secret for key in offers[0].keys] == ["sk-1", "sk-2"]


def test_the_configured_prices_are_in_nanos(tmp_path: Path) -> None:
    prices = {row.model: row for row in catalogue.configured_prices(read(tmp_path))}

    tiny, gpt = prices["tiny"], prices["gpt-x"]
    assert (tiny.input_nanos, tiny.cached_input_nanos, tiny.output_nanos) == (100, 100, 200)
    assert (gpt.input_nanos, gpt.output_nanos) == (1_000, 2_000)


def test_a_model_without_a_price_is_not_sold() -> None:
    with pytest.raises(ModelNotPriced):
        catalogue.Catalogue([]).price("tiny")


@pytest.mark.anyio
async def test_the_tables_as_mapped_are_the_tables_as_migrated(db: Database) -> None:
    assert await drift(db.engine, Table.metadata) == []
