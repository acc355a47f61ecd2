"""Λ-attention against its slow twin: every pair's distance and visibility written out, one softmax, [n, n] and all."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch._dynamo.utils import counters
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.flop_counter import FlopCounterMode

from ctxcompress_integrations.nn import lambda_attention as la
from ctxcompress_integrations.nn import lambda_flex
from ctxcompress_integrations.nn.lambda_flex import BLOCK, band_blocks, flex_lambda_attention
from ctxcompress_integrations.nn.lambda_mask import LambdaShape, MiddleTopK, Starts, gather_sinks, starts_of
from ctxcompress_integrations.nn.lambda_parts import Frame, Middle, Sinks, best_of_middle, lambda_row, rotate
from largest import Largest

D, SHAPE = 8, LambdaShape(3, 10)
FREQUENCIES = 1 / 10000 ** (torch.arange(0, D, 2) / D)


def phases(positions, dtype=torch.float32):
    angle = torch.as_tensor(positions)[..., None] * FREQUENCIES
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos()[None].to(dtype), angle.sin()[None].to(dtype)


def heads(n, *, b=1, h=4, h_kv=2, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return tuple(torch.randn(b, count, n, D).to(dtype) for count in (h, h_kv, h_kv))


def twin(query, key, value, shape, *, first=0, slopes=None, looking_rows=()):
    """[h, n, d] of one row of a batch whose real tokens begin at ``first``, pair by pair."""
    h, n, _ = query.shape
    out = torch.zeros(h, n, value.shape[-1])
    for head in range(h):
        kv = head // (h // key.shape[0])
        for i in range(first, n):
            logits, seen, middle = [], [], []
            for j in range(first, i + 1):
                is_seen = i - j < shape.n_local or j - first < shape.n_global
                place = min(i - j, shape.n_local) if is_seen else shape.middle_distance
                q, k = query[head, i], key[kv, j]
                if slopes is None:
                    q = rotate(q[None, None, None], *phases([place]))[0, 0, 0]
                logit = (q @ k) / math.sqrt(D) - (0 if slopes is None else slopes[head] * place)
                if is_seen:
                    logits.append(logit)
                    seen.append(j)
                else:
                    middle.append((logit, j))
            if shape.middle is not None and i in looking_rows:
                for logit, j in sorted(middle, key=lambda pair: -pair[0])[: shape.middle.k]:
                    logits.append(logit)
                    seen.append(j)
            out[head, i] = torch.stack(logits).softmax(0) @ value[kv, seen]
    return out


def fast(query, key, value, shape, *, starts=None, slopes=None, function=la.lambda_attention, start=0):
    """The same through the package; queries are those from column ``start`` on."""
    starts, n = starts or Starts(), key.shape[2]

    def turned(x, positions):
        return x if slopes is not None else rotate(x, *phases(positions, x.dtype))

    sinks = Sinks(*(gather_sinks(x, None, 0, shape.n_global, starts) for x in (turned(key, [-shape.n_local]), value)))
    new = query[:, :, start:]
    queries = la.Queries(turned(new, range(start, n)), new)
    frame = Frame(shape, start, starts, D**-0.5, slopes)
    middle = None
    if shape.middle is not None:
        middle = Middle(turned(new[:, :, -1:], [shape.middle_distance]), key, value, shape.middle.k)
    low = max(0, start - shape.n_local + 1)
    arguments = (queries, turned(key, range(n))[:, :, low:], value[:, :, low:], sinks, frame)
    return function(*arguments, middle) if middle else function(*arguments)


SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625])


@pytest.mark.parametrize("at_once", [64, 7])
@pytest.mark.parametrize("slopes", [None, SLOPES], ids=["rotary", "alibi"])
@pytest.mark.parametrize("n", [1, 10, 11, 40])
def test_equals_its_twin(n, slopes, at_once, monkeypatch):
    monkeypatch.setattr(la, "_LEAST_AT_ONCE", at_once)
    monkeypatch.setattr(la, "_AT_ONCE", 1)
    q, k, v = heads(n)
    torch.testing.assert_close(
        fast(q, k, v, SHAPE, slopes=slopes)[0], twin(q[0], k[0], v[0], SHAPE, slopes=slopes), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("slopes", [None, SLOPES], ids=["rotary", "alibi"])
def test_middle_joins_the_last_query_alone(slopes):
    shape = LambdaShape(3, 10, MiddleTopK(k=4, distance=6))
    q, k, v = heads(40)
    want = twin(q[0], k[0], v[0], shape, slopes=slopes, looking_rows={39})
    torch.testing.assert_close(fast(q, k, v, shape, slopes=slopes)[0], want, atol=1e-5, rtol=0)
    without = twin(q[0], k[0], v[0], SHAPE, slopes=slopes)
    assert (want[:, -1] - without[:, -1]).abs().max() > 0.01


@pytest.mark.parametrize("start", [1, 5, 12, 29])
@pytest.mark.parametrize("slopes", [None, SLOPES], ids=["rotary", "alibi"])
def test_later_chunk_equals_the_rows_of_the_whole(slopes, start):
    q, k, v = heads(30)
    whole = fast(q, k, v, SHAPE, slopes=slopes)
    torch.testing.assert_close(fast(q, k, v, SHAPE, slopes=slopes, start=start), whole[:, :, start:], atol=1e-5, rtol=0)


def test_padded_rows_equal_single_ones_and_padding_is_finite():
    q, k, v = heads(41, b=3)
    firsts = [0, 9, 33]
    mask = torch.tensor([[0] * f + [1] * (41 - f) for f in firsts])
    got = fast(q, k, v, SHAPE, starts=starts_of(mask))
    assert got.isfinite().all()
    for row, first in enumerate(firsts):
        want = twin(q[row], k[row], v[row], SHAPE, first=first)
        torch.testing.assert_close(got[row, :, first:], want[:, first:], atol=1e-5, rtol=0)


def test_bf16_is_close_to_fp32():
    q, k, v = heads(60)
    rough = fast(*(x.bfloat16() for x in (q, k, v)), SHAPE)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), fast(q, k, v, SHAPE), atol=0.06, rtol=0)


def test_gradients_are_the_twins():
    shape = LambdaShape(3, 10, MiddleTopK(k=2))
    gradients = []
    for run in (
        lambda q, k, v: fast(q, k, v, shape)[0],
        lambda q, k, v: twin(q[0], k[0], v[0], shape, looking_rows={23}),
    ):
        inputs = [x.requires_grad_() for x in heads(24)]
        run(*inputs).square().sum().backward()
        gradients.append([x.grad for x in inputs])
    for got, want in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile.*")
@pytest.mark.parametrize("start", [0, 25])
@pytest.mark.parametrize("padded", [False, True])
def test_flex_path_equals_the_blocked_one(start, padded):
    """Uncompiled, on a CPU: the mask function and the merging; the block table has a test of its own."""
    q, k, v = heads(60, b=2)
    starts = starts_of(torch.tensor([[1] * 60, [0] * 14 + [1] * 46])) if padded else Starts()

    def uncompiled(*arguments):
        return flex_lambda_attention(*arguments, is_compiled=False)

    got = fast(q, k, v, SHAPE, starts=starts, start=start, function=uncompiled)
    torch.testing.assert_close(got, fast(q, k, v, SHAPE, starts=starts, start=start), atol=1e-5, rtol=0)


@pytest.fixture
def traced(monkeypatch):
    """The compiled path, on a CPU: traced for each form, computed as it stands."""
    torch._dynamo.reset()
    monkeypatch.setattr(lambda_flex, "_compiled", partial(lambda_flex._compiled, "eager"))
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("error:.*flex_attention called without torch.compile.*")
@pytest.mark.usefixtures("traced")
def test_flex_path_serves_rows_lengths_pasts_windows_and_padding():
    """More than the 8 forms after which torch goes on uncompiled; few, because pasts and windows are no constants."""
    counters.clear()
    for i in range(24):
        n, b, shape = 30 + 7 * i, 1 + i % 3, LambdaShape(3, 10 + i % 4)
        q, k, v = heads(n, b=b, seed=i)
        starts = starts_of(torch.tensor([[0] * (5 * row) + [1] * (n - 5 * row) for row in range(b)])) if i % 2 else None
        given = {"starts": starts, "start": i * 11 % 29}
        got = fast(q, k, v, shape, **given, function=flex_lambda_attention)
        torch.testing.assert_close(got, fast(q, k, v, shape, **given), atol=1e-5, rtol=0)
    assert 8 < counters["stats"]["unique_graphs"] <= 16


@pytest.mark.usefixtures("traced")
def test_flex_path_past_its_forms_is_an_error(monkeypatch):
    monkeypatch.setattr(lambda_flex, "FORMS", 1)
    fast(*heads(40), SHAPE, function=flex_lambda_attention)
    with pytest.raises(FailOnRecompileLimitHit):
        fast(*heads(40, b=2), SHAPE, function=flex_lambda_attention)


@pytest.mark.parametrize(("n_queries", "n_keys", "n_local"), [(700, 700, 200), (300, 811, 512), (130, 257, 128)])
def test_block_table_is_that_of_the_literal_band(n_queries, n_keys, n_local):
    start = n_keys - n_queries + 1000
    blocks = band_blocks(n_queries, n_keys, n_local, start, Starts(), torch.device("cpu"))
    distance = torch.arange(n_keys - n_queries, n_keys)[:, None] - torch.arange(n_keys)
    literal = (distance >= 0) & (distance < n_local)
    for row in range(-(-n_queries // BLOCK)):
        listed = {}
        for kind in ("kv", "full_kv"):
            count = int(getattr(blocks, f"{kind}_num_blocks")[0, 0, row])
            listed[kind] = set(getattr(blocks, f"{kind}_indices")[0, 0, row, :count].tolist())
        for column in range(-(-n_keys // BLOCK)):
            block = literal[row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK]
            where = "full_kv" if block.all() else "kv" if block.any() else None
            assert [kind for kind, columns in listed.items() if column in columns] == ([where] if where else [])


@pytest.mark.slow  # compiles C++
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch in torch
def test_compiled_band_through_the_block_table_equals_the_literal_mask():
    """What a GPU runs, but for the log-sum-exp, which compiled CPU code does not give."""
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 700, 16), torch.randn(2, 2, 811, 16), torch.randn(2, 2, 811, 16)
    table = band_blocks(700, 811, 200, 111, Starts(torch.tensor([0, 300]), 0, 300), q.device)
    with torch.no_grad():
        got = torch.compile(flex_attention, fullgraph=True)(q, k, v, block_mask=table, enable_gqa=True)
    i, j = torch.arange(111, 811)[:, None], torch.arange(811)
    is_real = (j >= torch.tensor([0, 300])[:, None, None]) | (i == j)
    seen = ((i - j >= 0) & (i - j < 200) & is_real)[:, None]
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_time_and_memory_grow_with_n():
    shape, lengths = LambdaShape(4, 64), (2048, 8192)
    largest, flops = [], []
    for n in lengths:
        q, k, v = heads(n)
        with Largest() as seen, FlopCounterMode(display=False) as counter:
            fast(q, k, v, shape)
        largest.append(seen.n)
        flops.append(counter.get_total_flops())
    growth = math.log(lengths[1] / lengths[0])
    assert math.log(flops[1] / flops[0]) / growth <= 1.02
    assert math.log(largest[1] / largest[0]) / growth <= 1.02
    assert largest[1] <= 4 * D * lengths[1]  # the queries themselves


def test_row_is_that_of_the_attention():
    """The captured row times the values is the attention's output, for every way to see the middle."""
    q, k, v = heads(40, b=2)
    at = torch.tensor([39, 31])
    for shape in (SHAPE, LambdaShape(3, 10, MiddleTopK(k=4))):
        flat = rotate(k, *phases([0])).repeat_interleave(2, 1)
        turned = rotate(k, *phases(range(40))).repeat_interleave(2, 1)
        one = q[torch.arange(2), :, at][:, :, None]
        cos, sin = phases(at)
        own = rotate(one, cos[0][:, None], sin[0][:, None])
        logits = [
            (x @ keys.transpose(-1, -2))[:, :, 0] * D**-0.5
            for x, keys in (
                (own, turned),
                (rotate(one, *phases([10])), flat),
                (rotate(one, *phases([5])), flat),
            )
        ]
        looked = torch.zeros_like(logits[2], dtype=torch.bool)
        if shape.middle is not None:
            looking = rotate(one, *phases([5]))
            for i in range(2):
                middle = Middle(looking[i : i + 1], k[i : i + 1], v[i : i + 1], 4)
                _, columns = best_of_middle(middle, int(at[i]), Frame(shape, 0, Starts(), D**-0.5))
                looked[i].scatter_(1, columns.view(4, 4), value=True)
        logits[2] = logits[2].masked_fill(~looked, -torch.inf)
        row = lambda_row(*logits, shape=shape, at=at, starts=Starts())
        for i, end in enumerate((40, 32)):
            want = twin(q[i, :, :end], k[i, :, :end], v[i, :, :end], shape, looking_rows={end - 1})[:, -1]
            got = torch.einsum("hn,hnd->hd", row[i], v[i].repeat_interleave(2, 0))
            torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
            assert not row[i, :, end:].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8), "n_global must be an int >= 1, got 0"),
        ((1, 0), "n_local must be an int >= 2, got 0"),
        ((8, 8), "n_global must be smaller than n_local, got 8 and 8"),
        ((9, 8), "n_global must be smaller than n_local, got 9 and 8"),
        ((2.0, 8), "n_global must be an int >= 1, got 2.0"),
        ((True, 8), "got True"),
    ],
)
def test_sizes_that_make_no_lambda_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LambdaShape(*arguments)


