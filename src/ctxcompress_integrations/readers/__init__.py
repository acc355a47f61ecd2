"""What answers: a Hugging Face causal LM (text and vectors), a vLLM server, any text-only chat model."""
