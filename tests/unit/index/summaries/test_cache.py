"""The cache against a list that is searched and summed up."""

import random

import numpy as np
import pytest

from ctxcompress_integrations.index.summaries.cache import ByteLRU, check_device, to_device


def test_it_is_a_list_in_order_of_use():
    dice, cache, slow, limit = random.Random(1), ByteLRU(100), [], 100
    for _ in range(3000):
        key, size = dice.randrange(30), dice.randrange(1, 40)
        action = dice.random()
        if action < 0.5:
            found = [entry for entry in slow if entry[0] == key]
            assert cache.get(key) == (found[0][1] if found else None)
            slow = [entry for entry in slow if entry[0] != key] + found
        elif action < 0.99:
            value = object()
            cache.put(key, value, size)
            slow = [entry for entry in slow if entry[0] != key] + [(key, value, size)]
        else:
            limit = dice.randrange(50, 150)
            cache.shrink(limit)
        while sum(entry[2] for entry in slow) > limit:
            slow.pop(0)
        assert (len(cache), cache.n_bytes) == (len(slow), sum(entry[2] for entry in slow))


def test_what_is_larger_than_all_of_it_is_not_kept():
    cache = ByteLRU(10)
    cache.put("a", 1, 10)
    cache.put("b", 2, 11)
    assert (cache.get("a"), cache.get("b")) == (1, None)
    cache.clear()
    assert (len(cache), cache.n_bytes, cache.get("a")) == (0, 0, None)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_tensors_are_copies_with_memory_of_their_own(dtype):
    rows = [np.full((n, 3), n, dtype) for n in (1, 4, 2)]
    tensors = to_device(rows, check_device("cpu"))
    for row, tensor in zip(rows, tensors, strict=True):
        assert np.array_equal(tensor.numpy(), row)
        assert not np.shares_memory(tensor.numpy(), row)
        assert tensor.untyped_storage().nbytes() == row.nbytes
    assert to_device([], check_device("cpu")) == []


@pytest.mark.parametrize("device", ["cpu:7x", "nowhere", 3.5])
def test_a_device_that_there_is_not_is_named(device):
    with pytest.raises(ValueError, match=str(device)):
        check_device(device)
