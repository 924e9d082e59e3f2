"""A use of a trained embedding: words that are near a word, and paragraphs that are near a text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from rhapsode.errors import UserError
from rhapsode.nn.holographic_files import load_embedding
from rhapsode.runfolder import RunFolder
from rhapsode.text.sources import open_readers
from rhapsode.text.tokenizer import Tokenizer, load_tokenizer

_WORD = re.compile(rb" ?[A-Za-z]{2,}")


@dataclass(frozen=True)
class Near:
    """Something found, and the cosine by which it was."""

    text: str
    score: float


class Space:
    """The vectors of an embedding with the tokenizer of its ids.

    A text is the mean of its tokens' vectors, each weighted by a / (a + share of the token), and cleared of the
    direction that all texts share (Arora et al. 2017).
    """

    def __init__(self, folder: str | Path) -> None:
        """Load an embedding that was trained on text.

        Raises:
            UserError: if there is none, or it was trained without text.
        """
        embedding = load_embedding(folder)
        path = RunFolder(folder).tokenizer
        if not path.is_file():
            raise UserError(
                f"an embedding must be of text to be searched; {folder} has no tokenizer. Train with --data."
            )
        self.tokenizer: Tokenizer = load_tokenizer(path)
        vectors = embedding.weight.detach()
        self.vectors = F.normalize(vectors - vectors.mean(0), dim=-1)

    def nearest(self, word: str, count: int = 10) -> list[Near]:
        """Return the whole-word tokens nearest to a word, without itself.

        Raises:
            UserError: if the word has no tokens.
        """
        # the form inside a sentence is the usual one.
        query = self._mean(f" {word.strip()}" if word.strip() else "")
        words = [i for i in range(self.tokenizer.vocab_size) if _WORD.fullmatch(self.tokenizer.token_bytes(i))]
        scores = self.vectors[words] @ query
        found: list[Near] = []
        for place in scores.argsort(descending=True).tolist():
            text = self.tokenizer.token_bytes(words[place]).decode().strip()
            if text.lower() != word.strip().lower() and all(text != one.text for one in found):
                found.append(Near(text, float(scores[place])))
            if len(found) == count:
                break
        return found

    def search(self, query: str, sources: Sequence[str], count: int = 5) -> list[Near]:
        """Return the paragraphs of some text nearest to a query.

        Raises:
            UserError: if the query is empty, or the sources cannot be read or hold nothing but white space.
        """
        asked = self._ids(query)
        texts = ["".join(one.blocks) for reader in open_readers(list(sources)) for one in reader.documents()]
        paragraphs = list(dict.fromkeys(p.strip() for text in texts for p in re.split(r"\n\s*\n", text) if p.strip()))
        if not paragraphs:
            raise UserError("SOURCE must hold text to be searched; got only white space. Check the files.")
        encoded = [self.tokenizer.encode(paragraph).astype(np.int64) for paragraph in paragraphs]
        shares = np.bincount(np.concatenate(encoded), minlength=self.tokenizer.vocab_size).astype(np.float64)
        weights = torch.from_numpy(1e-3 / (1e-3 + shares / shares.sum())).float()
        means = torch.stack([self._weighted(ids, weights) for ids in encoded])
        common = torch.linalg.svd(means, full_matrices=False).Vh[0] if len(means) > 1 else torch.zeros_like(means[0])
        rows = F.normalize(means - (means @ common)[:, None] * common, dim=-1)
        wanted = self._weighted(asked, weights)
        scores = rows @ F.normalize(wanted - (wanted @ common) * common, dim=-1)
        best = scores.topk(min(count, len(paragraphs)))
        return [Near(paragraphs[i], s) for s, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]

    def _mean(self, text: str) -> torch.Tensor:
        return F.normalize(self.vectors[torch.from_numpy(self._ids(text))].mean(0), dim=-1)

    def _weighted(self, ids: np.ndarray, weights: torch.Tensor) -> torch.Tensor:
        places = torch.from_numpy(ids)
        return (self.vectors[places] * weights[places, None]).sum(0) / max(1, len(ids))

    def _ids(self, text: str) -> np.ndarray:
        if not text.strip():
            raise UserError("what is looked for must not be empty; got nothing. Give a word or a sentence.")
        return self.tokenizer.encode(text).astype(np.int64)
