"""An index directory: vectors in FAISS, passages and metadata in SQLite, one manifest that ties them together.

Knows nothing of models beyond "texts in, vectors out", and nothing of either host framework.
"""

from ctxcompress_integrations.index.compressed_index import CompressedIndex

__all__ = ["CompressedIndex"]
