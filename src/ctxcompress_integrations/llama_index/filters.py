"""LlamaIndex's ``MetadataFilters`` -> the index's ``where``."""

from __future__ import annotations

from typing import Any

from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)

_OPERATORS = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
}


def where_of(filters: MetadataFilters | MetadataFilter | None) -> dict[str, Any] | None:
    """The same condition in the index's own words; None for one that holds always, as an empty list does.

    Raises:
        ValueError: an operator that the index does not have.
    """
    if filters is None or (isinstance(filters, MetadataFilters) and not filters.filters):
        return None
    if isinstance(filters, MetadataFilter):
        if filters.operator not in _OPERATORS:
            known = ", ".join(operator.value for operator in _OPERATORS)
            raise ValueError(f"the filter operator {filters.operator.value!r} is not supported; use one of {known}")
        return {filters.key: {_OPERATORS[filters.operator]: filters.value}}
    parts = [where_of(part) for part in filters.filters]
    if filters.condition == FilterCondition.NOT:
        return {"$not": {"$or": [part or {} for part in parts]}}
    if filters.condition == FilterCondition.OR:
        return None if None in parts else {"$or": parts}
    return _all_of(parts)


def where_of_query(query: VectorStoreQuery) -> dict[str, Any] | None:
    """The query's filters, and its lists of document and node ids."""
    parts = [where_of(query.filters)]
    if query.doc_ids:  # LlamaIndex means "all" by an empty list, too
        parts.append({"ref_doc_id": {"$in": query.doc_ids}})
    if query.node_ids:
        parts.append({"_node_id": {"$in": query.node_ids}})
    return _all_of(parts)


def _all_of(parts: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    found = [part for part in parts if part is not None]
    return {"$and": found} if found else None
