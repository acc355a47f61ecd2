"""Real removal of tokens against the masked slow twin, written one sequence at a time; losses against loops; FLOPs
against torch's counter.
"""

import math
from itertools import accumulate, pairwise

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ctxcompress_integrations.nn.dropping_encoder import DroppingEncoder, gathered
from ctxcompress_integrations.nn.flops import BERT_BASE, encoder_flops, lengths_by_layer, shape_of
from ctxcompress_integrations.nn.packed_encoder import PackedEncoder, pack
from ctxcompress_integrations.nn.token_sampler import (
    Draw,
    TokenSampler,
    Trace,
    draw,
    entropy_term,
    norm_share,
    norm_term,
)

LENGTHS = [7, 1, 12, 12, 7, 3]


def dropping(sampled=(0, 1, 2), start=0.0, seed=0, n_heads=4):
    torch.manual_seed(seed)
    encoder = PackedEncoder(n_vocabulary=40, n_positions=16, width=24, n_heads=n_heads, n_inner=20, n_layers=3)
    made = DroppingEncoder(encoder, sampled=sampled, n_inner=6, start=start)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.25)
        for sampler in made.samplers.values():  # decisions that differ between tokens
            sampler.down.weight.mul_(3)
            sampler.up.weight.copy_(torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0, -1.0]]))
    return made.eval()


def ids():
    return torch.randint(0, 40, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))


def protect():
    return torch.rand(sum(LENGTHS), generator=torch.Generator().manual_seed(3)) < 0.2


def twin(model, protected, threshold=0.0):
    """Nothing is removed: one sequence at a time, keys masked with -inf, states of dropped tokens held."""
    out, depth, at = [], [], 0
    for n in LENGTHS:
        here = slice(at, at + n)
        states = model.encoder.embed(ids()[here], pack([n]))
        kept = torch.ones(n, dtype=torch.bool)
        safe = protected[here].clone()
        safe[0] = True
        deep = torch.zeros(n, dtype=torch.long)
        for i, layer in enumerate(model.encoder.layers):
            if str(i) in model.samplers:
                kept &= (model.samplers[str(i)](states) > threshold) | safe
            q, k, v = layer.qkv(states).view(n, 3, layer.n_heads, -1).permute(1, 2, 0, 3)
            scores = (q @ k.transpose(-1, -2) / layer.head_width**0.5).masked_fill(~kept, -math.inf)
            attended = layer.out((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))
            new = layer.attention_norm(states + attended)
            new = layer.output_norm(new + layer.down(torch.nn.functional.gelu(layer.up(new))))
            states = torch.where(kept[:, None], new, states)
            deep += kept
        out.append(states)
        depth.append(deep)
        at += n
    return torch.cat(out), torch.cat(depth)


@pytest.mark.parametrize("step", [1, 4, 64])
@pytest.mark.parametrize("sampled", [(0, 1, 2), (1,), ()])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 1e9, -1e9])
@torch.no_grad()
def test_removal_equals_masking(step, sampled, threshold):
    model = dropping(sampled)
    slow, depth = twin(model, protect(), threshold)
    fast = model.kept(ids(), pack(LENGTHS, step=step), protect(), threshold=threshold)
    torch.testing.assert_close(fast.states, slow, atol=1e-5, rtol=0)
    assert torch.equal(fast.depth, depth)
    if threshold == 0 and sampled:
        assert 0 < int((depth == 3).sum()) < len(ids())
    if threshold == 1e9 and 0 in sampled:
        safe = protect()
        safe[[0, *accumulate(LENGTHS[:-1])]] = True
        assert torch.equal(depth > 0, safe)  # CLS and what is protected, nothing else


@torch.no_grad()
def test_without_protection_and_through_forward():
    model = dropping()
    slow, _ = twin(model, torch.zeros(sum(LENGTHS), dtype=torch.bool))
    torch.testing.assert_close(model(ids(), pack(LENGTHS)), slow, atol=1e-5, rtol=0)


