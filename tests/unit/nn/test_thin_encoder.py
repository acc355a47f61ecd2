"""Heads and neurons left out: against brute force, against least squares, and where nothing is lost."""

import pytest
import torch

from ctxcompress_integrations.nn import thin_encoder
from ctxcompress_integrations.nn.packed_encoder import PackedEncoder, pack
from ctxcompress_integrations.nn.thin_encoder import fewer_inputs, thinned

LENGTHS = [9, 4, 9, 7, 12]


@pytest.fixture(autouse=True)
def undamped(monkeypatch):
    monkeypatch.setattr(thin_encoder, "DAMPING", 1e-12)


def given(n_inputs=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(n_inputs, n_inputs, generator=generator, dtype=torch.float64)
    inputs = torch.randn(200, n_inputs, generator=generator, dtype=torch.float64) @ mixing + 3
    weight = torch.randn(5, n_inputs, generator=generator, dtype=torch.float64)
    return weight, torch.randn(5, generator=generator, dtype=torch.float64), inputs


def least_squares(weight, bias, inputs, columns):
    """``(squared error, prediction)`` of the best layer that reads some columns."""
    wanted = inputs @ weight.T + bias
    read = torch.cat([inputs[:, columns], torch.ones(len(inputs), 1, dtype=inputs.dtype)], dim=1)
    found = read @ torch.linalg.lstsq(read, wanted).solution
    return (found - wanted).square().sum(), found


def one_by_one(weight, bias, inputs, group, keep):
    """Leaves out, again and again, the group without which least squares loses least."""
    left = list(range(weight.shape[1] // group))

    def columns(groups):
        return [g * group + i for g in groups for i in range(group)]

    while len(left) > keep:
        without = [[g for g in left if g != gone] for gone in left]
        left = min(without, key=lambda groups: float(least_squares(weight, bias, inputs, columns(groups))[0]))
    return columns(left)


@pytest.mark.parametrize(("group", "keep"), [(1, 11), (1, 5), (1, 1), (3, 2), (4, 2)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_choice_is_brute_forces_and_the_fit_least_squares(group, keep, seed):
    weight, bias, inputs = given(seed=seed)
    fitted = fewer_inputs(weight, bias, inputs, group=group, keep=keep)
    assert fitted.kept.tolist() == one_by_one(weight, bias, inputs, group, keep)
    found = inputs[:, fitted.kept] @ fitted.weight.T + fitted.bias
    assert torch.allclose(found, least_squares(weight, bias, inputs, fitted.kept)[1], atol=1e-6)


def test_keeping_all_changes_nothing():
    weight, bias, inputs = given()
    fitted = fewer_inputs(weight, bias, inputs, group=2, keep=6)
    assert torch.equal(fitted.weight, weight)
    assert torch.allclose(fitted.bias, bias)


@pytest.mark.parametrize("keep", [0, 7])
def test_what_cannot_be_kept_is_refused(keep):
    with pytest.raises(ValueError, match=rf"keep must be in \[1, 6\], got {keep}"):
        fewer_inputs(*given(), group=2, keep=keep)


def encoder():
    torch.manual_seed(0)
    made = PackedEncoder(n_vocabulary=40, n_positions=16, width=24, n_heads=4, n_inner=20, n_layers=2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return made.eval()


@pytest.mark.parametrize("step", [1, 4])
def test_what_says_nothing_is_cut_first_and_nothing_is_lost(step):
    whole, blocks = encoder(), pack(LENGTHS, step=step)
    ids = torch.randint(0, 40, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for layer in whole.layers:
            layer.out.weight[:, 6:12] = 0  # the second of four heads
            layer.down.weight[:, ::4] = 0
        thin = thinned(whole, ids, blocks, n_heads=3, n_inner=15)
        assert [(layer.n_heads, layer.n_inner) for layer in thin.layers] == [(3, 15)] * 2
        assert torch.allclose(thin(ids, blocks), whole(ids, blocks), atol=1e-4)
        smaller = thinned(whole, ids, blocks, n_heads=2, n_inner=10)
        assert not torch.allclose(smaller(ids, blocks), whole(ids, blocks), atol=1e-2)
    assert not thin.training
