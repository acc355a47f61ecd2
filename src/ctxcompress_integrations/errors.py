"""The errors of the package. Every message names the offending value and says what to do next.

Wrong arguments are plain ``ValueError``; the classes here are for what can go wrong outside the caller's code.
"""

from __future__ import annotations

from collections.abc import Sequence


class CtxCompressError(Exception):
    """Root of all errors that the package raises on purpose."""


class MissingExtraError(CtxCompressError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class ModelLoadError(CtxCompressError):
    """A model name could not be turned into a model."""


class UnsupportedModelError(CtxCompressError):
    """The model loaded, but does not offer what the method needs."""


class PromptTemplateError(CtxCompressError):
    """The passage cannot be found again in the prompt that a template makes."""


class WeightsMismatchError(CtxCompressError):
    """A weights file was made for another base model, another method or another format version."""


class IndexDirectoryError(CtxCompressError):
    """Root of the errors of an index directory."""


class IndexNotFoundError(IndexDirectoryError, FileNotFoundError):
    """There is no index at this path."""


class IndexExistsError(IndexDirectoryError, FileExistsError):
    """There is already something at the path where an index was to be created."""


class IndexLockedError(IndexDirectoryError):
    """Another process is writing to this index."""


class IndexDamagedError(IndexDirectoryError):
    """A file of the index is missing, cut short or changed; the message names it."""


class IndexVersionError(IndexDirectoryError):
    """The index was written by a newer release."""


class EmbedderMismatchError(IndexDirectoryError):
    """The index was made with another embedder."""


class IndexReadOnlyError(IndexDirectoryError):
    """A change was asked of an index that was opened read-only."""


class SummaryMismatchError(CtxCompressError):
    """Summary vectors were made by another summarizer, or for another reader or adapter, than the one at hand."""


class SummaryValueError(CtxCompressError, ValueError):
    """Summary vectors that no reader can read: not finite, of no width, of no length."""


class ReaderError(CtxCompressError):
    """A reader's server cannot be reached, refused the request or broke off its answer."""


class SummaryMissingError(CtxCompressError, LookupError):
    """Passages have no summary vectors yet: they are new, or their text changed, since summaries were built.

    Attributes:
        ids: of these passages, in the order asked for.
    """

    def __init__(self, message: str, ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.ids = tuple(ids)
