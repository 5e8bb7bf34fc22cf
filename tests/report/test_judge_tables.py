"""The tables of a judge in a report: each length-controlled win rate under its formula's name."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from humpback_ray.report.run_report import report_run
from tests.support.run_folder import judge_figures, write_run


class Text(HTMLParser):
    """The words of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.words += data.split()


def words(folder: Path, **judge) -> str:
    run = write_run(str(folder / "run"), judge=judge_figures() | judge)
    written = report_run(run, None, None)
    return " ".join(Text(Path(written.page).read_text()).words)


def test_alpaca_evals_own_figure_stands_beside_the_minimal_one_with_its_version(tmp_path):
    own = {"win_rates": {"M_1": 57.25, "base": 22.5}, "version": "0.6.6", "reason": "",
           "formula": "length_controlled_v1"}  # fmt: skip
    text = words(tmp_path, alpaca_eval=own)
    assert "model : opponent minimal formula interval AlpacaEval's own judged" in text
    assert "M_1 : M_0 61.0 54.0 to 68.0 57.2 200 of 200" in text
    assert "M_2 : M_1 56.0 49.0 to 63.0 – 200 of 200" in text, "no game against the reference"
    assert "length_controlled_v1 by alpaca_eval 0.6.6, of games against M_0" in text


def test_report_says_why_alpaca_evals_own_figure_is_not_there(tmp_path):
    own = {"win_rates": {}, "version": "", "reason": "the prompts are not AlpacaEval's",
           "formula": "length_controlled_v1"}  # fmt: skip
    text = words(tmp_path, alpaca_eval=own)
    assert "AlpacaEval's own formula, length_controlled_v1: not computed, because the" in text
    assert "interval AlpacaEval's own" not in text


def test_judgement_of_an_older_version_is_shown_without_alpaca_evals_own_figure(tmp_path):
    text = words(tmp_path)
    assert "M_1 : M_0 61.0 54.0 to 68.0" in text
    assert "not computed by the version that judged this run" in text


def test_every_score_of_a_judge_has_what_is_judged_of_how_many_beside_it(tmp_path):
    figures = judge_figures(num_judged=199)
    for difference in figures["differences"]:
        difference["num_prompts"] = 198
    text = words(tmp_path, **figures)
    assert "M_2 : M_1 58.0 52.0 to 64.0 3.1 199 of 200" in text
    assert "M_2 : M_1 56.0 49.0 to 63.0 199 of 200" in text
    assert "M_2 less M_1 +4.2 -0.8 to +9.2 198 of 200" in text
    assert "wins 58.0% of the games (95% interval 52.0 to 64.0, 199 of 200 prompts judged)" in text
