"""Text and summary vectors in one prompt: a user turn becomes rows of a decoder's input embeddings.

What is tokenised: the chat template's frame and the texts that touch it are one string, and so are texts that touch
each other; a prompt without vectors is therefore tokenised exactly as its joined text is. Vectors cut that string: the
text before them and the text after them are tokenised apart, no token spans them, nothing marks their border, and a
SentencePiece tokenizer that begins every text with a space begins the text after them with one, too. BOS, where the
template does not bring it, stands once, at the very start; no EOS is added.

Vectors must lie in the space of what the embedding module returns. Models that scale embeddings (Gemma) do so inside
that module or behind it, for text and vectors alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ctxcompress_integrations.errors import SummaryValueError, UnsupportedModelError
from ctxcompress_integrations.hf.prompt import PromptTemplate
from ctxcompress_integrations.records import SummaryVectors
from ctxcompress_integrations.text.parts import Part, split_parts

Segment: TypeAlias = list[int] | Tensor
"""Token ids, or vectors ``[m, d]``."""


class Batch(NamedTuple):
    """Prompts padded on the left.

    Attributes:
        inputs_embeds: ``[b, n, d]``, zero where padded.
        attention_mask: int64 ``[b, n]``, 0 where padded.
        position_ids: int64 ``[b, n]``, 0 at each prompt's first row.
    """

    inputs_embeds: Tensor
    attention_mask: Tensor
    position_ids: Tensor


class Splicer:
    """One user turn in, rows of input embeddings out.

    Args:
        embedding: the decoder's input embedding module, ``model.get_input_embeddings()``.
        tokenizer: its tokenizer.
        template: None for the chat template (no frame when there is none), "plain" for no frame.

    Raises:
        PromptTemplateError: the user's message cannot be found in what the template makes.
    """

    def __init__(self, embedding: nn.Module, tokenizer: Any, *, template: str | None = None) -> None:
        if template not in (None, "plain"):
            raise ValueError(f"template must be None or 'plain', got {template!r}")
        self.embedding, self.tokenizer = embedding, tokenizer
        self._frame = PromptTemplate.of(tokenizer, template)
        self._opening = _opening(tokenizer) if self._frame.adds_special_tokens else []

    @property
    def width(self) -> int:
        """``d``."""
        return int(self._weight.shape[1])

    @property
    def _weight(self) -> Tensor:
        weight = self.embedding.weight
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            raise UnsupportedModelError(f"{type(self.embedding).__name__} is no embedding table [vocabulary, d]")
        return weight

    def segments(self, parts: Sequence[Part]) -> list[Segment]:
        """The turn as token ids and vectors; vectors come in the embedding's dtype, on its device.

        Raises:
            ValueError: something that is no part, or nothing to read.
            SummaryValueError: vectors that are not finite in this dtype.
        """
        texts, summaries = split_parts(parts)
        texts = [self._frame.harmless(text) for text in texts]
        texts[0] = self._frame.prefix + texts[0]
        texts[-1] += self._frame.suffix
        segments: list[Segment] = [self._opening + self._tokenize(texts[0])]
        for summary, text in zip(summaries, texts[1:], strict=True):
            segments += [vector_rows(summary, self._weight.dtype).to(self._weight.device), self._tokenize(text)]
        return segments

    def answer(self, text: str) -> list[int]:
        """Ids of what a reader is to say to a turn, its end token included, as training needs them.

        Behind a chat template an answer begins a text; without one it goes on after a blank.
        """
        if self._frame.suffix:
            ids = self._tokenize(text)
        else:
            before = self._tokenize(":")
            ids = self._tokenize(f": {text}")[len(before) :]
        return [*ids, self.tokenizer.eos_token_id]

    def count(self, text: str) -> int:
        """Tokens of a text as it stands in a turn, without special tokens."""
        return len(self._tokenize(self._frame.harmless(text)))

    def embed(self, segments: Sequence[Segment]) -> Tensor:
        """``[n, d]``: one row per token and per vector."""
        device = self._weight.device
        rows = [
            s if isinstance(s, Tensor) else self.embedding(torch.tensor(s, device=device)) for s in segments if len(s)
        ]
        return torch.cat(rows)

    def _tokenize(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []


def left_padded(prompts: Sequence[Tensor]) -> Batch:
    """Prompts ``[n_i, d]`` as one batch."""
    n = max(map(len, prompts))
    embeds = torch.stack([nn.functional.pad(rows, (0, 0, n - len(rows), 0)) for rows in prompts])
    lengths = torch.tensor([len(rows) for rows in prompts], device=embeds.device)
    positions = torch.arange(n, device=embeds.device) - (n - lengths)[:, None]
    return Batch(embeds, (positions >= 0).long(), positions.clamp(min=0))


def vector_rows(summary: SummaryVectors, dtype: torch.dtype | None = None) -> Tensor:
    """The vectors as a tensor ``[m, d]`` in ``dtype`` (their own when None).

    Raises:
        SummaryValueError: values that are no floats, or not finite in that dtype.
    """
    vectors = summary.vectors
    tensor = vectors.detach() if isinstance(vectors, Tensor) else torch.from_numpy(np.array(vectors))  # a copy: torch
    # knows no read-only memory, which is what a store maps
    if not tensor.is_floating_point():
        raise SummaryValueError(f"the vectors of the passage {summary.id!r} are {tensor.dtype}, not floats")
    tensor = tensor.to(tensor.dtype if dtype is None else dtype)
    n_bad = int((~torch.isfinite(tensor)).sum())
    if n_bad:
        raise SummaryValueError(
            f"{n_bad} of {tensor.numel()} values in the vectors of the passage {summary.id!r} are not finite in "
            f"{tensor.dtype}; summarize it again"
        )
    return tensor


def check_splicable(model: Any) -> None:
    """``UnsupportedModelError`` for a decoder whose layers read token ids beside the embeddings (Gemma 3n)."""
    config = model.config.get_text_config()
    if getattr(config, "hidden_size_per_layer_input", 0):
        raise UnsupportedModelError(
            f"{type(model).__name__} looks token ids up in every layer, which summary vectors have none of; take a "
            "reader without per-layer embeddings"
        )


def _opening(tokenizer: Any) -> list[int]:
    """The ids that the tokenizer puts before a text: BOS, or nothing."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    starts = (i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return full[: next(starts, 0)]