@torch.no_grad()
def test_bf16_is_near_fp32_where_decisions_agree():
    model = dropping(start=30.0)
    exact = model(ids(), pack(LENGTHS))
    assert (model.to(torch.bfloat16)(ids(), pack(LENGTHS)).float() - exact).abs().max() < 0.2


@torch.no_grad()
def test_training_forward_with_sure_decisions_equals_removal():
    model = dropping()
    for sampler in model.samplers.values():  # so far from zero that noise decides nothing
        sampler.up.weight.mul_(1e4)
        sampler.up.bias.mul_(1e4)
    torch.manual_seed(0)
    states, traces = model.masked(ids(), pack(LENGTHS, step=16), protect())
    fast = model.kept(ids(), pack(LENGTHS), protect())
    torch.testing.assert_close(states, fast.states, atol=1e-5, rtol=0)
    assert [int(t.draw.hard.sum()) for t in traces] == [int((fast.depth > i).sum()) for i in range(3)]


def test_no_token_comes_back_and_samplers_learn():
    model = dropping(start=0.5)
    torch.manual_seed(0)
    states, traces = model.masked(ids(), pack(LENGTHS), protect(), dropout=0.1)
    for before, after in pairwise(traces):
        assert ((after.draw.hard == 0) | (before.draw.hard == 1)).all()
        assert (after.draw.soft <= before.draw.soft + 1e-6).all()
    assert 0 < float(traces[-1].draw.hard.detach().mean()) < 1
    (states.square().sum() + norm_term(traces) + entropy_term(traces)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for s in model.samplers.values() for p in s.parameters())


def test_draws_are_the_gumbel_softmax_over_keep_and_drop():
    """Two logits and two Gumbel noises give what one log-odds and their difference, logistic, gives."""
    generator = torch.Generator().manual_seed(0)
    log_odds, u = torch.randn(50, generator=generator), torch.rand(50, 2, generator=generator)
    gumbel = -(-u.log()).log()
    soft = ((torch.stack([torch.zeros(50), log_odds], 1) + gumbel) / 1.0).softmax(-1)[:, 1]
    noise = torch.sigmoid(gumbel[:, 1] - gumbel[:, 0])
    log_odds.requires_grad_()
    drawn = draw(log_odds, noise)
    torch.testing.assert_close(drawn.soft, soft, atol=1e-5, rtol=1e-4)
    assert torch.equal(drawn.hard.detach().round(), (soft > 0.5).float())
    drawn.hard.sum().backward()
    torch.testing.assert_close(log_odds.grad, soft * (1 - soft), atol=1e-5, rtol=1e-3)
    assert torch.equal(drawn.sure.detach().round(), (log_odds > 0).float())  # argmax, as in evaluation
    log_odds.grad = None
    drawn.sure.sum().backward()
    p = torch.sigmoid(log_odds.detach())
    torch.testing.assert_close(log_odds.grad, p * (1 - p), atol=1e-5, rtol=1e-3)


def test_a_sampler_starts_by_keeping_and_is_two_linear_layers():
    torch.manual_seed(0)
    sampler = TokenSampler(8, 3)
    x = torch.randn(5, 8)
    assert (sampler(x) > 9).all()
    hidden = x @ sampler.down.weight.T + sampler.down.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(sampler(x), hidden @ sampler.up.weight[0] + sampler.up.bias[0])


def some_traces(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        Trace(
            torch.randn(n, 6, generator=generator),
            Draw(
                torch.zeros(n),
                torch.rand(n, generator=generator),
                (torch.rand(n, generator=generator) > 0.5).float(),
            ),
        )
        for _ in range(2)
    ]


