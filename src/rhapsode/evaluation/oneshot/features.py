"""What the matcher sees of a text: content words, and hashed features of what stands around a blank. Torch-free."""

import re
import zlib
from collections.abc import Mapping, Sequence

from rhapsode.evaluation.oneshot.lexical import words_of
from rhapsode.evaluation.oneshot.wordnet_task import BLANK

NUM_BUCKETS = 1 << 16
_GLOSS_WORDS = 8
_TOKEN = re.compile(rf"{BLANK}|[^\W_]+")
_PLACES = (("L1", -1), ("L2", -2), ("R1", 1), ("R2", 2))


def content_ids(texts: Sequence[str], vocabulary: Mapping[str, int]) -> list[int]:
    """Return the ids of the known words; the blank is none."""
    return [vocabulary[word] for text in texts for word in words_of(text) if word in vocabulary]


def context_features(text: str) -> list[int]:
    """Return hashed features of the two words on each side of the first blank, their endings, and their pairs.

    A verb's blank stands elsewhere than a noun's: this is what a bag of words forgets.
    """
    tokens = _TOKEN.findall(text.lower())
    if BLANK not in tokens:
        return [_bucket("no blank")]
    tokens = ["<", "<", *tokens, ">", ">"]
    place = tokens.index(BLANK)
    features = []
    for name, offset in _PLACES:
        word = tokens[place + offset]
        features += [f"{name} {word}", f"{name} ~{word[-3:]}", f"{name} ~{word[-2:]}"]
    left, right = tokens[place - 2 : place], tokens[place + 1 : place + 3]
    features += [f"LL {' '.join(left)}", f"RR {' '.join(right)}", f"LR {left[1]} {right[0]}"]
    return [_bucket(feature) for feature in features]


def gloss_features(gloss: str) -> list[int]:
    """Return hashed features of how a gloss begins, which tells nouns, verbs and adjectives apart, and its words."""
    words = words_of(gloss)
    first, second = (*words, ">", ">")[:2]
    features = [f"G0 {first}", f"G1 {second}", f"G01 {first} {second}"]
    features += [f"G0 ~{first[-3:]}", f"G0 ~{first[-2:]}", f"G1 ~{second[-3:]}"]
    features += [f"G {word}" for word in words[:_GLOSS_WORDS]]
    return [_bucket(feature) for feature in features]


def _bucket(feature: str) -> int:
    return zlib.crc32(feature.encode()) % NUM_BUCKETS
