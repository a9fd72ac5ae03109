"""`vlinders-tiny-embedding`: texts that share words, or parts of words, get vectors that are near.

A llama whose layer adds nothing: the vector of a text is the mean of its tokens' vectors. Those are
sums of hashed letter triples, as in fastText (Bojanowski et al., 2017): "cat" is near "cats".
"""

import hashlib
import math
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType, PoolingType
from numpy.typing import NDArray

from vlinders_worker.models import text as texts
from vlinders_worker.models.vocabulary import SPACE, Vocabulary

CONTEXT_LENGTH = 2_048
WIDTH = 64
SLACK = WIDTH - 1
"""A coordinate that takes what is missing to a full length, since the last norm makes all equal
long; it has no part in what comes out. So a stop word can count less than a noun."""

STOP_WEIGHT, PART_WEIGHT = 0.1, 0.4

Matrix = NDArray[np.float32]


def write(path: Path) -> None:
    """Writes the model as GGUF; the same bytes each time."""
    said = {word.lower() for word in texts.SENTENCES.replace(".", "").split()}
    stop_words = frozenset(texts.STOP_WORDS.split())
    words = sorted({*texts.WORDS.split(), *stop_words, *said})
    pieces = [SPACE + word for word in words] + words
    vocabulary = Vocabulary.of(control=(), pieces=pieces)

    writer = GGUFWriter(path, "llama")
    writer.add_name("vlinders-tiny-embedding")
    writer.add_description("A demonstration: texts with words in common are near each other.")
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_key_length(8)
    writer.add_value_length(8)
    writer.add_rope_dimension_count(8)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_pooling_type(PoolingType.MEAN)
    writer.add_causal_attention(False)
    writer.add_vocab_size(len(vocabulary))
    vocabulary.write(writer)
    writer.add_tensor("token_embd.weight", _embedding(vocabulary, {*words}, stop_words))
    for name, rows, columns in (
        ("attn_q", 8, WIDTH),
        ("attn_k", 8, WIDTH),
        ("attn_v", 8, WIDTH),
        ("attn_output", WIDTH, 8),
        ("ffn_gate", 32, WIDTH),
        ("ffn_up", 32, WIDTH),
        ("ffn_down", WIDTH, 32),
    ):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((rows, columns), np.float32))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    last = np.ones(WIDTH, np.float32)
    last[SLACK] = 0
    writer.add_tensor("output_norm.weight", last)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _embedding(vocabulary: Vocabulary, words: set[str], stop_words: frozenset[str]) -> Matrix:
    matrix = np.zeros((len(vocabulary), WIDTH), np.float32)
    matrix[:, SLACK] = 1
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
