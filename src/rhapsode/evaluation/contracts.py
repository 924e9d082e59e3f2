"""The contract between the evaluation command and a suite."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, runtime_checkable

from rhapsode.errors import UserError
from rhapsode.evaluation.subject import Subject


@dataclass(frozen=True)
class SuiteOptions:
    """What a person can ask of a suite; a suite names those it takes, and `seed` is taken by all."""

    seed: int = 0
    """Of whatever the suite draws."""
    data: str | None = None
    """A source of text; without it, what the run itself kept back."""
    stride: int | None = None
    """Tokens that a scoring window moves on."""
    file: str | None = None
    """Facts: lines of key TAB text."""
    space: str | None = None
    """Space of the memory; `default` without it."""
    preset: str | None = None
    """Names of presets, with commas, or `all`."""
    wordnet: str | None = None
    """Folder of WordNet's dict files."""
    quick: bool = False
    """A smaller measurement, for a first look."""


@runtime_checkable
class Suite(Protocol):
    """Measures a run. Every figure comes with `n` and a 95 % interval."""

    takes: ClassVar[frozenset[str]]
    """Names of the options it takes beside `seed`."""

    def run(self, subject: Subject, options: SuiteOptions) -> dict[str, Any]:
        """Return named figures, and tables of them as lists of rows."""
        ...


def check_options(name: str, suite: Suite, options: SuiteOptions) -> None:
    """Refuse options that a suite does not take: they would be ignored.

    Raises:
        UserError: naming the option and those that the suite takes.
    """
    for field in fields(options):
        given = getattr(options, field.name) != field.default
        if given and field.name != "seed" and field.name not in suite.takes:
            taken = ", ".join(f"--{one}" for one in sorted(suite.takes)) or "none"
            raise UserError(f"--{field.name} must not be given with --suite {name}, which takes: {taken}.")
