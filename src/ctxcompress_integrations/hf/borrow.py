"""A model that several parts of a program share, used as its base alone and given back as it was."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PreTrainedModel

from ctxcompress_integrations.errors import UnsupportedModelError

_locks: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_making = threading.Lock()


def lock_of(model: Any) -> threading.RLock:
    """The lock of a model, the same for every wrapper around it: who changes its state for a while holds it, and who
    runs it beside others must hold it too. A thread may take it twice.
    """
    shared = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else model
    with _making:
        return _locks.setdefault(shared, threading.RLock())


def base_of(model: Any) -> Any:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def patchable(model: Any) -> PreTrainedModel:
    """The transformers model that is, or is in, ``model``, to be changed inside ``with``.

    Raises:
        UnsupportedModelError: there is none, or a part is a wrapper that torch.compile made or was compiled in place.
    """
    if any("_orig_mod" in part._modules or part._compiled_call_impl is not None for part in model.modules()):
        raise UnsupportedModelError(
            "the model is compiled, and compiled code would not see the patch: enter with the model that was compiled, "
            "before torch.compile"
        )
    found = next((part for part in model.modules() if isinstance(part, PreTrainedModel)), None)
    if found is None:
        raise UnsupportedModelError(f"{type(model).__name__} is no transformers model, nor does it hold one")
    return found


@contextmanager
def as_base(model: Any) -> Iterator[None]:
    """The model without its PEFT adapters, for one thread at a time; afterwards each is on or off as it was.

    PEFT's own ``disable_adapter`` is not used: coming back, it makes adapters trainable that were frozen.

    Raises:
        UnsupportedModelError: an adapter was merged into the weights; they are no longer the base's.
    """
    with lock_of(model):
        layers = [layer for layer in model.modules() if hasattr(layer, "_disable_adapters")]
        if any(getattr(layer, "merged", False) for layer in layers):
            raise UnsupportedModelError("an adapter is merged into the model: call its unmerge_adapter() first")
        before = [layer._disable_adapters for layer in layers]
        for layer in layers:
            layer._disable_adapters = True
        try:
            yield
        finally:
            for layer, was_off in zip(layers, before, strict=True):
                layer._disable_adapters = was_off


@contextmanager
def replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """The module with another ``forward``; whatever stood in its instance dictionary comes back."""
    missing = object()
    before = module.__dict__.get("forward", missing)
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is missing:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


@contextmanager
def evaluating(*modules: Any) -> Iterator[None]:
    """Modules in evaluation mode; afterwards each of their parts is as it was."""
    training = [part for module in modules for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
