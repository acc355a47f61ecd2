"""Shared fixtures: the sample data that the repository ships."""

import json
import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: a name that is not here fails at once

ROOT = Path(__file__).parents[1]


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def sample_passages():
    return read_jsonl(ROOT / "examples" / "data" / "passages.jsonl")


@pytest.fixture(scope="session")
def xquad():
    """Parallel paragraphs in six languages: {id, lang, question, context, answers}."""
    return read_jsonl(ROOT / "tests" / "data" / "xquad_sample.jsonl")
