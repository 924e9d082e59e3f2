"""The tables in the pages are those of the stored results, and nothing else in a page is touched."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "make_results.py"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_results", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_results = _load()


def make_result(**extra: Any) -> dict[str, Any]:
    machine = {"cpu": "Some CPU", "cores": 2, "system": "Linux", "python": "3.11.7"}
    rows = [
        {"measure": "speed", "model": "a|b", "tokens_per_s": 1234.5, "rounds": [1.0, 2.0, 3.0]},
        {"measure": "speed", "model": "c", "interval": [0.5, 1.25], "compiled": True},
        {"measure": "ratio", "model": "a", "ratio": 1.459213},
    ]
    return {"date": "2026-01-02", "machine": machine, "load_average": 0.25, **extra, "rows": rows}


PAGE = "# Results\n\nBefore.\n\n<!-- table: one -->\nold\n<!-- end -->\n\nAfter, <!-- a comment -->.\n"


def test_the_pages_are_up_to_date() -> None:
    stale = [str(path.relative_to(ROOT)) for path in make_results.stale_pages()]
    assert stale == [], "run: python benchmarks/make_results.py"


def test_every_stored_result_has_a_table() -> None:
    names = [match["name"] for match in make_results.TABLE.finditer(make_results.PAGE.read_text(encoding="utf-8"))]
    stored = [path.stem for path in make_results.RESULTS.glob("*.json")]
    assert stored
    assert set(stored) <= set(names)


def test_only_what_stands_between_the_marks_changes() -> None:
    page = make_results.update(PAGE, {"one": make_result()})
    before, after = PAGE.split("old\n")
    assert page.startswith(before)
    assert page.endswith(after)
    assert "old" not in page
    assert make_results.update(page, {"one": make_result()}) == page


def test_a_result_becomes_provenance_and_a_table_for_each_kind_of_row() -> None:
    goals = [{"what": "at least", "limit": 3, "value": 3.5, "met": True}]
    blocks = make_results.render(make_result(note="A note.", goals=goals, peers={"transformers": "5"}))
    assert blocks == [
        "2026-01-02, Some CPU, 2 cores, Linux, python 3.11.7, transformers 5, load average 0.25.",
        "A note.",
        "| goal | limit | measured | met |\n| --- | --- | --- | --- |\n| at least | 3 | 3.5 | yes |",
        "speed:\n\n| model | tokens per s | interval | compiled |\n| --- | --- | --- | --- |\n"
        "| a\\|b | 1,234 |  |  |\n| c |  | 0.5 to 1.25 | yes |",
        "ratio:\n\n| model | ratio |\n| --- | --- |\n| a | 1.4592 |",
    ]


def test_a_result_may_choose_its_columns() -> None:
    blocks = make_results.render(make_result(columns={"speed": ["compiled", "model"]}))
    assert blocks[1].startswith("speed:\n\n| compiled | model |\n")
    assert blocks[2].startswith("ratio:\n\n| model | ratio |\n")


def test_a_new_result_gets_a_section_at_the_end() -> None:
    results = {"one": make_result(), "two": make_result(title="The second")}
    page = make_results.update(PAGE, results, add_missing=True)
    assert page.startswith("# Results\n\nBefore.\n\n<!-- table: one -->\n")
    assert page.index("After,") < page.index("## The second\n\n<!-- table: two -->\n\n2026-01-02,")
    assert page.endswith("<!-- end -->\n")
    assert make_results.update(page, results, add_missing=True) == page


def test_the_summary_lists_the_goals_met_or_not() -> None:
    goals = [
        {"what": "nats at most", "limit": 1.46, "value": 1.5, "met": False, "beside": "a peer 1.9"},
        {"what": "times at least", "limit": 3.0, "value": 3.25, "met": True},
    ]
    page = make_results.update("<!-- table: readme -->\n<!-- end -->\n", {"one": make_result(goals=goals)})
    assert "| nats at most 1.46 | 1.5 | no | a peer 1.9 | one |" in page
    assert "| times at least 3 | 3.25 | yes |  | one |" in page


def test_a_summary_without_goals_is_empty() -> None:
    page = "<!-- table: readme -->\n<!-- end -->\n"
    assert make_results.update(page, {"one": make_result()}) == page


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (PAGE.replace("one", "other"), "other has none"),
        (PAGE + PAGE, "its own name"),
        (PAGE.replace("<!-- end -->", ""), "its <!-- end -->"),
    ],
)
def test_marks_that_cannot_be_filled_are_an_error(page: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_results.update(page, {"one": make_result()})


def test_the_script_names_the_page_that_is_out_of_date(tmp_path: Path) -> None:
    for name in ("benchmarks/results", "docs"):
        (tmp_path / name).mkdir(parents=True)
    script = tmp_path / "benchmarks" / SCRIPT.name
    script.write_text(SCRIPT.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "benchmarks/results/one.json").write_text(json.dumps(make_result()), encoding="utf-8")
    (tmp_path / "docs/results.md").write_text("# Results\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("# Name\n", encoding="utf-8")

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(script), *options], capture_output=True, text=True, check=False)

    stale = run("--check")
    assert stale.returncode == 1
    assert "docs/results.md" in stale.stderr
    assert "python benchmarks/make_results.py" in stale.stderr
    assert run().returncode == 0
    assert run("--check").returncode == 0
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "# Name\n"
