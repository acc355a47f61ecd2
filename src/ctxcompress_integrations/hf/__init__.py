"""The only folder that knows transformers: loading, prompts with known spans, attention capture."""
