"""CPU against CUDA, in fp32 and bf16, padded batches included."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from ctxcompress_integrations.hf.attention import trigger_rows
from ctxcompress_integrations.hf.digest import weights_digest
from ctxcompress_integrations.hf.encoder import TextEncoder
from ctxcompress_integrations.patches.lm_infinite import LMInfinite
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


def wide(architecture):
    """A tiny decoder whose heads are 16 wide, the least that FlexAttention takes."""
    config = tiny_decoder(architecture, n_positions=1024)[0].config
    config.head_dim = 16
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.06)])
@pytest.mark.parametrize("architecture", ["llama", "llama_gqa", "qwen2"])
def test_lm_infinite(architecture, dtype, tolerance):
    """Prefill through FlexAttention, a chunk after it, and a decoded token, a padded row among them."""
    model = wide(architecture)
    ids = torch.randint(6, 400, (2, 700), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :250] = 0

    def run(device, dtype):
        model.to(device, dtype)
        parts, cache = [], DynamicCache()
        with torch.no_grad(), LMInfinite(8, 160)(model):
            for a, b in ((0, 500), (500, 699), (699, 700)):
                out = model(ids[:, a:b].to(device), attention_mask=mask[:, :b].to(device), past_key_values=cache)
                parts.append(out.logits.float().cpu())
        return torch.cat(parts, dim=1)[mask.bool()]

    on_cpu, on_gpu = run("cpu", torch.float32), run("cuda", dtype)
    off = (on_gpu - on_cpu).square().mean().sqrt() / on_cpu.square().mean().sqrt()
    assert float(off) <= tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lm_infinite_within_its_window_is_the_model_to_the_bit(dtype):
    model, ids = wide("llama_gqa").to("cuda", dtype), torch.arange(6, 406, device="cuda")[None]
    with torch.no_grad():
        want = model(ids).logits
        with LMInfinite(8, 512)(model):
            assert torch.equal(model(ids).logits, want)


def test_lm_infinite_makes_no_square():
    """Peak memory of a prefill grows with its length: 4 times the tokens, less than 5 times the bytes."""
    model = wide("llama").to("cuda", torch.bfloat16)
    peaks = []
    with torch.no_grad(), LMInfinite(8, 512)(model):
        for n in (8192, 32768):
            ids = torch.full((1, n), 7, device="cuda")
            model.model(ids, use_cache=False)  # compiles
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            model.model(ids, use_cache=False)
            peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 5 * peaks[0]
