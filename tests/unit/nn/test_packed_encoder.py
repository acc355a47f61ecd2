"""The packed encoder against transformers' BertModel on the same random weights, forward and backward."""

import pytest
import torch
from transformers import BertConfig, BertModel

from ctxcompress_integrations.hf.mini_weights import untrained
from ctxcompress_integrations.nn import packed_encoder
from ctxcompress_integrations.nn.late_interaction import segment_max
from ctxcompress_integrations.nn.packed_encoder import pack

SHAPES = (
    {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 96, "num_hidden_layers": 3},
    {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 128, "num_hidden_layers": 2},
)
LENGTHS = [5, 1, 17, 5, 30, 16]


def bert(shape, seed=0):
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=50, max_position_embeddings=40, hidden_dropout_prob=0, attention_probs_dropout_prob=0, **shape
    )
    return BertModel(config, add_pooling_layer=False).eval()


def sequences():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 50, (n,), generator=generator) for n in LENGTHS]


@pytest.mark.parametrize("shape", SHAPES, ids=["h4", "h2"])
@pytest.mark.parametrize("step", [1, 8, 64])
def test_states_and_gradients_equal_bert_one_sequence_at_a_time(shape, step):
    model = bert(shape)
    packed = untrained(model, layers=range(shape["num_hidden_layers"]), n_dims=8).encoder
    slow = torch.cat([model(input_ids=s[None]).last_hidden_state[0] for s in sequences()])
    fast = packed(torch.cat(sequences()), pack(LENGTHS, step=step))
    torch.testing.assert_close(fast, slow, atol=2e-5, rtol=0)
    direction = torch.randn(slow.shape, generator=torch.Generator().manual_seed(2))
    (slow * direction).sum().backward()
    (fast * direction).sum().backward()
    torch.testing.assert_close(
        packed.layers[0].up.weight.grad, model.encoder.layer[0].intermediate.dense.weight.grad, atol=1e-4, rtol=1e-3
    )
    heads = [getattr(model.encoder.layer[0].attention.self, name).weight.grad for name in ("query", "key", "value")]
    torch.testing.assert_close(packed.layers[0].qkv.weight.grad, torch.cat(heads), atol=1e-4, rtol=1e-3)
    words = model.embeddings.word_embeddings.weight.grad
    torch.testing.assert_close(packed.words.weight.grad[1:], words[1:], atol=1e-4, rtol=1e-3)  # BERT's 0 is padding


def test_bert_itself_padded_gives_the_same():
    model = bert(SHAPES[0])
    packed = untrained(model, layers=range(3), n_dims=8).encoder
    ids = torch.nn.utils.rnn.pad_sequence(sequences(), batch_first=True)
    mask = torch.arange(ids.shape[1]) < torch.tensor(LENGTHS)[:, None]
    slow = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state[mask]
    torch.testing.assert_close(packed(torch.cat(sequences()), pack(LENGTHS)), slow, atol=2e-5, rtol=0)


def test_bf16_is_near_fp32_and_company_changes_no_bit():
    packed = untrained(bert(SHAPES[0]), layers=range(3), n_dims=8).encoder
    exact = packed(torch.cat(sequences()), pack(LENGTHS))
    packed.to(torch.bfloat16)
    together = packed(torch.cat(sequences()), pack(LENGTHS))
    alone = torch.cat([packed(s, pack([len(s)])) for s in sequences()])
    assert torch.equal(together, alone)
    assert (together.float() - exact).abs().max() < 0.1


