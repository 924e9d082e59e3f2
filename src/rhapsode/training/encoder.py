"""The encoder of a run's memory: word vectors counted from the text that the run keeps. Needs no torch."""

from collections.abc import Iterator

from rhapsode.memory.encoders.files import HEADER
from rhapsode.memory.encoders.static import StaticEncoder
from rhapsode.runfolder import RunFolder
from rhapsode.text.shards import TokenArray, load_token_array
from rhapsode.text.tokenizer import Tokenizer, load_tokenizer


def train_encoder(folder: RunFolder) -> StaticEncoder:
    """Train the default encoder on RUN/data/training and save it as RUN/encoder. About 1 s for each MB.

    Raises:
        StateError: if the kept text is damaged, or the folder cannot be written.
    """
    tokenizer = load_tokenizer(folder.tokenizer)
    encoder = StaticEncoder.train(documents(load_token_array(folder.data / "training"), tokenizer))
    encoder.save(folder.encoder)
    return encoder


def has_encoder(folder: RunFolder) -> bool:
    """Return whether a whole encoder is there: its header is written last, so a kill in between leaves none."""
    return (folder.encoder / HEADER).exists()


def documents(tokens: TokenArray, tokenizer: Tokenizer) -> Iterator[str]:
    """Yield the text of each document."""
    ends = [*tokens.doc_starts[1:].tolist(), len(tokens)]
    for start, end in zip(tokens.doc_starts.tolist(), ends, strict=True):
        yield tokenizer.decode(tokens.ids[start:end])
