"""Questions taken apart."""

import pytest

from rhapsode.answering.question import parse_question


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Where was the zorblatt protocol designed?", ("zorblatt", "protocol", "designed")),
        ("What is the code of room 412?", ("code", "room", "412")),
        ("Tell me about Alba Moretti.", ("alba", "moretti")),
        ("In which year was it built?", ("built",)),
        ("What city is that?", ("city",)),
        ("the year of the cat", ("year", "cat")),
        ("vitamin A", ("vitamin", "a")),
        ("What is a?", ("what", "is", "a")),
        ("room 412 room", ("room", "412")),
        ("define", ("define",)),
        ('"AND (', ("and",)),
        ("'; DROP TABLE rows; --", ("drop", "table", "rows")),
        ("東京都はどこ", ("東京", "京都", "都は", "はど", "どこ")),
        ("?!", ()),
    ],
)
def test_terms(text: str, terms: tuple[str, ...]) -> None:
    assert parse_question(text).terms == terms


def test_a_question_of_function_words_is_vague() -> None:
    assert parse_question("Who is it?").is_vague
    assert parse_question("?").is_vague
    assert not parse_question("define it").is_vague
