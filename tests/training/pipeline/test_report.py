import math
import re
import shutil
from html.parser import HTMLParser
from typing import Any

import pytest
from playwright.async_api import async_playwright

from animora_training.pipeline.report.charts import ChartAxis, Line, Sample, draw
from animora_training.pipeline.report.figures import calibration, curves
from animora_training.pipeline.report.page import (
    calibration_error,
    headlines,
    quality_table,
    render,
    write_report,
)
from animora_training.pipeline.report.texts import compact, duration, large, setting, signed
from tests.training.records import bins, epoch, run_record

HOSTILE = "<script>alert('x')</script>\"'&{{ 7 * 7 }}"


class Elements(HTMLParser):
    """Collects every element with attributes and text; fails on unbalanced tags."""

    VOID = ("meta", "link")

    def __init__(self, page):
        super().__init__()
        self.all: list[list[Any]] = []
        self._open: list[list[Any]] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.all.append([tag, dict(attributes), ""])
        if tag not in self.VOID:
            self._open.append(self.all[-1])

    def handle_startendtag(self, tag, attributes):
        self.all.append([tag, dict(attributes), ""])

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for element in self._open:
            element[2] += data

    def texts(self, tag):
        return [text for name, _, text in self.all if name == tag]

    def attributes(self, tag):
        return [attributes for name, attributes, _ in self.all if name == tag]


@pytest.fixture(scope="module")
def page():
    return render(run_record())


@pytest.fixture(scope="module")
def elements(page):
    return Elements(page)


def test_a_report_has_all_fields_of_the_record(elements, page):
    record = run_record()
    assert elements.texts("h1") == [record.version]
    assert elements.texts("h2") == ["Quality", "Training", "Data", "Environment", "Configuration"]
    cells = elements.texts("td")
    for quality in record.qualities.values():
        assert {f"{value:.4f}" for value in quality.values()} <= set(cells)
    for name, value in record.configuration.items():
        assert name in elements.texts("th")
        assert setting(value) in cells
    assert {"2024-04-25 23:05 UTC", "2026-11-22 17:49 UTC", "994,169", "98.2%", "71.3%"} <= set(cells)
    assert {record.host.device, record.software.torch, record.software.python} <= set(cells)
    assert "from scratch" in page
    assert "early stopping" in page


def test_curves_are_drawn_and_described_in_words(elements):
    pictures = [attributes for attributes in elements.attributes("svg") if attributes.get("role") == "img"]
    ids = {attributes["id"] for _, attributes, _ in elements.all if "id" in attributes}
    assert len(pictures) == 6
    for attributes in pictures:
        assert set(attributes["aria-labelledby"].split()) <= ids
    words = "hold-out: from 0.4514 at 1 to 0.4569 at 14, lowest 0.4514 at 1, highest 0.4574 at 11."
    assert words in elements.texts("desc")
    assert elements.texts("text").count("chosen: 11") == 4
    assert "factorisation: 0.4523" in elements.texts("text")
    assert "refit, epoch 11: 0.2054" in elements.texts("title")


def test_the_value_at_initialization_is_drawn_for_comparable_curves():
    ranked, costly = (
        epoch("factorisation", 1, ndcg10=0.45),
        epoch("factorisation", 1, loss=3e8, ndcg10=math.nan),
    )
    hold_out = epoch("hold-out", 1, loss=0.25, ndcg10=0.4567)

    def levels(sweep):
        charts = curves(run_record(epochs=(sweep, hold_out), chosen_epoch=1))
        return {chart.key: chart.level and chart.level.label for chart in charts}

    assert levels(ranked) == {"ndcg": "factorisation: 0.4500", "loss": None, "rate": None, "sweeps": None}
    assert levels(costly)["ndcg"] is None


def test_a_fit_that_is_best_at_its_initialization_is_reported_as_such():
    record = run_record(epochs=(epoch("hold-out", 1), epoch("hold-out", 2)), chosen_epoch=0)
    assert "found no epoch better than the start" in render(record)
    assert [chart.mark for chart in curves(record)] == [None, None]


