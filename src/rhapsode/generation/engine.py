"""Generate text: read the prompt once, then go on a pass at a time, and hand the text out as it becomes certain."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import torch

from rhapsode.errors import UserError
from rhapsode.generation.assembly import TextAssembler
from rhapsode.generation.compiled.decoding import build_exact_decoding
from rhapsode.generation.config import GenerationConfig
from rhapsode.generation.drafting.drafter import Drafter
from rhapsode.generation.prompt import Prompt, PromptIds, encode_prompt
from rhapsode.generation.speculation import DraftDecoding, PlainDecoding
from rhapsode.models.contracts import LanguageModel, ModelState
from rhapsode.models.mixture import Mixture
from rhapsode.text.tokenizer import Tokenizer

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Chunk:
    """A piece of a stream.

    Attributes:
        text: whole characters only, and never a part of a stop string.
        ids: tokens generated since the last chunk. The last of them may be held back from `text` until a later chunk.
        finish_reason: `None` in all but the last chunk of a stream.
    """

    text: str
    ids: tuple[int, ...]
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Generation:
    """What was generated, and at what price.

    Attributes:
        text: without the stop string.
        tokens: number of tokens generated, those of the stop string or the end of the document included.
        ids: these tokens. Without a stop string, `tokenizer.decode(ids)` is `text`.
        tokens_per_s: tokens / latency_s.
        latency_s: from the request to the last token, what the reader of the stream took in between included.
        time_to_first_token_s: from the request to the first token: encoding, reading the prompt, one draw.
        truncated: tokens of the prompt that were cut; 0 unless `truncate` is on and the prompt too long.
        finish_reason: `stop` for a stop string or the end of the document, `length` for max_new_tokens.
        prompt_tokens: tokens of the prompt that were read, the start of the document included.
        seed: gives the same text again.
        decode: `plain`, `exact` or `draft`.
        tokens_per_forward: tokens / forward passes, that of the prompt included.
        acceptance: share of the drafted ids that the model would have chosen too; None if none was drafted.
        draft_loss: of `draft`: nats an id that the drafted ids cost under the model, as the pass found; None otherwise.
            The model's own choices cost less.
        differing: of `draft`: drafted ids where the model would have chosen another after the same beginning.
    """

    text: str
    tokens: int
    ids: tuple[int, ...]
    tokens_per_s: float
    latency_s: float
    time_to_first_token_s: float
    truncated: int
    finish_reason: FinishReason
    prompt_tokens: int
    seed: int
    decode: str = "plain"
    tokens_per_forward: float = 1.0
    acceptance: float | None = None
    draft_loss: float | None = None
    differing: int = 0


@dataclass(frozen=True)
class Parts:
    """What a generation may use beside the model.

    Attributes:
        mixture: memories of tokens that have a say in what comes next.
        drafter: what guesses the next ids, for `exact` and `draft`; without one, each text begins with a fresh one that
            knows the prompt only. Keep one for all texts of a model: it learns.
        context: a state of the model that the prompt goes on from, such as one that has read prefix vectors.
    """

    mixture: Mixture | None = None
    drafter: Drafter | None = None
    context: ModelState | None = None


class Stream(Iterator[Chunk]):
    """The chunks of one generation. Each is computed when it is asked for.

    Attributes:
        prompt_tokens, truncated, seed: as in `Generation`, known from the start.
        generation: the whole, once the last chunk was read; `None` before.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        prompt: PromptIds,
        config: GenerationConfig,
        started: float,
        parts: "Parts",
    ) -> None:
        self.prompt_tokens = prompt.ids.size
        self.truncated = prompt.truncated
        self.seed = secrets.randbits(63) if config.seed is None else config.seed
        self.generation: Generation | None = None
        self._config = config
        self._tokenizer = tokenizer
        # numbers are drawn on the CPU, so that one seed draws alike on every device.
        generator = torch.Generator().manual_seed(self.seed)
        what = (model, prompt.ids.tolist(), config, generator, parts.mixture, parts.context)
        if config.decode == "plain":
            self._decoding: PlainDecoding = PlainDecoding(*what)
        else:
            build = build_exact_decoding if config.decode == "exact" else DraftDecoding
            self._decoding = build(*what, drafter=parts.drafter or Drafter())
        self._started = started
        self._first_token_s = 0.0
        self._chunks = self._run()

    def __next__(self) -> Chunk:
        """Generate until there is text to show, or to the end."""
        return next(self._chunks)

    def _run(self) -> Iterator[Chunk]:
        assembler = TextAssembler(self._config.stop)
        ids: list[int] = []
        texts: list[str] = []
        shown = 0
        found = (token_id for some in self._decoding.ids() for token_id in some)
        reason: FinishReason | None = None
        while reason is None:
            token_id = next(found)
            ids.append(token_id)
            if len(ids) == 1:
                self._first_token_s = perf_counter() - self._started
            text = assembler.push(self._tokenizer.token_bytes(token_id))
            if assembler.stopped or token_id == self._tokenizer.eos_id:
                reason = "stop"
            elif len(ids) == self._config.max_new_tokens:
                reason = "length"
            if reason is not None:
                text += assembler.finish()
                # the half of a character at the very end may complete a stop string made of U+FFFD.
                reason = "stop" if assembler.stopped else reason
            texts.append(text)
            if reason is not None:
                self.generation = self._summarize("".join(texts), ids, reason)
            if text or reason is not None:
                yield Chunk(text, tuple(ids[shown:]), reason)
                shown = len(ids)

    def _summarize(self, text: str, ids: list[int], reason: FinishReason) -> Generation:
        latency = perf_counter() - self._started
        decoding = self._decoding
        return Generation(
            text=text,
            tokens=len(ids),
            ids=tuple(ids),
            tokens_per_s=len(ids) / latency,
            latency_s=latency,
            time_to_first_token_s=self._first_token_s,
            truncated=self.truncated,
            finish_reason=reason,
            prompt_tokens=self.prompt_tokens,
            seed=self.seed,
            decode=self._config.decode,
            tokens_per_forward=len(ids) / decoding.passes,
            acceptance=decoding.accepted / decoding.drafted if decoding.drafted else None,
            draft_loss=sum(decoding.losses) / len(decoding.losses) if decoding.losses else None,
            differing=decoding.differing,
        )


