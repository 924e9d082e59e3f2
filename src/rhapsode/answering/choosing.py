"""The encoder that a person names for a run's memory."""

from pathlib import Path

from rhapsode.answering.config import ENCODERS
from rhapsode.errors import unknown_name
from rhapsode.memory.contracts import Encoder
from rhapsode.runfolder import RunFolder
from rhapsode.text.shards import load_token_array
from rhapsode.text.tokenizer import load_tokenizer
from rhapsode.training.encoder import documents

TRAINABLE = ("static", "state")


def make_encoder(folder: RunFolder, name: str) -> Encoder:
    """Train the encoder of that name on the text that the run keeps, or take the one in a folder.

    Args:
        name: `static`, `state`, or a folder that sentence-transformers saved.

    Raises:
        UserError: if it is none of them, or cannot be used.
        StateError: if the kept text is damaged.
    """
    if name in TRAINABLE:
        texts = documents(load_token_array(folder.data / "training"), load_tokenizer(folder.tokenizer))
        encoder_class = ENCODERS.load(name)
        trained: Encoder = encoder_class.train(*([folder.path] if name == "state" else []), texts)
        return trained
    if not Path(name).is_dir():
        raise unknown_name("encoder", name, [*TRAINABLE, "a folder of sentence-transformers"])
    found: Encoder = ENCODERS.load("sentence-transformers")(name)
    return found
