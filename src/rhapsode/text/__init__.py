"""Sources, tokenizers, shards and batches: from files to windows of token ids.

Names are imported when they are first used, so that importing this package costs nothing. `prepare` is in the module
of the same name.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rhapsode.text.batches import Batch, WindowSampler, sliding_windows
    from rhapsode.text.config import TOKENIZERS, DataConfig, TokenizerConfig
    from rhapsode.text.prepare import encode_split
    from rhapsode.text.readers import Document
    from rhapsode.text.shards import (
        Corpus,
        TokenArray,
        is_prepared,
        load_corpus,
        load_token_array,
        save_token_array,
    )
    from rhapsode.text.split import TextSplit, open_sources, split_documents
    from rhapsode.text.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

_HOMES = {
    "TOKENIZERS": "config",
    "Batch": "batches",
    "Corpus": "shards",
    "DataConfig": "config",
    "Document": "readers",
    "TextSplit": "split",
    "TokenArray": "shards",
    "Tokenizer": "tokenizer",
    "TokenizerConfig": "config",
    "WindowSampler": "batches",
    "encode_split": "prepare",
    "is_prepared": "shards",
    "load_corpus": "shards",
    "load_token_array": "shards",
    "load_tokenizer": "tokenizer",
    "open_sources": "split",
    "save_token_array": "shards",
    "sliding_windows": "batches",
    "split_documents": "split",
    "train_tokenizer": "tokenizer",
}
__all__ = [
    "TOKENIZERS",
    "Batch",
    "Corpus",
    "DataConfig",
    "Document",
    "TextSplit",
    "TokenArray",
    "Tokenizer",
    "TokenizerConfig",
    "WindowSampler",
    "encode_split",
    "is_prepared",
    "load_corpus",
    "load_token_array",
    "load_tokenizer",
    "open_sources",
    "save_token_array",
    "sliding_windows",
    "split_documents",
    "train_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"rhapsode.text.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'rhapsode.text' has no attribute '{name}'")