def stream(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: Prompt,
    config: GenerationConfig,
    *,
    start_with_bos: bool,
    mixture: Mixture | None = None,
    drafter: Drafter | None = None,
    context: ModelState | None = None,
) -> Stream:
    """Check the prompt, and return an iterator that generates on demand.

    Everything wrong with the request is an error of this call, not of the first chunk. The model computes in float32
    on the device of its parameters, and its state costs O(layers x seq_len x width) however long the text gets.

    Args:
        model: any language model; its `compute_dtype` is neither used nor changed. See `Stepper` for texts longer than
            the context.
        tokenizer: the one the model was trained with.
        prompt: text, bytes, or ids (T,).
        start_with_bos: put the start of a document in front; an empty prompt always gets it.
        mixture, drafter, context: see `Parts`.

    Raises:
        UserError: if the prompt is longer than the context and `config.truncate` is off; see `encode_prompt`. If exact
            decoding is asked of a field.
        StateError: from the iterator, if the model's logits are not finite.
    """
    started = perf_counter()
    if config.decode == "exact" and not model.config.is_smooth:
        raise UserError(
            "generation.decode must be plain or draft for a field, which may choose other units where positions are "
            "read together; got exact. Use --decode plain."
        )
    ids = encode_prompt(prompt, tokenizer, model.config, start_with_bos=start_with_bos, truncate=config.truncate)
    return Stream(model, tokenizer, ids, config, started, Parts(mixture, drafter, context))


def generate(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: Prompt,
    config: GenerationConfig,
    *,
    start_with_bos: bool,
    mixture: Mixture | None = None,
    drafter: Drafter | None = None,
    context: ModelState | None = None,
) -> Generation:
    """Generate to the end. Arguments and errors are those of `stream`."""
    chunks = stream(
        model,
        tokenizer,
        prompt,
        config,
        start_with_bos=start_with_bos,
        mixture=mixture,
        drafter=drafter,
        context=context,
    )
    for _ in chunks:
        pass
    assert chunks.generation is not None
    return chunks.generation
