"""A small text encoder with a closed vocabulary: prompts with unknown words are refused.

Shapes: l tokens, d width.
"""

from collections.abc import Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from longtake.pipeline.errors import SpecError


class ClosedVocabularyEncoder(nn.Module):
    """Learned word and position embeddings and transformer layers; prompts are padded to `max_words` tokens.

    Args:
        vocabulary: the known words, in the order of their embeddings.
        max_words: words in the longest prompt.
        width: width of a token; a multiple of `num_heads`.
        num_layers: at least one.
    """

    def __init__(
        self, vocabulary: Sequence[str], max_words: int, width: int, num_layers: int = 1, num_heads: int = 4
    ) -> None:
        super().__init__()
        self.vocabulary, self.max_words = tuple(vocabulary), max_words
        self._index = {word: place for place, word in enumerate(self.vocabulary, start=1)}
        self.words = nn.Embedding(len(self.vocabulary) + 1, width)
        self.places = nn.Parameter(0.02 * torch.randn(max_words, width))
        self.layer, *further = (
            nn.TransformerEncoderLayer(width, num_heads, 4 * width, dropout=0.0, batch_first=True)
            for _ in range(max(1, num_layers))
        )
        self.further = nn.Sequential(*further)

    def tokenize(self, prompt: str) -> Tensor:
        """Word indices [max_words], 0 for padding. Raises `SpecError` for unknown words and long prompts."""
        words = prompt.lower().replace(",", " ").replace(".", " ").split()
        if len(words) > self.max_words:
            raise SpecError(
                f"the prompt {prompt!r} has {len(words)} words, the model accepts at most {self.max_words};"
                " shorten it, or split it into two scenes"
            )
        unknown = [word for word in words if word not in self._index]
        if unknown:
            hints = "; ".join(f"{word!r}: nearest are {', '.join(self._nearest(word))}" for word in unknown)
            raise SpecError(f"the prompt {prompt!r} has words that the model does not know ({hints})")
        numbers = [self._index[word] for word in words]
        return torch.tensor(numbers + [0] * (self.max_words - len(numbers)))

    def check(self, prompt: str) -> None:
        """Raise `SpecError` if the prompt has unknown words or is too long."""
        self.tokenize(prompt)

    def embed(self, prompt: str) -> Tensor:
        """Tokens [l d] of a prompt; "" gives those of the unconditional pass."""
        return self.forward(self.tokenize(prompt).to(self.places.device).unsqueeze(0))[0]

    def forward(self, numbers: Tensor) -> Tensor:
        """Tokens [b l d] of word indices [b l]."""
        tokens: Tensor = self.further(self.layer(self.words(numbers) + self.places))
        return tokens

    def _nearest(self, word: str) -> list[str]:
        return get_close_matches(word, self.vocabulary, n=3, cutoff=0.5) or list(self.vocabulary[:8])
