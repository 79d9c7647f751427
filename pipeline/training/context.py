"""Attention for training: every chunk is denoised after clean chunks, all of them in one pass.

Shapes: b batch, h heads, l tokens, d head width.
"""

from collections.abc import Sequence

from einops import repeat
from torch import Tensor
from typing_extensions import override

from longtake.pipeline.attention.context import ChunkCausalContext, ChunkLengths
from longtake.pipeline.attention.kv_plan import KVPlan
from longtake.pipeline.attention.rope import Ropes


class TeacherForcedContext(ChunkCausalContext):
    """Chunk-causal attention over a batch whose first rows are clean clips and whose other rows are noisy copies.

    Each chunk sees itself, and earlier chunks from the clean row of its clip, as it would in a rollout, but in a single
    pass (Gao et al., Ca2-VDM, arXiv 2411.16375; "teacher forcing" in Self-Forcing, arXiv 2506.08009).

    Args:
        chunks, plan, rope: see `ChunkCausalContext`.
        num_clean: clean clips; row r of the batch is a copy of clip r % num_clean.
    """

    def __init__(self, chunks: Sequence[ChunkLengths], plan: KVPlan, rope: Ropes, num_clean: int) -> None:
        super().__init__(chunks, plan, rope)
        self._num_clean = num_clean

    @override
    def _past(self, tokens: Tensor) -> Tensor:
        copies = tokens.shape[0] // self._num_clean
        return repeat(tokens[: self._num_clean], "b h l d -> (c b) h l d", c=copies)
