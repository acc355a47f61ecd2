"""Summary rows through pinned memory onto a GPU."""

import numpy as np
import pytest
import torch

from ctxcompress_integrations.index.summaries.cache import check_device, to_device

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_arrive_as_they_are_in_memory_of_their_own(dtype):
    dice = np.random.default_rng(0)
    rows = [dice.standard_normal((n, 4096)).astype(dtype) for n in (50, 1, 7) * 20]
    tensors = to_device(rows, check_device("cuda"))
    with torch.cuda.stream(torch.cuda.Stream()):  # a stream that never waited for the copies
        copies = [tensor.clone() for tensor in tensors]
    torch.cuda.synchronize()
    for row, tensor, copy in zip(rows, tensors, copies, strict=True):
        assert tensor.device == torch.device("cuda", 0)
        assert tensor.untyped_storage().nbytes() == row.nbytes
        assert np.array_equal(copy.cpu().numpy(), row)
