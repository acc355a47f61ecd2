"""``train soft`` and ``train lloco``: summarizers for a reader, and an adapter that reads one corpus's summaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from ctxcompress_integrations.cli import options as o

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctxcompress_integrations.evaluation.datasets import Example
    from ctxcompress_integrations.training.loop import Progress

Data = Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="JSON lines of questions and answers.")]
ModelName = Annotated[str, typer.Option("--model", help="The reader: a decoder LM, by hub name or folder.")]
Align = Annotated[Literal["tokens", "sentences"], typer.Option(help="Where segments of a passage are cut.")]
Precision = Annotated[Literal["no", "bf16"], typer.Option(help="Of the forwards; what learns is in float32.")]
Recompute = Annotated[bool, typer.Option("--recompute", help="Gradient checkpointing: less memory, more time.")]


def soft(
    data: Data,
    model: ModelName,
    out: Annotated[Path, typer.Option(dir_okay=False, help="Weights file to write; the curves go beside it.")],
    method: Annotated[str, typer.Option(help="autocompressor, icae, icformer or pooled.")] = "icae",
    vectors: Annotated[int, typer.Option(min=1, help="Per segment.")] = 128,
    ratio: Annotated[int, typer.Option(min=1, help="Tokens per vector, in the end.")] = 4,
    rank: Annotated[int, typer.Option(min=1, help="Of the adapter that icae wears.")] = 128,
    align: Align = "tokens",
    pretraining: Annotated[int, typer.Option(min=0, help="Steps of autoencoding and continuation.")] = 4000,
    questions: Annotated[int, typer.Option(min=0, help="Steps on answers.")] = 2000,
    distil: Annotated[float, typer.Option(min=0, help="Weight of what the reader says with the full text.")] = 0.0,
    batch: Annotated[int, typer.Option(min=1, help="Passages per step and device.")] = 8,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-4,
    precision: Precision = "no",
    recompute: Recompute = False,
    seed: Annotated[int, typer.Option()] = 0,
    device: o.Device = "auto",
) -> None:
    """Teach a summarizer to write vectors that a frozen reader answers from. An interrupted run goes on."""
    from ctxcompress_integrations.hf.load import load_decoder
    from ctxcompress_integrations.hf.positions import position_limit
    from ctxcompress_integrations.hf.splice import Splicer
    from ctxcompress_integrations.pipeline import PROMPT
    from ctxcompress_integrations.training.loop import finish
    from ctxcompress_integrations.training.processes import on_main
    from ctxcompress_integrations.training.soft import Recipe, train_soft
    from ctxcompress_integrations.training.start import most_vectors, schedule, untrained
    from ctxcompress_integrations.training.studies import studies_of

    _check_parent(out)
    if not pretraining + questions:
        raise typer.BadParameter("one of the two must have steps, both are 0", param_hint="--pretraining, --questions")
    examples = _examples(data)
    reader, tokenizer = load_decoder(model, device=device, dtype="float32")
    splicer = Splicer(reader.get_input_embeddings(), tokenizer)
    limit = position_limit(reader)
    fresh = untrained(method, reader, tokenizer, n_vectors=vectors, ratio=ratio, rank=rank, seed=seed)
    summarizer = fresh.changed(align=align)
    most = most_vectors(summarizer, ratio, is_pretrained=pretraining > 0)
    studies, left_out = studies_of(
        examples, splicer, prompt=PROMPT, limit=limit, max_answer=128, n_vectors=most, as_text=distil > 0
    )
    _say_left_out(left_out)
    stages = schedule(studies, ratio=ratio, pretraining=pretraining, questions=questions, distil=distil)
    recipe = Recipe(stages, batch=batch, lr=lr, precision=precision, recomputes=recompute, seed=seed)
    with _bar(recipe.steps) as report:
        seen = train_soft(reader, tokenizer, studies, out, recipe, summarizers=[summarizer], report=report)
    losses = seen.losses[-1][1]
    card = {"data": [path.name for path in data], "steps": seen.step, "losses": losses}
    on_main(lambda: summarizer.save(out, card=card))
    finish(out)
    _say_done(out, losses)


def lloco(
    data: Data,
    index: o.IndexDir,
    model: ModelName,
    out: Annotated[Path, typer.Option(help="Folder of the adapter; the curves go beside it.")],
    rank: Annotated[int, typer.Option(min=1)] = 8,
    alpha: Annotated[float, typer.Option()] = 16.0,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-5,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    batch: Annotated[int, typer.Option(min=1, help="Passages per step and device.")] = 8,
    precision: Precision = "no",
    recompute: Recompute = False,
    seed: Annotated[int, typer.Option()] = 0,
    device: o.Device = "auto",
) -> None:
    """Teach an adapter to answer from the summaries that an index holds, and tell the index of it."""
    from ctxcompress_integrations.hf.load import load_decoder
    from ctxcompress_integrations.index.compressed_index import CompressedIndex
    from ctxcompress_integrations.training.lloco import train_lloco
    from ctxcompress_integrations.training.lloco_course import LlocoRecipe
    from ctxcompress_integrations.training.processes import is_main

    _check_parent(out)
    examples = _examples(data)
    plan = LlocoRecipe(
        rank=rank, alpha=alpha, lr=lr, epochs=epochs, batch=batch, precision=precision, recomputes=recompute, seed=seed
    )
    # before any model loads: it may be missing or locked
    with CompressedIndex.open(index, read_only=not is_main()) as opened:
        reader, tokenizer = load_decoder(model, device=device, dtype="auto")
        with _bar(None) as report:
            trained = train_lloco(opened, reader, tokenizer, examples, out, plan, report=report)
    _say_left_out(trained.left_out)
    _say_done(out, trained.progress.losses[-1][1])


def _check_parent(out: Path) -> None:
    if not out.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {out.parent}", param_hint="--out")


def _examples(files: list[Path]) -> list[Example]:
    from ctxcompress_integrations.cli.train import report_problems
    from ctxcompress_integrations.evaluation.datasets import load_dataset

    examples: list[Example] = []
    for file in files:
        dataset = load_dataset(file)
        report_problems(dataset)
        examples += dataset.examples
    return examples


@contextmanager
def _bar(steps: int | None) -> Iterator[Callable[[Progress], None]]:
    from ctxcompress_integrations._progress import progress_bar

    with progress_bar(Console(stderr=True), transient=True) as bar:
        task = bar.add_task("training", total=steps)

        def report(seen: Progress) -> None:
            losses = ", ".join(
                f"{name} {loss:.2f}" for name, loss in (seen.losses[-1][1] if seen.losses else {}).items()
            )
            bar.update(task, completed=seen.step, description=losses or "training")

        yield report


def _say_left_out(left_out: Mapping[str, int]) -> None:
    for why, n in left_out.items():
        typer.echo(f"{n} questions left out: they {why}", err=True)


def _say_done(out: Path, losses: Mapping[str, float]) -> None:
    typer.echo(f"wrote {out}: " + ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items()))
