"""The suites that a person can name. Torch-free."""

from rhapsode.registry import Registry

SUITES = Registry(
    "suites",
    {
        "perplexity": (
            "rhapsode.evaluation.perplexity:Perplexity",
            "bits per byte of text, beside the cheap controls",
        ),
        "recall": ("rhapsode.evaluation.recall:Recall", "answers about facts that were taught, and that never were"),
        "field": ("rhapsode.evaluation.field:FieldSuite", "what a distilled field knows, loses, and learns on"),
        "oneshot": ("rhapsode.evaluation.oneshot.suites:OneShot", "new words from one story each: every preset"),
        "oneshot-wordnet": (
            "rhapsode.evaluation.oneshot.suites:OneShotWordNet",
            "new words from one definition each, in WordNet",
        ),
    },
)
