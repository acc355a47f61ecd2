"""``sggetao/icae``: memory tokens and a LoRA, V1 (``.pt``, Llama-2) and V2 (``.safetensors``, Mistral).

V2 holds ``memory_token_embed.weight`` ``[m + 3, d]``, the last three rows being the tokens <AE>, <LM> and <FT>, and
``icae.base_model.model.<layer>.lora_{A,B}.default.weight``. V1 names the frozen weights too, each a scalar 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ctxcompress_integrations.errors import WeightsMismatchError
from ctxcompress_integrations.hf.published.files import file_tensors
from ctxcompress_integrations.hf.summary_weights import check_names
from ctxcompress_integrations.nn.low_rank import LowRank, linear_layers

ALPHA = 32.0
"""LoRA's alpha of both versions; it is not in their files."""
_BASE = "icae.base_model.model."
_MEMORY = "memory_token_embed.weight"
_ENDINGS = ("ae", "lm", "ft")


def load(path: Path, base: Any) -> tuple[Tensor, dict[str, Tensor], LowRank]:
    """Memory tokens ``[m, d]``, vectors ``[d]`` of the task tokens and the adapter, for ``base``, a decoder LM.

    Raises:
        WeightsMismatchError: tensors are missing, left over or do not fit the base.
    """
    frozen = {f"{_BASE}{name}" for name, _ in base.named_parameters(remove_duplicate=False)}
    held = {
        key: value
        for key, value in file_tensors(path).items()
        if not (_is_zero(value) and (key in frozen or key.endswith("rotary_emb.inv_freq")))
    }
    rows = next((len(value) for key, value in held.items() if key == _MEMORY), 0)
    rank = next((len(value) for key, value in held.items() if ".lora_A." in key), 0)
    if rows <= len(_ENDINGS) or not rank:
        raise WeightsMismatchError(
            f"{path} has no {_MEMORY!r} of more than {len(_ENDINGS)} rows beside low-rank updates: it is no ICAE"
        )
    layers = linear_layers(base, {key.partition(".lora_")[0].rpartition(".")[2] for key in held if ".lora_" in key})
    wanted = {_MEMORY: (rows, base.get_input_embeddings().weight.shape[1])}
    for layer, (n_in, n_out) in layers.items():
        wanted |= {_key(layer, "A"): (rank, n_in), _key(layer, "B"): (n_out, rank)}
    check_names(held, wanted, source=str(path))
    memory, *endings = held[_MEMORY].split([rows - len(_ENDINGS), *(1 for _ in _ENDINGS)])
    matrices = {layer: (held[_key(layer, "A")], held[_key(layer, "B")]) for layer in layers}
    adapter = LowRank.from_matrices(matrices, alpha=ALPHA)
    return memory, {name: row[0] for name, row in zip(_ENDINGS, endings, strict=True)}, adapter


def _key(layer: str, side: str) -> str:
    return f"{_BASE}{layer}.lora_{side}.default.weight"


def _is_zero(value: object) -> bool:
    is_scalar = isinstance(value, int | float) or (isinstance(value, Tensor) and not value.ndim)
    return is_scalar and value == 0
