"""What ``make demo`` runs: what five questions keep of real passages, and a small reader that answers from vectors."""

import json
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ctxcompress_integrations import (
    Answer,
    CompressedIndex,
    Passage,
    Pipeline,
    TextCompressor,
    load_compressor,
    load_reader,
    load_summarizer,
)
from ctxcompress_integrations._heatmap import report_html
from ctxcompress_integrations.training import world
from ctxcompress_integrations.training.exact import is_exact

HERE = Path(__file__).parent
INDEX, WORLD, REPORT = Path("demo.index"), Path("demo-world.index"), Path("demo-report.html")
N_DOCUMENTS, N_ASKED, N_SHOWN = 120, 40, 5


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (HERE / "data" / name).read_text(encoding="utf-8").splitlines()]


def main() -> None:
    console = Console()
    compressor = load_compressor("mini")
    first_act(console, compressor)
    second_act(console, compressor)


def first_act(console: Console, compressor: TextCompressor) -> None:
    """Hard: what five questions keep of real passages."""
    passages = [Passage(row["id"], row["text"], metadata=row["metadata"]) for row in read("passages.jsonl")]
    with CompressedIndex.create(INDEX, embedder="mini", exist_ok=True) as index:
        started = time.perf_counter()
        with console.status(f"indexing {len(passages)} passages into {INDEX}"):
            n_changed = index.add(passages)
        seconds = time.perf_counter() - started
        console.print(f"{len(index)} passages in {INDEX}, {n_changed} new or changed, {seconds:.1f} s\n")
        pipeline = Pipeline(index, compressor, k=8)
        pipeline.ask("warm up", keep_ratio=0.5)
        answers = []
        for row in read("questions.jsonl"):
            answer = pipeline.ask(row["question"], keep_ratio=0.25)
            answers.append(answer)
            show(console, answer, row["answer"])
    n_in, n_out = (sum(getattr(a.result, name) for a in answers) for name in ("n_tokens_in", "n_tokens_out"))
    console.print(f"[bold]{n_in} -> {n_out} tokens over {len(answers)} questions: {n_out / n_in:.0%} kept[/bold]")
    REPORT.write_text(report_html([a.result for a in answers], "What five questions keep"), encoding="utf-8")
    console.print(f"heat maps: {REPORT}")


def show(console: Console, answer: Answer, gold: str) -> None:
    result = answer.result
    table = Table(title=escape(answer.query), title_justify="left", title_style="bold", expand=True)
    table.add_column("passage", no_wrap=True)
    table.add_column("similarity", justify="right")
    table.add_column("kept", ratio=1)
    for passage in result.passages:
        table.add_row(passage.id, f"{passage.score:.2f}", escape(passage.text) or "[dim]nothing[/dim]")
    console.print(table)
    ms = 1000 * (answer.seconds_retrieve + answer.seconds_compress)
    verdict = "kept" if gold in result.text else "lost"
    console.print(
        f"{result.n_tokens_in} -> {result.n_tokens_out} tokens ({result.keep_ratio:.0%}), {ms:.0f} ms, "
        f"gold answer [italic]{escape(gold)}[/italic]: {verdict}\n"
    )


def second_act(console: Console, compressor: TextCompressor) -> None:
    """Soft: the small reader that ships answers from full text and from vectors of an invented world."""
    documents = list(world.documents(world.TRAINED, "test", N_DOCUMENTS))
    examples = [one.examples[0] for one in documents[:N_ASKED]]
    reader = load_reader("small-world")
    summarizer = load_summarizer("autocompressor", model="small-world")
    with CompressedIndex.create(WORLD, embedder="mini", exist_ok=True) as index:
        index.add([one.passage for one in documents])
        started = time.perf_counter()
        n_made = index.build_summaries(summarizer)
        seconds = time.perf_counter() - started
        console.print(f"\n{len(index)} invented documents in {WORLD}, {n_made} summarized, {seconds:.1f} s\n")
        forms = ("text", "vectors")
        asked = {}
        for form in forms:
            pipeline = Pipeline(
                index,
                compressor,
                k=3,
                reader=reader,
                reader_budget=400,
                fingerprint=summarizer.fingerprint,
                form=form,
                max_new_tokens=8,
            )
            pipeline.ask("warm up")
            asked[form] = [timed(pipeline, example.question) for example in examples]
    table = Table(title="The same question, from three documents as text and as vectors", title_justify="left")
    for name, settings in {"question": {"ratio": 1}, "read": {}, "answer": {}, "positions": {}, "ms": {}}.items():
        table.add_column(name, justify="right" if name in ("positions", "ms") else "left", **settings)
    for i, example in enumerate(examples[:N_SHOWN]):
        for form, said in zip(forms, (example.question, f"gold: {example.answers[0]}"), strict=True):
            answer, seconds = asked[form][i]
            positions, ms = str(answer.allocation.n_positions), f"{1000 * seconds:.0f}"
            table.add_row(escape(said), form, escape(answer.text), positions, ms, end_section=form == forms[-1])
    console.print(table)
    for form in forms:
        right = sum(is_exact(answer.text, e) for (answer, _), e in zip(asked[form], examples, strict=True))
        positions = sum(a.allocation.n_positions for a, _ in asked[form]) / len(examples)
        ms = 1000 * sum(seconds for _, seconds in asked[form]) / len(examples)
        said = f"{right} of {len(examples)} right, {positions:.0f} reader positions and {ms:.0f} ms a question"
        console.print(f"[bold]{form}: {said}[/bold]")


def timed(pipeline: Pipeline, question: str) -> tuple[Answer, float]:
    started = time.perf_counter()
    return pipeline.ask(question), time.perf_counter() - started


if __name__ == "__main__":
    main()
