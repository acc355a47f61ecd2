"""Gates on an encoder: layers under them against a loop, the folded encoder against the gated one, sizes."""

import pytest
import torch

from ctxcompress_integrations.nn.encoder_gates import EncoderGates, GateValues, settled_at, size_of
from ctxcompress_integrations.nn.fold_gates import fold
from ctxcompress_integrations.nn.gated_encoder import gated_embedding, gated_layer
from ctxcompress_integrations.nn.packed_encoder import PackedEncoder, pack

LENGTHS = [5, 1, 9, 9, 5]


def tiny(n_layers=3):
    torch.manual_seed(0)
    made = PackedEncoder(n_vocabulary=40, n_positions=16, width=24, n_heads=4, n_inner=20, n_layers=n_layers)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return made.eval()


def ids():
    return torch.randint(0, 40, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))


def values(encoder, seed=2, *, binary_hidden=True):
    """Random gates, about a third of them closed; layer 1 without attention, layer 2 without feed-forward."""
    generator = torch.Generator().manual_seed(seed)

    def some(*shape):
        return torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) > 0.35)

    hidden = some(24)
    return GateValues(
        some(3, 4),
        torch.tensor([0.9, 0.0, 1.0]),
        some(3, 20),
        torch.tensor([1.0, 0.7, 0.0]),
        (hidden > 0).float() if binary_hidden else hidden,
    )


def gated(encoder, gates, step=1):
    blocks = pack(LENGTHS, step=step)
    states = gated_embedding(encoder, ids(), blocks, gates)
    for i, layer in enumerate(encoder.layers):
        states = gated_layer(layer, states, blocks, gates=None if gates is None else gates.layer(i))
    return states


def norm_loop(norm, row, hidden):
    total = sum(hidden)
    mean = sum(z * x for z, x in zip(hidden, row, strict=True)) / total
    variance = sum(z * (x - mean) ** 2 for z, x in zip(hidden, row, strict=True)) / total
    scale = (variance + norm.eps) ** -0.5
    pairs = zip(row, hidden, norm.weight, norm.bias, strict=True)
    return torch.stack([z * ((x - mean) * scale * w + b) for x, z, w, b in pairs])


def layer_loop(layer, rows, gates):
    """One sequence ``[n, d]``, head by head and token by token."""
    out = []
    weight, bias = layer.qkv.weight, layer.qkv.bias
    q, k, v = (rows @ w.T + b for w, b in zip(weight.chunk(3), bias.chunk(3), strict=True))
    for i in range(len(rows)):
        heads = []
        for h in range(4):
            part = slice(6 * h, 6 * h + 6)
            scores = torch.stack([q[i, part] @ k[j, part] / 6**0.5 for j in range(len(rows))])
            shares = scores.exp() / scores.exp().sum()
            heads.append(gates.heads[h] * sum(a * v[j, part] for j, a in enumerate(shares)))
        attended = gates.attention * (layer.out.weight @ torch.cat(heads) + layer.out.bias)
        state = norm_loop(layer.attention_norm, rows[i] + attended, gates.hidden)
        active = torch.nn.functional.gelu(layer.up.weight @ state + layer.up.bias) * gates.inner
        state = state + gates.feed_forward * (layer.down.weight @ active + layer.down.bias)
        out.append(norm_loop(layer.output_norm, state, gates.hidden))
    return torch.stack(out)


@pytest.mark.parametrize("binary_hidden", [True, False])
def test_gated_layers_are_the_loop(binary_hidden):
    encoder = tiny()
    gates = values(encoder, binary_hidden=binary_hidden)
    with torch.no_grad():
        slow, at = [], 0
        for n in LENGTHS:
            tables = encoder.words(ids()[at : at + n]) + encoder.positions.weight[:n]
            rows = torch.stack([norm_loop(encoder.norm, row, gates.hidden) for row in tables])
            for i, layer in enumerate(encoder.layers):
                rows = layer_loop(layer, rows, gates.layer(i))
            slow.append(rows)
            at += n
        for step in (1, 16):
            torch.testing.assert_close(gated(encoder, gates, step), torch.cat(slow), atol=1e-5, rtol=1e-4)


