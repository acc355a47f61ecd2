"""``wonderful9462/IC-Former``: ``config.json``, the blocks (``encoder.layers.<i>.cross_attn.q_proj.weight`` ...), and
``param.pt`` with ``digest_embeddings`` ``[1, m, d]`` and the tokens ``AE`` and ``FT`` ``[1, 1, d]``.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.hf.published.files import file_tensors, folder_tensors, read_json
from ctxcompress_integrations.hf.summary_weights import check_names
from ctxcompress_integrations.nn.digest import DigestEncoder

_PARTS = {
    "query": "cross_attn.q_proj",
    "key": "cross_attn.k_proj",
    "value": "cross_attn.v_proj",
    "out": "cross_attn.o_proj",
    "query_norm": "cross_input_layernorm",
    "context_norm": "context_layernorm",
    "inner_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def load(folder: Path) -> tuple[DigestEncoder, dict[str, Tensor]]:
    """The blocks, and the vectors ``[d]`` of the task tokens by their names in lower case.

    Raises:
        UnsupportedModelError: scaled rotary positions, or another activation than SiLU.
        WeightsMismatchError: tensors are missing, left over or do not fit each other.
    """
    config = read_json(folder / "config.json")
    if config.get("rope_scaling") is not None or config.get("hidden_act", "silu") != "silu":
        raise UnsupportedModelError(
            f"{folder} has rope_scaling={config.get('rope_scaling')!r} and hidden_act={config.get('hidden_act')!r}; "
            "this release reads IC-Formers with plain rotary positions and SiLU"
        )
    encoder = DigestEncoder(
        width=config.get("hidden_size", 4096),
        n_digests=config.get("num_query_tokens", 128),
        n_layers=config.get("num_hidden_layers", 12),
        n_heads=config.get("num_attention_heads", 32),
        n_kv_heads=config.get("num_key_value_heads"),
        n_inner=config.get("intermediate_size", 11008),
        eps=config.get("rms_norm_eps", 1e-6),
        rope_theta=config.get("rope_theta", 10000.0),
    )
    blocks, vectors = folder_tensors(folder), file_tensors(folder / "param.pt")
    names = {name: _published(name) for name in encoder.state_dict() if name != "digests"}
    shapes = {theirs: tuple(encoder.state_dict()[ours].shape) for ours, theirs in names.items()}
    check_names(blocks, shapes, source=str(folder))
    width = encoder.digests.shape[1]
    tokens = {name: (1, 1, width) for name in ("AE", "FT") if name in vectors}
    check_names(vectors, {"digest_embeddings": (1, *encoder.digests.shape)} | tokens, source=str(folder / "param.pt"))
    tensors = {ours: blocks[theirs] for ours, theirs in names.items()}
    encoder.load_state_dict(tensors | {"digests": vectors["digest_embeddings"].detach()[0]})
    return encoder, {name.lower(): vectors[name].detach().reshape(width) for name in tokens}


def _published(name: str) -> str:
    """Their name of one of our tensors."""
    if name == "norm.weight":
        return "encoder.norm.weight"
    _, layer, part, _ = name.split(".")
    return f"encoder.layers.{layer}.{_PARTS[part]}.weight"
