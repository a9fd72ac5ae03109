"""`vlinders-tiny-embedding`: texts that share words, or parts of words, get vectors that are near.

A llama whose layer adds nothing: the vector of a text is the mean of its tokens' vectors. Those are
sums of hashed letter triples, as in fastText (Bojanowski et al., 2017): "cat" is near "cats".
"""

import hashlib
import math
import sys
from pathlib import Path

import numpy as np
from gguf import PoolingType

from vlinders_worker.models import llama
from vlinders_worker.models import text as texts
from vlinders_worker.models.llama import Attention, Matrix, Shape
from vlinders_worker.models.vocabulary import SPACE, Vocabulary

WIDTH = 64
SLACK = WIDTH - 1
"""A coordinate that takes what is missing to a full length, since the last norm makes all equal
long; it has no part in what comes out. So a stop word can count less than a noun."""

STOP_WEIGHT, PART_WEIGHT = 0.1, 0.4

SHAPE = Shape(
    name="vlinders-tiny-embedding",
    description="A demonstration: texts with words in common are near each other.",
    width=WIDTH,
    context_length=2_048,
)


def write(path: Path) -> None:
    """Writes the model as GGUF; the same bytes each time."""
    said = {word.lower() for word in texts.SENTENCES.replace(".", "").split()}
    stop_words = frozenset(texts.STOP_WORDS.split())
    words = {*texts.WORDS.split(), *stop_words, *said}
    pieces = [start + word for start in (SPACE, "") for word in sorted(words)]
    vocabulary = Vocabulary.of(control=(), pieces=pieces)
    last = np.ones(WIDTH, np.float32)
    last[SLACK] = 0
    with llama.drafted(path, SHAPE, vocabulary) as writer:
        writer.add_pooling_type(PoolingType.MEAN)
        writer.add_causal_attention(False)
        llama.add_tensors(
            writer,
            embedding=_embedding(vocabulary, words, stop_words),
            attention=Attention.of(SHAPE),
            others={"output_norm": last},
        )


def _embedding(vocabulary: Vocabulary, words: set[str], stop_words: frozenset[str]) -> Matrix:
    matrix = np.zeros((len(vocabulary), WIDTH), np.float32)
    for text, row in vocabulary.ids.items():
        word = text.removeprefix(SPACE).lower()
        if not word or text.startswith("<"):
            vector, weight = _hashed(text), STOP_WEIGHT / 2
        else:
            vector = _vector(word)
            weight = STOP_WEIGHT if word in stop_words else 1.0 if word in words else PART_WEIGHT
        matrix[row] = weight * vector
        matrix[row, SLACK] = math.sqrt(1 - weight**2)
    return matrix


def _vector(word: str) -> Matrix:
    """A unit vector: the word itself, and its triples of letters."""
    marked = f"<{word}>"
    triples = [marked[n : n + 3] for n in range(len(marked) - 2)]
    total = _hashed(word) + sum((_hashed(each) for each in triples), np.zeros(WIDTH, np.float32))
    return (total / np.linalg.norm(total)).astype(np.float32)


def _hashed(text: str) -> Matrix:
    """A unit vector that depends on nothing but `text`."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    vector = np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32)
    vector[SLACK] = 0
    return (vector / np.linalg.norm(vector)).astype(np.float32)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
