"""Names become models here and nowhere else.

With :mod:`~ctxcompress_integrations.hf.hub` the only code of the package that may reach a network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ctxcompress_integrations._optional import require
from ctxcompress_integrations.errors import ModelLoadError
from ctxcompress_integrations.hf.device import resolve_device, resolve_dtype
from ctxcompress_integrations.hf.hub import is_at_hand, naming
from ctxcompress_integrations.hf.mini_package import MINI_HUB, MINI_REVISION, check_mini, mini_folder

MINI = "mini"
SMALL_WORLD = "small-world"
SHIPPED = Path(__file__).parents[1] / "weights"


def load_decoder(name: str, *, device: str = "auto", dtype: str = "auto") -> tuple[Any, Any]:
    """``(model, tokenizer)`` of a decoder LM by hub name or folder; "small-world" is the one that ships with the
    package, a demonstration that knows a small invented world and nothing else, and a file of its format another.
    """
    if is_small_world(name):
        weights = shipped("reader") if name == SMALL_WORLD else Path(name)
        return load_small_world(weights, device=device, dtype=dtype)
    return _load("AutoModelForCausalLM", name, None, device, dtype)


def load_seq2seq(name: str, *, device: str = "auto", dtype: str = "auto") -> tuple[Any, Any]:
    """``(model, tokenizer)`` of an encoder-decoder LM by hub name or folder."""
    return _load("AutoModelForSeq2SeqLM", name, None, device, dtype)


def load_token_classifier(name: str, *, device: str = "auto", dtype: str = "auto") -> tuple[Any, Any]:
    """``(model, tokenizer)`` of a token classifier by hub name or folder."""
    return _load("AutoModelForTokenClassification", name, None, device, dtype)


def load_pruner(name: str, *, device: str = "auto", dtype: str = "auto", trust_remote_code: bool = False) -> Any:
    """A checkpoint that prunes by its own method ``process`` (Provence, OpenProvence), by hub name or folder.

    "auto" is fp32 on every device: such code turns its outputs into numpy arrays, which know no bf16.

    Raises:
        ModelLoadError: it cannot be loaded, or must not: without ``trust_remote_code`` nobody's code is run.
    """
    if not trust_remote_code:
        raise ModelLoadError(
            f"the checkpoint {name!r} comes with code of its own, which loading would run; read it, then pass "
            "trust_remote_code=True"
        )
    transformers = require("transformers", extra="torch")
    target = resolve_device(device)
    chosen = resolve_dtype("float32" if dtype == "auto" else dtype, target)
    with naming(name):
        model = transformers.AutoModel.from_pretrained(
            name, dtype=chosen, trust_remote_code=True, local_files_only=is_at_hand(name, None)
        )
    return model.to(target).eval()


def load_encoder(name: str = MINI, *, device: str = "auto", dtype: str = "auto") -> tuple[Any, Any]:
    """``(model, tokenizer)`` of an encoder. "mini" is all-MiniLM-L6-v2: from the offline package when it is installed,
    else from the hub at a pinned revision; the weights are checked either way.

    A GPU gets fp32 under "auto": the encoder is small, and padded batches then score as single passages do.
    """
    target = resolve_device(device)
    chosen = "float32" if dtype == "auto" and target.type != "cpu" else dtype
    if name != MINI:
        return _load("AutoModel", name, None, device, chosen)
    folder = mini_folder()
    if folder is not None:
        check_mini(folder)
        with _no_progress_bar():
            return _load("AutoModel", str(folder), None, device, chosen)
    loaded = _load("AutoModel", MINI_HUB, MINI_REVISION, device, chosen)
    cached = require("huggingface_hub", extra="torch").try_to_load_from_cache(
        MINI_HUB, "model.safetensors", revision=MINI_REVISION
    )
    check_mini(Path(cached).parent)
    return loaded


def load_trained(weights: Path, name: str = MINI, *, device: str = "auto", dtype: str = "auto") -> Any:
    """A trained ``mini`` model (:class:`~ctxcompress_integrations.hf.trained.TrainedEncoder`) on its base encoder.

    Raises:
        WeightsMismatchError: the weights were made for something else, or are damaged.
    """
    from ctxcompress_integrations.hf import mini_weights, trained
    from ctxcompress_integrations.hf.digest import weights_digest

    target = resolve_device(device)
    chosen = resolve_dtype("float32" if dtype == "auto" and target.type != "cpu" else dtype, target)
    base, tokenizer = load_encoder(name, device="cpu", dtype="float32")
    with _same_random_state():
        model, card = mini_weights.load(weights, base, name=name, base_sha256=weights_digest(base))
    model.encoder.to(chosen)  # the heads stay in fp32
    return trained.TrainedEncoder(model.to(target).eval(), tokenizer, card=card)


def load_small_world(weights: Path, base: str = MINI, *, device: str = "auto", dtype: str = "auto") -> tuple[Any, Any]:
    """``(model, tokenizer)`` of a decoder made from an encoder: a file of layers on the embeddings of its base.

    Raises:
        WeightsMismatchError: the weights were made for another base, or are damaged.
    """
    from ctxcompress_integrations.hf import small_world
    from ctxcompress_integrations.hf.digest import weights_digest

    target = resolve_device(device)
    encoder, tokenizer = load_encoder(base, device="cpu", dtype="float32")
    with _same_random_state():
        model, _ = small_world.load(weights, encoder, tokenizer, base_sha256=weights_digest(encoder))
    return model.to(device=target, dtype=resolve_dtype(dtype, target)), tokenizer


def is_small_world(name: str) -> bool:
    """True for the small reader that ships, and for a file of such a reader: both speak MiniLM's vocabulary."""
    return name == SMALL_WORLD or (name.endswith(".safetensors") and Path(name).is_file())


