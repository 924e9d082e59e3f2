"""Several tokens a pass: the model reads a draft at once and keeps it as far as it would have chosen the same.

Which ids come out does not depend on the drafts. Each position is decided by the model's own logits and, when sampling,
by the number that plain decoding would have drawn for it; a drafted id is accepted if it is the one chosen. A single
guess is thereby accepted with the probability that the model gives it, and otherwise the model's
distribution without it is drawn from: that is rejection sampling (Leviathan et al. 2023, arXiv 2211.17192) with the
numbers arranged so that one seed gives one text, whatever is drafted.

Logits of positions read together differ in the last bits from those of positions read one by one. Where that could
change an id (`choices`), the position is read again alone; if even then it is too close, the text is read again from
its beginning in the very steps of plain decoding, which gives the very same bits.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from time import perf_counter

import torch
from jaxtyping import Float
from torch import Tensor

from rhapsode.generation.choices import Choices, choose
from rhapsode.generation.config import GenerationConfig
from rhapsode.generation.drafting.drafter import Drafter, DraftSession
from rhapsode.generation.stepper import Stepper
from rhapsode.models.contracts import LanguageModel, ModelState
from rhapsode.models.mixture import Mixture

# differences of 1e-5 were seen in logits up to 15 between one and eight positions, of 2e-6 after reading a cache that
# several positions had written.
TOGETHER_TOLERANCE = {"greedy": 1e-3, "sampled": 1e-4}
ALONE_TOLERANCE = 1e-5
_NUM_DRAWN = 32


class PlainDecoding:
    """One token a pass; the twin of the others.

    Attributes:
        passes: forward passes so far, that of the prompt included.
        drafted, accepted: ids that were drafted and verified, and of these the ones that were kept.
        losses: of ids kept without the model's consent, nats each under the model; only `draft` has any.
        differing: how many of these the model would not have chosen.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompt: Sequence[int],
        config: GenerationConfig,
        generator: torch.Generator,
        mixture: Mixture | None = None,
        context: ModelState | None = None,
    ) -> None:
        """Prepare; nothing is read before the first id is asked for."""
        self.passes = self.drafted = self.accepted = self.differing = 0
        self.losses: list[float] = []
        self._model, self._mixture, self._context = model, mixture, context
        self._config = config
        self._generator = generator
        self._stepper = Stepper(model, mixture, context, config.context)
        self._prompt = list(prompt)
        self._out: list[int] = []
        self._seen = torch.tensor(self._prompt, dtype=torch.int64)
        # numbers that were drawn for positions not reached yet.
        self._uniforms: deque[float] = deque()

    def ids(self) -> Iterator[list[int]]:
        """Yield ids as they are found, one or more at a time, without end."""
        while True:
            yield self.step()

    def step(self) -> list[int]:
        """Run one pass and return the ids it gave."""
        found = self._step_alone(tolerance=0.0)
        self._take(found.ids)
        return found.ids

    @torch.inference_mode()
    def _step_alone(self, tolerance: float) -> Choices:
        """Read the prompt or the last id, and choose after it."""
        fed = self._out[-1:] or self._prompt
        self.passes += 1
        return self._choose(self._stepper.feed(fed)[None], fed[-1:], tolerance)

    def _choose(self, logits: Float[Tensor, "N C"], fed: list[int], tolerance: float, start: int = 0) -> Choices:
        uniforms = self._numbers(start, len(logits)) if self._config.temperature > 0 else []
        return choose(logits, self._config, uniforms, self._seen, fed, tolerance)

    def _numbers(self, start: int, count: int) -> list[float]:
        """Return the numbers that decide the next positions, from the one number `start`."""
        while len(self._uniforms) < start + count:
            # drawn together they are the same as one by one, and sooner there.
            self._uniforms += torch.rand(_NUM_DRAWN, generator=self._generator, dtype=torch.float64).tolist()
        return [self._uniforms[place] for place in range(start, start + count)]

    def _take(self, ids: list[int]) -> None:
        self._out += ids
        for _ in ids if self._uniforms else ():
            self._uniforms.popleft()
        if self._config.repetition_penalty != 1:
            self._seen = torch.cat([self._seen, torch.tensor(ids)])


