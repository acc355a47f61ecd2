"""From a name to a compressor: at once (``load_compressor``), or on first use and once per configuration (hosts)."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack
from weakref import WeakValueDictionary

from ctxcompress_integrations.compressor import TextCompressor
from ctxcompress_integrations.options import LIMITS, CompressionOptions, OptionArguments, Unit
from ctxcompress_integrations.scorers import available_scorers, scorer_class
from ctxcompress_integrations.scorers.base import Scorer


def load_compressor(
    name: str = "mini",
    *,
    model: Any = None,
    device: str = "auto",
    dtype: str = "auto",
    layer: int | None = None,
    weights: Any = None,
    **options: Unpack[OptionArguments],
) -> TextCompressor:
    """A registered scorer, loaded, as a :class:`TextCompressor`.

    Args:
        name: "mini", "quito", "quito_x", "lexical" or a name that another package registered.
        model: model name or folder; the scorer's default when None. For built objects construct the scorer:
            ``TextCompressor(Quito(model, tokenizer))``.
        device: "auto" (a GPU when there is one), "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto" (bf16 where the device computes in it), "float32", "bfloat16", "float16".
        layer: the layer whose attention is read (``quito``, ``quito_x``); negative counts from the last.
        weights: a trained head for ``mini``.
        options: defaults for every request, as :meth:`TextCompressor.compress` documents them.

    Raises:
        ValueError: unknown name, or an argument that this scorer does not take.
        MissingExtraError, ModelLoadError: with the extra or the argument that cures it.
    """
    CompressionOptions().updated(options)  # complains before any model loads
    scorer = scorer_class(name).load(model=model, device=device, dtype=dtype, layer=layer, weights=weights)
    return TextCompressor(scorer, **options)


@dataclass(frozen=True, slots=True)
class CompressorConfig:
    """The plain values from which a host component makes its compressor; half of the tokens is kept unless it says.

    Raises:
        ValueError: as :class:`~ctxcompress_integrations.options.CompressionOptions`, at construction.
    """

    method: str = "mini"
    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    layer: int | None = None
    keep_ratio: float | None = None
    token_budget: int | None = None
    threshold: float | None = None
    unit: Unit = "sentence"
    protect: str | list[str] | None = None
    joiner: str | None = None

    def __post_init__(self) -> None:
        CompressionOptions().updated(self.options)
        if self.method not in available_scorers():
            raise ValueError(f"there is no scorer {self.method!r}; known names: {', '.join(available_scorers())}")

    @property
    def options(self) -> OptionArguments:
        """The options of a compression, with a limit."""
        limits = {name: getattr(self, name) for name in LIMITS}
        if all(value is None for value in limits.values()):
            limits["keep_ratio"] = 0.5
        return {
            "keep_ratio": limits["keep_ratio"],
            "token_budget": limits["token_budget"],
            "threshold": limits["threshold"],
            "unit": self.unit,
            "protect": self.protect,
            "joiner": self.joiner,
        }


class LazyCompressor:
    """A compressor that loads on first use; components with the same model share it while one of them lives.

    Pickles and copies carry the configuration alone: they load again, or share.
    """

    _scorers: ClassVar[WeakValueDictionary[tuple[Any, ...], Scorer]] = WeakValueDictionary()
    _loading = threading.Lock()

    def __init__(self, config: CompressorConfig, compressor: TextCompressor | None = None) -> None:
        self._config, self._compressor = config, compressor

    def get(self) -> TextCompressor:
        """The compressor, loaded."""
        with self._loading:
            if self._compressor is None:
                c = self._config
                key = (c.method, c.model, c.device, c.dtype, c.layer)
                scorer = self._scorers.get(key)
                if scorer is None:
                    scorer = scorer_class(c.method).load(model=c.model, device=c.device, dtype=c.dtype, layer=c.layer)
                    self._scorers[key] = scorer
                self._compressor = TextCompressor(scorer, **c.options)
            return self._compressor

    def around(self, compressor: TextCompressor) -> LazyCompressor:
        """The same configuration with a compressor that is built already."""
        return LazyCompressor(self._config, compressor)

    def __hash__(self) -> int:
        return hash((self._config.method, self._config.model))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LazyCompressor) and self._config == other._config

    def __reduce__(self) -> tuple[Any, ...]:
        return LazyCompressor, (self._config,)
