"""Exact decoding by the compiled pass: draft, read, judge and learn are one compiled call each."""

from time import thread_time

import numpy as np
import torch
from jaxtyping import Float32, Int64

from rhapsode.generation.choice_kernels import CLOSE, DAMAGED, judge_greedy, judge_sampled
from rhapsode.generation.choices import USUAL_LOGIT
from rhapsode.generation.compiled.stepper import CompiledStepper
from rhapsode.generation.compiled.weights import Weights, weights_of
from rhapsode.generation.config import GenerationConfig
from rhapsode.generation.drafting.drafter import Drafter
from rhapsode.generation.sampling import NUM_NEVER_SAMPLED, check_finite
from rhapsode.generation.speculation import ExactDecoding
from rhapsode.generation.stepper import Stepper
from rhapsode.models.contracts import LanguageModel, ModelState
from rhapsode.models.mixture import Mixture

# logits of the compiled pass and of plain steps were seen to differ by 8e-6 where they are bounded by 15.
TOLERANCE = {"greedy": 1e-4, "sampled": 1.5e-5}


def build_exact_decoding(
    model: LanguageModel,
    prompt: list[int],
    config: GenerationConfig,
    generator: torch.Generator,
    mixture: Mixture | None = None,
    context: ModelState | None = None,
    *,
    drafter: Drafter,
) -> ExactDecoding:
    """Return the compiled decoding where the model has one, and that by PyTorch for all others."""
    weights = weights_of(model)
    if weights is None:
        return ExactDecoding(model, prompt, config, generator, mixture, context, drafter=drafter)
    return CompiledDecoding(weights, model, prompt, config, generator, mixture, context, drafter=drafter)


class CompiledDecoding(ExactDecoding):
    """The ids of `PlainDecoding`, by compiled passes over the last id and a draft.

    Positions read together have the very logits of those read one by one, so that drafts change nothing. What differs
    from plain decoding is the last bits of all logits. An id that they could change is chosen by plain decoding itself,
    which then reads what was found since it was last asked: at most it reads the whole text once.
    """

    def __init__(self, weights: Weights, model: LanguageModel, *args: object, drafter: Drafter) -> None:
        """Take what `ExactDecoding` takes, behind the model's weights."""
        super().__init__(model, *args, drafter=drafter)
        config = self._config
        self._steps = CompiledStepper(model, weights, self._session.phases.max_draft + 1, self._mixture, self._context)
        self._stepper = self._steps
        self._tolerance = self._together = TOLERANCE["greedy" if config.temperature == 0 else "sampled"]
        # plain decoding, which is asked about close calls, and how much of the output it has read.
        self._plain: Stepper | None = None
        self._num_plain = 0
        self._is_simple = self._mixture is None and config.repetition_penalty == 1
        most = self._session.phases.max_draft + 1
        self._chosen, self._likeliest = np.zeros(most, dtype=np.int64), np.zeros(most, dtype=np.int64)

    def step(self) -> list[int]:
        """Run one pass over the last id and a draft, and return the ids it gave: those accepted and one more."""
        started = thread_time()
        left, room = self._config.max_new_tokens - len(self._out), self._stepper.room
        most = min(left if room is None else min(left, room), len(self._likeliest)) - 1
        if not self._out or most < 0:
            # the beginning, also that of a new window of learnt positions.
            ids = self._begin()
        else:
            draft = self._draft(most) if most > 0 and not self._must_be_alone else []
            passes = self.passes
            ids = self._follow(draft)
            # what a close call takes is no cost of its draft.
            if most > 0 and self.passes == passes + 1:
                self._session.costs.observe(len(draft) + 1, thread_time() - started)
        self._take(ids)
        return ids

    def _begin(self) -> list[int]:
        found = self._step_alone(self._tolerance)
        ids = found.ids if found.certain[0] else [self._ask_plain()]
        self._session.add(ids)
        return ids

    @torch.inference_mode()
    def _follow(self, draft: list[int]) -> list[int]:
        """Read the last id and the draft, and return the ids found; learn from them."""
        fed = [self._out[-1], *draft]
        self.passes += 1
        ids, is_close, likeliest = self._judge(fed) if self._is_simple else self._judge_slowly(fed)
        self._stepper.rewind(max(1, len(ids)))
        # if anything was found before a close call, that is left to the next step: the text may end before.
        self._must_be_alone = is_close and len(ids) > 0
        if is_close and not ids:
            ids = [self._ask_plain()]
        # of what was drafted behind a close call nobody knows whether it was right.
        num_judged = min(len(draft), len(ids)) if is_close else len(draft)
        last = len(ids) - 1
        accepted = last + (last < len(draft) and ids[last] == draft[last])
        self.drafted += num_judged
        self.accepted += accepted
        self._session.finish(ids, accepted, likeliest, num_judged)
        return ids

    def _judge(self, fed: list[int]) -> tuple[list[int], bool, Int64[np.ndarray, " N"]]:
        """Return the ids chosen, whether the one behind them is too close to call, and the likeliest ids everywhere."""
        return self._decide(self._steps.compute(fed), fed)

    def _decide(
        self, logits: Float32[np.ndarray, "N C"], fed: list[int]
    ) -> tuple[list[int], bool, Int64[np.ndarray, " N"]]:
        config, count = self._config, len(fed)
        given, likeliest = np.array(fed), self._likeliest[:count]
        if config.temperature == 0:
            chosen = likeliest
            taken, ending = judge_greedy(logits, given, self._tolerance, USUAL_LOGIT, likeliest)
        else:
            chosen, numbers = self._chosen[:count], np.array(self._numbers(0, count))
            filters = (config.top_k or 0, config.temperature, config.top_p, config.min_p)
            taken, ending = judge_sampled(
                logits, given, numbers, *filters, self._tolerance, USUAL_LOGIT, chosen, likeliest
            )
        if ending == DAMAGED:
            check_finite(torch.from_numpy(logits[taken, NUM_NEVER_SAMPLED:]).max())
        return chosen[:taken].tolist(), ending == CLOSE, likeliest

    def _rehearse(self, count: int) -> float:
        """Run a pass of `count` positions that leaves no trace, and return its seconds of processor time."""
        started = thread_time()
        self._decide(self._steps.probe(count).numpy(), self._out[-1:] * count)
        return thread_time() - started

    def _judge_slowly(self, fed: list[int]) -> tuple[list[int], bool, Int64[np.ndarray, " N"]]:
        """As `_judge`, with memories and a penalty."""
        found = self._read(fed)
        taken, is_close = 0, False
        for place, (token, certain) in enumerate(zip(found.ids, found.certain, strict=True)):
            is_close = not certain
            taken += certain
            if is_close or place == len(fed) - 1 or token != fed[place + 1]:
                break
        return found.ids[:taken], is_close, np.array(found.likeliest)

    def _ask_plain(self) -> int:
        """Return what plain decoding chooses after the output so far."""
        if self._plain is None:
            self._plain = Stepper(self._model, self._mixture, self._context, self._config.context)
            logits = self._plain.feed(self._prompt)
            self.passes += 1
        for token in self._out[self._num_plain :]:
            logits = self._plain.feed([token])
        self.passes += len(self._out) - self._num_plain
        self._num_plain = len(self._out)
        return self._choose(logits[None], [0], 0.0).ids[0]
