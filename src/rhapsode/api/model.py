"""The verbs on a run: load, and then generate, score, evaluate and info."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rhapsode.api.record import Record
from rhapsode.config import build_config, read_toml
from rhapsode.evaluation.config import SUITES
from rhapsode.evaluation.subject import Subject
from rhapsode.generation.config import GenerationConfig
from rhapsode.generation.engine import Generation, Stream, generate, stream
from rhapsode.generation.layout import lay_out_for_decoding
from rhapsode.models.decoder import Decoder
from rhapsode.models.scoring import bits_per_byte, score_tokens
from rhapsode.runfolder import RunFolder, read_json
from rhapsode.text.shards import TokenArray
from rhapsode.text.tokenizer import Tokenizer, load_tokenizer
from rhapsode.training.checkpoint import load_weights
from rhapsode.training.config import Recipe
from rhapsode.training.hardware import resolve_device


def load(run: str | Path | dict[str, Any], *, device: str = "auto") -> "Model":
    """Load a run.

    Args:
        run: the folder of a run, or what `train` returned.
        device: `auto`, `cpu`, `cuda`, ...

    Raises:
        UserError: if there is no run.
        StateError: if it is damaged or was written by a newer version.
    """
    return Model(RunFolder(run["run"] if isinstance(run, dict) else run).open(), device)


class Model:
    """A trained model, ready to generate, score and be measured."""

    def __init__(self, folder: RunFolder, device: str = "auto") -> None:
        self.folder = folder
        self.header = read_json(folder.run)
        self.recipe: Recipe = build_config(Recipe, read_toml(folder.recipe))
        self.tokenizer: Tokenizer = load_tokenizer(folder.tokenizer)
        self.decoder = Decoder(self.recipe.model)
        load_weights(folder.model, self.decoder, self.header.get("weights_sha256"))
        self.decoder.to(resolve_device(device)).requires_grad_(False)
        lay_out_for_decoding(self.decoder)
        # a model of many documents has learnt what a beginning looks like.
        self._start_with_bos = self.header["data"]["num_documents"]["train"] > 1

    def generate(self, prompt: str, **settings: Any) -> Generation:
        """Continue `prompt`; settings are those of `GenerationConfig`."""
        config = build_config(GenerationConfig, settings, "generation")
        return generate(self.decoder, self.tokenizer, prompt, config, start_with_bos=self._start_with_bos)

    def stream(self, prompt: str, **settings: Any) -> Stream:
        """Continue `prompt` piece by piece: an iterator of chunks."""
        config = build_config(GenerationConfig, settings, "generation")
        return stream(self.decoder, self.tokenizer, prompt, config, start_with_bos=self._start_with_bos)

    def score(self, text: str) -> Record:
        """Return the log-probability of every token of `text`.

        Returns:
            `log_probs` in nats, one for each of `tokens` (their bytes, invalid UTF-8 replaced), `bits_per_byte`
            and `nats_per_token`. The first token is scored as the beginning of a document.
        """
        ids = np.concatenate([[self.tokenizer.bos_id], self.tokenizer.encode(text)]).astype(self.tokenizer.dtype)
        if len(ids) < 2:
            return Record(log_probs=[], tokens=[], bits_per_byte=None, nats_per_token=None)
        nats = score_tokens(self.decoder, TokenArray(ids, np.zeros(1, dtype=np.int64), len(text.encode())))
        return Record(
            log_probs=(-nats).tolist(),
            tokens=[self.tokenizer.token_bytes(int(i)).decode(errors="replace") for i in ids[1:]],
            bits_per_byte=bits_per_byte(nats, ids[1:], self.tokenizer.num_bytes),
            nats_per_token=float(nats.mean()),
        )

    def evaluate(
        self, suite: str = "perplexity", *, data: str | None = None, stride: int | None = None, seed: int = 0
    ) -> Record:
        """Run a suite (`rhapsode list suites`) on `data`, or on the run's own validation text."""
        subject = Subject(self.folder, self.decoder, self.tokenizer, self.header)
        result = SUITES.load(SUITES.check(suite, "--suite"))().run(subject, data, stride=stride, seed=seed)
        return Record(run=str(self.folder.path), suite=suite, **result)

    def info(self) -> Record:
        """Return what the run is: sizes, data, hardware, versions and results."""
        model = self.recipe.model
        return Record(
            run=str(self.folder.path),
            recipe=self.recipe.name,
            status=self.header["status"],
            parameters=self.decoder.num_parameters(),
            model=model.model_dump(mode="json"),
            tokenizer={"kind": self.tokenizer.kind, "vocab_size": self.tokenizer.vocab_size},
            data=self.header["data"],
            hardware=self.header["hardware"],
            versions=self.header["versions"],
            seed=self.header["seed"],
            results=self.header.get("results"),
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.decoder.parameters()).device
