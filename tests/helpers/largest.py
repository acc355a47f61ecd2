"""How large a tensor was made on the way: memory that grows with n x n shows, on any machine."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Largest(TorchDispatchMode):
    """``n``: elements of the largest tensor that an operation made inside ``with``."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.n = max(self.n, tensor.numel())
        return out
