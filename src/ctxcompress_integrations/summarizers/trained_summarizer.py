"""The rung for methods that train a module beside a frozen model: its identity, and the file that it lives in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from torch import nn

from ctxcompress_integrations.errors import WeightsMismatchError
from ctxcompress_integrations.hf import summary_weights
from ctxcompress_integrations.hf.digest import tokenizer_digest, weights_digest
from ctxcompress_integrations.hf.summary_weights import SummaryWeights
from ctxcompress_integrations.summarizers.base import Summarizer

Trained = TypeVar("Trained", bound=nn.Module)


class TrainedSummarizer(Summarizer, Generic[Trained]):
    """A summarizer with a module that was trained for one model.

    The model is only ever run as its base, without adapters, and given back as it was. The module's digest follows
    in-place changes, those of the frozen models are taken once.

    Attributes:
        model: a transformers decoder LM.
        tokenizer: its fast tokenizer.
        module: what was trained for this method.
    """

    def __init__(self, model: Any, tokenizer: Any, module: Trained) -> None:
        self.model, self.tokenizer, self.module = model, tokenizer, module
        self._trained: tuple[tuple[int, ...], str] | None = None  # versions of the parameters, and their digest

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The choices of the constructor that decide the values, as plain JSON."""

    @property
    @abstractmethod
    def sizes(self) -> dict[str, Any]:
        """Of :attr:`module`, as plain JSON: the arguments of :meth:`_empty`."""

    @classmethod
    @abstractmethod
    def _empty(cls, model: Any, sizes: Mapping[str, Any]) -> Trained:
        """A module of these sizes for ``model``, to be filled."""

    def changed(self, **choices: Any) -> Self:
        """The same module under other choices of the constructor; digests of the models are taken anew."""
        kept = {**self.config, **self._kept}
        return type(self)(self.model, self.tokenizer, self.module, **kept | choices)

    @property
    def _kept(self) -> dict[str, Any]:
        """Arguments of the constructor that are no choices: they decide no values, or belong to a model."""
        return {}

    @cached_property
    def bases(self) -> dict[str, str]:
        """Digests of the frozen models, by their part."""
        return {"reader": weights_digest(self.model), "tokenizer": tokenizer_digest(self.tokenizer)}

    @property
    def identity(self) -> dict[str, Any]:
        versions = tuple(parameter._version for parameter in self.module.parameters())
        if self._trained is None or self._trained[0] != versions:
            self._trained = versions, weights_digest(self.module)
        made = {"method": self.name, "config": self.config, "module": self.sizes}
        return made | {"weights": self._trained[1]} | self.bases

    def save(self, path: str | Path, *, card: Mapping[str, Any] | None = None) -> None:
        """Write what was trained, complete or not at all; :meth:`load` reads it with the same models.

        Args:
            path: of the safetensors file.
            card: what is known of the weights, as plain JSON: recipe, data.
        """
        config = {"module": self.sizes, "choices": self.config}
        summary_weights.save(
            Path(path), self.module, method=self.name, config=config, bases=self.bases, card=card or {}
        )

    @classmethod
    def restored(cls, held: SummaryWeights, model: Any, tokenizer: Any, choices: Mapping[str, Any]) -> Self:
        """What :meth:`save` wrote, on the models that it was trained on.

        Args:
            held: the contents of the file.
            model, tokenizer: as for the constructor.
            choices: arguments of the constructor, instead of those that were saved; None stands for the saved one.

        Raises:
            WeightsMismatchError: other models, or contents that do not fit.
        """
        given = {name: choice for name, choice in choices.items() if choice is not None}
        try:
            module = cls._empty(model, held.config["module"])
            saved = dict(held.config["choices"])
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsMismatchError(f"{held.path} does not say what {cls.name!r} is made of: {error!r}") from error
        summary_weights.fill(module, held.tensors, source=str(held.path))
        module.to(model.get_input_embeddings().weight).eval()
        made = cls(model, tokenizer, module, **saved | given)
        held.check_bases(made.bases)
        return made