def test_the_calibration_plot_is_scaled_to_rare_likes():
    rare = [one.model_copy(update={"predicted": 0.01, "observed": 0.03, "count": 9}) for one in bins()]
    chart = calibration(tuple(rare))
    assert chart is not None
    assert [axis.ticks[-1].label for axis in chart.axes] == ["0.03", "0.03"]
    assert chart.series[0].path == "M52 218 L424 24"


def test_every_table_has_a_caption(elements):
    assert [bool(text) for text in elements.texts("caption")] == [True] * len(elements.texts("table"))
    assert all(attributes.get("scope") in ("col", "row") for attributes in elements.attributes("th"))


def test_texts_of_the_record_are_escaped():
    names = {HOSTILE: {HOSTILE: 0.5, "ndcg@10": 0.4}, "other " + HOSTILE: {"ndcg@10": 0.3}}
    record = run_record(version=HOSTILE, parent=HOSTILE, configuration={HOSTILE: HOSTILE}, qualities=names)
    software = record.software.model_copy(update={"animora": HOSTILE, "torch": HOSTILE})
    elements = Elements(render(record.model_copy(update={"software": software})))
    assert elements.texts("script") == []
    assert elements.texts("h1") == [HOSTILE]
    assert HOSTILE in elements.texts("td")
    assert HOSTILE in elements.texts("text")
    assert not any(name.startswith("on") for _, attributes, _ in elements.all for name in attributes)


def test_a_report_loads_nothing_from_elsewhere(page):
    assert re.findall(r"https?:|//\w|url\(|@import", page) == []
    assert "default-src 'none'" in page


@pytest.mark.parametrize(
    "changes",
    [
        {"qualities": {}},
        {"qualities": {"NeuCF": {}}},
        {"qualities": {"NeuCF": {"ndcg@10": math.nan}, "EASE": {"ndcg@10": 0.4}}},
        {"reliability": (), "epochs": ()},
        {"epochs": (epoch("hold-out", 1, loss=math.nan, ndcg10=0.4),), "chosen_epoch": 1},
        {"epochs": (epoch("factorisation", 1, loss=3e8), epoch("refit", 1, loss=0.0)), "chosen_epoch": 1},
        {"reliability": [one.model_copy(update={"count": 0}) for one in bins()]},
        {"data": run_record().data.model_copy(update={"start": None, "end": None})},
    ],
)
def test_a_record_with_missing_parts_gives_a_complete_page(changes):
    page = render(run_record(**changes))
    assert len(Elements(page).texts("h1")) == 1
    for word in (">nan", ">None", "inf<"):
        assert word not in page


def test_a_report_replaces_the_previous_one(tmp_path):
    path = tmp_path / "report.html"
    write_report(run_record(version="a" * 40), path)
    write_report(run_record(version="b"), path)
    assert path.read_text("utf-8") == render(run_record(version="b"))


def test_the_fit_is_compared_with_the_strongest_baseline():
    ndcg, hit_ratio = headlines(run_record())
    assert (ndcg.metric, ndcg.rival, ndcg.rival_value) == ("ndcg@10", "EASE", 0.4540)
    assert (hit_ratio.metric, hit_ratio.rival) == ("hr@10", "its MF initialisation")
    (alone,) = headlines(run_record(qualities={"NeuCF": {"auc": 0.9}}))
    assert (alone.metric, alone.value, alone.rival) == ("auc", 0.9, None)


def test_the_best_epoch_is_marked_where_higher_is_better():
    qualities = {"a": {"ndcg@10": 0.5, "calibration error": 0.2}, "b": {"ndcg@10": 0.5}, "c": {"auc": 0.7}}
    table = quality_table(run_record(qualities=qualities))
    assert table.metrics == ("ndcg@10", "calibration error", "auc")
    marked = {
        (name, metric)
        for name, cells in table.rows
        for metric, cell in zip(table.metrics, cells, strict=True)
        if cell.best
    }
    assert marked == {("a", "ndcg@10"), ("b", "ndcg@10")}


