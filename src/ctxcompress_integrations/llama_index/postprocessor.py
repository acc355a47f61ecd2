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
from typing import Any

from llama_index.core.bridge.pydantic import ConfigDict
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle

from ctxcompress_integrations.host_fields import CompressorFields
from ctxcompress_integrations.llama_index.nodes import from_result, to_passages
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


class ContextNodePostprocessor(CompressorFields, BaseNodePostprocessor):
    """Prune retrieved nodes to what the query needs, under one budget over all of them.

    New nodes come back, with the same ids, scores, relationships and metadata, and the run's figures under
    ``metadata["ctxcompress"]``, hidden from LLM and embedder. ``start_char_idx`` and ``end_char_idx`` stay those of the
    uncut text: what was kept stands in the source document at ``start_char_idx`` plus each of the figures' ``spans``.

    Fields as :class:`~ctxcompress_integrations.host_fields.CompressorFields` documents them.

    Raises:
        ValueError: a field that no request could use, at construction; a missing query, when called.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    @classmethod
    def class_name(cls) -> str:
        return "ContextNodePostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        passages = to_passages(nodes)
        with self._run(nodes, query_bundle) as run:
            result = self._loaded().compress(list(passages.values()), run.query)
            run.finish(from_result(nodes, list(passages), result, drop_empty=self.drop_empty), result)
        return run.nodes

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        passages = to_passages(nodes)
        with self._run(nodes, query_bundle) as run:
            compressor = await asyncio.to_thread(self._loaded)
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
