"""Checkpoints that the authors of the methods published, read into this package's names.

Every tensor of a checkpoint must find its place and every place its tensor; what does not fit is an error that
names it. ``.pt`` and ``.bin`` files are read with ``weights_only=True``: nothing but tensors and plain numbers comes out
of them.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ctxcompress_integrations._optional import require
from ctxcompress_integrations.errors import UnsupportedModelError, WeightsMismatchError
from ctxcompress_integrations.nn.low_rank import linear_layers

SUMMARY_KEY = "embed_summary.weight"
_ICAE_BASE = "icae.base_model.model."
_ICAE_MEMORY = "memory_token_embed.weight"
_ICAE_ENDINGS = ("ae", "lm", "ft")
_LAYER = "encoder.layers."
_ICFORMER_PARTS = {
    "cross_attn.q_proj": "query",
    "cross_attn.k_proj": "key",
    "cross_attn.v_proj": "value",
    "cross_attn.o_proj": "out",
    "cross_input_layernorm": "query_norm",
    "context_layernorm": "context_norm",
    "post_attention_layernorm": "inner_norm",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
}


class PublishedIcae(NamedTuple):
    """``memory`` ``[m, d]``; ``endings`` ``[d]`` by name; ``adapter``: ``(down [r, in], up [out, r])`` by layer."""

    memory: Tensor
    endings: dict[str, Tensor]
    adapter: dict[str, tuple[Tensor, Tensor]]


class PublishedIcFormer(NamedTuple):
    """``sizes`` are arguments, ``tensors`` the state of a ``DigestEncoder``; ``endings`` ``[d]`` by name."""

    sizes: dict[str, Any]
    tensors: dict[str, Tensor]
    endings: dict[str, Tensor]


def autocompressor(folder: Path, *, device: Any, dtype: Any) -> tuple[Any, Any, Tensor]:
    """``(model, tokenizer, summary embeddings [m, d])`` of a Llama AutoCompressor, as a plain Llama.

    Raises:
        UnsupportedModelError: an OPT one, or one that does not accumulate its summaries (RMT).
        WeightsMismatchError: tensors are missing, left over or do not fit each other.
    """
    transformers = require("transformers", extra="torch")
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    if config.model_type != "llama":
        raise UnsupportedModelError(
            f"{folder} is an AutoCompressor on {config.model_type!r}; this release reads those on Llama (OPT's give no "
            "positions to summary tokens): use princeton-nlp/AutoCompressor-Llama-2-7b-6k"
        )
    if not getattr(config, "accumulate_summary", True):
        raise UnsupportedModelError(f"{folder} hands on its last summary alone (RMT); take one that accumulates them")
    summary = _folder_tensors(folder, {SUMMARY_KEY}).get(SUMMARY_KEY)
    if summary is None:
        raise WeightsMismatchError(f"{folder} lacks the tensor {SUMMARY_KEY!r}: it is no AutoCompressor")
    if summary.ndim != 2 or tuple(summary.shape) != (
        getattr(config, "summary_length", len(summary)),
        config.hidden_size,
    ):
        raise WeightsMismatchError(
            f"{SUMMARY_KEY!r} of {folder} has shape {tuple(summary.shape)}, its config.json says summary_length="
            f"{getattr(config, 'summary_length', None)} and hidden_size={config.hidden_size}"
        )
    logging = transformers.utils.logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it would report the summary embeddings as a mistake
    try:
        model, found = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    finally:
        logging.set_verbosity(verbosity)
    _complain(str(folder), missing=found["missing_keys"], unexpected=set(found["unexpected_keys"]) - {SUMMARY_KEY})
    return model.to(device).eval(), tokenizer, summary


def icae(path: Path, base: Any) -> PublishedIcae:
    """An ICAE checkpoint, V1 (``.pt``) or V2 (``.safetensors``), for ``base``, a decoder LM.

    V2 holds ``memory_token_embed.weight`` ``[m + 3, d]``, the last three rows being the tokens <AE>, <LM> and <FT>, and
    ``icae.base_model.model.<layer>.lora_{A,B}.default.weight``. V1 names the frozen weights too, each a scalar 0.

    Raises:
        WeightsMismatchError: tensors are missing, left over or do not fit the base.
    """
    held = dict(_file_tensors(path))
    table = held.pop(_ICAE_MEMORY, None)
    if not isinstance(table, Tensor) or table.ndim != 2 or len(table) <= len(_ICAE_ENDINGS):
        raise WeightsMismatchError(f"{path} lacks the tensor {_ICAE_MEMORY!r} [m + 3, d]: it is no ICAE")
    names = {name for name, _ in base.named_parameters(remove_duplicate=False)}
    matrices: dict[str, dict[str, Tensor]] = {"A": {}, "B": {}}
    unexpected = []
    for key, value in held.items():
        name = key.removeprefix(_ICAE_BASE)
        layer, lora, rest = name.partition(".lora_")
        if lora and rest in ("A.default.weight", "B.default.weight") and isinstance(value, Tensor):
            matrices[rest[0]][layer] = value
        elif not (_is_placeholder(value) and (name in names or name.endswith("rotary_emb.inv_freq"))):
            unexpected.append(key)
    layers = linear_layers(base, {layer.rpartition(".")[2] for side in matrices.values() for layer in side})
    wanted = {(side, layer) for side in matrices for layer in layers}
    given = {(side, layer) for side, of_side in matrices.items() for layer in of_side}
    unexpected += [_lora_key(*pair) for pair in given - wanted]
    _complain(
        str(path),
        missing=[_lora_key(*pair) for pair in wanted - given] or ([] if given else ["lora_A"]),
        unexpected=unexpected,
    )
    ranks = {len(down) for down in matrices["A"].values()}
    for layer, (n_in, n_out) in layers.items():
        for side, wanted_shape in (("A", (max(ranks), n_in)), ("B", (n_out, max(ranks)))):
            _check_shape(path, _lora_key(side, layer), matrices[side][layer], wanted_shape)
    n_memory = len(table) - len(_ICAE_ENDINGS)
    _check_shape(path, _ICAE_MEMORY, table, (len(table), base.get_input_embeddings().weight.shape[1]))
    return PublishedIcae(
        table[:n_memory].clone(),
        {name: table[n_memory + i].clone() for i, name in enumerate(_ICAE_ENDINGS)},
        {layer: (matrices["A"][layer], matrices["B"][layer]) for layer in layers},
    )


def icformer(folder: Path) -> PublishedIcFormer:
    """An IC-Former checkpoint: ``config.json``, the model's tensors (``encoder.layers.<i>.cross_attn.q_proj.weight``
    ...), and ``param.pt`` with ``digest_embeddings`` ``[1, m, d]`` and the tokens ``AE`` and ``FT`` ``[1, 1, d]``.

    Raises:
        UnsupportedModelError: scaled rotary positions, or another activation than SiLU.
        WeightsMismatchError: tensors are missing, left over or do not fit each other.
    """
    config = _json(folder / "config.json")
    if config.get("rope_scaling") is not None or config.get("hidden_act", "silu") != "silu":
        raise UnsupportedModelError(
            f"{folder} has rope_scaling={config.get('rope_scaling')!r} and hidden_act={config.get('hidden_act')!r}; "
            "this release reads IC-Formers with plain rotary positions and SiLU"
        )
    held, extra = _folder_tensors(folder), _file_tensors(folder / "param.pt")
    tensors = {_icformer_name(key): value for key, value in held.items()}
    names = {"digest_embeddings", "AE", "FT"}
    _complain(str(folder), missing={"digest_embeddings"} - extra.keys(), unexpected=extra.keys() - names)
    tensors["digests"] = extra["digest_embeddings"].detach().squeeze(0)
    _complain(str(folder), missing={"layers.0.key.weight", "layers.0.gate.weight"} - tensors.keys(), unexpected=())
    (n_digests, width), n_heads = tensors["digests"].shape, config.get("num_attention_heads", 32)
    sizes = {
        "width": width,
        "n_digests": n_digests,
        "n_layers": len({name.split(".")[1] for name in tensors if name.startswith("layers.")}),
        "n_heads": n_heads,
        "n_kv_heads": len(tensors["layers.0.key.weight"]) * n_heads // width,
        "n_inner": len(tensors["layers.0.gate.weight"]),
        "eps": config.get("rms_norm_eps", 1e-6),
        "rope_theta": config.get("rope_theta", 10000.0),
    }
    endings = {name.lower(): extra[name].detach().reshape(-1) for name in ("AE", "FT") if name in extra}
    return PublishedIcFormer(sizes, tensors, endings)


def _icformer_name(key: str) -> str:
    """Our name of a tensor; a key that is not known keeps its own, and is complained about where it finds no place."""
    if key == "encoder.norm.weight":
        return "norm.weight"
    index, _, part = key.removeprefix(_LAYER).partition(".")
    known = _ICFORMER_PARTS.get(part.removesuffix(".weight"))
    return f"layers.{index}.{known}.weight" if known and key.startswith(_LAYER) else key


def _is_placeholder(value: object) -> bool:
    return (
        float(value) == 0.0
        if isinstance(value, int | float) or (isinstance(value, Tensor) and not value.ndim)
        else False
    )


def _lora_key(side: str, layer: str) -> str:
    return f"{_ICAE_BASE}{layer}.lora_{side}.default.weight"


def _check_shape(source: Path, key: str, tensor: Tensor, wanted: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != wanted:
        raise WeightsMismatchError(
            f"the tensor {key!r} of {source} has shape {tuple(tensor.shape)}, {wanted} is needed: is the model the "
            "one that it was trained on?"
        )


def _complain(source: str, *, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    for what, names in (("lacks the tensor", missing), ("has a tensor that does not belong there:", unexpected)):
        if first := sorted(names)[:1]:
            raise WeightsMismatchError(f"{source} {what} {first[0]!r}")


def _json(path: Path) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsMismatchError(f"{path} cannot be read ({error}); fetch the checkpoint again") from error
    return read


def _folder_tensors(folder: Path, wanted: set[str] | None = None) -> dict[str, Tensor]:
    """Tensors of a transformers checkpoint by name, from one file or from shards; all, or those of ``wanted``."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            files = {name}
        elif (folder / f"{name}.index.json").exists():
            places = _json(folder / f"{name}.index.json").get("weight_map", {})
            files = {file for key, file in places.items() if wanted is None or key in wanted}
        else:
            continue
        keep: Callable[[str], bool] = (lambda _: True) if wanted is None else wanted.__contains__
        return {key: value for file in sorted(files) for key, value in _file_tensors(folder / file, keep).items()}
    raise WeightsMismatchError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")


def _file_tensors(path: Path, keep: Callable[[str], bool] = lambda _: True) -> Mapping[str, Any]:
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys() if keep(key)}  # noqa: SIM118 - no mapping
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsMismatchError(f"{path} holds no readable tensors ({error}); fetch it again") from error
    if not isinstance(held, Mapping):
        raise WeightsMismatchError(f"{path} holds a {type(held).__name__}, tensors by name are needed")
    return {key: value for key, value in held.items() if keep(key)}
