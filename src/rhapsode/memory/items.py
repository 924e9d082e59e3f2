"""Files to items: facts from `key TAB text` lines, paragraphs from anything else.

Every item knows where it stood: `provenance` has the file, and the byte offsets of the text in it.
"""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from rhapsode.errors import UserError
from rhapsode.memory.contracts import Item

MAX_PARAGRAPH_BYTES = 512
FACTS_SUFFIX = ".tsv"
_BLANK_LINE = re.compile(rb"\n[ \t\r\f\v]*(?=\n)")
# an end mark, what closes after it, and a space; the marks of scripts that put no space after them.
_SENTENCE_END = re.compile(rb"[.!?][\"')\]]*(?=\s)|\xe3\x80\x82|\xef\xbc\x81|\xef\xbc\x9f")
_MORE_SENTENCES = re.compile(r"[.!?][\"')\]]*\s+\S|[\u3002\uff01\uff1f]\s*\S|\n\s*\n")
_BOM = b"\xef\xbb\xbf"


def normalise_key(text: str) -> str:
    """Return `text` in the form in which keys are compared: letter case, spacing and end marks do not matter.

    >>> normalise_key("  The  capital of\\nFrance. ")
    'the capital of france'
    """
    words = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split()
    joined = " ".join(words)
    return joined.rstrip(".!?。 ") or joined


def sentence_item(text: str, key: str | None = None, source: str | None = None, space: str = "default") -> Item:
    """Return the item of a text taught by hand; without a key, it gets `own_key`."""
    return Item(text, (normalise_key(key) if key is not None else own_key(text)) or None, source, space)


def own_key(text: str) -> str | None:
    """Return the key of a text that was given none: a sentence's is its normalised self, several sentences have none.

    So one sentence is one memory, whether it was taught by hand or in a file, and however it was spaced or capitalised.

    >>> own_key("The sky is Blue."), own_key("The sky is blue. It is high.")
    ('the sky is blue', None)
    """
    return None if _MORE_SENTENCES.search(text.strip()) else normalise_key(text) or None


def read_items(path: str | Path, source: str | None = None, space: str = "default") -> list[Item]:
    """Read a file: each line of a `.tsv` is a key, a tab and a text; any other file gives paragraphs.

    A paragraph ends at a blank line and has at most 512 bytes; a longer one is cut at the end of a sentence, else of a
    word, else of a character.

    Args:
        source: label of the items; without it, the path.

    Raises:
        UserError: if the file cannot be read, is not UTF-8, holds NUL, or a line of facts has no tab.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} must be a readable file; got: {error.strerror}.") from None
    _check_text(data, path)
    label = str(path) if source is None else source
    find = _find_facts if path.suffix.lower() == FACTS_SUFFIX else _find_paragraphs
    return [
        Item(data[start:end].decode(), key, label, space, provenance={"file": str(path), "start": start, "end": end})
        for start, end, key in find(data, path)
    ]


def _check_text(data: bytes, path: Path) -> None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} must be UTF-8; got byte 0x{data[error.start]:02x} at offset {error.start}.") from None
    if (at := data.find(b"\0")) >= 0:
        raise UserError(f"{path} must be text; got a NUL byte at offset {at}.")


def _find_facts(data: bytes, path: Path) -> Iterator[tuple[int, int, str | None]]:
    """Yield where the text of each line begins and ends, and its key."""
    start = len(_BOM) if data.startswith(_BOM) else 0
    for number, line in enumerate(data[start:].split(b"\n"), start=1):
        key, tab, _ = line.partition(b"\t")
        if line.strip():
            begin, end = _strip(data, start + len(key) + 1, start + len(line))
            if not tab or not key.strip() or begin >= end:
                raise UserError(f"{path} must have a key, a tab and a text in each line; line {number} has not.")
            yield begin, end, normalise_key(key.decode())
        start += len(line) + 1


def _find_paragraphs(data: bytes, path: Path) -> Iterator[tuple[int, int, str | None]]:
    """Yield where each paragraph begins and ends."""
    start = len(_BOM) if data.startswith(_BOM) else 0
    for blank in [*_BLANK_LINE.finditer(data, start), None]:
        end = len(data) if blank is None else blank.start()
        begin, stop = _strip(data, start, end)
        while begin < stop:
            cut = _cut(data, begin, stop)
            _, trimmed = _strip(data, begin, cut)
            if (text := data[begin:trimmed].decode()).strip():
                yield begin, trimmed, own_key(text)
            begin, _ = _strip(data, cut, stop)
        start = end


def _strip(data: bytes, start: int, end: int) -> tuple[int, int]:
    """Return the bounds of what is left of a stretch without the white space around it."""
    left = end - len(data[start:end].lstrip())
    return left, max(left, start + len(data[start:end].rstrip()))


def _cut(data: bytes, start: int, end: int) -> int:
    """Return where the first piece of at most `MAX_PARAGRAPH_BYTES` bytes ends."""
    limit = start + MAX_PARAGRAPH_BYTES
    if end <= limit:
        return end
    # one byte more is seen, so that an end that is followed by a space right behind the limit counts.
    sentences = [match.end() for match in _SENTENCE_END.finditer(data, start, limit + 1) if match.end() <= limit]
    if sentences:
        return sentences[-1]
    spaces = [match.start() for match in re.finditer(rb"\s", data[start + 1 : limit + 1])]
    if spaces:
        return start + 1 + spaces[-1]
    while data[limit] & 0xC0 == 0x80:
        limit -= 1
    return limit
