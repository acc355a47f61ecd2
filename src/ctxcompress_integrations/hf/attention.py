"""Reading attention out of a model that somebody else owns, touched only inside ``with``.

transformers computes attention through functions that are looked up by name at every call. Inside :func:`_swapped` the
name points to a function of ours, which computes what the model would have computed (SDPA, flash, eager) and, in the
wanted layers, the one row that is asked for. After the last wanted layer the forward is cut short: that layer's MLP,
the layers above and the LM head never run.

On a GPU batches are padded on the right and get no attention mask: under causal attention real tokens cannot see what
follows them, so every kernel keeps its fast path and no ``[n, n]`` mask is made. On a CPU only sequences of one length
share a forward: then even bf16 gives the same bits whatever a sequence travels with.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ctxcompress_integrations.errors import UnsupportedModelError
from ctxcompress_integrations.hf.borrow import lock_of
from ctxcompress_integrations.nn.attention_row import attention_row

_PREFIX = "ctxcompress_row_"


class _Done(Exception):  # noqa: N818 - a signal, no error
    """Every wanted row is there."""


@dataclass
class _Capture:
    """What one forward is asked for; lives in a context variable, so other threads' forwards never see it."""

    layers: frozenset[int]
    at: Tensor  # [b] position of each sequence's trigger
    rows: dict[int, Tensor] = field(default_factory=dict)  # layer -> [b, h, n]


_CAPTURE: ContextVar[_Capture | None] = ContextVar("ctxcompress_capture", default=None)


def trigger_rows(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], layers: Sequence[int], *, pads: bool | None = None
) -> dict[int, Tensor]:
    """Attention of the last token of each sequence, at the given layers of a decoder.

    Args:
        model: a decoder LM; used in inference mode, left as it was.
        sequences: token ids, one list per sequence, lengths may differ.
        layers: layer numbers; negative count from the last.
        pads: whether sequences of different lengths share a forward; None: on a GPU.

    Returns:
        layer (as given) -> float32 ``[b, h, n]`` with ``n`` the longest sequence; zero beyond each sequence's end.

    Raises:
        UnsupportedModelError: the model has no such layer, or shows no attention for it.
    """
    n_layers = int(model.config.get_text_config().num_hidden_layers)
    wanted = {layer: layer + n_layers if layer < 0 else layer for layer in layers}
    for layer, index in wanted.items():
        if not 0 <= index < n_layers:
            raise UnsupportedModelError(f"{type(model).__name__} has {n_layers} layers, there is no layer {layer}")
    device = next(model.parameters()).device
    groups: dict[int, list[int]] = defaultdict(list)
    for i, sequence in enumerate(sequences):
        groups[0 if pads or (pads is None and device.type != "cpu") else len(sequence)].append(i)
    longest = max(map(len, sequences))
    found: dict[int, Tensor] = {}
    for group in groups.values():
        rows = _forward(model, [sequences[i] for i in group], frozenset(wanted.values()), device)
        for layer, index in wanted.items():
            if layer not in found:
                found[layer] = rows[index].new_zeros(len(sequences), rows[index].shape[1], longest)
            found[layer][group, :, : rows[index].shape[2]] = rows[index]
    return found


@torch.inference_mode()
def _forward(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], layers: frozenset[int], device: torch.device
) -> dict[int, Tensor]:
    """One forward over sequences padded on the right; layer -> ``[b, h, n]``."""
    lengths = torch.tensor([len(s) for s in sequences])
    input_ids = torch.zeros((len(sequences), int(lengths.max())), dtype=torch.long)
    for row, sequence in zip(input_ids, sequences, strict=True):
        row[: len(sequence)] = torch.tensor(sequence)
    input_ids, at = input_ids.to(device), (lengths - 1).to(device)
    rows = _captured(model, input_ids, at, layers)
    return _sliced(model, input_ids, at, layers) if rows is None else rows


