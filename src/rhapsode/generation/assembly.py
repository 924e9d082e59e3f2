"""The bytes of tokens, one token after another, to text that is safe to show."""

import codecs
from collections.abc import Sequence


class TextAssembler:
    """Turns bytes into whole characters and holds back what may become a stop string.

    However the bytes are split into pieces, the texts returned by `push` and `finish` add up to the same: the bytes as
    UTF-8, invalid ones as U+FFFD, up to the stop string that is complete first (of two that end together, the longer).

    >>> assembler = TextAssembler(["END"])
    >>> assembler.push(b"caf\\xc3"), assembler.push(b"\\xa9 E"), assembler.push(b"Z EN"), assembler.push(b"D")
    ('caf', 'é ', 'EZ ', '')
    >>> assembler.stopped
    True
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.stopped = False
        """Whether a stop string was met; all that follows it is ignored."""
        self._stop = tuple(stop)
        self._longest = max(map(len, self._stop), default=0)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def push(self, data: bytes) -> str:
        """Add bytes and return the text that is now certain. Mutates."""
        return self._advance(data, final=False)

    def finish(self) -> str:
        """Return what was held back: half a stop string, and U+FFFD for half a character."""
        return self._advance(b"", final=True)

    def _advance(self, data: bytes, *, final: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + self._decoder.decode(data, final)
        self._held = ""
        if not self._stop:
            return text
        found = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)[1]]
        size = 0 if final else self._undecided(text)
        self._held = text[len(text) - size :]
        return text[: len(text) - size]

    def _undecided(self, text: str) -> int:
        # a stop string that is still to come begins in this suffix or after it, never before.
        for size in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stop):
                return size
        return 0
