"""A vocabulary of the SentencePiece kind: bytes for everything, and words as whole tokens."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gguf import GGUFWriter, TokenType

SPACE = "▁"
"""How SentencePiece spells a space."""

UNKNOWN, BEGIN, END = "<unk>", "<s>", "<|end|>"


@dataclass
class Vocabulary:
    """Tokens in the order of their ids. Any text can be spelt, since each byte is a token."""

    texts: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    kinds: list[TokenType] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, *, control: Sequence[str], pieces: Iterable[str]) -> "Vocabulary":
        """The vocabulary of `pieces`, and of all that a tokenizer must merge to get to them.

        SentencePiece merges two neighbours where both together are a token, so a word is reached
        only if each of its beginnings is a token too.
        """
        made = cls()
        made._add(UNKNOWN, TokenType.UNKNOWN)
        for text in (BEGIN, END, *control):
            made._add(text, TokenType.CONTROL)
        for byte in range(256):
            made._add(f"<0x{byte:02X}>", TokenType.BYTE)
        for piece in pieces:
            for length in range(1, len(piece) + 1):
                made._add(piece[:length], TokenType.NORMAL)
            for letter in piece[1:]:
                made._add(letter, TokenType.NORMAL)
        return made

    def __len__(self) -> int:
        return len(self.texts)

    def write(self, writer: GGUFWriter) -> None:
        """Adds the tokenizer to a model file."""
        writer.add_tokenizer_model("llama")
        writer.add_token_list(self.texts)
        writer.add_token_scores(self.scores)
        writer.add_token_types(self.kinds)
        writer.add_unk_token_id(self.ids[UNKNOWN])
        writer.add_bos_token_id(self.ids[BEGIN])
        writer.add_eos_token_id(self.ids[END])
        writer.add_add_bos_token(True)
        writer.add_add_eos_token(False)

    def _add(self, text: str, kind: TokenType) -> None:
        if text in self.ids:
            return
        self.ids[text] = len(self.texts)
        self.texts.append(text)
        self.kinds.append(kind)
        # Longer tokens first; among equals the one that is spelt first.
        self.scores.append(float(len(text)) if kind is TokenType.NORMAL else 0.0)
