"""A text classifier: any encoder over packed sequences, and one linear layer on the state of [CLS]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctxcompress_integrations.nn.dropping_encoder import DroppingEncoder
from ctxcompress_integrations.nn.packed_encoder import Block, PackedEncoder


class TextClassifier(nn.Module):
    """Logits from an encoder, dense, folded or dropping tokens.

    Args:
        encoder: whose first token is read.
        n_labels: ``c``.
    """

    def __init__(self, encoder: PackedEncoder | DroppingEncoder, *, n_labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(self.packed.words.embedding_dim, n_labels)

    @property
    def packed(self) -> PackedEncoder:
        """The encoder without its samplers."""
        return self.encoder.encoder if isinstance(self.encoder, DroppingEncoder) else self.encoder

    def forward(
        self, ids: Tensor, blocks: Sequence[Block], protected: Tensor | None = None, *, threshold: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Logits ``[s, c]`` of each sequence, and how many layers each token went through, int64 ``[n]``.

        Args:
            ids: int64 ``[n]``.
            blocks: ``s`` sequences.
            protected: bool ``[n]``, see :meth:`DroppingEncoder.kept`.
            threshold: likewise.
        """
        if isinstance(self.encoder, DroppingEncoder):
            kept = self.encoder.kept(ids, blocks, protected, threshold=threshold)
            return self.logits(kept.states, blocks), kept.depth
        return self.logits(self.encoder(ids, blocks), blocks), torch.full_like(ids, len(self.encoder.layers))

    def logits(self, states: Tensor, blocks: Sequence[Block]) -> Tensor:
        """``[s, c]`` from last states ``[n, d]``."""
        logits: Tensor = self.head(states[first_rows(blocks)])
        return logits


def first_rows(blocks: Sequence[Block]) -> Tensor:
    """int64 ``[s]``: the packed row of each sequence's first token, in the order of the sequences."""
    return torch.cat([block.rows[:, 0] for block in blocks]).sort().values