def test_terms_are_loops_over_layers_and_tokens():
    traces = some_traces(9)
    norm = entropy = sure = whole = 0.0
    for trace in traces:
        decisions = zip(trace.draw.soft.tolist(), trace.draw.sure.tolist(), strict=True)
        for state, (p, kept) in zip(trace.states.tolist(), decisions, strict=True):
            size = math.sqrt(sum(x * x for x in state) / 6) / 18
            norm, sure, whole = norm + p * size, sure + kept * size, whole + size
            entropy += (p * math.log(p) + (1 - p) * math.log(1 - p)) / 18
    assert float(norm_term(traces)) == pytest.approx(norm, rel=1e-5)
    assert float(entropy_term(traces)) == pytest.approx(entropy, rel=1e-4)
    assert float(norm_share(traces)) == pytest.approx(sure / whole, rel=1e-5)


def test_sure_decisions_in_half_precision_have_an_entropy():
    soft = torch.tensor([0.0, 0.5, 1.0], dtype=torch.bfloat16, requires_grad=True)
    term = entropy_term([Trace(torch.zeros(3, 6), Draw(soft, soft, soft))])
    assert float(term.detach()) == pytest.approx(-math.log(2) / 3, rel=1e-3)
    term.backward()
    assert torch.isfinite(soft.grad).all()


def test_terms_do_not_depend_on_the_size_of_the_batch():
    traces = some_traces(9)
    twice = [Trace(t.states.repeat(2, 1), Draw(*(part.repeat(2) for part in t.draw))) for t in traces]
    assert float(norm_term(twice)) == pytest.approx(float(norm_term(traces)), rel=1e-5)
    assert float(entropy_term(twice)) == pytest.approx(float(entropy_term(traces)), rel=1e-5)


def test_gathered_rows_are_those_of_the_loop():
    keep = torch.rand(sum(LENGTHS), generator=torch.Generator().manual_seed(5)) < 0.5
    for step in (1, 4, 64):
        blocks = pack(LENGTHS, step=step)
        for block in blocks:
            keep[block.rows[:, 0]] = True
        places = [int(keep[:i].sum()) for i in range(len(keep))]
        for block, new in zip(blocks, gathered(blocks, keep), strict=True):
            for s, rows in enumerate(block.rows):
                real = rows if block.is_padding is None else rows[~block.is_padding[s]]
                expected = [places[i] for i in real.tolist() if keep[i]]
                found = new.rows[s] if new.is_padding is None else new.rows[s][~new.is_padding[s]]
                assert found.tolist() == expected
                assert set(new.rows[s].tolist()) == set(expected)  # padding repeats a row of its own


@pytest.mark.parametrize("sampled", [(0, 2), ()])
def test_flops_are_what_the_profiler_counts(sampled):
    """Sequences of one length and one at a time: nothing is padded, so every product is of real tokens."""
    model = dropping(sampled)
    shape = shape_of(model)
    for n in (12, 5):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            kept = model.kept(torch.arange(n), pack([n]))
        assert encoder_flops(shape, lengths_by_layer(kept.depth, [n], 3)) == counter.get_total_flops()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.encoder(torch.arange(12), pack([4, 4, 4]))
    assert encoder_flops(shape_of(model.encoder), [4, 4, 4]) == counter.get_total_flops()


def test_bert_base_is_eight_times_minilm():
    minilm = BERT_BASE._replace(width=384, layers=(BERT_BASE.layers[0]._replace(head_width=32, n_inner=1536),) * 6)
    assert encoder_flops(BERT_BASE, [128]) == 12 * (2 * 128 * 768 * 768 * 12 + 4 * 128 * 128 * 768)
    assert encoder_flops(BERT_BASE, [64]) / encoder_flops(minilm, [64]) == pytest.approx(8, rel=0.02)


def test_layers_that_do_not_exist_cannot_be_sampled():
    encoder = dropping().encoder
    for sampled in ((3,), (1, 0), (0, 0), (-1,)):
        with pytest.raises(ValueError, match=r"ascending numbers in \[0, 3\), got"):
            DroppingEncoder(encoder, sampled=sampled)
