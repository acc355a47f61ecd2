import torch

from ctxcompress_integrations.nn.attention_row import attention_row


def slow(query, key, scaling, n_keys, mask=None, softcap=None):
    """The same by loops, one head and one key at a time."""
    b, h, _ = query.shape
    n = key.shape[2]
    out = torch.zeros(b, h, n)
    for i in range(b):
        for j in range(h):
            logits = torch.full((n,), float("-inf"))
            for t in range(int(n_keys[i])):
                if mask is not None and not bool(mask[i, 0, t]):
                    continue
                logit = scaling * (query[i, j].float() @ key[i, j * key.shape[1] // h, t].float())
                logits[t] = softcap * torch.tanh(logit / softcap) if softcap else logit
            if torch.isfinite(logits).any():
                out[i, j] = torch.softmax(logits, 0)
    return out


def test_equals_loops_with_groups_mask_and_cap():
    torch.manual_seed(0)
    query, key = torch.randn(3, 6, 8), torch.randn(3, 2, 11, 8)
    n_keys = torch.tensor([11, 4, 1])
    mask = torch.rand(3, 1, 11) > 0.4
    mask[2] = False
    for m in (None, mask):
        for cap in (None, 2.0):
            got = attention_row(query, key, scaling=0.3, n_keys=n_keys, mask=m, softcap=cap)
            torch.testing.assert_close(got, slow(query, key, 0.3, n_keys, m, cap))


def test_additive_mask_means_the_same_as_boolean():
    torch.manual_seed(1)
    query, key, n_keys = torch.randn(2, 4, 8), torch.randn(2, 4, 9, 8), torch.tensor([9, 9])
    visible = torch.rand(2, 1, 9) > 0.5
    additive = torch.zeros(2, 1, 9).masked_fill(~visible, torch.finfo(torch.float32).min)
    a = attention_row(query, key, scaling=1.0, n_keys=n_keys, mask=visible)
    b = attention_row(query, key, scaling=1.0, n_keys=n_keys, mask=additive)
    torch.testing.assert_close(a, b)


def test_row_without_any_key_is_zero():
    row = attention_row(torch.ones(1, 2, 4), torch.ones(1, 2, 3, 4), scaling=1.0, n_keys=torch.tensor([0]))
    assert not row.any()