def test_calibration_error_weighs_bins_by_their_predictions():
    one, other = (
        bins()[0].model_copy(update=fields)
        for fields in (
            {"predicted": 0.1, "observed": 0.2, "count": 300},
            {"predicted": 0.9, "observed": 0.6, "count": 100},
        )
    )
    assert calibration_error((one, other)) == pytest.approx(0.15)
    assert calibration_error(()) is None


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.4514, 0.4574], ["0.450", "0.452", "0.454", "0.456", "0.458"]),
        ([0.0, 1.0], ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ([], ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ([math.nan, 3.0, math.inf], ["3", "4"]),
        ([-2.0, 7.0], ["-2", "0", "2", "4", "6", "8"]),
        ([1e8, 3e8], ["1e+08", "1.5e+08", "2e+08", "2.5e+08", "3e+08"]),
    ],
)
def test_axes_begin_and_end_at_round_numbers(values, labels):
    axis = ChartAxis.over(values, 0.0, 100.0)
    assert [tick.label for tick in axis.ticks] == labels
    assert (axis.ticks[0].position, axis.ticks[-1].position) == (0.0, 100.0)


@pytest.mark.parametrize(("last", "labels"), [(1, "1"), (3, "1 2 3"), (16, "1 2 4 6 8 10 12 14 16")])
def test_epochs_are_whole_numbers(last, labels):
    assert " ".join(tick.label for tick in ChartAxis.of_epochs(last).ticks) == labels


def test_a_line_has_a_gap_at_values_that_are_not_finite():
    axes = ChartAxis.over((0.0, 10.0), 0.0, 100.0), ChartAxis.over((0.0, 10.0), 100.0, 0.0)
    samples = [Sample(x, y, "") for x, y in ((0, 0), (2, 5), (4, math.nan), (6, 5), (8, 10))]
    series = draw(Line("loss", "refit", samples), axes)
    assert series.path == "M0 100 L20 50 M60 50 L80 0"
    assert len(series.dots) == 4


def test_numbers_are_formatted_for_readers():
    assert [duration(seconds) for seconds in (0.04, 9.27, 59.96, 252, 8_000)] == [
        "0.0 s",
        "9.3 s",
        "1 min 0 s",
        "4 min 12 s",
        "2 h 13 min",
    ]
    assert [large(number) for number in (0, 12.3, 999.6, 352_400, 1_520_000, 51_300_000, 2.5e9)] == [
        "0",
        "12.3",
        "1.00 k",
        "352 k",
        "1.52 M",
        "51.3 M",
        "2.50 G",
    ]
    assert [signed(value) for value in (0.0031, -0.2027)] == ["+0.0031", "\N{MINUS SIGN}0.2027"]
    assert compact(1.23456e-5) == "1.235e-05"


@pytest.fixture
async def browser():
    """Chromium from the machine: nothing is downloaded for a test."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        pytest.skip(f"needs a browser on PATH ({', '.join(names)}): on Debian, apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found)
        yield browser
        await browser.close()


async def test_a_browser_shows_a_report_without_errors_in_all_widths_and_colour_schemes(browser, tmp_path):
    write_report(run_record(), tmp_path / "report.html")
    complaints, requests, inks = [], [], set()
    for scheme in ("light", "dark"):
        for width in (400, 1400):
            tab = await browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            tab.on("console", lambda message: complaints.append(message.text))
            tab.on("pageerror", lambda error: complaints.append(str(error)))
            tab.on("request", lambda request: requests.append(request.url))
            await tab.goto((tmp_path / "report.html").as_uri())
            assert await tab.title() == "Fit report: 20261123T204203Z-d4669f"
            assert await tab.get_by_role("heading", level=2).count() == 5
            assert await tab.get_by_role("img", name="NDCG@10 by epoch").is_visible()
            assert await tab.get_by_role("img").count() == 6
            assert await tab.get_by_role("row", name="NeuCF 0.7364 0.4571").is_visible()
            assert await tab.evaluate("document.documentElement.scrollWidth") == width
            await tab.get_by_text("Every epoch in numbers").click()
            assert await tab.get_by_role("rowheader", name="hold-out (chosen)").is_visible()
            inks.add(await tab.evaluate("getComputedStyle(document.body).color"))
            await tab.close()
    assert complaints == []
    assert all(url.startswith("file:") for url in requests)
    assert len(inks) == 2
