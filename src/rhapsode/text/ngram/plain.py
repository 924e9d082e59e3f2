"""The n-gram encoders as they are defined, in plain Python: the twin of the compiled ones, and much slower."""

from collections.abc import Sequence

from rhapsode.text.tokenizer import FIRST_BYTE, FIRST_LEARNT


def shortest_plain(tokens: Sequence[bytes], data: bytes) -> list[int]:
    """Return the fewest ids of `data`; among equally few, those whose last token is longest, from the end backwards.

    Args:
        tokens: the learnt ones; the first has id 259.

    Cost: O(bytes x length of the longest token).
    """
    ids = _ids(tokens)
    longest = max(map(len, ids))
    fewest = [0]
    last: list[bytes] = [b""]
    for end in range(1, len(data) + 1):
        # the longest token comes first, and only a better one replaces it.
        ways = [data[begin:end] for begin in range(max(0, end - longest), end) if data[begin:end] in ids]
        best = min(ways, key=lambda token: fewest[end - len(token)])
        fewest.append(fewest[end - len(best)] + 1)
        last.append(best)
    found = []
    end = len(data)
    while end:
        found.append(ids[last[end]])
        end -= len(last[end])
    return found[::-1]


def greedy_plain(tokens: Sequence[bytes], data: bytes) -> list[int]:
    """Return the ids of the longest token at each place of `data`, from the left."""
    ids = _ids(tokens)
    longest = max(map(len, ids))
    found = []
    begin = 0
    while begin < len(data):
        ends = range(min(len(data), begin + longest), begin, -1)
        token = next(data[begin:end] for end in ends if data[begin:end] in ids)
        found.append(ids[token])
        begin += len(token)
    return found


def _ids(tokens: Sequence[bytes]) -> dict[bytes, int]:
    single = {bytes([byte]): FIRST_BYTE + byte for byte in range(256)}
    return single | {token: FIRST_LEARNT + i for i, token in enumerate(tokens)}
