"""The reference is what the code says now."""

from pathlib import Path

from rhapsode.cli.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"


def test_it_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: python -m rhapsode.cli.reference > docs/reference.md"


def test_every_option_and_setting_is_explained() -> None:
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    assert [row for row in rows if row.endswith("|  |")] == []
