import pytest

from rhapsode.errors import UserError
from rhapsode.training.distill.streams import STREAMS, lay_out, parse_streams


def test_streams_come_in_one_order_whatever_was_typed() -> None:
    assert parse_streams("metadata, qkv,ids") == ("ids", "qkv", "metadata")
    assert parse_streams("all") == STREAMS


@pytest.mark.parametrize(
    ("text", "message"),
    [("hiden", "Did you mean 'hidden'"), ("", "must name different streams"), ("ids,ids", "must name different")],
)
def test_wrong_names_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_streams(text)


def test_offsets_follow_each_other_without_gaps() -> None:
    widths = {"ids": 0, "embeddings": 3, "hidden": 7, "metadata": 4}
    slices = lay_out(widths, None)
    assert [(s.name, s.offset, s.width) for s in slices] == [
        ("ids", 0, 0),
        ("embeddings", 0, 3),
        ("hidden", 3, 7),
        ("metadata", 10, 4),
    ]
    assert [(s.name, s.offset) for s in lay_out(widths, ("hidden", "metadata"))] == [("hidden", 0), ("metadata", 7)]


def test_a_stream_that_the_teacher_lacks_is_refused() -> None:
    with pytest.raises(UserError, match="got phases, and it has ids, hidden"):
        lay_out({"ids": 0, "hidden": 7}, ("hidden", "phases"))
