from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from rhapsode.generation.assembly import TextAssembler


def assemble_plain(data: bytes, stops: list[str]) -> tuple[str, bool]:
    """Look at ever longer beginnings of the whole text until one ends in a stop string."""
    text = data.decode("utf-8", "replace")
    for end in range(1, len(text) + 1):
        matching = [stop for stop in stops if text[:end].endswith(stop)]
        if matching:
            return text[: end - max(map(len, matching))], True
    return text, False


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[first:second] for first, second in pairwise(edges)]


# few letters, so that stop strings occur, nearly occur and overlap.
texts = st.text(alphabet="ab\né世", max_size=30)
stops_of_few_letters = st.lists(st.text(alphabet="ab\né", min_size=1, max_size=4), max_size=3)


@given(texts, stops_of_few_letters, st.lists(st.integers(0, 200), max_size=20))
def test_any_split_gives_the_text_before_the_first_stop_string(text: str, stops: list[str], cuts: list[int]) -> None:
    data = text.encode()
    assembler = TextAssembler(stops)
    wanted, stopped = assemble_plain(data, stops)
    shown = ""
    for piece in split(data, cuts):
        shown += assembler.push(piece)
        # nothing is ever shown that would have to be taken back.
        assert wanted.startswith(shown)
    shown += assembler.finish()
    assert shown == wanted
    assert assembler.stopped == stopped


@given(st.binary(max_size=30), st.lists(st.integers(0, 200), max_size=20))
def test_any_bytes_become_what_decoding_them_whole_gives(data: bytes, cuts: list[int]) -> None:
    assembler = TextAssembler()
    shown = "".join(assembler.push(piece) for piece in split(data, cuts)) + assembler.finish()
    assert shown == data.decode("utf-8", "replace")


@given(texts, stops_of_few_letters)
def test_no_more_is_held_back_than_may_become_a_stop_string(text: str, stops: list[str]) -> None:
    assembler = TextAssembler(stops)
    shown = assembler.push(text.encode())
    held = "" if assembler.stopped else text[len(shown) :]
    assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


def test_the_stop_string_that_is_complete_first_wins() -> None:
    for pieces in ([b"xabcd"], [b"x", b"a", b"b", b"c", b"d"]):
        assembler = TextAssembler(["abcd", "b"])
        assert "".join(assembler.push(piece) for piece in pieces) + assembler.finish() == "xa"
        assert assembler.stopped
    assembler = TextAssembler(["cd", "abcd"])
    assert assembler.push(b"xabcdy") == "x"
    assert assembler.push(b"z") + assembler.finish() == ""


def test_half_a_character_waits_and_half_a_stop_string_comes_back() -> None:
    assembler = TextAssembler(["END"])
    assert assembler.push("世".encode()[:2]) == ""
    assert assembler.push("世".encode()[2:] + b"EN") == "世"
    assert assembler.finish() == "EN"
    assert not assembler.stopped
