"""Reading WordNet's files, and finding words in all their forms."""

import shutil
from pathlib import Path

import pytest

from rhapsode.errors import StateError, UserError
from rhapsode.evaluation.oneshot.wordnet import find_forms, inflections, read_wordnet, replace_spans

from .conftest import sense_line, write_dictionary

BRUSH = (
    "01245159 35 v 02 brush_off 0 dry(p) 1 003 @ 01244853 v 0000 @ 00173338 v 0000 + 06 n 0101 01 + 08 00 | "
    'remove with or as if with a brush; "brush away the crumbs"; "brush the dust off"- John Doe; "brush off!"  \n'
)


def test_a_sense_has_its_lemmas_gloss_and_sentences(dictionary: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dict"
    shutil.copytree(dictionary, folder)
    with (folder / "data.verb").open("a") as file:
        file.write(BRUSH)
    with (folder / "verb.exc").open("a") as file:
        file.write("gave_up give_up\nwound wind\n")
    wordnet = read_wordnet(folder)
    sense = wordnet.senses[-1]
    assert (sense.key, sense.part) == ("v01245159", "verb")
    assert sense.lemmas == ("brush off", "dry")
    assert sense.gloss == "remove with or as if with a brush"
    assert sense.usages == ("brush away the crumbs", "brush the dust off", "brush off!")
    assert wordnet.irregular == {"give up": ("gave up",), "wind": ("wound",)}


@pytest.mark.parametrize(
    ("lemma", "forms"),
    [
        ("carry", ["carries", "carried", "carrying", "carrier"]),
        ("make", ["makes", "making", "made"]),
        ("stop", ["stops", "stopped", "stopping"]),
        ("die", ["dies", "died", "dying"]),
        ("wolf", ["wolves"]),
        ("big", ["bigger", "biggest"]),
        ("give up", ["gives up", "gave up", "giving up"]),
        ("ice-cream", ["ice creams", "Ice-cream"]),
    ],
)
def test_every_form_is_found_whole(lemma: str, forms: list[str]) -> None:
    known = inflections(lemma, {"make": ["made"], "give": ["gave"]})
    for form in [lemma, *forms]:
        text = f"So {form}, it said; pre{form}."
        spans = find_forms(text, known)
        assert [text[start:end] for start, end in spans] == [form]
        assert replace_spans(text, spans, "_") == f"So _, it said; pre{form}."


def test_other_words_are_left_alone() -> None:
    text = "A carrot is no car, and cars are scarce cargo."
    assert [text[a:b] for a, b in find_forms(text, inflections("car", {}))] == ["car", "cars"]
    assert find_forms("", inflections("car", {})) == []
    assert inflections("!", {}) == set()


def test_a_folder_without_wordnet_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--wordnet must name the folder with data.noun.*Install the package wordnet-base"
    ):
        read_wordnet(tmp_path)


def test_damage_is_told_with_its_place(tmp_path: Path) -> None:
    folder = write_dictionary(tmp_path / "dict")
    with (folder / "data.adj").open("a") as file:
        file.write("00001740 00 a xx able 0 | having means\n")
    with pytest.raises(StateError, match=r"data.adj:2 must be a line of WordNet data, but it is damaged"):
        read_wordnet(folder)
    (folder / "data.adj").write_text(sense_line(1, "a", ["able"], "having means").replace(" | ", "  "))
    with pytest.raises(StateError, match=r"data.adj:1 must be a line of WordNet data"):
        read_wordnet(folder)
    (folder / "data.adj").unlink()
    with pytest.raises(StateError, match=r"data.adj must be readable text; got: .*No such file"):
        read_wordnet(folder)
