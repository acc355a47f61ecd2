"""Hard-concrete gates against the formulas of the paper, one number at a time; multipliers that climb."""

import math

import pytest
import torch

from ctxcompress_integrations.nn.hard_concrete import LARGEST, HardConcrete, Multipliers


def gates(seed=0, rows=3, n=5):
    made = HardConcrete(rows, n)
    with torch.no_grad():
        made.log_alpha.copy_(torch.randn(rows, n, generator=torch.Generator().manual_seed(seed)) * 3)
    return made


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_samples_and_probabilities_are_the_formulas():
    made = gates()
    noise = torch.rand(3, 5, generator=torch.Generator().manual_seed(1))
    z, p, alphas = made.sample(noise).detach(), made.p_open().detach(), made.log_alpha.detach()
    for i in range(3):
        for j in range(5):
            u, alpha = float(noise[i, j]), float(alphas[i, j])
            s = sigmoid((math.log(u) - math.log(1 - u) + alpha) / (2 / 3))
            assert float(z[i, j]) == pytest.approx(min(1, max(0, 1.2 * s - 0.1)), abs=1e-5)
            assert float(p[i, j]) == pytest.approx(sigmoid(alpha - 2 / 3 * math.log(0.1 / 1.1)), abs=1e-6)


def test_the_probability_is_how_often_samples_are_open():
    made = gates()
    torch.manual_seed(2)
    opened = (made.sample(torch.rand(4000, 3, 5)) > 0).float().mean(0)
    torch.testing.assert_close(opened, made.p_open().detach(), atol=0.03, rtol=0)


def test_settled_gates_zero_the_expected_number_of_the_smallest_in_each_row():
    made = gates()
    settled, alpha, p_open = made.settled(), made.log_alpha.detach(), made.p_open().detach()
    for i in range(3):
        n_zeros = round(sum(1 - float(p) for p in p_open[i]))
        smallest = sorted(range(5), key=lambda j: float(alpha[i, j]))[:n_zeros]
        for j in range(5):
            scale = sigmoid(0.8 * float(alpha[i, j]) * 1.5)
            assert float(settled[i, j]) == pytest.approx(0 if j in smallest else scale, abs=1e-6)


def test_gates_have_gradients_and_are_held_in_their_range():
    made = HardConcrete(1, 4, log_alpha=0.0)
    made.sample(torch.full((1, 4), 0.5)).sum().backward()
    assert (made.log_alpha.grad > 0).all()
    with torch.no_grad():
        made.log_alpha.copy_(torch.tensor([[9.0, -9.0, 1.0, 0.0]]))
    made.hold()
    assert made.log_alpha.tolist() == [[pytest.approx(LARGEST), pytest.approx(-LARGEST), 1.0, 0.0]]


def test_multipliers_climb_until_the_value_meets_its_target():
    value, price = torch.nn.Parameter(torch.tensor(1.0)), Multipliers()
    down, up = torch.optim.SGD([value], lr=0.05), torch.optim.SGD(price.parameters(), lr=0.5, maximize=True)
    for _ in range(200):
        down.zero_grad()
        up.zero_grad()
        price(value, 0.3).backward()
        down.step()
        up.step()
    assert float(value.detach()) == pytest.approx(0.3, abs=0.02)
    value = torch.tensor(0.7)
    with torch.no_grad():
        price.linear.fill_(2.0)
        price.quadratic.fill_(3.0)
    assert float(price(value, 0.3).detach()) == pytest.approx(2 * 0.4 + 3 * 0.16)
