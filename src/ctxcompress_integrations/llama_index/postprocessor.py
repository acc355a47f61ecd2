"""``ContextNodePostprocessor``: the package's compressors where LlamaIndex expects a node postprocessor.

Plain fields hold the configuration, so ``to_dict``, ``from_dict`` and pickling keep all of it; the model behind it
loads on first use, once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self

from llama_index.core.bridge.pydantic import ConfigDict, PrivateAttr
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle

from ctxcompress_integrations.compressor import TextCompressor
from ctxcompress_integrations.llama_index.nodes import from_result, to_passages
from ctxcompress_integrations.loading import CompressorConfig, LazyCompressor
from ctxcompress_integrations.options import Unit
from ctxcompress_integrations.records import CompressionResult

logger = logging.getLogger(__name__)
dispatcher: Any = get_dispatcher(__name__)


class CompressionStartEvent(BaseEvent):
    """A compression begins: the query and how many nodes came in."""

    query: str
    n_nodes: int

    @classmethod
    def class_name(cls) -> str:
        return "CompressionStartEvent"


class CompressionEndEvent(BaseEvent):
    """A compression is done: how many nodes go out, and the tokens before and after (0 when it failed)."""

    n_nodes: int
    n_tokens_in: int
    n_tokens_out: int

    @classmethod
    def class_name(cls) -> str:
        return "CompressionEndEvent"


class ContextNodePostprocessor(BaseNodePostprocessor):
    """Prune retrieved nodes to what the query needs, under one budget over all of them.

    New nodes come back, with the same ids, scores, relationships and metadata, and the run's figures under
    ``metadata["ctxcompress"]``, hidden from LLM and embedder.

    Args:
        method: "mini", "quito", "quito_x", "lexical" or a registered name.
        model, device, dtype, layer: as for :func:`~ctxcompress_integrations.load_compressor`.
        keep_ratio, token_budget, threshold: how much to keep, at most one of them; half when none is given.
        unit, protect, joiner: as for :meth:`~ctxcompress_integrations.TextCompressor.compress`.
        drop_empty: leave out nodes of which nothing was kept.
        on_error: "passthrough" hands the nodes on as they came, with a logged warning, when compression fails.

    Raises:
        ValueError: a field that no request could use, at construction; a missing query, when called.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

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
    drop_empty: bool = True
    on_error: Literal["raise", "passthrough"] = "raise"

    _lazy: LazyCompressor = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Check the configuration; load nothing."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(CompressorConfig)}
        self._lazy = LazyCompressor(CompressorConfig(**fields))

    @classmethod
    def from_compressor(
        cls, compressor: TextCompressor, *, drop_empty: bool = True, on_error: Literal["raise", "passthrough"] = "raise"
    ) -> Self:
        """Around a built compressor, with the options that it was built with. A pickle keeps the fields alone."""
        made = cls(**compressor.options.as_fields(), drop_empty=drop_empty, on_error=on_error)
        made._lazy = made._lazy.around(compressor)
        return made

    @classmethod
    def class_name(cls) -> str:
        return "ContextNodePostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        passages = to_passages(nodes)
        with self._run(nodes, query_bundle) as run:
            result = self._lazy.get().compress(list(passages.values()), run.query)
            run.finish(from_result(nodes, list(passages), result, drop_empty=self.drop_empty), result)
        return run.nodes

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        passages = to_passages(nodes)
        with self._run(nodes, query_bundle) as run:
            compressor = await asyncio.to_thread(self._lazy.get)
            result = await compressor.acompress(list(passages.values()), run.query)
            run.finish(from_result(nodes, list(passages), result, drop_empty=self.drop_empty), result)
        return run.nodes

    @contextmanager
    def _run(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None) -> Iterator[_Run]:
        """Events around one compression; what ``on_error`` says when it fails."""
        if query_bundle is None:
            raise ValueError(
                "ContextNodePostprocessor needs the query: pass query_bundle=QueryBundle(...) or query_str="
            )
        run = _Run(query_bundle.query_str, list(nodes))
        dispatcher.event(CompressionStartEvent(query=run.query, n_nodes=len(nodes)))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.QUERY_STR: run.query,
            EventPayload.MODEL_NAME: self.method,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            try:
                yield run
            except Exception as error:
                if self.on_error == "raise":
                    raise
                logger.warning("compression failed, %d nodes pass as they are: %s", len(nodes), error)
            event.on_end(payload={EventPayload.NODES: run.nodes})
        dispatcher.event(
            CompressionEndEvent(n_nodes=len(run.nodes), n_tokens_in=run.n_tokens_in, n_tokens_out=run.n_tokens_out)
        )


@dataclasses.dataclass
class _Run:
    query: str
    nodes: list[NodeWithScore]
    n_tokens_in: int = 0
    n_tokens_out: int = 0

    def finish(self, nodes: list[NodeWithScore], result: CompressionResult) -> None:
        self.nodes, self.n_tokens_in, self.n_tokens_out = nodes, result.n_tokens_in, result.n_tokens_out
