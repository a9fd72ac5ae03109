"""Small models in the GGUF format and of the llama architecture, as llama.cpp reads them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType
from numpy.typing import NDArray

from vlinders_worker.models.vocabulary import Vocabulary

Matrix = NDArray[np.float32]

HEAD = 8
"""Width of an attention head: four pairs, which RoPE turns by base^(-pair/4) a token."""

FEED_FORWARD = 32
"""Width of the feed-forward part, which adds nothing in these models but cannot be left out."""


@dataclass(frozen=True)
class Shape:
    """A model of one layer with one head of keys and values."""

    name: str
    description: str
    width: int
    context_length: int
    heads: int = 1
    rope_base: float = 10_000.0


@contextmanager
def drafted(path: Path, shape: Shape, vocabulary: Vocabulary) -> Iterator[GGUFWriter]:
    """A file with all that `shape` and `vocabulary` say; the block adds the rest, and tensors."""
    writer = GGUFWriter(path, "llama")
    writer.add_name(shape.name)
    writer.add_description(shape.description)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(1)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(vocabulary))
    vocabulary.write(writer)
    yield writer
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@dataclass(frozen=True)
class Attention:
    """The weights of the one layer's attention; all zeros add nothing."""

    query: Matrix
    key: Matrix
    value: Matrix
    out: Matrix

    @classmethod
    def of(cls, shape: Shape) -> "Attention":
        return cls(
            query=np.zeros((shape.heads * HEAD, shape.width), np.float32),
            key=np.zeros((HEAD, shape.width), np.float32),
            value=np.zeros((HEAD, shape.width), np.float32),
            out=np.zeros((shape.width, shape.heads * HEAD), np.float32),
        )


def add_tensors(
    writer: GGUFWriter, *, embedding: Matrix, attention: Attention, others: Mapping[str, Matrix]
) -> None:
    """Adds the weights: matrices in 16 bits, norms, which llama.cpp wants so, in 32."""
    width = embedding.shape[1]
    ones = np.ones(width, np.float32)
    tensors = {
        "token_embd": embedding,
        "blk.0.attn_norm": ones,
        "blk.0.attn_q": attention.query,
        "blk.0.attn_k": attention.key,
        "blk.0.attn_v": attention.value,
        "blk.0.attn_output": attention.out,
        "blk.0.ffn_norm": ones,
        "blk.0.ffn_gate": np.zeros((FEED_FORWARD, width), np.float32),
        "blk.0.ffn_up": np.zeros((FEED_FORWARD, width), np.float32),
        "blk.0.ffn_down": np.zeros((width, FEED_FORWARD), np.float32),
        "output_norm": ones,
        **others,
    }
    for name, values in tensors.items():
        kind = np.float16 if values.ndim > 1 else np.float32
        writer.add_tensor(f"{name}.weight", values.astype(kind))
