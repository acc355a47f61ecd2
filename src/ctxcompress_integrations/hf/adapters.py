"""LoRA adapters beside a model that is not theirs: its layers are exchanged for PEFT's inside ``with`` alone.

PEFT builds its layers into the model that it is given. They are built once, kept here, and taken out again at once; a
request that names an adapter puts them back for as long as it generates. Rows of one batch may name different adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from os import PathLike
from typing import Any, NamedTuple

from torch import nn

from ctxcompress_integrations._optional import require
from ctxcompress_integrations.errors import ModelLoadError, UnsupportedModelError
from ctxcompress_integrations.hf.borrow import evaluating, lock_of
from ctxcompress_integrations.hf.digest import tensors_digest
from ctxcompress_integrations.hf.hub import adapter_folder

BASE = "__base__"
"""PEFT's name for a row without an adapter."""


class _Exchange(NamedTuple):
    parent: nn.Module
    name: str
    own: nn.Module
    peft: nn.Module


class Adapters:
    """Adapters by name, for one model.

    Args:
        model: a decoder, or a PeftModel, which then brings its own adapters and is read without any where none is
            named.
        folders: name -> folder or hub name of a LoRA adapter made by PEFT.

    Raises:
        ModelLoadError: an adapter cannot be loaded.
        UnsupportedModelError: an adapter that is more than LoRA layers.
        ValueError: ``folders`` beside a PeftModel.
    """

    def __init__(self, model: Any, folders: Mapping[str, str | PathLike[str]]) -> None:
        self.base = model
        self._peft: Any = None
        self._exchanges: list[_Exchange] = []
        self._digests: dict[str, str] = {}
        # PEFT makes attributes of its names: one with a dot, as paths and hub names have, would not do
        self._inner = {name: f"adapter_{i}" for i, name in enumerate(folders)}
        if hasattr(model, "peft_type"):  # a PeftModel; asked for without importing peft
            if folders:
                raise ValueError(f"load {min(folders)!r} into the PeftModel, or pass the bare model with adapters=")
            self.base, self._peft = model.get_base_model(), model
            self._inner = {name: name for name in model.peft_config}
        elif folders:
            with lock_of(model), _left_as_it_was(model):
                self._load(folders)

    @property
    def digests(self) -> Mapping[str, str | None]:
        """What :meth:`generating` knows, with the digests of the weights; None for those of a PeftModel."""
        return {name: self._digests.get(name) for name in self._inner}

    @contextmanager
    def generating(self, names: Sequence[str | None]) -> Iterator[Callable[..., Any]]:
        """Yields a ``generate`` under which row ``i`` of a batch is read with the adapter ``names[i]``; the model must
        be this thread's alone.
        """
        if self._peft is None or (self._exchanges and all(name is None for name in names)):
            yield self.base.generate
            return
        for change in self._exchanges:
            change.parent._modules[change.name] = change.peft
        try:
            with evaluating(self._peft):
                rows = [BASE if name is None else self._inner[name] for name in names]
                yield partial(self._peft.generate, adapter_names=rows)
        finally:
            for change in self._exchanges:
                change.parent._modules[change.name] = change.own

    def _load(self, folders: Mapping[str, str | PathLike[str]]) -> None:
        peft = require("peft", extra="torch")
        before = dict(self.base.named_modules())
        try:
            for name, source in folders.items():
                folder = str(adapter_folder(source))
                weights = peft.load_peft_weights(folder, device="cpu")
                _check(name, peft.PeftConfig.from_pretrained(folder), weights)
                self._digests[name] = tensors_digest(weights)
                if self._peft is None:
                    self._peft = peft.PeftModel.from_pretrained(self.base, folder, adapter_name=self._inner[name])
                else:
                    self._peft.load_adapter(folder, adapter_name=self._inner[name])
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ModelLoadError(
                f"cannot load the adapter {name!r} into {type(self.base).__name__} ({error})"
            ) from error
        finally:
            self._exchanges = _take_out(before)
        if any(change.own is self.base.get_input_embeddings() for change in self._exchanges):
            raise UnsupportedModelError(
                f"one of the adapters {', '.join(sorted(folders))} changes the input embeddings, which the texts "
                "of all requests share: merge it into the model instead"
            )


def adapter_digest(name: str | PathLike[str]) -> str:
    """SHA-256 over the weights of a LoRA adapter in a folder, or of that name on the hub: which one it is.

    Raises:
        ModelLoadError: there is no adapter of that name.
    """
    folder = str(adapter_folder(name))
    return tensors_digest(require("peft", extra="torch").load_peft_weights(folder, device="cpu"))


def _take_out(before: Mapping[str, nn.Module]) -> list[_Exchange]:
    """Put back every module that was replaced; what was exchanged."""
    exchanges = []
    for path, own in before.items():
        parent_path, _, name = path.rpartition(".")
        parent = before[parent_path]
        found = parent._modules[name] if path else own
        if found is not None and found is not own:
            exchanges.append(_Exchange(parent, name, own, found))
            parent._modules[name] = own
    return exchanges


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """PEFT freezes parameters, switches to evaluation and leaves its config on the model: all undone."""
    attributes = set(vars(model))
    training = [(module, module.training) for module in model.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for module, was_training in training:
            module.training = was_training
        for parameter, was_trainable in trainable:
            parameter.requires_grad = was_trainable
        for name in set(vars(model)) - attributes:
            delattr(model, name)


def _check(name: str, config: Any, weights: Mapping[str, Any]) -> None:
    """``UnsupportedModelError`` for weights that PEFT would put into the model itself, or cannot mix in a batch."""
    more = [str(config.peft_type)] if config.peft_type != "LORA" else ["DoRA"] if config.use_dora else []
    more += sorted(key for key in weights if ".lora_" not in key)
    if more:
        raise UnsupportedModelError(
            f"the adapter {name!r} is more than LoRA layers, it has {more[0]}: merge it into the model instead"
        )
