"""Tiny readers, and what they are compared with: one row at a time, no cache, no padding, embeddings put in by hand."""

import numpy as np
import pytest
import torch

from ctxcompress_integrations.hf.digest import weights_digest
from ctxcompress_integrations.records import SummaryVectors
from ctxcompress_integrations.testing.tiny import tiny_decoder

HEAD, TAIL = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"


def make_summary(model, name="p", m=5, *, seed=0, adapter=None, dtype=np.float32, reader=None):
    width = model.get_input_embeddings().weight.shape[1]
    vectors = np.random.default_rng(seed).normal(0, 0.3, (m, width)).astype(dtype)
    return SummaryVectors(name, vectors, "fingerprint", reader or weights_digest(model), 40, adapter)


def rows_by_hand(model, tokenizer, parts):
    """``[n, d]``, row by row."""
    table = model.get_input_embeddings()
    rows, text = [], HEAD
    for part in [*parts, None]:
        if isinstance(part, str):
            text += part
            continue
        text += TAIL if part is None else ""
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        rows += [table(torch.tensor([token]))[0] for token in ids]
        vectors = [] if part is None else part.vectors
        rows += [torch.tensor(np.asarray(vector)).to(table.weight.dtype) for vector in vectors]
        text = ""
    return torch.stack(rows)


@torch.no_grad()
def greedy_by_hand(model, tokenizer, parts, n, ends=()):
    """Token ids of the answer: the whole prompt is read again for every token."""
    rows, ids = rows_by_hand(model, tokenizer, parts), []
    while len(ids) < n:
        token = int(model(inputs_embeds=rows[None], use_cache=False).logits[0, -1].argmax())
        if token in (*ends, tokenizer.eos_token_id):
            break
        ids.append(token)
        rows = torch.cat([rows, model.get_input_embeddings()(torch.tensor([token]))])
    return ids


def say(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.fixture(params=["llama", "llama_gqa", "qwen2"])
def decoder(request):
    return tiny_decoder(request.param)


@pytest.fixture
def twin():
    class Twin:
        summary = staticmethod(make_summary)
        rows = staticmethod(rows_by_hand)
        ids = staticmethod(greedy_by_hand)

        @staticmethod
        def answer(model, tokenizer, parts, n, ends=()):
            return say(tokenizer, greedy_by_hand(model, tokenizer, parts, n, ends))

    return Twin
