"""How well a model predicts text: static bits per byte with sliding windows, beside the controls."""

from typing import Any, ClassVar

from rhapsode.evaluation.contracts import SuiteOptions
from rhapsode.evaluation.subject import Subject
from rhapsode.models.scoring import score_figures
from rhapsode.text.prepare import encode_sources
from rhapsode.text.shards import TokenArray, load_token_array
from rhapsode.training.controls import control_figures

_CONTROLS = ("ln_vocab", "unigram_bits_per_byte", "kneser_ney_bits_per_byte")


class Perplexity:
    """Negative log-probability of every token, each predicted once; nothing is learnt from the text."""

    takes: ClassVar[frozenset[str]] = frozenset({"data", "stride"})

    def run(self, subject: Subject, options: SuiteOptions) -> dict[str, Any]:
        """Score `data`, or the run's own validation text. Draws nothing: `seed` has no effect.

        Returns:
            `bits_per_byte`, its `interval`, `nats_per_token`, `nats_interval`, `n`, the `task` of a model that
            streams (see `score_figures`), and the controls fitted on the run's training text.

        Raises:
            UserError: if the text is missing, empty or not text.
            StateError: if the text that the run keeps is damaged.
        """
        data = options.data
        if data is None:
            tokens = load_token_array(subject.folder.data / "validation")
            results = subject.header.get("results", {})
            controls = {name: results[name] for name in _CONTROLS if name in results}
        else:
            tokens = encode_sources([data], subject.tokenizer)
            controls = {}
        if not controls:
            controls = _fit_controls(subject, tokens)
        return {
            "data": data or "validation",
            **score_figures(
                subject.decoder,
                tokens,
                subject.tokenizer,
                stride=options.stride,
                isolate_documents=subject.isolate_documents,
            ),
            **controls,
        }


def _fit_controls(subject: Subject, tokens: TokenArray) -> dict[str, float]:
    train = load_token_array(subject.folder.data / "training")
    fitted = control_figures(train, tokens, subject.tokenizer)
    return {name: fitted[name] for name in _CONTROLS}
