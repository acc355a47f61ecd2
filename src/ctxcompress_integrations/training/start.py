"""Where a training of summarizers starts: modules that know nothing yet, and a schedule that tightens the ratio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch

from ctxcompress_integrations.hf.borrow import base_of
from ctxcompress_integrations.hf.lora import ATTENTION, USUAL
from ctxcompress_integrations.summarizers.autocompressor import AutoCompressor
from ctxcompress_integrations.summarizers.icae import Icae
from ctxcompress_integrations.summarizers.icformer import IcFormer
from ctxcompress_integrations.summarizers.pooled import Pooled
from ctxcompress_integrations.summarizers.token_summarizer import TokenSummarizer
from ctxcompress_integrations.training.lessons import Mix, Study
from ctxcompress_integrations.training.soft import Stage


def untrained(
    name: str, model: Any, tokenizer: Any, *, n_vectors: int, ratio: int, rank: int = 32, seed: int = 0
) -> TokenSummarizer[Any]:
    """A summarizer for a reader, before training; the reader is its encoder. It has no endings: none would be trained.

    Args:
        name: "autocompressor", "icae", "icformer" or "pooled".
        model: the reader, in float32 where it is to learn.
        tokenizer: its fast tokenizer.
        n_vectors: per segment; "pooled" has none.
        ratio: tokens per vector in the end.
        rank: of the adapter that "icae" wears, on the attention's linear layers.
        seed: of what starts at random.

    Raises:
        ValueError: another name.
    """
    torch.manual_seed(seed)
    config = base_of(model).config.get_text_config()
    if name == "icae":
        layers = ATTENTION.get(config.model_type, USUAL)
        written = Icae.untrained(
            model,
            tokenizer,
            n_memory=n_vectors,
            tokens_per_slot=ratio,
            rank=rank,
            alpha=float(rank),
            layers=layers,
            has_bos=tokenizer.bos_token_id is not None,
        )
        written.module.endings.clear()
        return written
    if name == "icformer":
        width, heads = model.get_input_embeddings().weight.shape[1], config.num_attention_heads
        made = IcFormer.untrained(
            model, tokenizer, n_digests=n_vectors, chunk_tokens=ratio * n_vectors, n_heads=heads, n_inner=2 * width
        )
        made.module.endings.clear()
        _move_apart(made.module.encoder.digests, model)
        with torch.no_grad():  # digests as long as word vectors
            made.module.encoder.norm.weight.fill_(model.get_input_embeddings().weight.square().mean().sqrt())
        return made
    if name == "pooled":
        pooled = Pooled.untrained(model, tokenizer, reader=model, pool=ratio, is_causal=False)
        for parameter in pooled.module.parameters():  # the reader is its encoder: states as they are can be read
            (torch.nn.init.eye_ if parameter.ndim == 2 else torch.nn.init.zeros_)(parameter)
        return pooled
    if name == "autocompressor":
        tokens = AutoCompressor.untrained(model, tokenizer, n_summary=n_vectors, segment_tokens=ratio * n_vectors)
        _move_apart(tokens.module.tokens, model)
        return tokens
    raise ValueError(f"a training starts with autocompressor, icae, icformer or pooled, got {name!r}")


def schedule(
    studies: Sequence[Study],
    *,
    ratio: int,
    pretraining: int,
    questions: int,
    continuation: float = 0.3,
    distil: float = 0.0,
) -> tuple[Stage, ...]:
    """Stages: 1, 2, 4 ... tokens per vector on the shorter half of the passages, then all of them, then questions.

    Args:
        studies: what is learned on.
        ratio: in the end.
        pretraining: steps of autoencoding and continuation; half of them at the final ratio.
        questions: steps of fine-tuning.
        continuation: share of the pretraining's steps.
        distil: weight of the divergence from the reader with full text, beside the answers'.
    """
    lengths = sorted(study.n_tokens for study in studies)
    short = Mix(continuation=continuation, max_tokens=lengths[len(lengths) // 2] if lengths else None)
    ratios = _ratios(ratio)[:-1]
    easy = pretraining // 2 // max(1, len(ratios))
    stages = [Stage(easy, short, each) for each in ratios]
    stages.append(Stage(pretraining - easy * len(ratios), Mix(continuation=continuation), ratio))
    weights = {"answer": 1.0, "autoencode": 0.2, "distil": distil}
    stages.append(Stage(questions, Mix(autoencode=0.2), ratio, weights=weights))
    return tuple(stage for stage in stages if stage.steps)


def most_vectors(
    summarizer: TokenSummarizer[Any], ratio: int, *, is_pretrained: bool = True
) -> Callable[[str, int], int]:
    """The most vectors that a passage becomes under :func:`schedule`, by its text and its tokens.

    The function raises a ValueError for a passage that the summarizer cannot take.
    """
    writers = [summarizer.at_ratio(each) for each in (_ratios(ratio) if is_pretrained else [ratio])]

    @lru_cache
    def of_length(n_tokens: int) -> int:
        return max(writer.count_vectors(n_tokens) for writer in writers)

    return lambda _, n_tokens: of_length(n_tokens)


def _ratios(ratio: int) -> list[int]:
    """1, 2, 4 ... and the last."""
    return [*(2**i for i in range(ratio.bit_length()) if 2**i < ratio), ratio]


def _move_apart(rows: torch.nn.Parameter, model: Any) -> None:
    """Rows that start alike, moved a little: positions alone would have to tell them apart."""
    with torch.no_grad():
        rows.add_(torch.randn_like(rows) * model.get_input_embeddings().weight.std().float())
