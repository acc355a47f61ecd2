"""CPU against CUDA, in fp32 and bf16, padded batches included."""

import numpy as np
import pytest
import torch

from ctxcompress_integrations.hf.attention import trigger_rows
from ctxcompress_integrations.hf.digest import weights_digest
from ctxcompress_integrations.hf.encoder import TextEncoder
from ctxcompress_integrations.readers.hf import HFReader
from ctxcompress_integrations.records import SummaryVectors
from ctxcompress_integrations.testing.tiny import tiny_decoder, tiny_encoder

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
SEQUENCES = [list(range(6, 6 + n)) for n in (40, 7, 23)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.06)])
@pytest.mark.parametrize("architecture", ["llama", "llama_gqa", "qwen2", "mistral", "gpt2"])
def test_trigger_row(architecture, dtype, tolerance):
    model, _ = tiny_decoder(architecture)
    on_cpu = trigger_rows(model, SEQUENCES, [-1])[-1]
    on_gpu = trigger_rows(model.to("cuda", dtype), SEQUENCES, [-1])[-1].cpu()
    torch.testing.assert_close(on_gpu, on_cpu, atol=tolerance, rtol=0)


def test_encoder():
    model, tokenizer = tiny_encoder()
    texts = ["The tower is tall.", "Kurz.", "The river is near the dog. " * 8]
    on_cpu = TextEncoder(model, tokenizer, name="tiny").embed_documents(texts)
    on_gpu = TextEncoder(model.to("cuda"), tokenizer, name="tiny").embed_documents(texts)
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-4)


@pytest.mark.parametrize("architecture", ["llama_gqa", "qwen2", "mistral"])
def test_reader(architecture):
    model, tokenizer = tiny_decoder(architecture)
    vectors = np.random.default_rng(0).normal(0, 0.3, (5, 32)).astype(np.float32)
    summary = SummaryVectors("p", vectors, "f", weights_digest(model), 40)
    prompts = [["Read ", summary, " and say"], ["How tall is the tower?"], [summary]]
    on_cpu = HFReader(model, tokenizer).generate_many(prompts, max_new_tokens=10)
    reader = HFReader(model.to("cuda"), tokenizer)
    on_gpu = SummaryVectors("p", torch.from_numpy(vectors).to("cuda"), "f", summary.reader, 40)
    assert reader.identity == summary.reader
    assert reader.generate_many(prompts, max_new_tokens=10) == on_cpu
    assert "".join(reader.stream(["Read ", on_gpu, " and say"], max_new_tokens=10)) == on_cpu[0]
