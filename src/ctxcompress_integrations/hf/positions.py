"""How many positions a model can take, as its config says."""

from __future__ import annotations

from typing import Any


def context_length(model: Any, *, otherwise: int = 2048) -> int:
    """Positions that the model was trained on, from its config; ``otherwise`` when it does not say."""
    config = model.config.get_text_config()
    for field in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        value = getattr(config, field, None)
        if isinstance(value, int) and value > 0:
            return value
    return otherwise


def position_limit(model: Any) -> int | None:
    """Positions that prompt and answer may take together: :func:`context_length`, or as many as the rope scaling in the
    config stretches it to; None when that knows no end (dynamic NTK).
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "dynamic":
        return None
    stretched = (rope.get("factor") or 1) * (rope.get("original_max_position_embeddings") or 0)
    return max(context_length(model), int(stretched))
