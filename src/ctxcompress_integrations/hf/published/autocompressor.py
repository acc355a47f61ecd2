"""``princeton-nlp/AutoCompressor-Llama-2-7b-6k``: Llama's own names, and ``embed_summary.weight`` ``[m, d]``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ctxcompress_integrations._optional import require
from ctxcompress_integrations.errors import ModelLoadError, UnsupportedModelError, WeightsMismatchError
from ctxcompress_integrations.hf.published.files import folder_tensors
from ctxcompress_integrations.hf.summary_weights import check_names

SUMMARY_KEY = "embed_summary.weight"


def load(folder: Path, *, device: Any, dtype: Any) -> tuple[Any, Any, Tensor]:
    """``(model, tokenizer, summary embeddings [m, d])`` of a Llama AutoCompressor, as a plain Llama.

    Raises:
        UnsupportedModelError: an OPT one, or one that does not accumulate its summaries (RMT).
        WeightsMismatchError: tensors are missing, left over or do not fit each other.
    """
    transformers = require("transformers", extra="torch")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{folder} is no checkpoint of a model: {str(error)[:200]}") from error
    if config.model_type != "llama":
        raise UnsupportedModelError(
            f"{folder} is an AutoCompressor on {config.model_type!r}; this release reads those on Llama (OPT's give no "
            "positions to summary tokens): use princeton-nlp/AutoCompressor-Llama-2-7b-6k"
        )
    if not getattr(config, "accumulate_summary", True):
        raise UnsupportedModelError(f"{folder} hands on its last summary alone (RMT); take one that accumulates them")
    summary = folder_tensors(folder, {SUMMARY_KEY})
    shape = getattr(config, "summary_length", 50), config.hidden_size
    check_names(summary, {SUMMARY_KEY: shape}, source=str(folder))
    logging = transformers.utils.logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it would report the summary embeddings as a mistake
    try:
        model, found = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsMismatchError(f"{folder} holds no Llama that fits its config: {str(error)[:200]}") from error
    finally:
        logging.set_verbosity(verbosity)
    unexpected = dict.fromkeys(set(found["unexpected_keys"]) - {SUMMARY_KEY}, summary[SUMMARY_KEY])
    check_names(unexpected, dict.fromkeys(found["missing_keys"], ()), source=str(folder))
    return model.to(device).eval(), tokenizer, summary[SUMMARY_KEY]
