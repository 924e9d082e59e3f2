"""The one-shot suites of `rhapsode eval`."""

import os
import sys
from typing import Any, ClassVar

from rhapsode.errors import UserError
from rhapsode.evaluation.contracts import SuiteOptions
from rhapsode.evaluation.oneshot.presets import choose_presets
from rhapsode.evaluation.oneshot.replica import DEFAULT_SEEDS, run_oneshot
from rhapsode.evaluation.oneshot.run_encoder import RunEncoder
from rhapsode.evaluation.oneshot.task import TaskConfig
from rhapsode.evaluation.oneshot.wordnet_run import run_wordnet
from rhapsode.evaluation.oneshot.wordnet_task import WordNetConfig
from rhapsode.evaluation.subject import Subject
from rhapsode.models.decoder import Decoder

_QUICK_SEEDS = 2
_QUICK_STEPS = 20
_QUICK_ITERATIONS = 2


class OneShot:
    """The document's comparison: new words from a few stories each, by every preset.

    It measures the presets, which bring encoders of their own; the run only lends its name.
    """

    takes: ClassVar[frozenset[str]] = frozenset({"preset", "quick"})

    def run(self, subject: Subject, options: SuiteOptions) -> dict[str, Any]:
        """Return `rows`, see `run_oneshot`, for five seeds from `options.seed` on; progress goes to standard error.

        `quick` takes two seeds and a swarm of two iterations of 20 steps.

        Raises:
            UserError: if a preset is unknown.
        """
        chosen = choose_presets(options.preset or "all")
        seeds = [options.seed + i for i in range(_QUICK_SEEDS if options.quick else len(DEFAULT_SEEDS))]
        if options.quick:
            for name, preset in chosen.items():
                training = preset.training.model_copy(update={"steps": min(preset.training.steps, _QUICK_STEPS)})
                swarm = preset.swarm.model_copy(update={"iterations": _QUICK_ITERATIONS})
                chosen[name] = preset.model_copy(update={"training": training, "swarm": swarm})
        rows = run_oneshot(chosen, seeds, TaskConfig(), workers=os.cpu_count() or 1, progress=_say)
        return {"seeds": seeds, "quick": options.quick, "rows": rows}


class OneShotWordNet:
    """The honest task: know a word by its gloss and a sentence, in another sentence where it is blanked out."""

    takes: ClassVar[frozenset[str]] = frozenset({"wordnet", "quick"})

    def run(self, subject: Subject, options: SuiteOptions) -> dict[str, Any]:
        """Return the rows of `run_wordnet`: `rows` of accuracy, `abstention`, `retention`.

        The run's own states are one of the frozen encoders. Progress goes to standard error.

        `quick` takes 600 words, 10,000 other senses and one sentence beside the gloss.

        Raises:
            UserError: if no folder of WordNet is given.
            StateError: if a file of it is damaged.
        """
        if options.wordnet is None:
            raise UserError("--wordnet must name the folder of WordNet's files, such as /usr/share/wordnet.")
        config = WordNetConfig()
        if options.quick:
            config = WordNetConfig(max_words=600, max_corpus=10_000, shots=(1,), further=(100, 1_000))
        if not isinstance(subject.decoder, Decoder):
            raise UserError(
                "--suite oneshot-wordnet must have a decoder's states; this run is a field. Use another run."
            )
        encoder = RunEncoder(subject.decoder, subject.tokenizer)
        rows = run_wordnet(options.wordnet, config, seed=options.seed, run_encoder=encoder, progress=_say)
        tables: dict[str, list[dict[str, Any]]] = {"accuracy": [], "abstention": [], "retention": []}
        for row in rows:
            tables[row["measure"]].append({name: value for name, value in row.items() if name != "measure"})
        return {"seed": options.seed, "quick": options.quick, "rows": tables.pop("accuracy"), **tables}


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
