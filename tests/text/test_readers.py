"""Files are decoded in blocks, and a file that is not text is named with the place where it is not."""

import gzip
import io
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhapsode.errors import UserError
from rhapsode.text.readers import (
    Document,
    JsonlReader,
    MemoryReader,
    Reader,
    StdinReader,
    TextReader,
    check_unicode,
    decode_blocks,
)


def read(reader: Reader) -> list[Document]:
    return [Document(raw.name, "".join(raw.blocks)) for raw in reader.documents()]


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    position = 0
    for size in sizes:
        yield data[position : position + size]
        position += size
    yield data[position:]


@given(st.text().filter(lambda text: "\0" not in text and not text.startswith("\ufeff")), st.lists(st.integers(1, 5)))
def test_decoding_does_not_depend_on_the_blocks(text: str, sizes: list[int]) -> None:
    assert "".join(decode_blocks(cut(text.encode(), sizes), "x")) == text


@given(st.lists(st.integers(1, 5), max_size=20), st.integers(0, 40))
def test_an_invalid_byte_is_found_where_it_is(sizes: list[int], place: int) -> None:
    text = "añb中c😀" * 10
    good = text[:place].encode()
    for bad in (b"\xff", b"\xc3(", b"\xed\xa0\x80"):
        with pytest.raises(UserError, match=rf"^x must be UTF-8 text; got an invalid byte at byte {len(good)}\."):
            list(decode_blocks(cut(good + bad + text.encode(), sizes), "x"))


def test_a_character_cut_off_at_the_end() -> None:
    with pytest.raises(UserError, match="x must be UTF-8 text; got an invalid byte at byte 3"):
        list(decode_blocks([b"abc\xe4", b"\xb8"], "x"))


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.txt"
    path.write_bytes(b"x" * 1_500_000 + b"\0" + b"y")
    with pytest.raises(UserError, match=r"model\.txt must be text; got a binary file \(a NUL at byte 1500000\)"):
        read(TextReader(path))


def test_text_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\ntwo\rthré\ufeff".encode())
    assert read(TextReader(path)) == [Document(str(path), "one\r\ntwo\rthré\ufeff")]


def test_gzip(tmp_path: Path) -> None:
    text = "".join(random.Random(0).choices("abc é中\n", k=400_000))
    packed = gzip.compress(text.encode())
    path = tmp_path / "a.txt.gz"
    path.write_bytes(packed)
    assert read(TextReader(path))[0].text == text
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match=r"a\.txt\.gz must be a whole gzip file; got: Compressed file ended"):
        read(TextReader(path))
    path.write_bytes(b"not gzip")
    with pytest.raises(UserError, match=r"a\.txt\.gz must be a whole gzip file; got: Not a gzipped file"):
        read(TextReader(path))
    path.write_bytes(packed[:100] + b"\xff" * 100 + packed[200:])
    with pytest.raises(UserError, match=r"a\.txt\.gz must be a whole gzip file"):
        read(TextReader(path))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.txt must be readable; got: No such file"):
        read(TextReader(tmp_path / "gone.txt"))


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that opens and cannot be read")
def test_a_disk_that_fails() -> None:
    with pytest.raises(UserError, match="/proc/self/mem must be readable; got: Input/output error"):
        read(TextReader(Path("/proc/self/mem")))


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_jsonl(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    texts = ["one\ntwo", "drei é \0", "", "😀" * 300_000]
    data = "\n\n".join(json.dumps({"id": 1, "text": text}) for text in texts).encode()
    path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    assert read(JsonlReader(path)) == [Document(f"{path}:{2 * i + 1}", text) for i, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"content": "x"}', r"a\.jsonl, line 2, must have a string under \"text\"; got \{'content': 'x'\}"),
        (b'{"text": 5}', r"a\.jsonl, line 2, must have a string under \"text\"; got \{'text': 5\}"),
        (b"[" + b"1, " * 50 + b"2]", r"a\.jsonl, line 2, must have a string under .*\.\.\.\."),
        (b'{"text": "x"', r"a\.jsonl, line 2, must hold one JSON object; got: Expecting"),
        (b"[" * 100_000, r"a\.jsonl, line 2, must hold one JSON object"),
        (b'{"text": "ab\\ud800c"}', r"a\.jsonl, line 2, must not hold a lone surrogate; got U\+D800 at character 2"),
        (b'{"text": "\xff"}', r"a\.jsonl must be UTF-8 text; got an invalid byte at byte 27\."),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b'\n{"text": "good"}\n')
    with pytest.raises(UserError, match=message):
        read(JsonlReader(path))


def test_a_surrogate_pair_is_one_character(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "\\ud83d\\ude00"}')
    assert read(JsonlReader(path))[0].text == "😀"


def test_standard_input_can_be_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("héllo\n".encode())))
    reader = StdinReader()
    assert read(reader) == read(reader) == [Document("-", "héllo\n")]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc\xff")))
    with pytest.raises(UserError, match="standard input must be UTF-8 text; got an invalid byte at byte 3"):
        read(StdinReader())


def test_documents_in_memory() -> None:
    documents = [Document("a", "x"), Document("b", "y")]
    assert read(MemoryReader(documents)) == documents
    with pytest.raises(UserError, match=r"document 'c' must not hold a lone surrogate; got U\+DFFF at character 1"):
        read(MemoryReader([Document("c", "a\udfff")]))


def test_check_unicode() -> None:
    assert check_unicode("aé", "text") == "aé".encode()
