"""The verbs on a run: load, and then generate, score, evaluate and info."""

from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rhapsode.answering.mixing import build_mixture, follow_rows
from rhapsode.api.memory import Memory, open_where_possible
from rhapsode.api.record import Record
from rhapsode.config import build_config, read_toml
from rhapsode.errors import StateError, unknown_name
from rhapsode.evaluation.config import SUITES
from rhapsode.evaluation.contracts import SuiteOptions, check_options
from rhapsode.evaluation.subject import Subject
from rhapsode.generation.config import GenerationConfig
from rhapsode.generation.drafting.drafter import Drafter
from rhapsode.generation.drafting.loading import load_drafter
from rhapsode.generation.engine import Generation, Stream, generate, stream
from rhapsode.generation.layout import lay_out_for_decoding
from rhapsode.memory.ngram_memory import NgramMemory
from rhapsode.models.contracts import LanguageModel
from rhapsode.models.decoder import Decoder
from rhapsode.models.mixture import Mixture
from rhapsode.models.scoring import bits_per_byte, score_tokens
from rhapsode.runfolder import RunFolder, read_json
from rhapsode.text.shards import TokenArray
from rhapsode.text.tokenizer import Tokenizer, load_tokenizer
from rhapsode.training.checkpoint import load_weights
from rhapsode.training.config import Recipe
from rhapsode.training.distill.config import DistillRecipe
from rhapsode.training.distill.files import load_field
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
        self.recipe, self.decoder = _load_model(folder, self.header, device)
        self.tokenizer: Tokenizer = load_tokenizer(folder.tokenizer)
        if self.tokenizer.fingerprint != self.header.get("tokenizer_fingerprint", self.tokenizer.fingerprint):
            raise StateError(f"{folder.tokenizer} must be the tokenizer of its run, but it has changed. Restore it.")
        # a model of many documents has learnt what a beginning looks like.
        self._mixed: tuple[str, int, Mixture, NgramMemory] | None = None
        self._start_with_bos = self.header["data"]["num_documents"]["train"] > 1

    def generate(self, prompt: str, *, memory: bool = False, space: str = "default", **settings: Any) -> Generation:
        """Continue `prompt`; settings are those of `GenerationConfig`.

        Args:
            memory: let what the run was taught, and the n-grams of its training text, have a say in every token.
            space: of the memory.
        """
        config = build_config(GenerationConfig, settings, "generation")
        return generate(self.decoder, self.tokenizer, prompt, config, **self._parts(config, memory, space))

    def stream(self, prompt: str, *, memory: bool = False, space: str = "default", **settings: Any) -> Stream:
        """Continue `prompt` piece by piece: an iterator of chunks. Arguments are those of `generate`."""
        config = build_config(GenerationConfig, settings, "generation")
        return stream(self.decoder, self.tokenizer, prompt, config, **self._parts(config, memory, space))

    @cached_property
    def drafter(self) -> Drafter:
        """What guesses ids for `decode="exact"` and `"draft"`; made when it is first used, about 1 s for a megabyte."""
        return load_drafter(self.folder)

    def _parts(self, config: GenerationConfig, memory: bool, space: str) -> dict[str, Any]:
        return {
            "start_with_bos": self._start_with_bos,
            "mixture": self._mixture(space) if memory else None,
            "drafter": None if config.decode == "plain" else self.drafter,
        }

    @cached_property
    def memory(self) -> Memory:
        """What the run was taught; opened when it is first used, for reading if its folder cannot be written."""
        return open_where_possible(self.folder)

    def teach(self, texts: str | Sequence[str] = (), **options: Any) -> Record:
        """Write texts into the memory; see `Memory.teach`."""
        return self.memory.teach(texts, **options)

    def ask(self, question: str, **options: Any) -> Record:
        """Answer from the memory or abstain; see `Memory.ask`."""
        return self.memory.ask(question, **options)

    def forget(self, ids: int | Sequence[int] = (), **options: Any) -> Record:
        """Erase memories; see `Memory.forget`."""
        return self.memory.forget(ids, **options)

    def _mixture(self, space: str) -> Mixture:
        seq = self.memory.store.seq
        rows = (row for row in self.memory.rows(space=space) if row.superseded_by is None)
        if self._mixed is None or self._mixed[0] != space:
            self._mixed = (space, seq, *build_mixture(self.folder, self.decoder, self.tokenizer, rows))
        elif self._mixed[1] != seq:
            follow_rows(self._mixed[3], self.tokenizer, rows)
            self._mixed = (space, seq, *self._mixed[2:])
        return self._mixed[2]

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

    def evaluate(self, suite: str = "perplexity", **options: Any) -> Record:
        """Run a suite (`rhapsode list suites`); options are those of `SuiteOptions` that it takes.

        Raises:
            UserError: if the suite or an option is unknown, or the suite does not take it.
        """
        chosen = SUITES.load(SUITES.check(suite, "--suite"))()
        unknown = set(options) - {field.name for field in fields(SuiteOptions)}
        if unknown:
            raise unknown_name("option of evaluate", min(unknown), [field.name for field in fields(SuiteOptions)])
        asked = SuiteOptions(**options)
        check_options(suite, chosen, asked)
        subject = Subject(self.folder, self.decoder, self.tokenizer, self.header)
        return Record(run=str(self.folder.path), suite=suite, **chosen.run(subject, asked))

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
            teacher=self.header.get("teacher"),
            hardware=self.header["hardware"],
            versions=self.header["versions"],
            seed=self.header["seed"],
            results=self.header.get("results"),
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        found: torch.device = next(iter(self.decoder.parameters())).device
        return found


def _load_model(folder: RunFolder, header: dict[str, Any], device: str) -> tuple[Recipe | DistillRecipe, LanguageModel]:
    """Load what a run made: a decoder, or a field that was distilled."""
    if header.get("kind", "decoder") == "field":
        return load_field(folder, header, device)
    recipe = build_config(Recipe, read_toml(folder.recipe))
    decoder = Decoder(recipe.model)
    load_weights(folder.model, decoder, header.get("weights_sha256"))
    decoder.to(resolve_device(device)).requires_grad_(False)
    lay_out_for_decoding(decoder)
    return recipe, decoder
