"""One language model trained for so many steps on the same batches as its rivals, and scored on the same windows."""

import math
import time
from typing import Any

import numpy as np
import torch

from rhapsode.models.config import ModelConfig
from rhapsode.models.decoder import Decoder, build_decoder
from rhapsode.text.batches import WindowSampler
from rhapsode.text.shards import Corpus
from rhapsode.training.config import TrainingConfig
from rhapsode.training.hardware import resolve_hardware
from rhapsode.training.optimizer import build_optimizers
from rhapsode.training.schedule import learning_rate_fraction, muon_momentum


def train_and_score(
    config: ModelConfig, training: TrainingConfig, corpus: Corpus, *, steps: int, seed: int, windows: int = 256
) -> dict[str, Any]:
    """Return bits per byte after `steps`, and the seconds they took without compiling."""
    model = build_decoder(config, seed)
    seconds = _train(model, training, corpus, steps, seed)
    return {"bits_per_byte": _score(model, corpus, windows), "seconds": seconds}


def _train(model: Decoder, training: TrainingConfig, corpus: Corpus, steps: int, seed: int) -> float:
    hardware = resolve_hardware(training, planned_seconds=0.2 * steps)
    model.compute_dtype = hardware.precision
    torch.compiler.reset()
    loss_of = torch.compile(model.loss, dynamic=False) if hardware.compiled else model.loss
    sampler = WindowSampler(corpus.train, model.config.seq_len, training.batch_size or 16, seed)
    optimizers = build_optimizers(model, training)
    started = time.perf_counter()
    for step in range(steps):
        batch = sampler.batch(step)
        loss_of(torch.from_numpy(batch.inputs.copy()), torch.from_numpy(batch.targets.copy())).mean().backward()
        optimizers.set_rate(learning_rate_fraction(step / steps, step, training), muon_momentum(step))
        for member in optimizers.members:
            member.step()
        model.zero_grad(set_to_none=True)
        if step == 0:
            # the first step compiles.
            started = time.perf_counter()
    model.compute_dtype = torch.float32
    return time.perf_counter() - started


@torch.inference_mode()
def _score(model: Decoder, corpus: Corpus, windows: int) -> float:
    """Bits per byte of the second half of each window."""
    length, half = model.config.seq_len, model.config.seq_len // 2
    starts = np.linspace(0, len(corpus.validation) - length - 2, windows).astype(np.int64)
    ids = torch.from_numpy(np.asarray(corpus.validation.ids)[starts[:, None] + np.arange(length + 1)].astype(np.int64))
    nats, size = 0.0, 0
    for part in ids.split(16):
        sizes = corpus.tokenizer.num_bytes[part[:, 1 + half :].numpy()]
        losses = model.loss(part[:, :-1], part[:, 1:])[:, half:].numpy()
        nats += float(losses[sizes > 0].sum(dtype=np.float64))
        size += int(sizes.sum())
    return nats / math.log(2) / size
