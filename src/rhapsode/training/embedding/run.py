"""A whole training of an embedding: data, objective, loop, figures, files. What `rhapsode embed train` does."""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rhapsode.config import build_config, read_toml
from rhapsode.errors import StateError, UserError
from rhapsode.models.decoder import Decoder
from rhapsode.nn.holographic import HolographicEmbedding
from rhapsode.nn.holographic_files import save_embedding
from rhapsode.runfolder import RunFolder, read_json, write_json
from rhapsode.text.config import DataConfig, TokenizerConfig
from rhapsode.text.split import open_sources
from rhapsode.text.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from rhapsode.training.checkpoint import load_weights
from rhapsode.training.config import Recipe
from rhapsode.training.embedding.config import EmbeddingConfig
from rhapsode.training.embedding.data import (
    BatchOf,
    held_out,
    neighbour_batches,
    synthetic_batches,
    text_batches,
)
from rhapsode.training.embedding.loop import EmbeddingLoop
from rhapsode.training.embedding.objectives import Addressing, Distil, Old, SkipGram, Target

SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class EmbeddingRequest:
    """What was asked for: everything that a resume must repeat.

    `data` is `synthetic` or a source of text; `teacher` is a run (distil); `tokenizer` a file to use again.
    """

    config: EmbeddingConfig
    data: str = SYNTHETIC
    teacher: str | None = None
    tokenizer: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        plain = {"data": self.data, "teacher": self.teacher, "tokenizer": self.tokenizer}
        return {**plain, "config": self.config.model_dump(mode="json")}


