"""What every run says of itself and keeps beside its weights, whichever command made it."""

import platform
from importlib.metadata import version
from typing import Any

import tomli_w
from pydantic import BaseModel

from rhapsode.runfolder import FORMAT_VERSION, RunFolder, write_atomic
from rhapsode.text.shards import Corpus, save_token_array
from rhapsode.training.controls import counted_head
from rhapsode.training.data import Data

_PACKAGES = ("rhapsode", "torch", "numpy", "tokenizers", "tiktoken")


def describe_run(data: Data, corpus: Corpus, seed: int) -> dict[str, Any]:
    """Return the entries of run.json that runs of every kind have."""
    return {
        "format_version": FORMAT_VERSION,
        "seed": seed,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "data_hash": data.data_hash,
        "data": corpus.info,
        "tokenizer_fingerprint": corpus.tokenizer.fingerprint,
        "status": "training",
    }


def save_description(folder: RunFolder, solved: BaseModel, corpus: Corpus) -> None:
    """Write the solved recipe, the tokenizer, and the text that later commands read.

    Raises:
        StateError: if the disk is full or read-only.
    """
    values = solved.model_dump(mode="json", exclude_none=True)
    write_atomic(folder.recipe, tomli_w.dumps(values).encode())
    corpus.tokenizer.save(folder.tokenizer)
    save_token_array(folder.data / "training", counted_head(corpus.train, corpus.tokenizer))
    save_token_array(folder.data / "validation", corpus.validation)
    save_token_array(folder.data / "calibration", corpus.calibration)
