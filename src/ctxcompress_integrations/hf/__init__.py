"""The only folder that knows transformers: loading, prompts with known spans, attention capture."""

from ctxcompress_integrations._optional import check

check("torch", extra="torch")
check("transformers", extra="torch")