class ExactDecoding(PlainDecoding):
    """The ids of `PlainDecoding`, several a pass where drafts are right."""

    def __init__(self, *args: object, drafter: Drafter, **others: object) -> None:
        """Take what `PlainDecoding` takes, and a drafter."""
        super().__init__(*args, **others)  # type: ignore[arg-type]
        config = self._config
        self._session: DraftSession = drafter.begin(
            torch.tensor(self._prompt).numpy(), config.max_new_tokens, config.temperature
        )
        regime = "greedy" if config.temperature == 0 else "sampled"
        self._together = TOGETHER_TOLERANCE[regime]
        # whether every pass so far was one that plain decoding makes too.
        self._is_plain = True
        self._rest_until = 0
        # whether the last position of a draft was too close to call.
        self._must_be_alone = False
        self._num_judged = 0
        self._num_replays = 0
        self._mixing_s = 0.0

    def step(self) -> list[int]:
        """Run one pass over the last id and a draft, and return the ids it gave: those accepted and one more."""
        left = self._config.max_new_tokens - len(self._out)
        room = self._stepper.room
        most = left - 1 if room is None else min(left, room) - 1
        drafts = bool(self._out) and len(self._out) >= self._rest_until and most > 0 and not self._must_be_alone
        self._must_be_alone = False
        draft = self._draft(most) if drafts else []
        self._num_judged, passes = len(draft), self.passes
        self._mixing_s, started = 0.0, perf_counter()
        ids, accepted, likeliest = self._verify(draft) if draft else self._alone()
        if drafts:
            if self.passes == passes + 1:
                self._session.costs.observe(len(draft) + 1, perf_counter() - started - self._mixing_s)
            self.drafted += self._num_judged
            self.accepted += accepted
            self._session.learn(accepted, likeliest, self._num_judged)
        self._take(ids)
        self._session.add(ids)
        return ids

    def _draft(self, most: int) -> list[int]:
        costs = self._session.costs
        if not costs.is_calibrated:
            costs.calibrate(self._rehearse, min(most, self._session.phases.max_draft) + 1)
        return self._session.draft(0 if costs.wants_one else most)

    def _rehearse(self, count: int) -> float:
        """Run a pass of `count` positions that leaves no trace, and return its seconds."""
        fed, started = self._out[-1:] * count, perf_counter()
        choose(self._stepper.probe(count), self._config, [0.5] * count, self._seen, fed, self._together * (count > 1))
        return perf_counter() - started

    def _alone(self) -> tuple[list[int], int, list[int]]:
        found = self._step_alone(0.0 if self._is_plain else ALONE_TOLERANCE)
        if not found.certain[0]:
            found = self._replay()
        return found.ids, 0, found.likeliest

    @torch.inference_mode()
    def _verify(self, draft: list[int]) -> tuple[list[int], int, list[int]]:
        """Return the ids that the model chooses, how many of them were drafted, and its likeliest ids."""
        fed = [self._out[-1], *draft]
        self.passes += 1
        found = self._read(fed)
        self._is_plain = False
        for place, (token, certain) in enumerate(zip(found.ids, found.certain, strict=True)):
            if not certain:
                return self._leave_open(draft, found, place)
            if place == len(draft) or token != draft[place]:
                self._stepper.rewind(place + 1)
                return found.ids[: place + 1], place, found.likeliest
        raise AssertionError("the last position always ends a draft")

    def _leave_open(self, draft: list[int], found: Choices, place: int) -> tuple[list[int], int, list[int]]:
        """Keep what was decided before a position that is too close to call, which is then read again by itself.

        If anything was decided, that is left to the next step: the text may end before.
        """
        self._stepper.rewind(place)
        # of what was drafted behind the position nobody knows whether it was right.
        self._num_judged = max(1, place)
        if place > 0:
            self._must_be_alone = True
            return found.ids[:place], place, found.likeliest
        ids, _, _ = self._alone()
        return ids, int(ids[0] == draft[0]), found.likeliest

    def _read(self, fed: list[int]) -> Choices:
        logits = self._stepper.read(fed)
        if self._mixture is None:
            return self._choose(logits, fed, self._together)
        # what memories say costs as much as a position: it is asked only as far as the draft is right.
        parts: list[Choices] = []
        for place in range(len(fed)):
            started = perf_counter()
            mixed = self._stepper.mix(logits[place], place)[None]
            one = self._choose_at(mixed, fed[: place + 1], place, self._together)
            self._mixing_s += perf_counter() - started
            parts.append(one)
            if place + 1 < len(fed) and one.ids[0] != fed[place + 1]:
                break
        return Choices(
            [part.ids[0] for part in parts],
            [part.certain[0] for part in parts],
            [part.likeliest[0] for part in parts],
        )

    def _choose_at(self, logits: Float[Tensor, "1 C"], fed: list[int], place: int, tolerance: float) -> Choices:
        """Choose at one position of a pass, with what it makes of the ids before it."""
        seen = self._seen
        if self._config.repetition_penalty != 1:
            self._seen = torch.cat([seen, torch.tensor(fed[1:], dtype=torch.int64)])
        try:
            return self._choose(logits, fed[-1:], tolerance, start=place)
        finally:
            self._seen = seen

    @torch.inference_mode()
    def _replay(self) -> Choices:
        """Read the whole text as plain decoding does, and choose after it. Costs its length."""
        self._stepper = Stepper(self._model, self._mixture, self._context, self._config.context)
        logits = self._stepper.feed(self._prompt)
        for token in self._out:
            logits = self._stepper.feed([token])
        self.passes += 1 + len(self._out)
        self._is_plain = True
        # close calls may come in series, as where a model is not trained: each replay then buys a longer rest.
        self._num_replays += 1
        self._rest_until = (1 + self._num_replays) * len(self._out) + 1
        return self._choose(logits[None], [0], 0.0)


