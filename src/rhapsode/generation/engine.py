"""Generate text: read the prompt once, then one token a step, and hand the text out as it becomes certain."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64

from rhapsode.generation.assembly import TextAssembler
from rhapsode.generation.config import GenerationConfig
from rhapsode.generation.prompt import Prompt, PromptIds, encode_prompt
from rhapsode.generation.sampling import sample
from rhapsode.generation.stepper import Stepper
from rhapsode.models.decoder import Decoder
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


class Stream(Iterator[Chunk]):
    """The chunks of one generation. Each is computed when it is asked for.

    Attributes:
        prompt_tokens, truncated, seed: as in `Generation`, known from the start.
        generation: the whole, once the last chunk was read; `None` before.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        prompt: PromptIds,
        config: GenerationConfig,
        started: float,
        mixture: Mixture | None = None,
    ) -> None:
        self.prompt_tokens = prompt.ids.size
        self.truncated = prompt.truncated
        self.seed = secrets.randbits(63) if config.seed is None else config.seed
        self.generation: Generation | None = None
        self._config = config
        self._tokenizer = tokenizer
        self._stepper = Stepper(model, mixture)
        # numbers are drawn on the CPU, so that one seed draws alike on every device.
        self._generator = torch.Generator().manual_seed(self.seed)
        self._seen = torch.from_numpy(prompt.ids)
        self._started = started
        self._first_token_s = 0.0
        self._chunks = self._run(prompt.ids)

    def __next__(self) -> Chunk:
        """Generate until there is text to show, or to the end."""
        return next(self._chunks)

    def _run(self, prompt_ids: Int64[np.ndarray, " T"]) -> Iterator[Chunk]:
        assembler = TextAssembler(self._config.stop)
        ids: list[int] = []
        texts: list[str] = []
        shown = 0
        fed: list[int] = prompt_ids.tolist()
        reason: FinishReason | None = None
        while reason is None:
            token_id = self._next_id(fed)
            ids.append(token_id)
            fed = [token_id]
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

    @torch.inference_mode()
    def _next_id(self, fed: list[int]) -> int:
        logits = self._stepper.feed(fed)
        token_id = sample(logits, self._config, self._generator, self._seen)
        if self._config.repetition_penalty != 1:
            self._seen = torch.cat([self._seen, torch.tensor([token_id])])
        return token_id

    def _summarize(self, text: str, ids: list[int], reason: FinishReason) -> Generation:
        latency = perf_counter() - self._started
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
        )


def stream(
    model: Decoder,
    tokenizer: Tokenizer,
    prompt: Prompt,
    config: GenerationConfig,
    *,
    start_with_bos: bool,
    mixture: Mixture | None = None,
) -> Stream:
    """Check the prompt, and return an iterator that generates on demand.

    Everything wrong with the request is an error of this call, not of the first chunk. The model computes in float32
    on the device of its parameters, and its state costs O(layers x seq_len x width) however long the text gets.

    Args:
        model: any decoder; its `compute_dtype` is neither used nor changed. See `Stepper` for texts longer than the
            context.
        tokenizer: the one the model was trained with.
        prompt: text, bytes, or ids (T,).
        start_with_bos: put the start of a document in front; an empty prompt always gets it.
        mixture: memories of tokens that have a say in what comes next.

    Raises:
        UserError: if the prompt is longer than the context and `config.truncate` is off; see `encode_prompt`.
        StateError: from the iterator, if the model's logits are not finite.
    """
    started = perf_counter()
    ids = encode_prompt(prompt, tokenizer, model.config, start_with_bos=start_with_bos, truncate=config.truncate)
    return Stream(model, tokenizer, ids, config, started, mixture)


def generate(
    model: Decoder,
    tokenizer: Tokenizer,
    prompt: Prompt,
    config: GenerationConfig,
    *,
    start_with_bos: bool,
    mixture: Mixture | None = None,
) -> Generation:
    """Generate to the end. Arguments and errors are those of `stream`."""
    chunks = stream(model, tokenizer, prompt, config, start_with_bos=start_with_bos, mixture=mixture)
    for _ in chunks:
        pass
    assert chunks.generation is not None
    return chunks.generation
