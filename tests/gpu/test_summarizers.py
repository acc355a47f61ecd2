"""Summarizers on CUDA against themselves on the CPU, where slow twins pin them: fp32 and bf16, padded batches."""

import numpy as np
import pytest
import torch

from ctxcompress_integrations.summarizers.autocompressor import AutoCompressor
from ctxcompress_integrations.summarizers.icae import Icae
from ctxcompress_integrations.summarizers.icformer import IcFormer
from ctxcompress_integrations.summarizers.pooled import Pooled
from ctxcompress_integrations.testing.tiny import tiny_decoder

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
TEXTS = ["The tower.", "x", "Paris is the capital of France; the tower was built in 1889 and is 330 metres tall. " * 3]


def made(method, architecture):
    model, tokenizer = tiny_decoder(architecture)
    torch.manual_seed(0)
    summarizer = {
        "autocompressor": lambda: AutoCompressor.untrained(model, tokenizer, n_summary=3, segment_tokens=20),
        "icae": lambda: Icae.untrained(model, tokenizer, n_memory=3, rank=4),
        "icformer": lambda: IcFormer.untrained(model, tokenizer, n_digests=3, chunk_tokens=30, n_heads=4, n_inner=48),
        "pooled": lambda: Pooled.untrained(model, tokenizer, reader=model),
        "pooled_whole": lambda: Pooled.untrained(model, tokenizer, reader=model, is_causal=False),
    }[method]()
    with torch.no_grad():
        for parameter in summarizer.module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return summarizer


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.06)])
@pytest.mark.parametrize("architecture", ["llama_gqa", "qwen2"])
@pytest.mark.parametrize("method", ["autocompressor", "icae", "icformer", "pooled", "pooled_whole"])
def test_cuda_is_the_cpu(method, architecture, dtype, tolerance):
    summarizer = made(method, architecture)
    on_cpu = summarizer.summarize(TEXTS)
    summarizer.model.to("cuda", dtype)
    summarizer.module.to("cuda", dtype)
    for one, other in zip(summarizer.summarize(TEXTS), on_cpu, strict=True):
        assert np.linalg.norm(one.vectors - other.vectors) <= tolerance * np.linalg.norm(other.vectors)
        assert one.fingerprint == other.fingerprint
    alone = [summarizer.summarize([text])[0] for text in TEXTS]
    for one, other in zip(summarizer.summarize(TEXTS), alone, strict=True):
        assert np.linalg.norm(one.vectors - other.vectors) <= tolerance * np.linalg.norm(other.vectors)