def _captured(
    model: PreTrainedModel, input_ids: Tensor, at: Tensor, layers: frozenset[int]
) -> dict[int, Tensor] | None:
    """The fast path; None when the model does not route its attention through transformers' interface."""
    if not model._can_set_attn_implementation():
        return None
    capture = _Capture(layers, at)
    with _swapped(model):
        token = _CAPTURE.set(capture)
        try:
            model(input_ids=input_ids, use_cache=False)
        except _Done:
            pass
        finally:
            _CAPTURE.reset(token)
    missing = layers - capture.rows.keys()
    if missing and capture.rows:
        raise UnsupportedModelError(
            f"layer {min(missing)} of {type(model).__name__} has no softmax attention; layers that have: "
            f"{sorted(capture.rows)}. Choose one with layer=..."
        )
    return capture.rows or None


def _sliced(model: PreTrainedModel, input_ids: Tensor, at: Tensor, layers: frozenset[int]) -> dict[int, Tensor]:
    """The slow path for models outside the interface (BLOOM, MPT, GPT-J): whole maps, O(n^2), one row cut out."""
    with lock_of(model):
        attentions = model(input_ids=input_ids, use_cache=False, output_attentions=True).attentions
    if not attentions or any(attentions[layer] is None for layer in layers):
        raise UnsupportedModelError(
            f"{type(model).__name__} shows no attention weights; load it with attn_implementation='eager' and read "
            "outside LM-Infinite, or take another model"
        )
    batch = torch.arange(len(at), device=at.device)
    return {layer: attentions[layer][batch, :, at].float() for layer in layers}


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model computes its attention the plain way and can show its weights."""
    with lock_of(model), implementation(model, "eager"):
        yield


@contextmanager
def _swapped(model: PreTrainedModel) -> Iterator[None]:
    with lock_of(model):
        original = model.config._attn_implementation or "eager"
        with implementation(model, _register(original.removeprefix(_PREFIX))):
            yield


@contextmanager
def implementation(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Point every config of the model at another attention function, and back; take the lock first."""
    configs = {id(m.config): m.config for m in model.modules() if isinstance(m, PreTrainedModel)}
    saved = [(config, config._attn_implementation) for config in configs.values()]
    try:
        for config, _ in saved:
            config._attn_implementation_internal = name
        yield
    finally:
        for config, before in saved:
            config._attn_implementation_internal = before


def _register(original: str) -> str:
    """Register our function in front of the implementation ``original``; returns its name."""
    name = _PREFIX + original
    if name not in ALL_ATTENTION_FUNCTIONS:

        def attention(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
        ) -> Any:
            capture = _CAPTURE.get()
            if capture is not None:
                _take_row(capture, module, query, key, attention_mask, kwargs)
            function = _eager(module) if original == "eager" else ALL_ATTENTION_FUNCTIONS[original]
            return function(module, query, key, value, attention_mask, **kwargs)

        AttentionInterface.register(name, attention)
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[original])
    return name


def _take_row(
    capture: _Capture, module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
) -> None:
    """Keep the trigger's row of this layer if it is wanted: query ``[b, h, n, d]``, key ``[b, h_kv, n, d]``."""
    layer = getattr(module, "layer_idx", None)
    if layer not in capture.layers:
        return
    batch = torch.arange(len(query), device=query.device)
    at = capture.at.to(query.device)
    scaling = query.shape[-1] ** -0.5 if kwargs.get("scaling") is None else kwargs["scaling"]
    if "lambda_pass" in kwargs:  # the model is inside LM-Infinite, and query and key are not rotated yet
        capture.rows[layer] = kwargs["lambda_pass"].row(query, key, mask, at, scaling=scaling)
    else:
        row_mask = None
        if isinstance(mask, Tensor) and mask.dim() == 4:  # [b or 1, h or 1, n, n]: a sliding window's, say
            expanded = mask.expand(len(query), -1, -1, -1)
            row_mask = expanded[batch, :, at, : key.shape[2]]
        capture.rows[layer] = attention_row(
            query[batch, :, at], key, scaling=scaling, n_keys=at + 1, mask=row_mask, softcap=kwargs.get("softcap")
        )
    if capture.layers <= capture.rows.keys():
        raise _Done


def _eager(module: nn.Module) -> Any:
    """The plain attention function of the module's own modeling file, where transformers keeps it."""
    return sys.modules[type(module).__module__].eager_attention_forward
