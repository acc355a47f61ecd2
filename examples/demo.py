"""Index the sample passages, ask five questions, show what was kept: what ``make demo`` runs."""

import json
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ctxcompress_integrations import Answer, CompressedIndex, Passage, Pipeline, load_compressor
from ctxcompress_integrations._heatmap import report_html

HERE = Path(__file__).parent
INDEX, REPORT = Path("demo.index"), Path("demo-report.html")


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (HERE / "data" / name).read_text(encoding="utf-8").splitlines()]


def main() -> None:
    console = Console()
    passages = [Passage(row["id"], row["text"], metadata=row["metadata"]) for row in read("passages.jsonl")]
    with CompressedIndex.create(INDEX, embedder="mini", exist_ok=True) as index:
        started = time.perf_counter()
        with console.status(f"indexing {len(passages)} passages into {INDEX}"):
            n_changed = index.add(passages)
        seconds = time.perf_counter() - started
        console.print(f"{len(index)} passages in {INDEX}, {n_changed} new or changed, {seconds:.1f} s\n")
        pipeline = Pipeline(index, load_compressor("mini"), k=8)
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


if __name__ == "__main__":
    main()