@dataclass(frozen=True)
class _Material:
    """Ids to learn from: training and held-out text, or none where data is synthetic."""

    config: EmbeddingConfig
    tokenizer: Tokenizer | None
    train: np.ndarray | None
    validation: np.ndarray | None
    teacher: torch.Tensor | None

    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal: equal for equal text in equal ids, and for equal teachers."""
        digest = hashlib.sha256(b"" if self.tokenizer is None else self.tokenizer.fingerprint.encode())
        for values in (self.train, self.validation, None if self.teacher is None else self.teacher.numpy()):
            if values is not None:
                digest.update(values.tobytes())
        return digest.hexdigest()


def run_embedding(
    request: EmbeddingRequest,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """Train an embedding into the folder `out`.

    Returns:
        `loss` in nats, `top1` and `top5` as shares (all of the best store, on held-out data, among all candidates),
        `grad_norm` of the last step, `closed_form_loss` of superposing the targets (None for skip_gram), `ln_vocab`,
        `initial_loss`, `relative_error` (distil), `size_bytes` of the store, `key_bytes` that need not be stored,
        `steps`, `seconds`, `out`.

    Raises:
        UserError: if what was asked for is wrong.
        StateError: if the folder is in use or damaged, a resume finds other text than it began with, or the loss is
            not a number.
    """
    folder = RunFolder(out)
    asked_in = folder.embedding_request
    if folder.exists():
        raise UserError(f"--out must name a folder without a run; got {folder.path}, which has one. Choose another.")
    if asked_in.exists() and not (resume or overwrite):
        raise UserError(
            f"--out must name a folder without an embedding; got {folder.path}, which has one. "
            "Use --resume to go on with it or --overwrite to replace it."
        )
    resume = resume and asked_in.exists()
    began = read_json(asked_in) if resume else {}
    asked = request.as_json()
    if resume and {name: began.get(name) for name in asked} != asked:
        raise StateError(f"--resume must repeat what {asked_in} says; something differs. Repeat it or use --overwrite.")
    material = _gather(request)
    asked["material"] = material.fingerprint()
    if resume and began.get("material") != asked["material"]:
        raise StateError(
            "--resume must find the text, tokenizer and teacher that the training began with; one has changed. "
            "Train again with --overwrite."
        )
    config = material.config
    embedding = HolographicEmbedding(
        config.vocab_size, config.dim, config.num_bundles, config.num_hashes, config.algebra, config.seed
    )
    target = _target(config, embedding, material)
    # small beside what a hundred steps of 1e-3 can move: directions are what is learnt.
    torch.nn.init.normal_(embedding.store.weight, std=0.02, generator=torch.Generator().manual_seed(config.seed))
    batch_of, held = _batches(config, material)
    folder.claim(for_embedding=True)
    with folder.lock():
        folder.checkpoints.mkdir(exist_ok=True)
        if not resume:
            for old in folder.checkpoints.iterdir():
                old.unlink()
            write_json(asked_in, asked)
            if material.tokenizer is not None:
                material.tokenizer.save(folder.tokenizer)
        loop = EmbeddingLoop(embedding, target, config, batch_of, held_out(held, config.eval_batches), folder, say)
        say(f"{config.vocab_size:,} ids in {config.num_bundles:,} bundles: {embedding.size_bytes:,} bytes")
        results = _train(loop, target, resume)
        save_embedding(folder.path, embedding)
        results |= {"out": str(folder.path), "size_bytes": embedding.size_bytes}
        results["key_bytes"] = 4 * config.vocab_size * config.dim
        write_json(folder.path / "results.json", results)
    return results


def _train(loop: EmbeddingLoop, target: Target, resume: bool) -> dict[str, Any]:
    embedding = loop.embedding
    began = time.perf_counter()
    initial, closed = loop.evaluate().loss, None
    vectors = target.closed_form(embedding)
    if vectors is not None:
        kept = embedding.store.weight.detach().clone()
        embedding.superpose_(vectors)
        closed = loop.evaluate().loss
        embedding.store.weight.data.copy_(kept)
    progress, figures = loop.train(resume=resume)
    results = {
        **figures.__dict__,
        "grad_norm": loop.grad_norm,
        "closed_form_loss": closed,
        "ln_vocab": math.log(embedding.vocab_size),
        "initial_loss": initial,
        "objective": loop.config.objective,
        "steps": progress.step,
        "best_step": progress.best_step,
        "seconds": round(time.perf_counter() - began, 2),
    }
    if isinstance(target, Distil):
        results["relative_error"] = target.relative_error(embedding)
    return results


def _gather(request: EmbeddingRequest) -> _Material:
    """Read text, tokenizer and teacher, and let them decide the sizes that they fix."""
    config = request.config
    if (config.objective == "distil") != (request.teacher is not None):
        raise UserError("--teacher must name a run with --objective distil, and only then. Add it or leave it out.")
    if request.tokenizer is not None and (request.teacher is not None or request.data == SYNTHETIC):
        raise UserError("--tokenizer must come with --data that names text; there is none to encode. Leave it out.")
    if request.teacher is not None:
        if request.data != SYNTHETIC:
            raise UserError("--data must not come with --teacher, whose table is all that is read. Leave it out.")
        table, tokenizer = load_teacher(request.teacher)
        config = config.model_copy(update={"vocab_size": table.shape[0], "dim": table.shape[1]})
        return _Material(config, tokenizer, None, None, table)
    if request.data == SYNTHETIC:
        if config.objective == "skip_gram":
            raise UserError("--data must name text with --objective skip_gram; got synthetic. Try --data stdlib.")
        return _Material(config, None, None, None, None)
    split = open_sources([request.data], DataConfig(), "--data")
    if request.tokenizer is not None:
        if not Path(request.tokenizer).is_file():
            raise UserError(
                f"--tokenizer must name a saved tokenizer; got {request.tokenizer}, which is no file. "
                "Make one with: rhapsode tokenizer train"
            )
        tokenizer = load_tokenizer(request.tokenizer)
    else:
        settings = {"kind": "bpe", "max_vocab_size": config.vocab_size}
        tokenizer = train_tokenizer(split.texts("train"), build_config(TokenizerConfig, settings, "tokenizer"))
    ids = [np.concatenate([tokenizer.encode(text) for text in split.texts(part)]) for part in ("train", "validation")]
    config = config.model_copy(update={"vocab_size": tokenizer.vocab_size})
    return _Material(config, tokenizer, ids[0], ids[1], None)


def load_teacher(run: str) -> tuple[torch.Tensor, Tokenizer]:
    """Return the table of a trained run, float32 (C, D), and its tokenizer. Raises UserError if there is no run."""
    folder = RunFolder(run).open()
    decoder = Decoder(build_config(Recipe, read_toml(folder.recipe)).model)
    load_weights(folder.model, decoder, read_json(folder.run).get("weights_sha256"))
    weight = decoder.embedder.table.weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach().float(), load_tokenizer(folder.tokenizer)


def _target(config: EmbeddingConfig, embedding: HolographicEmbedding, material: _Material) -> Target:
    if config.objective == "skip_gram":
        assert material.train is not None
        counts = np.bincount(material.train.astype(np.int64), minlength=config.vocab_size)
        return SkipGram(config, torch.from_numpy(counts))
    if config.objective == "distil":
        assert material.teacher is not None
        return Distil(config, embedding, material.teacher)
    return (Old if config.objective == "old" else Addressing)(config, embedding)


def _batches(config: EmbeddingConfig, material: _Material) -> tuple[BatchOf, BatchOf]:
    """Return what training and what evaluation draws from."""
    if material.train is None or material.validation is None:
        drawn = synthetic_batches(config.vocab_size, config.batch_size, config.seed)
        return drawn, drawn
    if config.objective == "skip_gram":
        train, held = (
            neighbour_batches(ids, config.batch_size, config.window, config.seed)
            for ids in (material.train, material.validation)
        )
        return train, held
    train, held = (text_batches(ids, config.batch_size, config.seed) for ids in (material.train, material.validation))
    return train, held