def test_sequences_that_lie_by_length_are_not_gathered_and_give_the_same():
    by_length = sorted(range(len(LENGTHS)), key=lambda i: LENGTHS[i])
    dense = pack([LENGTHS[i] for i in by_length])
    assert [block.first for block in dense] == [0, 1, 11, 27, 44]
    assert [block.first for block in pack(LENGTHS)] == [None, 5, 6, 28, 58]
    assert [block.first for block in pack([5, 0, 5])] == [0]
    assert [block.first for block in pack(LENGTHS, step=64)] == [None]
    packed = torch.randn(sum(LENGTHS), 3)
    for block in (*dense, *pack(LENGTHS), *pack(LENGTHS, step=8)):
        assert torch.equal(block.taken(packed), packed[block.rows])
    encoder = untrained(bert(SHAPES[0]), layers=range(3), n_dims=8).encoder
    gathered = encoder(torch.cat(sequences()), pack(LENGTHS)).split(LENGTHS)
    found = encoder(torch.cat([sequences()[i] for i in by_length]), dense).split([LENGTHS[i] for i in by_length])
    for i, states in zip(by_length, found, strict=True):
        torch.testing.assert_close(states, gathered[i], atol=1e-6, rtol=0)
    gradients = []
    for states in (gathered, [found[by_length.index(i)] for i in range(len(LENGTHS))]):
        encoder.zero_grad()
        sum((part * part.detach().sin()).sum() for part in states).backward()
        gradients.append([p.grad.clone() for p in encoder.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_layers_can_be_chosen():
    model = bert(SHAPES[0])
    packed = untrained(model, layers=(0, 2), n_dims=8).encoder
    model.encoder.layer = torch.nn.ModuleList([model.encoder.layer[0], model.encoder.layer[2]])
    slow = model(input_ids=sequences()[2][None]).last_hidden_state[0]
    torch.testing.assert_close(packed(sequences()[2], pack([17])), slow, atol=2e-5, rtol=0)


@pytest.mark.parametrize("layers", [(), (0, 3)])
def test_layers_that_do_not_exist_are_refused(layers):
    with pytest.raises(ValueError, match="must be a BERT with the layers"):
        untrained(bert(SHAPES[0]), layers=layers, n_dims=8)


@pytest.mark.parametrize("n_dims", [0, 49])
def test_more_dimensions_than_the_base_has_are_refused(n_dims):
    with pytest.raises(ValueError, match=rf"n_dims must be in \[1, 48\], the base's width, got {n_dims}"):
        untrained(bert(SHAPES[0]), layers=(0,), n_dims=n_dims)


def test_segment_max_is_the_loop():
    rows = torch.randn(3, 7).clamp(-1, 1)
    segment = torch.tensor([0, 0, 2, 2, 2, 3, 0])
    found = segment_max(rows, segment, 5)
    for i in range(3):
        for s in range(5):
            values = [float(rows[i, j]) for j in range(7) if segment[j] == s]
            assert float(found[i, s]) == pytest.approx(max(values, default=-1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [7, 32, 45])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("max_scores", [1, 4 * 45 * 45, 2**20])
def test_attention_a_few_sequences_at_a_time_equals_the_formula(monkeypatch, dtype, n, padded, max_scores):
    monkeypatch.setattr(packed_encoder, "MAX_SCORES", max_scores)
    generator = torch.Generator().manual_seed(n)
    inputs = [torch.randn(5, 2, n, 8, generator=generator).to(dtype).requires_grad_() for _ in range(3)]
    q, k, v = inputs
    lengths = torch.tensor([n, 3, n, 1, n // 2 + 1])[:, None]
    is_padding = torch.arange(n)[None] >= lengths if padded else None
    found = packed_encoder.mixed_values(q, k, v, is_padding)
    scores = q.double() @ k.double().transpose(-1, -2) / 8**0.5
    if is_padding is not None:
        scores = scores.masked_fill(is_padding[:, None, None], -torch.inf)
    exact = scores.softmax(dim=-1) @ v.double()
    assert found.dtype == dtype
    direction = torch.randn(found.shape, generator=generator)
    ours, theirs = (torch.autograd.grad((out * direction).sum(), inputs) for out in (found, exact))
    atol, rtol = (1e-5, 0) if dtype == torch.float32 else (5e-2, 1e-2)
    for mine, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, wanted, atol=atol, rtol=rtol)
    torch.testing.assert_close(found.double(), exact, atol=1e-5 if dtype == torch.float32 else 2e-2, rtol=0)
