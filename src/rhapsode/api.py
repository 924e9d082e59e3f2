"""The verbs in Python: `rhapsode.train(...)` and `rhapsode.load(...)`. The command line only wraps them.

What a verb returns is what its command prints with `--json`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rhapsode.config import build_config, merge, parse_count, read_toml
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
from rhapsode.training.config import Recipe, load_recipe
from rhapsode.training.hardware import resolve_device
from rhapsode.training.plan import Plan
from rhapsode.training.run import Observer, Request, plan_run, run_training


class Record(dict[str, Any]):
    """A result: a dictionary whose entries are attributes as well."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"this result has {', '.join(self)}; got '{name}'.") from None


def build_request(
    sources: Sequence[str] | str,
    *,
    recipe: str | None = None,
    params: str | int | None = None,
    tokenizer: str | Path | None = None,
    init: str | Path | None = None,
    settings: dict[str, Any] | None = None,
    began: dict[str, Any] | None = None,
) -> Request:
    """Gather what a training or a plan is asked for.

    Args:
        sources: files, folders, globs, `stdlib`, `stdlib:source`, `-`, or one prepared folder.
        recipe: a shipped recipe, `rhapsode` if none is given, or the path of a TOML file.
        params: parameter budget, such as `5M`.
        tokenizer: path of a tokenizer to use again.
        init: run to start from.
        settings: nested settings on top of the recipe, such as `{"training": {"steps": 100}}`.
        began: the request of a run to go on with; it fills in what is not given.

    Raises:
        UserError: if a name or a value is wrong.
    """
    overrides = dict(settings or {})
    if params is not None:
        overrides = merge(overrides, {"params": parse_count(params, "--params")})
    names = [sources] if isinstance(sources, str) else [str(source) for source in sources]
    began = began or {"sources": [], "recipe": None, "tokenizer": None, "init": None}
    if recipe is None and began["recipe"] is not None:
        chosen = build_config(Recipe, merge(began["recipe"], overrides))
    else:
        chosen = load_recipe(recipe or "rhapsode", overrides)
    return Request(
        names or began["sources"],
        chosen,
        began["tokenizer"] if tokenizer is None else str(tokenizer),
        began["init"] if init is None else str(init),
    )


def train(
    sources: Sequence[str] | str,
    *,
    out: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    observer: Observer | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    **request: Any,
) -> Record:
    """Train a model on text.

    Args:
        sources: see `build_request`, as for every other argument not named here.
        out: folder of the new run.
        resume: go on with the run in `out`, exactly as it began; what is not given is as it was.
        overwrite: replace the run in `out`.
        observer: is told what happens.
        minutes: budget of the training; three if none is given.
        steps: budget in optimizer steps instead.

    Returns:
        the results, see `run_training`.
    """
    budget = {name: value for name, value in (("minutes", minutes), ("steps", steps)) if value is not None}
    if budget:
        request["settings"] = merge(request.get("settings") or {}, {"training": budget})
    folder = RunFolder(out)
    began = read_json(folder.open().run)["request"] if resume and folder.exists() else None
    asked = build_request(sources, **request, began=began)
    return Record(run_training(asked, out, resume=resume, overwrite=overwrite, observer=observer))


def plan(sources: Sequence[str] | str, **request: Any) -> Plan:
    """Return what a training would be, before anything is spent; arguments as of `train`."""
    return plan_run(build_request(sources, **request))[0]


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
