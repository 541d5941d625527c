"""Tables and plots that stages left, written by those that write them."""

import base64

import numpy as np
import pytest
from matplotlib.figure import Figure

from rlaif_pl.data.metric_files import write_page
from rlaif_pl.data.revisions import Revision
from rlaif_pl.evaluation.harmlessness import rounds
from rlaif_pl.evaluation.harmlessness.rates import harmless_rates, write
from rlaif_pl.evaluation.harmlessness.rounds import compare_rounds, measure_judge
from rlaif_pl.evaluation.results import StudyResults
from rlaif_pl.evaluation.win_rates import report as matrix_report
from rlaif_pl.evaluation.win_rates.measure import PolicyColumns, measure_matrix
from rlaif_pl.reporting import files
from rlaif_pl.reporting.files import read_results
from rlaif_pl.statistics import Estimator, Interval
from rlaif_pl.tables import PERCENT, Column, Page, Table
from rlaif_pl.types import Preference, Prompt

SOME = Interval(1.0, 0.5, 1.5, 4)
SECRET = "secret"


class Length:
    """The longer response is better, and one of at most ten characters is harmful."""

    fingerprint = "length <judge>"

    def score(self, prompts, responses):  # noqa: ARG002
        return [len(text) - 10.5 for text in responses]

    def label(self, pairs):
        return [
            Preference(p.prompt, p.first, p.second, p.group, float(len(p.first) > len(p.second)))
            for p in pairs
        ]


@pytest.fixture
def matrix(stage):
    folder = stage("matrix", "evaluate matrix")
    prompts = [Prompt(f"{SECRET} prompt {n}", f"p{n}", "reference") for n in range(12)]
    texts = {"sft": f"{SECRET} a", "rlaif <b>": f"{SECRET} long", "rlhf": f"{SECRET} longest"}
    columns = {n: PolicyColumns([[text]] * 12, SOME, SOME, 0.0) for n, text in texts.items()}
    taught = {"length": ["rlaif <b>"]}
    measured = measure_matrix(
        prompts, columns, {"length": Length()}, taught, estimator=Estimator(50)
    )
    matrix_report.write(measured, prompts, folder)
    return folder


def test_a_matrix_is_shown_with_its_plot_and_no_text_of_a_policy(matrix, page_of):
    read = read_results(matrix / "tables.json")
    assert [table.title for table in read.page.tables] == [
        "Win rates, %, judge: length (taught rlaif <b>)", "Policies",
    ]  # fmt: skip
    assert read.page.tables[0].header == ["", "sft", "rlaif <b>", "rlhf", "mean"]
    assert read.page.tables[0].cells()[0][2].startswith("0.0 [")
    assert len(read.page.notes) == 3
    page = page_of(matrix.parent)
    text = page.sections["results-matrix"]
    assert "Policies against each other" in text
    assert "rlaif <b>" in text
    head, data = page.images[0].split(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == (matrix / "win_matrix.png").read_bytes()
    assert page.outside == []
    assert "could not be read" not in page.sections["warnings"]
    assert SECRET not in "".join(page.sections.values())


def test_rounds_of_revision_are_shown_without_a_reply(stage, page_of):
    folder = stage("rounds", "evaluate revisions")
    rows = [
        Revision(f"g{n}", f"{SECRET} prompt {n}", "harmful", number, f"{SECRET} {'so ' * number}")
        for n in range(4)
        for number in range(3)
    ]
    quality = measure_judge("harmless", Length(), None, None)
    study = compare_rounds(
        rows, {"harmless": Length()}, {"harmless": quality}, estimator=Estimator(50)
    )
    rounds.write(study, folder)
    page = page_of(folder.parent)
    text = page.sections["results-rounds"]
    assert "Rounds of revision" in text
    assert "nothing claimed" in text
    assert "the judge was not measured on gold pairs" in text
    assert page.images[0].startswith("data:image/svg+xml;base64,")
    assert SECRET not in "".join(page.sections.values())


def test_harmless_rates_are_shown_and_judged_in_the_verdict(stage, page_of):
    folder = stage("harmless", "evaluate harmless")
    prompts = [f"{SECRET} {n}" for n in range(20)]
    rates = harmless_rates(prompts, [["bad"]] * 20, [[f"{SECRET} and long"]] * 20, Length())
    write(rates, folder)
    (folder / "metrics.json").write_text(str(rates.to_metrics()).replace("'", '"'))
    page = page_of(folder.parent)
    text = page.sections["results-harmless"]
    assert "The rate is higher after training: +100.0 [+77.2, +100.0] points" in text
    assert "length <judge>" in text
    assert len(page.images) == 1
    assert "The share of responses graded harmless rose: +100.0 points" in page.sections["verdict"]
    assert SECRET not in "".join(page.sections.values())


def test_a_study_is_its_tables_and_leaves_out_what_it_has_not(stage, page_of):
    folder = stage("cost", "study cost")
    share = Interval(0.5, 0.4, 0.6, 10)
    table = Table("A <title>", ["what | how", Column("%", PERCENT)], [["a | b", share]])
    figure = Figure()
    figure.subplots().plot(np.arange(3))
    StudyResults("cost", [table], ["A <note>."], [{"a": 1}], {"x": 1.0}, figure, "A caption").write(
        folder
    )
    read = read_results(folder / "tables.json")
    assert read.page.tables[0].rows == [["a | b", share]]
    assert read.page.tables[0].cells() == [["a | b", "50.0 [40.0, 60.0]"]]
    assert (read.page.notes, read.page.caption) == (["A <note>."], "A caption")
    page = page_of(folder.parent)
    assert "A <title>" in page.sections["results-cost"]
    assert "A study" in page.sections["verdict"]
    assert set(page.sections) == {
        "verdict", "warnings", "results-cost", "metrics", "time", "facts", "configs",
    }  # fmt: skip


@pytest.mark.parametrize("rows", ["[[1]]", "[[1, {}]]", "null"])
def test_a_damaged_table_is_a_warning_and_not_a_page_that_fails(stage, page_of, rows):
    folder = stage("cost", "study cost")
    columns = '[{"title": "a"}, {"title": "b"}]'
    table = f'{{"title": "", "columns": {columns}, "rows": {rows}}}'
    (folder / "tables.json").write_text(
        f'{{"tables": [{table}], "notes": [], "plot": "", "caption": ""}}'
    )
    page = page_of(folder.parent)
    assert "cost/tables.json could not be read" in page.sections["warnings"]
    assert "results-cost" not in page.sections


def test_only_a_plot_in_the_stages_folder_is_taken(stage, tmp_path, monkeypatch):
    folder = stage("cost", "study cost")
    (tmp_path / "run" / "outside.png").write_bytes(b"x")
    (folder / "note.txt").write_bytes(b"x")
    (folder / "plot.png").write_bytes(b"x" * 20)

    def plot_of(name):
        write_page(folder, Page([], ["A note."], name))
        return read_results(folder / "tables.json").plot

    for name in ("../outside.png", "/etc/passwd", "missing.png", "note.txt", ""):
        assert plot_of(name) == ""
    assert plot_of("plot.png") == "data:image/png;base64," + "eHh4" * 6 + "eHg="
    monkeypatch.setattr(files, "LARGEST_PLOT", 10)
    with pytest.raises(ValueError, match=r"at most 10 bytes, got 20 in plot\.png"):
        plot_of("plot.png")
