"""The page of a report in a real browser: hostile texts, a phone, a dark screen, a printer."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from humpback_ray import storage, tables
from humpback_ray.cli import app
from humpback_ray.figures.types import MAX_TEXT
from humpback_ray.report import foreign_text, pages
from humpback_ray.report.document import Cell, Document, Paragraph, Section, Table
from humpback_ray.report.run_report import WrittenReport, report_run, report_two
from humpback_ray.rows import Verdict
from tests.support import benchmark_run
from tests.support.browser import opened
from tests.support.judging import Quality, asked, judged
from tests.support.run_folder import LOSSES, Texts, judge_figures, write_run

RUNNER = CliRunner()
HOSTILE = [
    "<script>alert('script')</script>",
    "<img src=x onerror=alert('img')><svg onload=alert('svg')>",
    "</dd></textarea></style><iframe src='https://evil.example/frame'></iframe>",
    "<style>body{display:none}</style><link rel=stylesheet href=https://evil.example/a.css>",
    "{{ 7*7 }} {% raw %} ${7*7} #{7*7}",
    "right to left \u202eevil\u202c, isolate \u2066x\u2069, bell \x07, escape \x1b[31m",
    '=HYPERLINK("https://evil.example","a cell")',
    "]]> --> <!-- \" ' & &amp;",
]
URLS = [
    "javascript:alert('link')", "data:text/html,<script>alert('data')</script>",
    "https://fine.example/a?b=1&c=<i>", "https://x.example/\u202egpj.exe", "vbscript:x",
    "file:///etc/passwd", "//evil.example/x", "https://[", " https://space.example/",
]  # fmt: skip
LONG_LINE = "<b>" + "w" * 2**20


def hostile(number: int) -> str:
    return f"{number}: {HOSTILE[number % len(HOSTILE)]}"


HOSTILE_TEXTS = Texts(
    instruction=hostile,
    response=lambda n: LONG_LINE if n == 5 else hostile(n + 1),
    header=lambda n: hostile(n + 2) * (1 + 3000 * (n == 7)),
    url=lambda n: URLS[n % len(URLS)],
    answer=hostile,
)


def reported(folder: Path, texts: Texts | None = None, **more) -> WrittenReport:
    return report_run(write_run(str(folder / "run"), texts, **more), None, None)


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory) -> WrittenReport:
    folder = tmp_path_factory.mktemp("hostile")
    labels = folder / "labels.jsonl"
    entries = [{"candidate_id": f"{n:032x}-0", "label": "good" if n % 3 else "bad"}
               for n in range(60)]  # fmt: skip
    entries.append({"candidate_id": "<script>alert('id')</script>", "label": "bad"})
    labels.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    judge = judge_figures() | {"judge": "<img src=x onerror=alert('judge')>"}
    run = write_run(str(folder / "run"), HOSTILE_TEXTS, judge=judge)
    verdicts = [
        replace(row, model=f"{HOSTILE[n % 3]}{'m' * 5000}", instruction=hostile(n),
                output=LONG_LINE, opponent_output=hostile(n), said=hostile(n))
        for n, row in enumerate(judged(asked(40), Quality()))
    ]  # fmt: skip
    tables.write_rows(f"{run}/judgement/rows", verdicts, Verdict)
    return report_run(run, str(labels), None)


class Outline(HTMLParser):
    """Headings, links, and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.handlers: list[str] = []
        self.unnamed_charts = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.add(tag)
        self.handlers += [name for name in values if name.startswith("on")]
        if len(tag) == 2 and tag[0] == "h" and tag[1].isdigit():
            self.headings.append(int(tag[1]))
        if tag == "a":
            self.links.append(values["href"])
        if tag == "svg" and not (values.get("role") == "img" and values.get("aria-label")):
            self.unnamed_charts += 1


def test_hostile_page_asks_for_nothing_and_runs_nothing(hostile_report):
    with opened(hostile_report.page) as (page, seen):
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.wait_for_timeout(200)
        text = page.inner_text("main")
        scripts = page.evaluate("document.scripts.length + document.images.length")
    assert (seen.urls, seen.dialogs, seen.errors) == ([], [], [])
    assert scripts == 0
    for shown in (*HOSTILE[:5], *HOSTILE[6:]):
        assert shown in text
    assert "⟪U+202E⟫evil⟪U+202C⟫" in text
    assert "⟪U+0007⟫" in text
    assert "\u202e" not in text
    assert "49 " not in text.partition("{{ 7*7 }}")[2][:8]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_on_a_phone_scrolls_downwards_only(hostile_report, scheme):
    with opened(hostile_report.page, width=360, scheme=scheme) as (page, _):
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        widths = page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        colour = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert widths[0] <= widths[1] == 360
    assert (colour == "rgb(255, 255, 255)") is (scheme == "light")