def test_open_gates_change_nothing():
    encoder = tiny()
    ones = GateValues(torch.ones(3, 4), torch.ones(3), torch.ones(3, 20), torch.ones(3), torch.ones(24))
    plain = encoder(ids(), pack(LENGTHS))
    torch.testing.assert_close(gated(encoder, ones), plain, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gated(encoder, None, step=8), plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("seed", [2, 3, 4])
@pytest.mark.parametrize("step", [1, 16])
def test_the_folded_encoder_computes_what_the_gated_one_does(seed, step):
    encoder = tiny()
    gates = values(encoder, seed)
    small = fold(encoder, gates)
    columns = gates.hidden.nonzero()[:, 0]
    expected = gated(encoder, gates)
    torch.testing.assert_close(small(ids(), pack(LENGTHS, step=step)), expected[:, columns], atol=1e-5, rtol=1e-4)
    assert (expected[:, gates.hidden == 0] == 0).all()
    assert [layer.n_heads for layer in small.layers][1] == 0
    assert [layer.n_inner for layer in small.layers][2] == 0
    n_weights = sum(
        part.weight.numel()
        for layer in small.layers
        for name, part in layer.named_children()
        if name in ("qkv", "out", "up", "down")
    )
    assert n_weights == size_of(small)
    assert size_of(small) < size_of(encoder)


def test_hidden_scales_cannot_be_folded():
    encoder = tiny()
    with pytest.raises(ValueError, match="hidden gates must be 0 or 1"):
        fold(encoder, values(encoder, binary_hidden=False))
    with pytest.raises(ValueError, match="not all 0"):
        fold(encoder, values(encoder)._replace(hidden=torch.zeros(24)))


def test_the_expected_size_is_the_sum_over_weights():
    encoder = tiny()
    gates = EncoderGates(encoder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in gates.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 4)
    p = {name: gate.p_open().detach() for name, gate in gates.named_children()}
    slow = 0.0
    for layer in range(3):
        for hidden in p["hidden"][0]:
            for head in p["heads"][layer]:
                slow += 4 * 6 * float(p["attention"][0, layer] * head * hidden)
            for neuron in p["inner"][layer]:
                slow += 2 * float(p["feed_forward"][0, layer] * neuron * hidden)
    whole = 3 * 24 * (4 * 24 + 2 * 20)
    assert float(gates.expected_size().detach()) == pytest.approx(slow / whole, rel=1e-4)
    assert size_of(encoder) == whole
    gates.expected_size().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in gates.parameters())


def test_settled_gates_agree_with_each_other_and_fold():
    encoder = tiny()
    gates = EncoderGates(encoder)
    with torch.no_grad():
        gates.heads.log_alpha[0] = -9.0
        gates.inner.log_alpha[1] = -9.0
        gates.hidden.log_alpha[0, ::2] = -9.0
        gates.feed_forward.log_alpha[0, 2] = -9.0
    settled = gates.settled()
    assert settled.attention[0] == 0  # no head is left in it
    assert settled.feed_forward[1] == 0
    assert settled.feed_forward[2] == 0
    small = fold(encoder, settled)
    assert (small.layers[0].n_heads, small.layers[1].n_inner, small.words.embedding_dim) == (0, 0, 12)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_settling_at_a_share_leaves_hardly_less(share):
    encoder = tiny()
    gates = EncoderGates(encoder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in gates.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    before = [parameter.clone() for parameter in gates.parameters()]
    small = fold(encoder, settled_at(gates, share))
    assert share - 0.12 < size_of(small) / size_of(encoder) <= share
    assert all(map(torch.equal, gates.parameters(), before))


def test_gates_of_an_encoder_whose_layers_differ_are_refused():
    encoder = tiny()
    with pytest.raises(ValueError, match="gates need layers of one shape"):
        EncoderGates(fold(encoder, values(encoder)))
