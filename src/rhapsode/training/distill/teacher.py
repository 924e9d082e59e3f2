"""The contract of a teacher: a causal language model that is read at every position.

Shape letters: B windows, T tokens of a window, F numbers of a stream, C vocabulary.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor, nn

from rhapsode.errors import UserError
from rhapsode.runfolder import RunFolder
from rhapsode.text.tokenizer import Tokenizer
from rhapsode.training.distill.streams import METADATA_WIDTH


@dataclass(frozen=True)
class Reading:
    """What a teacher was seen to do in a batch of windows.

    Attributes:
        streams: float32 (B, T, F) by name; `ids` and `metadata` are none of the model's and are not among them.
        log_probs: float32 (B, T, C), of the id after each position.
    """

    streams: Mapping[str, Tensor]
    log_probs: Float[Tensor, "B T C"]


def stream_widths(probe: Reading) -> Mapping[str, int]:
    """Return the numbers that each stream has at a position, by one reading; ours, `ids` and `metadata`, included."""
    return {"ids": 0, **{name: stream.shape[-1] for name, stream in probe.streams.items()}, "metadata": METADATA_WIDTH}


@contextmanager
def listening(parts: Iterable[tuple[nn.Module, str]]) -> Iterator[dict[str, list[Tensor]]]:
    """Collect what modules give while it is open, by the name of their stream, in the order they are called.

    Of a module that gives several tensors the first is meant; one named `phases` gives cosines and sines, both.
    """
    seen: dict[str, list[Tensor]] = {}

    def note(name: str, output: Any) -> None:
        several = [*output] if isinstance(output, tuple) else [output]
        seen.setdefault(name, []).extend(several if name == "phases" else several[:1])

    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: note(name, output))
        for module, name in parts
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@runtime_checkable
class Teacher(Protocol):
    """A model that can be read. Reading does not change it, and the same ids always give the same numbers."""

    kind: str
    """`run` or `huggingface`."""
    path: str
    """Where it was loaded from."""
    fingerprint: str
    """SHA-256 over all that decides what it computes."""
    context: int
    """Tokens of the longest window it is read in."""
    widths: Mapping[str, int]
    """Numbers that each of its streams has at a position, `ids` (0) and `metadata` included."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What it reads ids of."""
        ...

    def read(self, ids: Int[Tensor, "B T"]) -> Reading:
        """Read windows of up to `context` ids."""
        ...


def load_teacher(path: str | Path, device: str = "auto") -> Teacher:
    """Load a run of ours, or a local folder of a Hugging Face causal language model.

    Raises:
        UserError: if the folder is neither, or the package for it is not installed.
        StateError: if it is damaged.
    """
    folder = Path(path)
    if RunFolder(folder).exists():
        from rhapsode.training.distill.decoder_teacher import DecoderTeacher

        return DecoderTeacher.load(folder, device)
    if (folder / "config.json").is_file():
        from rhapsode.training.distill.huggingface_teacher import HuggingFaceTeacher

        return HuggingFaceTeacher.load(folder, device)
    raise UserError(
        f"TEACHER must be the folder of a run or of a Hugging Face causal language model; got {folder}, which has "
        "neither run.json nor config.json. Train one with: rhapsode train SOURCE --out RUN"
    )


def check_same_tokenizer(teacher: Tokenizer, data: Tokenizer) -> None:
    """Refuse text that was encoded by another tokenizer than the teacher's.

    Raises:
        UserError: naming both.
    """
    if teacher.fingerprint != data.fingerprint:
        raise UserError(
            f"--data must be encoded by the teacher's tokenizer ({teacher.kind}, {teacher.vocab_size} ids); got one "
            f"prepared with another ({data.kind}, {data.vocab_size} ids). Give the text itself, or prepare it with "
            "--tokenizer TEACHER/tokenizer.json."
        )
