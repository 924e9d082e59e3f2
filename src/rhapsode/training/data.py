"""From sources to encoded text, whether they are text or prepared shards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rhapsode.errors import UserError
from rhapsode.models.config import ModelConfig
from rhapsode.runfolder import RunFolder
from rhapsode.text.config import DataConfig, TokenizerConfig
from rhapsode.text.prepare import encode_split
from rhapsode.text.shards import Corpus, TokenArray, is_prepared, load_corpus
from rhapsode.text.split import TextSplit, open_sources
from rhapsode.text.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Data:
    """Opened sources: text that a tokenizer is still to be chosen for (`split`), or shards (`corpus`).

    `prepared_validation` is the whole text of a prepared --val-file.
    """

    split: TextSplit | None
    corpus: Corpus | None
    prepared_validation: Corpus | None = None

    @property
    def train_bytes(self) -> int:
        """Bytes of training text."""
        if self.corpus is not None:
            return self.corpus.train.num_bytes
        assert self.split is not None
        return self.split.num_bytes["train"]

    @property
    def data_hash(self) -> str:
        """The hash that a resume must find again."""
        base = self.corpus.data_hash if self.corpus is not None else self.split.data_hash if self.split else ""
        return base if self.prepared_validation is None else f"{base}+{self.prepared_validation.data_hash}"


def open_data(sources: Sequence[str], config: DataConfig, setting: str = "SOURCE") -> Data:
    """Open `sources`, which messages call `setting`: text, or one folder that `rhapsode prepare` made.

    Raises:
        UserError: if a source is missing, empty or not text; if shards are mixed with other sources or with
            settings of the split, which shards have fixed.
    """
    shards = [source for source in sources if is_prepared(source)]
    validation = None
    if config.val_file is not None and is_prepared(config.val_file):
        validation = load_corpus(config.val_file)
        # the sources keep no validation of their own.
        config = config.model_copy(update={"val_file": None, "val_split": 1e-3})
    if not shards:
        return Data(open_sources(sources, config, setting), None, validation)
    if len(sources) > 1:
        more = len(sources) - 1
        raise UserError(f"{setting} must be one prepared folder or text; got {shards[0]} and {more} more.")
    if config != DataConfig() and validation is None:
        raise UserError(
            "--val-split, --val-file and --split-seed must not be given with a prepared folder, whose split is "
            f"fixed; got {shards[0]}. Give them to rhapsode prepare."
        )
    return Data(None, load_corpus(shards[0]), validation)


def choose_tokenizer(
    data: Data,
    config: TokenizerConfig,
    given: Tokenizer | None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Tokenizer:
    """Return the tokenizer of the shards, the given one, or one trained on the training text.

    Raises:
        UserError: if the given tokenizer is not that of the shards.
    """
    if data.corpus is not None:
        made_with = data.corpus.tokenizer
        if given is not None and given.fingerprint != made_with.fingerprint:
            raise UserError("--tokenizer must be the one the shards were made with; it is another. Leave it out.")
        given = made_with
    if given is not None:
        return given
    assert data.split is not None
    return train_tokenizer(data.split.texts("train"), config, say)


def check_store(model: ModelConfig, tokenizer: Tokenizer) -> None:
    """Refuse a saved store of vectors whose ids are those of another tokenizer.

    Raises:
        UserError: naming the tokenizer that it was trained with.
    """
    if model.embed != "holographic" or model.holographic.store is None:
        return
    path = RunFolder(model.holographic.store).tokenizer
    if path.is_file() and load_tokenizer(path).fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"model.holographic.store must be of the model's tokenizer; {model.holographic.store} was trained with "
            f"another. Add --tokenizer {path}."
        )


def encode_data(data: Data, tokenizer: Tokenizer, progress: Progress | None = None) -> Corpus:
    """Return the text as ids.

    Raises:
        UserError: if a prepared --val-file was made with another tokenizer.
    """
    corpus = data.corpus
    if corpus is None:
        assert data.split is not None
        corpus = encode_split(data.split, tokenizer, progress)
    held_out = data.prepared_validation
    if held_out is None:
        return corpus
    if held_out.tokenizer.fingerprint != tokenizer.fingerprint:
        raise UserError("--val-file must hold shards made with the run's tokenizer; it was made with another.")
    return replace(corpus, validation=_join([held_out.train, held_out.calibration, held_out.validation]))


def _join(arrays: Sequence[TokenArray]) -> TokenArray:
    offsets = np.cumsum([0, *(len(a) for a in arrays[:-1])])
    return TokenArray(
        np.concatenate([a.ids for a in arrays]),
        np.concatenate([a.doc_starts + offset for a, offset in zip(arrays, offsets, strict=True)]),
        sum(a.num_bytes for a in arrays),
    )