def test_charts_and_text_have_contrast_in_both_schemes(hostile_report):
    brightness = {}
    for scheme in ("light", "dark"):
        with opened(hostile_report.page, scheme=scheme) as (page, _):
            brightness[scheme] = page.evaluate(
                """[...document.querySelectorAll('svg text, p, td, caption')].map(e => {
                  const style = getComputedStyle(e), drawn = e.closest('svg');
                  const ink = drawn ? style.fill : style.color;
                  return Math.max(...ink.match(/\\d+/g).slice(0, 3).map(Number)); })"""
            )
    assert max(brightness["light"]) < 180
    assert min(brightness["dark"]) > 90


def test_page_prints(hostile_report):
    with opened(hostile_report.page) as (page, seen):
        pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") > 1
    assert seen.urls == []


def test_keyboard_reaches_the_skip_link_first(hostile_report):
    with opened(hostile_report.page) as (page, _):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        assert page.evaluate("document.activeElement.getBoundingClientRect().left >= 0")


def test_page_has_a_policy_no_script_and_safe_links_only(hostile_report):
    text = Path(hostile_report.page).read_text()
    outline = Outline(text)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert f'content="{policy}"' in text
    assert outline.tags.isdisjoint({"script", "iframe", "img", "link", "object", "form"})
    assert outline.handlers == []
    web = {link for link in outline.links if not link.startswith("#")}
    assert web == {"https://fine.example/a?b=1&c=<i>"}


def test_headings_are_in_order_and_every_chart_has_a_name(hostile_report):
    outline = Outline(Path(hostile_report.page).read_text())
    assert outline.headings[:2] == [1, 2]
    steps = zip(outline.headings, outline.headings[1:], strict=False)
    assert all(after <= before + 1 for before, after in steps)
    assert outline.headings.count(1) == 1
    assert outline.unnamed_charts == 0
    assert "svg" in outline.tags


def test_long_texts_are_cut_with_a_count_and_the_page_stays_small(hostile_report):
    text = Path(hostile_report.page).read_text()
    assert len(text.encode()) < 400_000
    entries = json.loads(Path(hostile_report.figures).read_text())["samples"]
    assert "judgement" in {entry["stage"] for entry in entries}
    assert "mmmmmmmmmm…" in text
    texts = [text for entry in entries for row in entry["rows"] for text in row["texts"]]
    assert max(len(entry["text"]) for entry in texts) <= MAX_TEXT
    assert any(entry["num_characters"] == len(LONG_LINE) for entry in texts)
    assert "more characters]" in text


def test_page_of_a_run_with_everything_in_it_stays_small_and_its_texts_readable(tmp_path):
    texts = Texts(
        instruction=lambda n: f"Question <{n}> & so? " * 60,
        response=lambda n: f"Text & more <b>{n}</b>. " * 300,
        answer=lambda n: f"Answer & {n} " * 300,
    )
    more = ["settings.prefilter={}", "settings.evaluation.safety=true", benchmark_run.OVERRIDE]
    run = write_run(str(tmp_path / "run"), texts, judge=judge_figures(), overrides=more)
    rows = [
        replace(row, instruction="Why is it? " * 30, output="So it is. " * 200,
                opponent_output="No. " * 500, said="Better: A")
        for row in judged(asked(60), Quality())
    ]  # fmt: skip
    tables.write_rows(f"{run}/judgement/rows", rows, Verdict)
    page = Path(report_run(run, None, None).page).read_text()
    assert 300_000 < len(page.encode()) < 400_000
    assert "So it is. " * 9 in page


def test_labels_of_unknown_ids_are_named_as_text(hostile_report):
    text = Path(hostile_report.page).read_text()
    assert (
        "1 of ids that iter-1/rated lacks (&lt;script&gt;alert(&#39;id&#39;)&lt;/script&gt;)"
        in text
    )
    figures = json.loads(Path(hostile_report.figures).read_text())
    quality = figures["raters"][0]["quality"]
    assert (quality["num_labels"], quality["num_unknown"], quality["num_unscored"]) == (61, 1, 4)
    assert quality["thresholds"][0]["precision"]["low"] is not None


def test_lone_surrogate_and_nul_reach_the_page_as_code_points():
    table = Table("Odd \x00", ("a", "b"), [("lone \ud800", Cell("tab\tstays"))])
    sections = [Section("odd", "Odd", [table, Paragraph("line\r\nfeed \u2028")])]
    page = pages.html(Document("odd", "", "", sections))
    page.encode()
    assert "Odd ⟪U+0000⟫" in page
    assert "lone ⟪U+D800⟫" in page
    assert "tab\tstays" in page
    assert "feed ⟪U+2028⟫" in page


@pytest.mark.parametrize(
    ("url", "is_link"),
    [
        ("https://a.example/x", True), ("http://a.example", True), ("HTTPS://a.example", True),
        ("javascript:alert(1)", False), ("java\nscript:alert(1)", False),
        ("data:text/html,x", False),
        ("https://", False), ("a/b.md", False), ("https://a.example/\x00", False),
        ("https://a.example/" + "x" * 3000, False),
    ],
)  # fmt: skip
def test_only_web_addresses_become_links(url, is_link):
    assert bool(foreign_text.link(url)) is is_link


