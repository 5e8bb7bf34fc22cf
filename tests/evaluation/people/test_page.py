"""The raters' page in a real browser, from the real server in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from humpback_ray import tables
from humpback_ray.rows import RatedPair
from tests.support.browser import WatchedPage, chromium
from tests.support.people import (
    ROOT,
    choices,
    make_run,
    people_server,
    rated,
    start_server,
    stored_votes,
    wait_for_votes,
    write_json,
)

# These tests start a server and a browser each, about a minute in all.
pytestmark = pytest.mark.slow

SAVED = "() => document.getElementById('state').textContent === 'Saved'"
PAIRS = ("--models", "M_2,M_1", "--screening", "none")
HOSTILE = {
    "script": "<script>alert(1)</script>",
    "image": "<img src=x onerror=alert(2)> <iframe src='http://127.0.0.1:9/'></iframe>",
    "ends": "</script><script>alert(3)</script><!--<script>",
    "bidi": "abc \u202egnihtyna\u202c and \u2066more\u2069",
    "nul": "a\0b\x1b[31mred \ud800 lone",
    "link": "javascript:alert(4) and http://127.0.0.1:9/track.png",
    "template": "{{ 7*7 }} ${7*7} =cmd()",
    "long": "x" * 1_000_000,
}
SHOWN = {
    "bidi": r"abc \u202egnihtyna\u202c and \u2066more\u2069",
    "nul": r"a\x00b\x1b[31mred \ud800 lone",
}


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture
def opened(browser) -> Iterator:
    """A function that opens a link and presses Start; whatever went wrong on a page fails."""
    pages: list[WatchedPage] = []

    def open_page(link: str, **options) -> WatchedPage:
        watched = WatchedPage(browser, **options)
        pages.append(watched)
        watched.page.goto(link)
        start(watched.page)
        return watched

    yield open_page
    for watched in pages:
        watched.context.close()
        assert watched.dialogs == []


def start(page) -> None:
    page.wait_for_selector("#intro[open]")
    page.keyboard.press("Enter")
    page.wait_for_selector("#intro", state="hidden")


def wait_for_place(page, text: str) -> None:
    page.wait_for_function(
        "text => document.getElementById('count').textContent === text", arg=text
    )


def press(page, key: str, place: str) -> None:
    """Press a key, and wait until the page shows another place."""
    page.wait_for_timeout(200)  # the page takes no vote in the first 150 ms
    page.keyboard.press(key)
    wait_for_place(page, place)


# --- voting ---------------------------------------------------------------------------------------


def test_keyboard_alone_votes_undoes_skips_notes_and_ends(run, opened):
    with people_server(run, *PAIRS) as server:
        page = opened(server.links["1"]).page
        keys = ["ArrowLeft", "ArrowDown", "ArrowRight", "1", "2", "3"]
        for number, key in enumerate(keys):
            wait_for_place(page, f"{number + 1} of 13")
            press(page, key, f"{number + 2} of 13")
        before = page.inner_text("#instruction")
        press(page, "u", "6 of 13")
        assert page.get_attribute("[data-choice=right]", "aria-pressed") == "true"
        press(page, "1", "7 of 13")
        assert page.inner_text("#instruction") == before
        page.keyboard.press("n")
        page.keyboard.type("s u 1: a naïve note")
        page.keyboard.press("Escape")
        press(page, "2", "8 of 13")
        page.wait_for_timeout(200)
        page.keyboard.press("s")
        page.wait_for_selector("#reasons[open]")
        page.keyboard.press("4")
        wait_for_place(page, "9 of 13")
        for number in range(9, 13):
            press(page, "ArrowDown", f"{number + 1} of 13")
        press(page, "ArrowDown", "13 of 13")
        page.wait_for_selector("#end-title")
        assert page.inner_text("#end-text") == "Your votes are stored. You can close this page."
    votes = stored_votes(run)
    expected = ["left", "tie", "right", "left", "tie", "right", "right", "left", "tie", "skip"]
    assert choices(votes) == [*expected, *["tie"] * 5]
    assert [vote["undone"] for vote in votes].index(True) == 6
    assert votes[5]["vote_id"] == votes[6]["vote_id"] != votes[7]["vote_id"]
    assert votes[5]["item_id"] == votes[7]["item_id"]
    assert votes[8]["note"] == "s u 1: a naïve note"
    assert votes[9]["reason"] == "The text is shown wrongly"
    assert sum(vote["is_repeat"] for vote in votes) == 1
    assert all(0.1 < vote["seconds"] < 60 for vote in votes)


def test_link_resumes_where_the_rater_left(run, opened):
    with people_server(run, *PAIRS) as server:
        first = opened(server.links["1"]).page
        press(first, "1", "2 of 13")
        press(first, "3", "3 of 13")
        text = first.inner_text("#instruction")
    with people_server(run, *PAIRS) as server:
        watched = WatchedPage(first.context.browser)
        watched.page.goto(server.links["1"])
        wait_for_place(watched.page, "3 of 13")
        assert watched.page.inner_text("#instruction") == text
        press(watched.page, "u", "2 of 13")
        watched.context.close()
    assert [vote["undone"] for vote in stored_votes(run)] == [False, False, True]


def test_held_key_gives_one_vote(run, opened):
    with people_server(run, *PAIRS) as server:
        page = opened(server.links["1"]).page
        page.wait_for_timeout(200)
        page.keyboard.down("1")
        for _ in range(20):
            page.keyboard.down("1")  # a repeat, as a held key sends
        wait_for_place(page, "2 of 13")
        page.wait_for_timeout(300)
        assert len(stored_votes(run)) == 1


def test_names_and_paths_of_models_reach_no_page_url_or_answer(run, opened):
    with people_server(run, "--models", "M_2,M_1", "--raters", "2") as server:
        watched = opened(server.links["2"])
        for place in range(2, 9):
            press(watched.page, "1", f"{place} of {watched.page.inner_text('#count').split()[-1]}")
        seen = "\n".join([*watched.urls, *watched.answers, watched.page.content()])
    assert "Question number" in seen
    votes = stored_votes(run)
    assert votes[-1]["left_model"] in ("M_1", "M_2")
    item_ids = [vote["item_id"] for vote in votes]
    for word in (
        "M_1",
        "M_2",
        "evaluation",
        str(run),
        'worse"',
        'known"',
        "is_screening",
        *item_ids,
    ):
        assert word not in seen, word


def test_two_raters_at_once_keep_their_own_votes_and_orders(run, opened):
    with people_server(run, *PAIRS, "--raters", "ann,ben", "--shared", "1") as server:
        pages = {name: opened(server.links[name]).page for name in ("ann", "ben")}
        for place in range(2, 8):
            for name, page in pages.items():
                press(page, "1" if name == "ann" else "3", f"{place} of 13")
    votes = stored_votes(run)
    by_rater = {name: [v for v in votes if v["rater"] == name] for name in pages}
    assert set(choices(by_rater["ann"])) == {"left"}
    assert set(choices(by_rater["ben"])) == {"right"}
    orders = [[vote["item_id"] for vote in mine] for mine in by_rater.values()]
    assert len(orders[0]) == len(orders[1]) == 6
    assert orders[0] != orders[1]


# --- a server that dies ---------------------------------------------------------------------------


def test_votes_while_the_server_is_dead_arrive_once_when_it_is_back(run, opened):
    server = start_server(run, *PAIRS)
    page = opened(server.links["1"]).page
    press(page, "1", "2 of 13")
    server.kill()
    press(page, "2", "3 of 13")
    press(page, "3", "4 of 13")
    assert "2 votes not sent yet" in page.inner_text("#state")
    assert choices(stored_votes(run)) == ["left"]
    with people_server(run, *PAIRS, port=server.port):
        page.wait_for_function(SAVED)
        press(page, "1", "5 of 13")
        assert choices(stored_votes(run)) == ["left", "tie", "right", "left"]


def test_vote_whose_answer_is_lost_is_sent_again_and_stored_once(run, opened):
    with people_server(run, *PAIRS) as server:
        page = opened(server.links["1"]).page

        def lose(route) -> None:
            route.fetch()  # the server stores it
            route.abort()  # and dies before the browser hears of it

        page.route("**/votes", lose, times=1)
        press(page, "1", "2 of 13")
        assert "1 vote not sent yet" in page.inner_text("#state")
        page.wait_for_function(SAVED)
        assert choices(stored_votes(run)) == ["left"]


def test_unsent_votes_survive_a_closed_page(run, opened):
    server = start_server(run, *PAIRS)
    page = opened(server.links["1"]).page
    server.kill()
    press(page, "1", "2 of 13")
    context = page.context
    page.close()
    with people_server(run, *PAIRS, port=server.port) as again:
        page = context.new_page()
        page.goto(again.links["1"])
        wait_for_place(page, "2 of 13")
        wait_for_votes(run, 1)


def test_browser_that_keeps_nothing_says_so_and_sends_later(run, browser):
    server = start_server(run, *PAIRS)
    watched = WatchedPage(browser)
    page = watched.page
    page.add_init_script("Storage.prototype.setItem = () => { throw new Error('full') }")
    page.goto(server.links["1"])
    start(page)
    server.kill()
    press(page, "1", "2 of 13")
    assert "leave the page open" in page.inner_text("#state")
    with people_server(run, *PAIRS, port=server.port):
        page.wait_for_function(SAVED)
        assert choices(stored_votes(run)) == ["left"]
    watched.context.close()


# --- what it looks like ---------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(360, 640), (1280, 800), (700, 900)])
def test_everything_is_in_view_and_both_texts_are_as_high(tmp_path, opened, width, height):
    run = tmp_path / "run"
    for name, text in (("M_1", "Short."), ("M_2", "A line of a long answer.\n" * 300)):
        rows = [{"instruction": "Explain it. " * 60, "output": text, "generator": name}]
        write_json(run / "evaluation" / name / "outputs.json", rows)
    with people_server(run, *PAIRS) as server:
        page = opened(server.links["1"], viewport={"width": width, "height": height}).page
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.documentElement.scrollHeight") <= height
        boxes = {name: page.locator(name).bounding_box() for name in ("#left", "#right", "#task",
                 "#undo", "#skip", "#note-button", "#help")}  # fmt: skip
        buttons = [button.bounding_box() for button in page.locator("#choices button").all()]
        for box in [*boxes.values(), *buttons]:
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["y"] + box["height"] <= height
        assert round(boxes["#left"]["height"]) == round(boxes["#right"]["height"]) > 100
        assert len({(round(b["width"]), round(b["height"])) for b in buttons}) == 1
        assert min(b["height"] for b in buttons) >= 44  # for a finger
        page.keyboard.press("Space")
        scrolled = (
            "document.getElementById('left').scrollTop + document.getElementById('right').scrollTop"
        )
        assert page.evaluate(scrolled) > 50


def test_page_for_a_screen_reader_names_its_parts(run, opened):
    with people_server(run, *PAIRS) as server:
        page = opened(server.links["1"]).page
        for role, name in (
            ("region", "Instruction"), ("region", "Answer A"), ("region", "Answer B"),
            ("button", "A is better"), ("button", "Tie"), ("button", "B is better"),
            ("button", "Undo"), ("button", "Skip"), ("button", "How it works and keys"),
            ("progressbar", "Progress"), ("group", "Which answer is better?"),
        ):  # fmt: skip
            assert page.get_by_role(role, name=name).count() >= 1, (role, name)
        assert page.evaluate("document.activeElement.id") == "instruction"


# --- hostile texts --------------------------------------------------------------------------------


def hostile_run(tmp_path):
    for model, end in (("first-model", " 1"), ("other-model", " 2")):
        rows = [
            {"instruction": f"{n} {text[:200]}", "output": text + end, "generator": model}
            for n, text in enumerate(HOSTILE.values())
        ]
        write_json(tmp_path / f"{end.strip()}.json", rows)
    return "--models", f"{tmp_path}/1.json,{tmp_path}/2.json", "--screening", "none"


def read_hostile_pages(page) -> dict[str, str]:
    """Vote through the page; returns each left text by its name."""
    texts = {}
    for place in range(1, len(HOSTILE) + 1):
        wait_for_place(page, f"{place} of {len(HOSTILE)}")
        name = list(HOSTILE)[int(page.text_content("#instruction").split()[0])]
        texts[name] = page.text_content("#left")
        assert page.locator("main script, main img, main iframe, main a").count() == 0
        page.wait_for_timeout(200)
        page.keyboard.press("1")
    page.wait_for_selector("#end-title")
    return texts


def check_hostile(watched: WatchedPage, texts: dict[str, str], origin: str) -> None:
    for name, text in HOSTILE.items():
        if name == "long":
            assert texts[name].startswith("x" * 30_000 + "Show more")
        else:
            assert texts[name][:-2] == SHOWN.get(name, text), name
    assert watched.errors == []
    assert watched.dialogs == []
    foreign = [url for url in watched.urls if not url.startswith((origin, "data:", "blob:"))]
    assert foreign == []


def test_hostile_texts_are_shown_as_text_and_nothing_runs(tmp_path, opened):
    run, options = tmp_path / "run", hostile_run(tmp_path)
    with people_server(run, *options) as server:
        watched = opened(server.links["1"])
        texts = read_hostile_pages(watched.page)
        check_hostile(watched, texts, f"http://127.0.0.1:{server.port}/")
    votes = stored_votes(run)
    assert len(votes) == len(HOSTILE)
    assert {vote["instruction"] for vote in votes} == {
        f"{n} {text[:200]}" for n, text in enumerate(HOSTILE.values())
    }


def test_long_text_is_shown_piece_by_piece(tmp_path, opened):
    run = tmp_path / "run"
    for name in ("Ma", "Mb"):
        rows = [{"instruction": "Long?", "output": name + "y" * 70_000, "generator": name}]
        write_json(run / "evaluation" / name / "outputs.json", rows)
    with people_server(run, "--models", "Ma,Mb", "--screening", "none") as server:
        page = opened(server.links["1"]).page
        for length in (60_000, 70_002):
            page.locator("#left .rest").click()
            assert len(page.text_content("#left").removesuffix("Show more of this text")) == length
        assert page.locator("#left .rest").count() == 0


# --- the page as a file ---------------------------------------------------------------------------


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "humpback_ray.cli", *arguments], cwd=ROOT, capture_output=True,
        text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
    )  # fmt: skip


def download(page, path, button: str = "#download") -> None:
    with page.expect_download() as waiting:
        page.click(button)
    waiting.value.save_as(path)


def test_file_without_a_server_gives_its_votes_back(tmp_path, opened):
    run, options = str(tmp_path / "run"), hostile_run(tmp_path)
    file = tmp_path / "rate.html"
    made = command("annotate", run, *options, "--file", str(file))
    assert made.returncode == 0, made.stderr
    assert not re.search("first-model|other-model|[12]\\.json", file.read_text())
    watched = opened(file.as_uri())
    page = watched.page
    press(page, "1", f"2 of {len(HOSTILE)}")
    press(page, "u", f"1 of {len(HOSTILE)}")
    page.reload()
    start(page)
    texts = read_hostile_pages(page)
    check_hostile(watched, texts, file.as_uri())
    download(page, tmp_path / "back.jsonl", "#end-button")
    assert "-model" not in (tmp_path / "back.jsonl").read_text()
    for expected in (f"{len(HOSTILE) + 2} added, 0 known", f"0 added, {len(HOSTILE) + 2} known"):
        added = command("votes", run, "--add", str(tmp_path / "back.jsonl"), "--json")
        assert added.returncode == 0, added.stderr
        assert expected in added.stderr
    assert json.loads(added.stdout)["pairs"][0]["num_votes"] == len(HOSTILE)


def test_several_raters_get_a_file_each(run, tmp_path, opened):
    made = command(
        "annotate", str(run), *PAIRS, "--raters", "2", "--file", str(tmp_path / "r.html")
    )
    assert made.returncode == 0, made.stderr
    for rater in ("1", "2"):
        page = opened((tmp_path / f"r-{rater}.html").as_uri()).page
        page.wait_for_timeout(200)
        page.keyboard.press("3")
        page.wait_for_function("() => document.getElementById('bar').ariaValueNow === '1'")
        download(page, tmp_path / f"{rater}.jsonl")
        added = command("votes", str(run), "--add", str(tmp_path / f"{rater}.jsonl"))
        assert added.returncode == 0, added.stderr
    assert [(v["rater"], v["choice"]) for v in stored_votes(run)] == [
        ("1", "right"),
        ("2", "right"),
    ]


# --- labels ---------------------------------------------------------------------------------------


def test_labels_are_given_blind_and_come_out_as_a_file(tmp_path, opened):
    rows = [rated(number, score) for number, score in enumerate([1.0, 2.0, 4.6, 5.0])]
    tables.write_rows(str(tmp_path / "iter-1" / "rated" / "rows"), rows, RatedPair)
    with people_server(tmp_path, "--mode", "labels", "--screening", "none") as server:
        watched = opened(server.links["1"])
        page = watched.page
        assert page.locator("#right").is_hidden()
        for place, key in enumerate("1321", start=2):
            press(page, key, f"{min(place, 4)} of 4")
        page.wait_for_selector("#end-title")
        seen = "\n".join([*watched.urls, *watched.answers, page.content()])
    assert not re.search(r"c00\d|score|stratum|4\.6", seen)
    votes = wait_for_votes(tmp_path, 4)
    assert choices(votes) == ["good", "bad", "unsure", "good"]
    result = command("votes", str(tmp_path), "--export", str(tmp_path / "out"))
    assert result.returncode == 0, result.stderr
    assert "Labels by the rater's score" in result.stdout
    lines = (tmp_path / "out" / "labels.jsonl").read_text().splitlines()
    wanted = {v["candidate_id"]: v["choice"] for v in votes if v["choice"] != "unsure"}
    assert {row["candidate_id"]: row["label"] for row in map(json.loads, lines)} == wanted
