"""`vlinders-tiny`: a language model of one layer, written down instead of trained.

It is a llama of width 512 with a coordinate for each word. The output matrix holds how often a word
follows a word in `text.SENTENCES`, as logarithms: sampling gives plain English of no meaning.
The one attention head looks for the mark at which the answer began: while that is near, the model
does not end, so a short answer is cut by its limit and a long one comes to an end of its own.
"""

import math
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType
from numpy.typing import NDArray

from vlinders_worker.models.text import SENTENCES
from vlinders_worker.models.vocabulary import BEGIN, END, SPACE, Vocabulary

CONTEXT_LENGTH = 65_536
WIDTH = 512
HEAD = 8
ANSWER = "<|assistant|>"
CONTROL = ("<|system|>", "<|user|>", ANSWER, "<|tool|>")
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + ('system' if message['role'] == 'developer' else message['role']) + '|>' }}"
    "{{ message['content'] or '' }}{{ '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

CONSTANT, IS_ANSWER, IS_BEGIN, NEAR, WORDS_FROM = 0, 1, 2, 3, 4
"""Coordinates: always one; the token is the mark; it is the first; how near the mark is; words."""

NEAR_TOKENS = 96
"""For so many tokens an answer does not end by itself."""

END_SHARE = 0.12
"""How often a sentence is the last one, after that."""

PARAGRAPH_SHARE = 0.15
NEVER = -30.0
"""Logarithm of how often a token comes that no sentence has."""

Matrix = NDArray[np.float32]


def write(path: Path) -> None:
    """Writes the model as GGUF; the same bytes each time."""
    followers = _followers()
    words = [*dict.fromkeys(word for each in followers.values() for word in each if word != END)]
    vocabulary = Vocabulary.of(control=CONTROL, pieces=words)
    coordinates = {word: WORDS_FROM + n for n, word in enumerate(words)}
    if len(words) + WORDS_FROM > WIDTH:
        raise ValueError("the sentences have more words than the model is wide")

    writer = GGUFWriter(path, "llama")
    writer.add_name("vlinders-tiny")
    writer.add_description("A demonstration: plain English of no meaning.")
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(_ROPE_BASE)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(vocabulary))
    vocabulary.write(writer)
    writer.add_chat_template(TEMPLATE)
    for name, matrix in (
        ("token_embd", _embedding(vocabulary, coordinates)),
        *_attention().items(),
        ("blk.0.ffn_gate", np.zeros((32, WIDTH), np.float32)),
        ("blk.0.ffn_up", np.zeros((32, WIDTH), np.float32)),
        ("blk.0.ffn_down", np.zeros((WIDTH, 32), np.float32)),
        ("output", _output(vocabulary, coordinates, followers)),
    ):
        writer.add_tensor(f"{name}.weight", matrix.astype(np.float16))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _followers() -> dict[str, Counter[str]]:
    """How often a token follows another. The first of an answer or paragraph has no space."""
    followers: dict[str, Counter[str]] = defaultdict(Counter)
    lines = SENTENCES.strip().splitlines()
    for line in lines:
        first, *rest = re.findall(r"\w+|[.,?!]", line)
        words = [word if word in ".,?!" else SPACE + word for word in rest]
        for before, word in zip([SPACE + first, *words], words, strict=False):
            followers[before][word] += 1
        followers[first][words[0]] += 1
        followers[ANSWER][first] += 1
        followers["\n\n"][first] += 1
        followers["."][SPACE + first] += 1
    followers["."]["\n\n"] = round(PARAGRAPH_SHARE * len(lines))
    followers["."][END] = round(END_SHARE * len(lines))
    return followers


def _embedding(vocabulary: Vocabulary, coordinates: dict[str, int]) -> Matrix:
    """Each token: the constant, and one at its own coordinate. Bytes and beginnings have none."""
    matrix = np.zeros((len(vocabulary), WIDTH), np.float32)
    matrix[:, CONSTANT] = 1
    matrix[vocabulary.ids[ANSWER], IS_ANSWER] = 1
    matrix[vocabulary.ids[BEGIN], IS_BEGIN] = 1
    for word, coordinate in coordinates.items():
        matrix[vocabulary.ids[word], coordinate] = 1
    return matrix


_SCALE = math.sqrt(WIDTH / 2)
"""What RMS norm multiplies a token's two ones by."""

_ANGLE = 0.9 / NEAR_TOKENS
_ROPE_BASE = _ANGLE**-4
"""RoPE turns pair i of 4 by base^(-i/4) a token: pair 1 by `_ANGLE`, pair 3 next to nothing."""


def _attention() -> dict[str, Matrix]:
    """One head: the mark scores 60 · cos(angle · distance), the first token a steady 37.

    They are equal at 0.9 rad, and both far above all other tokens together, which score 0.
    """
    query, key, value = (np.zeros((HEAD, WIDTH), np.float32) for _ in range(3))
    out = np.zeros((WIDTH, HEAD), np.float32)
    reach = math.sqrt(HEAD) / _SCALE**2
    query[2, CONSTANT], key[2, IS_ANSWER] = 60 * reach, 1
    query[6, CONSTANT], key[6, IS_BEGIN] = 37 * reach, 1
    value[0, IS_ANSWER] = 1 / _SCALE
    out[NEAR, 0] = 0.5
    return {
        "blk.0.attn_q": query,
        "blk.0.attn_k": key,
        "blk.0.attn_v": value,
        "blk.0.attn_output": out,
    }


def _output(
    vocabulary: Vocabulary, coordinates: dict[str, int], followers: dict[str, Counter[str]]
) -> Matrix:
    """Logits: by the constant, `NEVER`; by the coordinate of a word, what lifts its followers."""
    matrix = np.zeros((len(vocabulary), WIDTH), np.float32)
    matrix[:, CONSTANT] = NEVER / _SCALE
    rows = {**coordinates, ANSWER: IS_ANSWER}
    for before, after in followers.items():
        for word, count in after.items():
            lift = math.log(count / after.total()) - NEVER
            matrix[vocabulary.ids[word], rows[before]] = lift / _SCALE
    matrix[vocabulary.ids[END], NEAR] = 4 * NEVER / _SCALE
    return matrix


if __name__ == "__main__":
    write(Path(sys.argv[1]))