def shipped(part: str) -> Path:
    """Weights of the small world that come with the package: "reader", or the name of a summarizer.

    Raises:
        ModelLoadError: this release has none.
    """
    path = SHIPPED / f"{SMALL_WORLD}-{part}.safetensors"
    if not path.is_file():
        raise ModelLoadError(
            f"this release ships no weights of {SMALL_WORLD!r} for {part!r}; name a decoder LM by hub name or folder, "
            "or train them: ctxcompress train small-world"
        )
    return path


def load_tokenizer(name: str = MINI) -> Any:
    """The tokenizer of a model by hub name or folder, to count tokens with."""
    transformers = require("transformers", extra="torch")
    name = MINI if is_small_world(name) else name
    folder = mini_folder() if name == MINI else None
    source, revision = (MINI_HUB, MINI_REVISION) if name == MINI else (name, None)
    with naming(source):
        if folder is not None:
            return transformers.AutoTokenizer.from_pretrained(str(folder))
        is_local = is_at_hand(source, revision)
        return transformers.AutoTokenizer.from_pretrained(source, revision=revision, local_files_only=is_local)


def load_embedder(name: str = MINI, *, device: str = "auto", dtype: str = "auto") -> Any:
    """What turns texts into vectors: "mini" through the encoder that scoring uses too, any other name through
    sentence-transformers.
    """
    if name == MINI:
        from ctxcompress_integrations.hf.encoder import TextEncoder

        return TextEncoder(*load_encoder(MINI, device=device, dtype=dtype), name=MINI)
    library = require("sentence_transformers", extra="sentence-transformers")
    from ctxcompress_integrations.hf.encoder import SentenceEmbedder

    target = resolve_device(device)
    with naming(name, errors=(OSError, ValueError, RuntimeError)):
        model = library.SentenceTransformer(name, device=str(target))
    return SentenceEmbedder(model, name=name)


def _load(auto: str, name: str, revision: str | None, device: str, dtype: str) -> tuple[Any, Any]:
    transformers = require("transformers", extra="torch")
    target = resolve_device(device)
    chosen = resolve_dtype(dtype, target)
    with naming(name):
        is_local = is_at_hand(name, revision)
        tokenizer, model = (
            getattr(transformers, kind).from_pretrained(name, revision=revision, local_files_only=is_local, **settings)
            for kind, settings in (("AutoTokenizer", {}), (auto, {"dtype": chosen}))
        )
    return model.to(target).eval(), tokenizer


def _same_random_state() -> Any:
    """A block that leaves torch's generator as it was: weights that are replaced at once are drawn first."""
    return require("torch", extra="torch").random.fork_rng(devices=[])


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Transformers draws a bar even for what loads in a tenth of a second; big models keep theirs."""
    logging = require("transformers", extra="torch").utils.logging
    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()
