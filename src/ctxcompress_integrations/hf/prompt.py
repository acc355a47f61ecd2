"""Prompts in which the passage's place is known, whatever the template.

The template is rendered once around a placeholder; what stands before and after it is the prompt's frame. No offset is
assumed, nothing is tokenised in isolation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import regex

from ctxcompress_integrations.errors import PromptTemplateError
from ctxcompress_integrations.text.segment import well_formed

_PLACEHOLDER = "ctxcompressPLACEHOLDERctxcompress"


@dataclass(frozen=True, slots=True)
class Prompt:
    """Text of one prompt and where the passage lies in it, in characters."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """``prefix + passage + middle + query + suffix``.

    Attributes:
        adds_special_tokens: whether the tokenizer still has to add its own (BOS): a chat template brings them.
        special: matches literal special tokens, which a document must not smuggle into the prompt.
    """

    prefix: str
    middle: str
    suffix: str
    adds_special_tokens: bool
    special: regex.Pattern[str] | None = None

    @classmethod
    def of(cls, tokenizer: Any, template: str | None = None) -> PromptTemplate:
        """QUITO's prompt for this tokenizer: one user turn ``passage + " " + query`` with the generation prompt.

        Args:
            tokenizer: a Hugging Face tokenizer; without a chat template the bare ``passage + " " + query`` is used.
            template: ``"plain"`` for the bare form, or a text with ``{passage}`` and then ``{query}`` in it.

        Raises:
            PromptTemplateError: the passage cannot be found in what the template makes.
        """
        special = _literals(tokenizer)
        if template is not None and template != "plain":
            parts = regex.fullmatch(r"([\s\S]*)\{passage\}([\s\S]*)\{query\}([\s\S]*)", template)
            if parts is None:
                raise PromptTemplateError(f"a template needs {{passage}} and, after it, {{query}}; got {template!r}")
            return cls(parts[1], parts[2], parts[3], True, special)
        if template == "plain" or not getattr(tokenizer, "chat_template", None):
            return cls("", " ", "", True, special)
        rendered = _render(tokenizer)
        if rendered.count(_PLACEHOLDER) != 1:
            raise PromptTemplateError(
                f"the chat template shows the user's message {rendered.count(_PLACEHOLDER)} times, not once; pass "
                "template='plain' or a text with {passage} and {query}"
            )
        prefix, _, suffix = rendered.partition(_PLACEHOLDER)
        return cls(prefix, " ", suffix, False, special)

    def render(self, passage: str, query: str) -> Prompt:
        """The prompt for one passage; literal special tokens in it lose their first character to a look-alike, so that
        offsets stay and no document can open a turn of its own.
        """
        passage, query = self.harmless(passage), self.harmless(query)
        start = len(self.prefix)
        text = f"{self.prefix}{passage}{self.middle}{query}{self.suffix}"
        return Prompt(text, start, start + len(passage))

    def harmless(self, text: str) -> str:
        """``text`` as :meth:`render` puts it into the prompt: of the same length, without literal special tokens and
        halves of surrogate pairs.
        """
        text = well_formed(text)
        return text if self.special is None else self.special.sub(lambda match: "\u2039" + match.group()[1:], text)


def _literals(tokenizer: Any) -> regex.Pattern[str] | None:
    """Matches what opens, closes or steers a turn: special tokens, and other added tokens of which the chat template
    speaks. Some vocabularies add runs of spaces, line breaks or HTML tags, too: they are text.
    """
    template = str(getattr(tokenizer, "chat_template", None) or "")
    added = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special or t.content in template]
    literals = sorted({text for text in (*tokenizer.all_special_tokens, *added) if text.strip()}, key=len, reverse=True)
    return regex.compile("|".join(map(regex.escape, literals))) if literals else None


def _render(tokenizer: Any) -> str:
    errors = []
    for content in (_PLACEHOLDER, [{"type": "text", "text": _PLACEHOLDER}]):  # some templates only take parts
        try:
            rendered: str = tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
        except Exception as error:  # noqa: BLE001 - templates raise what they like
            errors.append(str(error))
            continue
        if _PLACEHOLDER in rendered:
            return rendered
    raise PromptTemplateError(
        f"the chat template cannot be rendered for one user turn ({'; '.join(errors) or 'the message is dropped'}); "
        "pass template='plain' or a text with {passage} and {query}"
    )
