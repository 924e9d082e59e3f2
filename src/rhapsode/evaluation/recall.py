"""What a run's memory answers of facts that it was taught, and makes up of facts that it was not."""

from typing import Any, ClassVar

from rhapsode.answering.config import ENCODERS
from rhapsode.answering.recall import evaluate_recall
from rhapsode.errors import UserError
from rhapsode.evaluation.contracts import SuiteOptions
from rhapsode.evaluation.subject import Subject
from rhapsode.memory.encoders.loading import load_encoder
from rhapsode.memory.items import read_items
from rhapsode.memory.store import SQLiteStore


class Recall:
    """Asks for every fact of a file, and for as many of the same form that were never taught."""

    takes: ClassVar[frozenset[str]] = frozenset({"file", "space"})

    def run(self, subject: Subject, options: SuiteOptions) -> dict[str, Any]:
        """Ask the run's memory; see `evaluate_recall`.

        Raises:
            UserError: if no file is given, it holds no facts, or the run was taught nothing.
        """
        if options.file is None:
            raise UserError("--file must name the file of facts that was taught, lines of key TAB text.")
        facts = [(item.key, item.text) for item in read_items(options.file)]
        encoder = load_encoder(subject.folder.encoder, ENCODERS)
        with SQLiteStore.open(subject.folder.memory, encoder, read_only=True) as store:
            figures = evaluate_recall(store, facts, space=options.space or "default", seed=options.seed)
        return {"file": options.file, **figures}
