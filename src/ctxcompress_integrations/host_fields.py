"""The fields that the components of both hosts have, and the compressor behind them.

Both hosts bring pydantic; nothing below the adapters needs it, and only they import this file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    PrivateAttr,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from ctxcompress_integrations.compressor import TextCompressor
from ctxcompress_integrations.loading import LazyCompressor, LongInput, ModelKey, check_key
from ctxcompress_integrations.options import LIMITS, CompressionOptions, Threshold, Unit

OnError = Literal["raise", "passthrough"]


class CompressorFields(BaseModel):
    """Plain configuration: pickled, copied and written as JSON with the component; the model loads on first use.

    A field may be assigned, or changed in a copy: the next request goes by what the fields say then.

    Attributes:
        method: "mini", "quito", "quito_x", "probe", "lexical" or a registered name.
        model, device, dtype, layer, weights, long_input, fast: as for
            :func:`~ctxcompress_integrations.load_compressor`.
        keep_ratio, token_budget, threshold: how much to keep, at most one of them, finite; half when none is given.
        unit, protect, joiner: as for :meth:`~ctxcompress_integrations.TextCompressor.compress`.
        drop_empty: leave out what nothing was kept of.
        on_error: "passthrough" hands everything on as it came, with a logged warning, when compression fails.

    Raises:
        ValueError: a field that no request could use, at construction and when it is assigned.
    """

    model_config = ConfigDict(validate_assignment=True, allow_inf_nan=False)  # JSON knows no infinite threshold

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

    _lazy: LazyCompressor | None = PrivateAttr(default=None)

    @field_validator(*LIMITS, mode="before")
    @classmethod
    def _as_in_a_request(cls, value: Any, info: ValidationInfo) -> Any:
        """The same numbers as :meth:`TextCompressor.compress` takes: pydantic would read True as 1."""
        name = str(info.field_name)
        return getattr(CompressionOptions(**{name: value}), name)

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Check the configuration; load nothing."""
        self._options()
        self._source()
        return self

    def _options(self) -> CompressionOptions:
        """What the fields say of a request, now."""
        options = CompressionOptions(
            self.keep_ratio, self.token_budget, self.threshold, self.unit, self.protect, self.joiner
        )
        return options if options.has_limit else replace(options, keep_ratio=0.5)

    def _source(self) -> LazyCompressor:
        """Where the compressor comes from that the fields name, now."""
        key = ModelKey(
            self.method, self.model, self.device, self.dtype, self.layer, self.weights, self.long_input, self.fast
        )
        if self._lazy is None or self._lazy.key != key:
            check_key(key)
            self._lazy = LazyCompressor(key)
        return self._lazy

    def _loaded(self) -> TextCompressor:
        """The compressor that the fields describe, now; loads on first use."""
        compressor = self._source().get()
        return compressor.with_options(replace(self._options(), sigma=compressor.options.sigma))

    @classmethod
    def from_compressor(
        cls, compressor: TextCompressor, *, drop_empty: bool = True, on_error: OnError = "raise"
    ) -> Self:
        """Around a built compressor: ``method`` is the name of its scorer, and its options are the fields.

        Copies share the compressor. No pickle and no JSON can hold it: writing one is refused.
        """
        made = cls(**compressor.options.as_fields(), drop_empty=drop_empty, on_error=on_error)
        name = compressor.scorer.name
        made._lazy = LazyCompressor(made._source().key._replace(method=name), compressor)
        made.method = name
        return made

    def __getstate__(self) -> dict[Any, Any]:
        self._require_fields()
        return super().__getstate__()

    @field_serializer("method")
    def _written(self, method: str) -> str:
        self._require_fields()
        return method

    def _require_fields(self) -> None:
        """``TypeError`` where the fields do not say all, so that what is written would come back as something else."""
        if self._source().built is not None:
            raise TypeError(
                f"{type(self).__name__} was made from a compressor object, which cannot be pickled or written as JSON: "
                "construct it from fields (method=, model=, ...), or call from_compressor where it is used"
            )
