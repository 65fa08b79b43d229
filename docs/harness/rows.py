"""For newllm_rows.yaml: which rows are scored."""

from datasets import Dataset


def with_words(rows: Dataset) -> Dataset:
    """The rows that have a word: the harness would count an empty one as a word."""
    return rows.filter(lambda row: row["text"].strip() != "")
