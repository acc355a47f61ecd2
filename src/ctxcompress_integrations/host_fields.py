"""The fields that the components of both hosts have, and the compressor behind them.

Both hosts bring pydantic; nothing below the adapters needs it, and only they import this file.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, PrivateAttr

from ctxcompress_integrations.compressor import TextCompressor
from ctxcompress_integrations.loading import LazyCompressor, LongInput, ModelKey, check_key
from ctxcompress_integrations.options import LIMITS, CompressionOptions, OptionArguments, Threshold, Unit

OnError = Literal["raise", "passthrough"]


class CompressorFields(BaseModel):
    """Plain configuration: pickled, copied and written as JSON with the component; the model loads on first use.

    Attributes:
        method: "mini", "quito", "quito_x", "probe", "lexical" or a registered name.
        model, device, dtype, layer, weights, long_input, fast: as for
            :func:`~ctxcompress_integrations.load_compressor`.
        keep_ratio, token_budget, threshold: how much to keep, at most one of them; half when none is given.
        unit, protect, joiner: as for :meth:`~ctxcompress_integrations.TextCompressor.compress`.
        drop_empty: leave out what nothing was kept of.
        on_error: "passthrough" hands everything on as it came, with a logged warning, when compression fails.

    Raises:
        ValueError: a field that no request could use, at construction.
    """

    method: str = "mini"
    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    layer: int | None = None
    weights: str | None = None
    long_input: LongInput = "windows"
    fast: bool = False
    keep_ratio: float | None = None
    token_budget: int | None = None
    threshold: Threshold | None = None
    unit: Unit = "sentence"
    protect: str | list[str] | None = None
    joiner: str | None = None
    drop_empty: bool = True
    on_error: OnError = "raise"

    _lazy: LazyCompressor = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Check the configuration; load nothing."""
        key = ModelKey(
            self.method, self.model, self.device, self.dtype, self.layer, self.weights, self.long_input, self.fast
        )
        check_key(key)
        options: OptionArguments = {
            "keep_ratio": self.keep_ratio,
            "token_budget": self.token_budget,
            "threshold": self.threshold,
            "unit": self.unit,
            "protect": self.protect,
            "joiner": self.joiner,
        }
        if all(getattr(self, name) is None for name in LIMITS):
            options["keep_ratio"] = 0.5
        CompressionOptions().updated(options)
        self._lazy = LazyCompressor(key, options)

    @classmethod
    def from_compressor(
        cls, compressor: TextCompressor, *, drop_empty: bool = True, on_error: OnError = "raise"
    ) -> Self:
        """Around a built compressor, with the options that it was built with. A pickle keeps the fields alone."""
        made = cls(**compressor.options.as_fields(), drop_empty=drop_empty, on_error=on_error)
        made._lazy = made._lazy.around(compressor)
        return made
