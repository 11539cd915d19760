from pathlib import Path

import pytest

from animora_server.configuration import options
from animora_server.reference import BEGIN, END, metric_table, option_table, pages, with_table, write

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", pages())
def test_the_docs_are_up_to_date(name: str):
    page = (DOCS / name).read_text(encoding="utf-8")
    assert with_table(page, pages()[name]) == page, "the docs are stale: run `make docs`"


def test_every_option_has_a_description():
    assert [option.key for option in options() if not option.field.description] == []


def test_the_option_table_has_a_row_an_option():
    assert len(option_table().splitlines()) == 2 + len(list(options()))


def test_the_metric_table_names_labels_and_the_values_that_are_known():
    rows = metric_table().splitlines()
    assert any(
        "`animora_cache_writes_total` | counter | `outcome`: stored, error, dropped |" in row for row in rows
    )
    assert any("`animora_model_active` | gauge | `version` |" in row for row in rows)
    assert any("`animora_stage_seconds` | histogram | `stage`: " in row for row in rows)


def test_writing_replaces_the_table_and_keeps_the_text_around_it(tmp_path: Path):
    for name in pages():
        (tmp_path / name).write_text(f"Before.\n{BEGIN}\nstale\n{END}\nAfter.\n")
    write(tmp_path)
    for name, table in pages().items():
        assert (tmp_path / name).read_text() == f"Before.\n{BEGIN}\n\n{table}\n{END}\nAfter.\n"


def test_a_page_without_markers_for_the_table_is_refused():
    with pytest.raises(ValueError, match="has no lines"):
        with_table("Only words.", "table")
