"""Files to items: offsets are exact, nothing is cut inside a character, bad files are told apart."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhapsode.errors import UserError
from rhapsode.memory.items import MAX_PARAGRAPH_BYTES, normalise_key, own_key, read_items, sentence_item


def test_lines_of_facts(tmp_path: Path) -> None:
    path = tmp_path / "facts.tsv"
    data = "\ufeffCapital of  France\tParis is it.\r\n\nname\twith\ta tab \nStraße\tüber".encode()
    path.write_bytes(data)
    items = read_items(path, space="geo")
    assert [(item.key, item.text) for item in items] == [
        ("capital of france", "Paris is it."),
        ("name", "with\ta tab"),
        ("strasse", "über"),
    ]
    assert {(item.source, item.space) for item in items} == {(str(path), "geo")}
    for item in items:
        assert data[item.provenance["start"] : item.provenance["end"]].decode() == item.text


@pytest.mark.parametrize("line", ["no tab", "\tno key", "key\t ", " \t "])
def test_a_line_that_is_no_fact_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "facts.TSV"
    path.write_text(f"a\tb\n{line}\n")
    if not line.strip():
        assert len(read_items(path)) == 1
        return
    with pytest.raises(UserError, match="must have a key, a tab and a text in each line; line 2 has not"):
        read_items(path)


def test_paragraphs_end_at_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("\n\n One\ntwo. \n \t\n\n\nthree\n", newline="\n")
    items = read_items(path, source="a book")
    assert [item.text for item in items] == ["One\ntwo.", "three"]
    assert [(item.provenance["start"], item.provenance["end"]) for item in items] == [(3, 11), (18, 23)]
    assert [item.key for item in items] == ["one two", "three"]
    assert {item.source for item in items} == {"a book"}


def test_a_long_paragraph_is_cut_at_a_sentence_then_a_word_then_a_character(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    sentence = "A sentence of about forty characters, so. "
    path.write_text(sentence * 20 + "\n\n" + "word " * 200 + "\n\n" + "語" * 400 + "\n\n" + "これは文です。" * 50)
    texts = [item.text for item in read_items(path)]
    assert all(len(text.encode()) <= MAX_PARAGRAPH_BYTES for text in texts)
    assert texts[0] == (sentence * 12).strip()
    words = [text for text in texts if text.startswith("word")]
    assert all(re.fullmatch(r"(word )*word", text) for text in words)
    assert sum(text.count("word") for text in words) == 200
    assert sum(text.count("語") for text in texts) == 400
    assert all(text.endswith("。") for text in texts if "文" in text)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=1500), st.integers(0, 3))
def test_every_text_stands_at_its_offsets_and_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory, text: str, n: int
) -> None:
    path = tmp_path_factory.mktemp("items") / "x.md"
    data = (text * n).encode()
    path.write_bytes(data)
    end, covered = 0, b""
    for item in read_items(path):
        start, stop = item.provenance["start"], item.provenance["end"]
        assert end <= start < stop
        assert data[start:stop].decode() == item.text
        assert len(item.text.encode()) <= MAX_PARAGRAPH_BYTES
        assert item.text.strip()
        covered, end = covered + data[start:stop], stop
    kept = "".join(covered.decode().split())
    assert kept == "".join(data.decode().removeprefix("\ufeff").split())


def test_bad_files_are_refused_with_the_offset(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"fine \xff")
    with pytest.raises(UserError, match="must be UTF-8; got byte 0xff at offset 5"):
        read_items(path)
    path.write_bytes(b"fine\0")
    with pytest.raises(UserError, match="must be text; got a NUL byte at offset 4"):
        read_items(path)
    with pytest.raises(UserError, match="must be a readable file; got: Is a directory"):
        read_items(tmp_path)
    path.write_bytes(b"")
    assert read_items(path) == []


def test_a_sentence_is_its_own_key() -> None:
    assert sentence_item("The Sky is  blue.").key == sentence_item("the sky is blue").key == "the sky is blue"
    assert sentence_item("It is blue.", key=" Sky ").key == "sky"
    assert sentence_item("...").key == "..."


@pytest.mark.parametrize(
    "text", ["The sky is blue.", "No mark at the end", "空は青い。", "Is it (really) so?!", 'He said "no."']
)
def test_a_sentence_is_the_same_memory_by_hand_and_from_a_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "note.txt"
    path.write_text(f"{text}\n")
    (item,) = read_items(path)
    assert (item.text, item.key) == (text, sentence_item(text).key)
    assert item.key is not None


@pytest.mark.parametrize("text", ["It is. It was.", "空は青い。海も青い。", "One\n\ntwo", 'It "is." So?'])
def test_several_sentences_have_no_key(text: str) -> None:
    assert own_key(text) is None
    assert sentence_item(text).key is None
    assert sentence_item(text, key="Sky").key == "sky"


@given(st.text(max_size=60))
def test_a_normalised_key_is_stable(text: str) -> None:
    assert normalise_key(normalise_key(text)) == normalise_key(text)
