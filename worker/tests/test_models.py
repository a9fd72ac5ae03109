"""The built-in models are made by code, the same each time."""

from pathlib import Path

import pytest
from gguf import GGUFReader

from vlinders_worker import models
from vlinders_worker.models import chat, embedding
from vlinders_worker.models.vocabulary import SPACE, Vocabulary


@pytest.mark.parametrize("model", [chat, embedding])
def test_a_model_is_the_same_bytes_each_time(tmp_path: Path, model: object) -> None:
    first, second = tmp_path / "1.gguf", tmp_path / "2.gguf"
    for path in (first, second):
        model.write(path)  # type: ignore[attr-defined]

    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < 4_000_000


def test_a_chat_can_be_as_long_as_the_contracts_need(tmp_path: Path) -> None:
    chat.write(tmp_path / "chat.gguf")
    reader = GGUFReader(tmp_path / "chat.gguf")

    field = reader.get_field("llama.context_length")
    assert field is not None
    assert field.contents() >= 40_960


def test_a_file_is_written_once_and_found_again(tmp_path: Path) -> None:
    first = models.find("built-in:vlinders-tiny-embedding", tmp_path)
    written = first.stat().st_mtime_ns
    again = models.find("built-in:vlinders-tiny-embedding", tmp_path)

    assert first == again
    assert again.stat().st_mtime_ns == written
    assert [*tmp_path.iterdir()] == [first]


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.touch()

    assert models.find(str(own), tmp_path) == own
    for missing in (str(tmp_path / "none.gguf"), "built-in:none"):
        with pytest.raises(FileNotFoundError):
            models.find(missing, tmp_path)


def test_each_word_can_be_merged_from_its_letters() -> None:
    vocabulary = Vocabulary.of(control=(), pieces=[SPACE + "cat"])

    assert {SPACE, SPACE + "c", SPACE + "ca", SPACE + "cat", "a", "t"} <= vocabulary.ids.keys()
    assert vocabulary.ids["<0x41>"] == vocabulary.ids["<0x40>"] + 1
