"""From a name to a compressor: at once (``load_compressor``), or on first use and once per configuration (hosts)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar, Unpack
from uuid import uuid4
from weakref import WeakValueDictionary

from ctxcompress_integrations.compressor import TextCompressor
from ctxcompress_integrations.options import CompressionOptions, OptionArguments
from ctxcompress_integrations.scorers import check_name, scorer_class
from ctxcompress_integrations.scorers.base import Scorer, refuse_beside_fast

LongInput: TypeAlias = Literal["windows", "lm_infinite"]


def load_compressor(
    name: str = "mini",
    *,
    model: Any = None,
    device: str = "auto",
    dtype: str = "auto",
    layer: int | None = None,
    weights: Any = None,
    long_input: LongInput = "windows",
    fast: bool = False,
    **options: Unpack[OptionArguments],
) -> TextCompressor:
    """A registered scorer, loaded, as a :class:`TextCompressor`.

    Args:
        name: "mini", "quito", "quito_x", "probe", "lexical" or a name that another package registered.
        model: model name or folder; the scorer's default when None. For built objects construct the scorer:
            ``TextCompressor(Quito(model, tokenizer))``.
        device: "auto" (a GPU when there is one), "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto" (bf16 where the device computes in it; ``mini`` is in float32 on a GPU), "float32", "bfloat16",
            "float16".
        layer: the layer whose attention is read (``quito``, ``quito_x``); negative counts from the last.
        weights: a trained file for ``mini``, instead of the shipped one, or for ``probe``, which needs one.
        long_input: how ``quito`` and ``probe`` read a passage beyond their model's window: in overlapping windows, or
            in one go under LM-Infinite.
        fast: ``mini``'s thin encoder: nearly twice as fast, a little less sure (docs/mini.md).
        options: defaults for every request, as :meth:`TextCompressor.compress` documents them.

    Raises:
        ValueError: unknown name, or an argument that this scorer does not take.
        MissingExtraError, ModelLoadError: with the extra or the argument that cures it.
    """
    CompressionOptions().updated(options)  # complains before any model loads
    return TextCompressor(_load(ModelKey(name, model, device, dtype, layer, weights, long_input, fast)), **options)


class ModelKey(NamedTuple):
    """What decides which scorer is loaded; arguments as for :func:`load_compressor`."""

    method: str
    model: Any
    device: str
    dtype: str
    layer: int | None
    weights: Any
    long_input: LongInput
    fast: bool


def check_key(key: ModelKey) -> None:
    """``ValueError`` for an unknown name, and for what the scorer lacks (ways to read long input, a fast form) or does
    not take beside its fast form. Loads no model.
    """
    check_name(key.method)
    if key.long_input != "windows" and not scorer_class(key.method).reads_long:
        raise ValueError(f"the scorer {key.method!r} takes no long_input, got long_input={key.long_input!r}")
    if key.fast and not scorer_class(key.method).has_fast:
        raise ValueError(f"the scorer {key.method!r} has no fast form, got fast=True: leave it out, or take 'mini'")
    refuse_beside_fast(key.fast, key.model, key.weights)


def _load(key: ModelKey) -> Scorer:
    check_key(key)
    found, arguments = scorer_class(key.method), key._asdict()
    del arguments["method"]
    if not found.reads_long:
        del arguments["long_input"]
    if not found.has_fast:
        del arguments["fast"]
    return found.load(**arguments)


Key = TypeVar("Key")
Value = TypeVar("Value")


class Shared(Generic[Key, Value]):
    """Costly objects by what they are made from: made once, kept while somebody holds them."""

    def __init__(self) -> None:
        self._found: WeakValueDictionary[Key, Value] = WeakValueDictionary()
        self._lock = threading.Lock()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """What was made for ``key``, at once, or what ``make`` makes now, one object after the other."""
        found = self._found.get(key)
        if found is None:
            with self._lock:
                found = self._found.get(key)
                if found is None:
                    found = self._found[key] = make()
        return found


_COMPRESSORS: Shared[ModelKey, TextCompressor] = Shared()


class LazyCompressor:
    """A compressor that loads on first use; components with the same model share it while one of them lives.

    Copies share it; a pickle carries the key alone, and loads again or shares.

    Args:
        key: what to load.
        built: a compressor that is there already; no pickle can carry it.

    Attributes:
        token: tells one that is built from any other; None where ``key`` says all.
    """

    def __init__(self, key: ModelKey, built: TextCompressor | None = None) -> None:
        self.key, self.built, self._compressor = key, built, built
        self.token = None if built is None else uuid4().hex

    def get(self) -> TextCompressor:
        """The compressor, loaded; one that is loaded waits for no other."""
        if self._compressor is None:
            self._compressor = _COMPRESSORS.get(self.key, lambda: TextCompressor(_load(self.key)))
        return self._compressor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LazyCompressor) and self.built is other.built  # the key is the component's fields

    def __hash__(self) -> int:
        return hash(self.built)

    def __deepcopy__(self, memo: Any) -> LazyCompressor:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return LazyCompressor, (self.key,)