class DraftDecoding(ExactDecoding):
    """The drafts themselves, read by the model once to say what they lose. Not the model's text.

    All the ids that are wanted are drafted at once, and prompt and draft are read in a single pass; where the sources
    have nothing to say, the model gives one id and the draft goes on behind it.
    """

    @torch.inference_mode()
    def step(self) -> list[int]:
        """Run one pass; see the class."""
        left = self._config.max_new_tokens - len(self._out)
        before = self._out[-1:] or self._prompt
        room = self._stepper.room
        draft = self._session.fill(left if room is None else max(0, min(left, room - len(before))))
        if not draft:
            ids = self._step_alone(0.0).ids
        else:
            self.passes += 1
            ids = [*draft, *self._account(before, draft)][:left]
        self._take(ids)
        self._session.add(ids)
        return ids

    def _account(self, before: list[int], draft: list[int]) -> list[int]:
        """Note what each drafted id costs under the model, and return the model's choice behind them."""
        start = len(before) - 1
        logits = self._stepper.read([*before, *draft])[start:]
        if self._mixture is not None:
            logits = torch.stack([self._stepper.mix(row, start + place) for place, row in enumerate(logits)])
        found = self._choose(logits, [before[-1], *draft], 0.0)
        wanted = torch.tensor(draft)[:, None]
        self.losses += (-logits[:-1].log_softmax(-1).gather(1, wanted)[:, 0]).tolist()
        right = sum(token == drafted for token, drafted in zip(found.ids, draft, strict=False))
        self.drafted += len(draft)
        self.accepted += right
        self.differing += len(draft) - right
        return found.ids[-1:]
