"""The verbs on an embedding by itself: train one, and look around in its space."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rhapsode.api.record import Record
from rhapsode.config import build_config
from rhapsode.training.embedding.config import QUICK, EmbeddingConfig
from rhapsode.training.embedding.run import SYNTHETIC, EmbeddingRequest, run_embedding
from rhapsode.training.embedding.space import Near, Space


def train_embedding(
    *,
    out: str | Path,
    data: str = SYNTHETIC,
    teacher: str | Path | None = None,
    tokenizer: str | Path | None = None,
    quick: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
    **settings: Any,
) -> Record:
    """Train a holographic embedding.

    Args:
        out: folder to write.
        data: `synthetic`, or a source of text.
        teacher: run whose table is distilled (objective distil).
        tokenizer: file to use again, instead of one trained on the data.
        quick: small sizes and 100 steps where nothing else is given.
        resume: go on with what is in `out`.
        overwrite: replace what is in `out`.
        say: is told every line of the log.
        settings: those of `EmbeddingConfig`.

    Returns:
        the results, see `run_embedding`.
    """
    base = dict(QUICK) if quick else {}
    if "max_steps" in settings:
        # another length brings a warm-up of its own.
        base.pop("warmup_steps", None)
    config = build_config(EmbeddingConfig, {**base, **settings}, "embed")
    request = EmbeddingRequest(
        config, data, None if teacher is None else str(teacher), None if tokenizer is None else str(tokenizer)
    )
    return Record(run_embedding(request, out, resume=resume, overwrite=overwrite, say=say))


def nearest_words(folder: str | Path, word: str, count: int = 10) -> list[Near]:
    """Return the words nearest to `word` in an embedding trained on text."""
    return Space(folder).nearest(word, count)


def search_text(folder: str | Path, query: str, sources: Sequence[str], count: int = 5) -> list[Near]:
    """Return the paragraphs of `sources` nearest to `query` in an embedding trained on text."""
    return Space(folder).search(query, sources, count)
