"""The geometry of LM-Infinite (arXiv:2308.16137): who sees whom, and at what distance. Torch only.

Query ``i`` sees key ``j <= i`` when it is *local* (``i - j < n_local``: the query itself included, ``n_local`` keys in
all) or a *sink* (one of the row's first ``n_global`` real tokens, and not local). A local key stands at its own
distance; a sink stands at the ceiling, ``n_local`` exactly. One softmax goes over both. Positions count columns of the
batch: rows that are padded on the left begin later, which :class:`Starts` says.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctxcompress_integrations._numbers import whole


@dataclass(frozen=True, slots=True)
class MiddleTopK:
    """The paper's optional look at the middle, which the Λ-mask hides: the best keys of each head join the softmax.

    As the paper measured it: for the last query of each forward alone (the prompt's last token, then each generated
    one), so pad on the left; all of the history is kept in these layers, and memory grows with it.

    Attributes:
        k: keys per head.
        from_layer: the lowest layer that looks, counted from 0.
        distance: at which the keys are seen; None for half of ``n_local``.
    """

    k: int = 5
    from_layer: int = 5
    distance: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("k", 1), ("from_layer", 0), ("distance", 1)):
            value = getattr(self, name)
            if value is not None or name != "distance":
                object.__setattr__(self, name, whole(f"MiddleTopK.{name}", value, least=least))


@dataclass(frozen=True, slots=True)
class LambdaShape:
    """Sizes of the Λ: ``n_global`` sinks, a window of ``n_local`` keys, and the optional middle.

    Raises:
        ValueError: no sinks, no window, or more sinks than window.
    """

    n_global: int
    n_local: int
    middle: MiddleTopK | None = None

    def __post_init__(self) -> None:
        for name, least in (("n_global", 1), ("n_local", 2)):
            object.__setattr__(self, name, whole(name, getattr(self, name), least=least))
        if self.n_global >= self.n_local:
            raise ValueError(
                f"n_global must be smaller than n_local, got {self.n_global} and {self.n_local}: 10 to 100 sinks will "
                "do, and n_local is the length that the model was trained on"
            )

    @property
    def middle_distance(self) -> int:
        """Where the middle's keys are seen."""
        chosen = self.middle.distance if self.middle is not None else None
        return self.n_local // 2 if chosen is None else chosen

    def middle_of(self, layer: int) -> int:
        """How many keys of the middle each head of ``layer`` adds; 0 for none."""
        return self.middle.k if self.middle is not None and layer >= self.middle.from_layer else 0


@dataclass(frozen=True, eq=False)
class Starts:
    """The column of each row's first real token.

    Attributes:
        first: int64 ``[b]``; None when every row begins at column 0.
        least, most: its extremes, known to Python so that no kernel has to be waited for.
    """

    first: Tensor | None = None
    least: int = 0
    most: int = 0


def starts_of(mask: Tensor | None) -> Starts:
    """Where rows begin, from a padding mask ``[b, n]`` with nonzero for real tokens: zeros, then ones, then zeros.

    Raises:
        ValueError: a row has real tokens on both sides of padding.
    """
    if mask is None:
        return Starts()
    real = mask != 0
    n_begun = (real[:, 1:] & ~real[:, :-1]).sum(dim=1) + real[:, 0]
    first = torch.where(real.any(dim=1), real.int().argmax(dim=1), real.shape[1])
    least, most, most_begun = torch.stack([first.min(), first.max(), n_begun.max()]).tolist()
    if most_begun > 1:
        raise ValueError(
            "an attention mask has padding between real tokens, which LM-Infinite cannot place: pad batches on the left"
        )
    return Starts(first, least, most) if most else Starts()


def distances(first_row: int, n_rows: int, n_keys: int, device: torch.device) -> Tensor:
    """int64 ``[q, k]``: how far before its query each key stands; query 0 is key number ``first_row``."""
    rows = torch.arange(first_row, first_row + n_rows, device=device)
    return rows[:, None] - torch.arange(n_keys, device=device)


def hidden_sinks(first_row: int, n_rows: int, shape: LambdaShape, starts: Starts, device: torch.device) -> Tensor:
    """Bool ``[b or 1, 1, 1, q, n_global]``, True where a sink is local still; rows begin at column ``first_row``."""
    column = torch.arange(first_row, first_row + n_rows, device=device)
    sink = torch.arange(shape.n_global, device=device)
    distance = column[:, None] - sink
    first = 0 if starts.first is None else starts.first.to(device)[:, None, None]
    return (distance[None] - first < shape.n_local)[:, None, None]


def gather_sinks(new: Tensor, old: Tensor | None, start: int, n_global: int, starts: Starts) -> Tensor:
    """Keys or values of the first ``n_global`` real tokens, as far as they are known.

    Args:
        new: ``[b, h_kv, q, d]``, of columns ``start`` and on.
        old: what was known before them, ``[b, h_kv, n_global, d]``.

    Returns:
        ``[b, h_kv, n_global, d]``; those not yet known hold whatever, and are hidden by :func:`hidden_sinks`.
    """
    if old is not None and start >= starts.most + n_global:
        return old
    b, h_kv, q, d = new.shape
    column = torch.arange(n_global, device=new.device)[None].expand(b, -1) - start
    if starts.first is not None:
        column = column + starts.first.to(new.device)[:, None]
    is_here = ((column >= 0) & (column < q))[:, None, :, None]
    index = column.clamp(0, q - 1)[:, None, :, None].expand(-1, h_kv, -1, d)
    return torch.where(is_here, new.gather(2, index), torch.zeros_like(new[:, :, :1]) if old is None else old)
