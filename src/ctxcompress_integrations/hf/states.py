"""Word vectors in, last hidden states out: rows of any length, in one forward, without the LM head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.hf.borrow import base_of


def embed(model: Any, token_ids: Sequence[Sequence[int]]) -> list[Tensor]:
    """Rows ``[n, d]`` of the model's input embeddings, one per sequence."""
    table = model.get_input_embeddings()
    flat = torch.tensor([token for ids in token_ids for token in ids], dtype=torch.long, device=table.weight.device)
    return list(table(flat).split([len(ids) for ids in token_ids]))


def last_states(model: Any, rows: Sequence[Tensor], *, is_causal: bool = True) -> Tensor:
    """Hidden states after the final norm, ``[b, n, d]`` with ``n`` of the longest row; what follows a row is noise.

    Rows are padded on the right. A causal model then needs no mask: nothing that exists looks at the padding, and
    positions count from 0 as they do alone.

    Args:
        model: a decoder LM.
        rows: input vectors ``[n_i, d]``.
        is_causal: False lets every position see the whole row.

    Raises:
        UnsupportedModelError: rows are to be seen whole by an attention kernel that takes no mask of its own.
    """
    vectors = pad_sequence(list(rows), batch_first=True)
    backbone, mask = base_of(model).base_model, None
    if not is_causal:
        kernel = backbone.config._attn_implementation
        if kernel not in ("sdpa", "eager"):
            raise UnsupportedModelError(
                f"the attention kernel {kernel!r} cannot let a causal model see ahead: call "
                "model.set_attn_implementation('sdpa')"
            )
        lengths = torch.tensor([len(row) for row in rows], device=vectors.device)
        exists = torch.arange(vectors.shape[1], device=vectors.device) < lengths[:, None]
        hidden = torch.zeros_like(exists, dtype=vectors.dtype).masked_fill(~exists, torch.finfo(vectors.dtype).min)
        mask = hidden[:, None, None].expand(-1, 1, vectors.shape[1], -1)
    states: Tensor = backbone(inputs_embeds=vectors, attention_mask=mask, use_cache=False).last_hidden_state
    return states


def final_states(model: Any, rows: Sequence[Tensor], n_last: int) -> list[Tensor]:
    """The last ``n_last`` hidden states ``[n_last, d]`` of each row, under the causal mask."""
    states = last_states(model, rows)
    return [states[i, len(row) - n_last : len(row)] for i, row in enumerate(rows)]
