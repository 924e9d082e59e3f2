"""Cutting long text where no tokenizer can tell the difference."""

import re
from collections.abc import Iterable, Iterator

PIECE_CHARS = 1 << 17
# no token of bytes, chars or bpe reaches from a character that is not white into white space (see `bpe.PATTERN`); those
# of ngram do, but not over a cut, since it encodes in these same pieces.
_SAFE_CUT = re.compile(r"(?<=\S)[ \t\r\n]")


def cut_pieces(blocks: Iterable[str], piece_chars: int = PIECE_CHARS) -> Iterator[str]:
    """Cut one text into pieces of at most `2 * piece_chars` characters whose ids, joined, are those of the whole.

    A piece ends before the first white space that follows other text after `piece_chars` characters. Text that has
    no such place within `2 * piece_chars` is cut there; encoding cuts in the same way, so the ids still agree. Where
    the cuts fall depends on the text only, not on how it came in blocks.

    Args:
        blocks: the text, cut anywhere.
        piece_chars: characters after which a piece may end; at least 1.

    Cost: O(characters), holding at most one piece and one block.
    """
    pending = ""
    for block in blocks:
        pending += block
        start = 0
        while len(pending) - start > 2 * piece_chars:
            found = _SAFE_CUT.search(pending, start + piece_chars, start + 2 * piece_chars)
            stop = found.start() if found else start + 2 * piece_chars
            yield pending[start:stop]
            start = stop
        pending = pending[start:]
    if pending:
        yield pending