def test_markdown_shows_texts_as_text(tmp_path):
    written = reported(tmp_path, judge=judge_figures() | {"judge": "<b>|`x`[a](javascript:1)"})
    text = Path(written.markdown).read_text()
    assert "\\<b\\>\\|\\`x\\`\\[a\\]" in text
    assert "| M\\_2 : M\\_1 | 58.0 | 52.0 to 64.0 |" in text


def test_report_shows_the_recall_of_a_filter(tmp_path):
    written = reported(tmp_path, overrides=["settings.prefilter={}"])
    text = Path(written.markdown).read_text(encoding="utf-8").replace("\\", "")
    assert "What the filter before augmentation keeps" in text
    record = storage.read_json(f"{tmp_path}/run/prefilter/model/record.json")
    value, low, high = record["figures"]["recall"]["10%"]["of_cut"]["20%"]
    [row] = [line for line in text.splitlines() if "best 10%" in line]
    assert f"{value:.0%} ({low:.0%} to {high:.0%})" in row
    assert "Promising segments" in text


def test_report_of_an_unfinished_run_says_what_is_to_do(tmp_path):
    written = reported(tmp_path, until="segments")
    text = Path(written.page).read_text()
    assert "the stage is to do" in text
    assert "No model of this run is evaluated yet" in text


def test_failed_control_warns_above_the_win_rates(tmp_path):
    text = Path(reported(tmp_path, judge=judge_figures(failed=True)).page).read_text()
    warning = text.index('class="warning">The judge judge-70b fails a control: constant answer')
    assert warning < text.index("Win rates by judge-70b")


def test_command_prints_the_answer_and_the_files(tmp_path):
    run = write_run(str(tmp_path / "run"))
    result = RUNNER.invoke(app, ["report", run, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("No judge is set")
    for name in ("report.html", "report.json", "report.md"):
        assert f"{tmp_path}/out/{name}" in result.output
        assert (tmp_path / "out" / name).stat().st_size > 1000


def test_command_without_a_run_is_a_user_error(tmp_path):
    result = RUNNER.invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "no run in" in result.stderr


def test_two_runs_show_settings_that_differ_before_figures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run("a", judge=judge_figures())
    write_run("b", judge=judge_figures(), overrides=["settings.selection.share=0.4"])
    storage.delete("b/iter-2/model/record.json")
    result = RUNNER.invoke(app, ["report", "a", "b"])
    assert result.exit_code == 0, result.output
    figures = storage.read_json("report-a-b/report.json")
    assert figures["settings"] == [{"name": "selection.share", "first": "0.25", "second": "0.4"}]
    rates = [f for f in figures["figures"] if f["name"] == "M_2 : M_1"]
    assert [f["first"]["value"] for f in rates] == [58.0]
    of_model = [f for f in figures["figures"] if f["name"] == "iter-2/model"]
    assert [(bool(f["first"]), f["second"]) for f in of_model] == [(True, None)]
    page = Path("report-a-b/report.html").read_text()
    assert page.index("selection.share") < page.index("Held-out loss") < page.index("Mean score")
    assert all(f">{name}</th>" in page for name in LOSSES)


def test_two_runs_show_what_is_judged_and_the_controls_that_fail(tmp_path):
    judged = {"a": judge_figures(num_judged=199), "b": judge_figures(failed=True)}
    runs = [write_run(str(tmp_path / name), judge=judge) for name, judge in judged.items()]
    written = report_two(*runs, str(tmp_path / "out"))
    text = Path(written.markdown).read_text().replace("\\", "")
    assert "| M_2 : M_1 | 58 | 199 of 200 judged | 52 to 64 | 58 | 200 of 200 judged |" in text
    assert "| M_2 less M_0 | 19 | 200 of 200 judged |" in text
    warning = text.index("b: the judge judge-70b fails a control (constant answer). No win rate")
    assert warning < text.index("Win rates by judge-70b")
    assert "a: the judge" not in text
    rates = [f for f in storage.read_json(written.figures)["figures"] if f["name"] == "M_2 : M_1"]
    assert [(f["first"]["n"], f["first_of"]) for f in rates] == [(199, 200)]


def test_two_runs_of_one_name_are_told_apart(tmp_path):
    runs = [write_run(str(tmp_path / folder / "run")) for folder in ("a", "b")]
    result = RUNNER.invoke(app, ["report", *runs, "--out", str(tmp_path / "out")])
    assert result.output.startswith("No setting differs")
    assert "in run (1) and 5.780 in run (2)" in result.output
    assert "Both runs have the same settings." in (tmp_path / "out" / "report.html").read_text()


def test_two_runs_take_no_labels(tmp_path):
    result = RUNNER.invoke(app, ["report", "a", "b", "--labels", "x.jsonl"])
    assert result.exit_code != 0
