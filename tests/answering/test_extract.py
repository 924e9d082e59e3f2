"""The sentence that answers."""

import pytest

from rhapsode.answering.extract import extract_answer, split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("No stop", ["No stop"]),
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("It cost 3.5 euros. Dr. Reis paid.", ["It cost 3.5 euros.", "Dr. Reis paid."]),
        ('He said "Go." Then he left.', ['He said "Go."', "Then he left."]),
        ("e.g. this is one sentence.", ["e.g. this is one sentence."]),
        ("A heading\n\nThen text.", ["A heading", "Then text."]),
        ("京都です。東京です。", ["京都です。", "東京です。"]),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


def test_the_sentence_that_covers_the_question_is_taken() -> None:
    text = "The Vallea reactor was built in Cork. It needs a lantern. Every baker owns one."
    assert extract_answer(text, {"vallea": 1.0, "built": 0.3}) == "The Vallea reactor was built in Cork."
    assert extract_answer(text, {"baker": 1.0}) == "Every baker owns one."


def test_what_no_sentence_covers_alone_is_answered_with_all() -> None:
    text = "The Vallea reactor was built in Cork. It needs a lantern."
    assert extract_answer(text, {"vallea": 1.0, "lantern": 1.0}) == text
    assert extract_answer(text, {"quibblex": 1.0}) == text
