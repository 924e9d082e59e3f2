"""A run as a suite sees it."""

from dataclasses import dataclass
from typing import Any

from rhapsode.models.contracts import LanguageModel
from rhapsode.runfolder import RunFolder
from rhapsode.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Subject:
    """A loaded run: `header` is its run.json."""

    folder: RunFolder
    decoder: LanguageModel
    tokenizer: Tokenizer
    header: dict[str, Any]

    @property
    def isolate_documents(self) -> bool:
        """Whether the run learnt to look at nothing before the beginning of a document."""
        # a field has no such setting: it reads windows of the stream.
        return bool(self.header["request"]["recipe"]["training"].get("isolate_documents", False))
