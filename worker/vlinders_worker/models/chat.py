"""`vlinders-tiny`: a language model of one layer, written down instead of trained.

It has a coordinate for each word. The output matrix holds how often a word follows a word in
`text.SENTENCES`, as logarithms: sampling gives plain English of no meaning. The attention heads
look for the mark at which the answer began. While it is near the model does not end, so that a
short answer is cut by its limit and a long one comes to an end of its own; and what is likely waves
with the distance, so that even without chance (temperature 0) no sentence is said for ever.
"""

import math
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from vlinders_worker.models import llama
from vlinders_worker.models.llama import HEAD, Attention, Matrix, Shape
from vlinders_worker.models.text import SENTENCES
from vlinders_worker.models.vocabulary import BEGIN, END, SPACE, Vocabulary

WIDTH = 512
ANSWER = "<|assistant|>"
CONTROL = ("<|system|>", "<|user|>", ANSWER, "<|tool|>")
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + ('system' if message['role'] == 'developer' else message['role']) + '|>' }}"
    "{{ message['content'] or '' }}{{ '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

CONSTANT, IS_ANSWER, IS_BEGIN, NEAR, WAVE, WORDS_FROM = 0, 1, 2, 3, 4, 5
"""Coordinates: always one; this token is the mark; it is the first of all; what the heads see."""

NEAR_TOKENS = 96
"""For so many tokens an answer does not end by itself."""

END_SHARE, PARAGRAPH_SHARE = 0.12, 0.15
"""How often a sentence is the last one, after that; and how often the last of a paragraph."""

NEVER = -30.0
"""Logarithm of how often a token comes that no sentence has."""

_ANGLE = 0.9 / NEAR_TOKENS
"""What RoPE turns pair 1 of a head by, a token; pair 0 turns by 1, pair 3 next to nothing."""

SHAPE = Shape(
    name="vlinders-tiny",
    description="A demonstration: plain English of no meaning.",
    width=WIDTH,
    context_length=65_536,
    heads=2,
    rope_base=_ANGLE**-4,
)

_SCALE = math.sqrt(WIDTH / 2)
"""What RMS norm multiplies a token's two ones by."""


def write(path: Path) -> None:
    """Writes the model as GGUF; the same bytes each time."""
    followers = _followers()
    words = [*dict.fromkeys(word for each in followers.values() for word in each if word != END)]
    if len(words) + WORDS_FROM > WIDTH:
        raise ValueError("the sentences have more words than the model is wide")
    vocabulary = Vocabulary.of(control=CONTROL, pieces=words)
    coordinates = {word: WORDS_FROM + n for n, word in enumerate(words)}
    with llama.drafted(path, SHAPE, vocabulary) as writer:
        writer.add_chat_template(TEMPLATE)
        llama.add_tensors(
            writer,
            embedding=_embedding(vocabulary, coordinates),
            attention=_attention(),
            others={"output": _output(vocabulary, coordinates, followers)},
        )


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


def _attention() -> Attention:
    """Two heads that weigh the mark against the very first token.

    The mark scores 60 · cos(angle · distance) in one head and 18 · cos(distance) in the other; the
    first token a steady 37 and 14; all others 0, which is far below. So one head sees the mark up
    to 0.9 rad away, and in the other it comes and goes.
    """
    weights = Attention.of(SHAPE)
    reach = math.sqrt(HEAD) / _SCALE**2
    near, wave = 0, HEAD
    weights.query[near + 2, CONSTANT] = 60 * reach
    weights.query[near + 6, CONSTANT] = 37 * reach
    weights.query[wave + 0, CONSTANT] = 18 * reach
    weights.query[wave + 6, CONSTANT] = 14 * reach
    weights.key[[0, 2], IS_ANSWER] = 1
    weights.key[6, IS_BEGIN] = 1
    weights.value[0, IS_ANSWER] = 1 / _SCALE
    weights.out[NEAR, near] = weights.out[WAVE, wave] = 0.5
    return weights


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
    moods = np.random.default_rng(seed=1).normal(0, 1.5, len(vocabulary))
    matrix[:, WAVE] = 2 * moods / _SCALE
    matrix[vocabulary.ids[END], [NEAR, WAVE]] = 4 * NEVER / _SCALE, 6 / _SCALE
    return matrix


if __name__ == "__main__":
    write(Path(sys.argv[1]))
