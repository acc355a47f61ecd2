"""Gates on what an encoder can lose: heads, attention layers, feed-forward neurons, feed-forward layers, hidden columns
(CoFi, arXiv:2204.00408). Coarse gates multiply fine ones: a head counts while its layer's attention does too.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ctxcompress_integrations.nn.hard_concrete import LARGEST, HardConcrete
from ctxcompress_integrations.nn.packed_encoder import PackedEncoder

_FURTHEST = 20.0


class GateValues(NamedTuple):
    """What each part is multiplied with; 1 leaves it alone, 0 removes it. ``l`` layers.

    Attributes:
        heads: ``[l, h]``, on the output of each head.
        attention: ``[l]``, on the attention of a layer, its bias included.
        inner: ``[l, m]``, on the activations of the feed-forward layer.
        feed_forward: ``[l]``, on its output, bias included.
        hidden: ``[d]``, on every layer's input and output; the layer norms count what is left.
    """

    heads: Tensor
    attention: Tensor
    inner: Tensor
    feed_forward: Tensor
    hidden: Tensor

    def layer(self, index: int) -> GateValues:
        """Those of one layer: ``[h]``, a scalar, ``[m]``, a scalar, ``[d]``."""
        return self._replace(
            heads=self.heads[index],
            attention=self.attention[index],
            inner=self.inner[index],
            feed_forward=self.feed_forward[index],
        )


class EncoderGates(nn.Module):
    """Hard-concrete gates for an encoder whose layers are alike.

    Args:
        encoder: decides the sizes.
        inner_log_alpha: where the gates of feed-forward neurons start; the others start open.

    Raises:
        ValueError: its layers differ, so that gates have no common shape.
    """

    def __init__(self, encoder: PackedEncoder, *, inner_log_alpha: float = 0.0) -> None:
        super().__init__()
        layers: Any = encoder.layers
        shapes = {(layer.n_heads, layer.n_inner, layer.head_width) for layer in layers}
        if len(shapes) != 1:
            raise ValueError(f"gates need layers of one shape, got (heads, inner, head width) {sorted(shapes)}")
        n_heads, n_inner, self.head_width = shapes.pop()
        n, width = len(encoder.layers), encoder.words.embedding_dim
        self.heads = HardConcrete(n, n_heads)
        self.attention = HardConcrete(1, n)
        self.inner = HardConcrete(n, n_inner, log_alpha=min(inner_log_alpha, LARGEST))
        self.feed_forward = HardConcrete(1, n)
        self.hidden = HardConcrete(1, width)

    def sample(self) -> GateValues:
        """Random gates, with gradients."""
        return GateValues(
            self.heads.sample(),
            self.attention.sample()[0],
            self.inner.sample(),
            self.feed_forward.sample()[0],
            self.hidden.sample()[0],
        )

    @torch.no_grad()
    def settled(self) -> GateValues:
        """The gates to fold. A hidden column is kept or not, with no scale: layer norms would undo it."""
        heads, inner = self.heads.settled(), self.inner.settled()
        return GateValues(
            heads,
            self.attention.settled()[0] * (heads > 0).any(dim=1),
            inner,
            self.feed_forward.settled()[0] * (inner > 0).any(dim=1),
            (self.hidden.settled()[0] > 0).to(heads.dtype),
        )

    def expected_size(self) -> Tensor:
        """Expected weights that stay, as a share of those of all layers; biases and norms aside. Scalar."""
        heads = self.attention.p_open()[0] * self.heads.p_open().sum(dim=1)
        inner = self.feed_forward.p_open()[0] * self.inner.p_open().sum(dim=1)
        stays: Tensor = _weights(heads.sum(), inner.sum(), self.hidden.p_open().sum(), self.head_width)
        return stays / self.n_weights

    @property
    def n_weights(self) -> int:
        """Weights of all layers, biases and norms aside."""
        n_heads, n_inner = self.heads.log_alpha.numel(), self.inner.log_alpha.numel()
        return int(_weights(n_heads, n_inner, self.hidden.log_alpha.shape[1], self.head_width))

    def hold(self) -> None:
        """Bring every gate back into its range after a step of the optimizer."""
        for gate in self.children():
            if isinstance(gate, HardConcrete):
                gate.hold()


@torch.no_grad()
def settled_at(gates: EncoderGates, share: float) -> GateValues:
    """Settled gates that leave at most ``share`` of the weights, and hardly less: what training left above or below its
    target is made up by moving every ``log_alpha`` by the same amount.
    """
    starts = [parameter.clone() for parameter in gates.parameters()]
    moved = copy.deepcopy(gates)

    def settled(by: float) -> GateValues:
        for parameter, start in zip(moved.parameters(), starts, strict=True):
            parameter.copy_(start + by)
        return moved.settled()

    low, high = -_FURTHEST, _FURTHEST
    for _ in range(30):
        middle = (low + high) / 2
        if _stays(settled(middle), gates.head_width) <= share * gates.n_weights:
            low = middle
        else:
            high = middle
    return settled(low)


def _stays(values: GateValues, head_width: int) -> int:
    """Weights that gates leave."""
    heads = (values.heads > 0).sum(dim=1)[values.attention > 0].sum()
    inner = (values.inner > 0).sum(dim=1)[values.feed_forward > 0].sum()
    return int(_weights(heads, inner, (values.hidden > 0).sum(), head_width))


def size_of(encoder: PackedEncoder) -> int:
    """Weights of all layers; biases and norms aside."""
    layers: Any = encoder.layers
    heads, inner = sum(layer.n_heads for layer in layers), sum(layer.n_inner for layer in layers)
    return int(_weights(heads, inner, encoder.words.embedding_dim, layers[0].head_width))


def _weights(heads: Any, inner: Any, width: Any, head_width: int) -> Any:
    """A head has four matrices ``[e, d]`` (query, key, value, output), a neuron two of ``[d]``."""
    return (4 * head_width * heads + 2 * inner) * width
