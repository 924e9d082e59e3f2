"""The contract between the evaluation command and a suite."""

from typing import Any, Protocol

from rhapsode.evaluation.subject import Subject


class Suite(Protocol):
    """Measures a run. Every figure comes with `n` and a 95 % interval."""

    def run(self, subject: Subject, data: str | None, *, stride: int | None, seed: int) -> dict[str, Any]:
        """Return named figures.

        Args:
            subject: the run under test.
            data: a source of text; `None` for what the run itself kept back.
            stride: tokens that a scoring window moves on.
            seed: of whatever the suite draws.
        """
        ...
