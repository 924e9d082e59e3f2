"""The suites that a person can name. Torch-free."""

from rhapsode.registry import Registry

SUITES = Registry(
    "suites",
    {"perplexity": ("rhapsode.evaluation.perplexity:Perplexity", "bits per byte of text, beside the cheap controls")},
)