@pytest.mark.parametrize(("field", "value"), [("k", 0), ("from_layer", -1), ("distance", 0), ("k", None)])
def test_middle_that_makes_no_sense_is_named(field, value):
    with pytest.raises(ValueError, match=f"MiddleTopK.{field} must be an int"):
        MiddleTopK(**{field: value})


def test_starts_of_masks():
    assert starts_of(None).first is None
    assert starts_of(torch.ones(2, 3)).first is None
    found = starts_of(torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]]))
    assert found.first.tolist() == [2, 4, 0]
    assert (found.least, found.most) == (0, 4)
    with pytest.raises(ValueError, match="padding between real tokens"):
        starts_of(torch.tensor([[1, 0, 1]]))


def test_sinks_are_gathered_over_chunks():
    """Rows that begin in different chunks end with the sinks of one gathering."""
    x = torch.arange(2 * 20.0).view(2, 1, 20, 1)
    starts = Starts(torch.tensor([2, 9]), 2, 9)
    whole = gather_sinks(x, None, 0, 4, starts)
    assert whole.flatten().tolist() == [2, 3, 4, 5, 29, 30, 31, 32]
    old = None
    for begin, end in pairwise([0, 3, 4, 10, 11, 20]):
        old = gather_sinks(x[:, :, begin:end], old, begin, 4, starts)
    assert torch.equal(old, whole)
