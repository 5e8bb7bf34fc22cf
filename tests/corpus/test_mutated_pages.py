"""No page of an archive ends its reading, whatever it holds: each gives rows with a reason."""

import resource
import time
from collections import Counter

import pytest

from humpback_ray.config.settings import CorpusSettings
from humpback_ray.corpus.cut import segments_of
from humpback_ray.corpus.files import list_files
from humpback_ray.corpus.http_bodies import MAX_PAGE
from humpback_ray.rows import SegmentOutcome
from tests.support.mutated_pages import (
    HOSTILE,
    gzip_bomb,
    gzip_bomb_of_members,
    gzip_members_without_content,
    mutated_page,
)

# For a page, of a core that other work shares. On a quiet one the slowest takes 1.5 s; a page that
# hangs takes minutes.
MAX_SECONDS = 8.0
MAX_MIB = 400  # above the memory before the page


def response(number, body, headers):
    lines = ["HTTP/1.1 200 OK", *headers, "", ""]
    block = "\r\n".join(lines).encode() + body
    return (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://page/{number}\r\n"
        "Content-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(block)}\r\n\r\n"
    ).encode() + block + b"\r\n\r\n"  # fmt: skip


def rows_of(folder, pages):
    """The segments of an archive of pages, each page's in a list, and the slowest page's time."""
    path = folder / "pages.warc"
    path.write_bytes(b"".join(response(n, *page) for n, page in enumerate(pages)))
    [file] = list_files(str(path))
    rows = {f"http://page/{number}": [] for number in range(len(pages))}
    slowest, last, began = 0.0, None, time.process_time()
    settings = CorpusSettings(path=str(path), min_characters=40, whole_pages=True)
    for segment in segments_of(file, settings):
        if segment.url != last:
            slowest = max(slowest, time.process_time() - began)
            last, began = segment.url, time.process_time()
        rows[segment.url].append(segment)
    return rows, max(slowest, time.process_time() - began)


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def check_mutated(folder, seeds):
    before, slowest, outcomes = peak_mib(), 0.0, Counter()
    for first in range(seeds.start, seeds.stop, 500):
        pages = [mutated_page(seed) for seed in range(first, min(first + 500, seeds.stop))]
        rows, seconds = rows_of(folder, pages)
        slowest = max(slowest, seconds)
        for url, segments in rows.items():
            assert segments, f"{url} of {first} gave no row"
            for segment in segments:
                assert segment.text or segment.outcome is not SegmentOutcome.UNREADABLE
                segment.text.encode()  # storable
                outcomes[segment.outcome] += 1
    assert slowest < MAX_SECONDS
    assert peak_mib() - before < MAX_MIB
    print(f"slowest page {slowest:.2f} s, memory {peak_mib() - before:.0f} MiB, {outcomes}")
    return outcomes


def test_mutated_pages_give_rows_with_outcomes(tmp_path):
    outcomes = check_mutated(tmp_path, range(400))
    # The mutations reach the code behind every reason.
    assert {
        SegmentOutcome.KEPT, SegmentOutcome.UNREADABLE, SegmentOutcome.INVALID_CHARACTERS,
        SegmentOutcome.TOO_SHORT,
    } <= outcomes.keys()  # fmt: skip


@pytest.mark.long
def test_ten_thousand_mutated_pages_give_rows_with_outcomes(tmp_path):
    check_mutated(tmp_path, range(1000, 11_000))


# Words for which the tags of a page are read once more, for the facts about it.
OF_FACTS = "<!-- noai, creativecommons.org -->"


@pytest.mark.parametrize("words", ["", OF_FACTS], ids=["plain", "with facts"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_page_takes_bounded_time_and_memory(tmp_path, name, words):
    before = peak_mib()
    html = ["Content-Type: text/html; charset=utf-8"]
    hostile = (words + HOSTILE[name]()).encode()
    pages = [(hostile, html), (b"<h1>Whale</h1>" + b"Krill is eaten. " * 9, html)]
    rows, seconds = rows_of(tmp_path, pages)
    assert rows["http://page/0"]
    assert [row.outcome for row in rows["http://page/1"]] == [SegmentOutcome.KEPT]
    assert seconds < MAX_SECONDS
    assert peak_mib() - before < MAX_MIB


@pytest.mark.parametrize("bomb_of", [gzip_bomb, gzip_bomb_of_members])
def test_gzip_bomb_costs_its_record_and_little_memory(tmp_path, bomb_of):
    before = peak_mib()
    headers = ["Content-Type: text/html", "Content-Encoding: gzip"]
    rows, seconds = rows_of(tmp_path, [(bomb_of(1024), headers), (b"<p>x", headers)])
    [bomb] = rows["http://page/0"]
    assert bomb.text.endswith("it decodes to more than 16,777,216 bytes")
    assert rows["http://page/1"][0].outcome is SegmentOutcome.TOO_SHORT
    assert seconds < MAX_SECONDS
    assert peak_mib() - before < MAX_MIB


@pytest.mark.parametrize(
    ("num_bytes", "outcome"),
    [(MAX_PAGE, SegmentOutcome.TOO_SHORT), (2 * MAX_PAGE, SegmentOutcome.UNREADABLE)],
)
def test_gzip_members_without_content_take_bounded_time(tmp_path, num_bytes, outcome):
    headers = ["Content-Type: text/html", "Content-Encoding: gzip"]
    body = gzip_members_without_content(num_bytes)
    rows, seconds = rows_of(tmp_path, [(body, headers)])
    assert [row.outcome for row in rows["http://page/0"]] == [outcome]
    assert seconds < MAX_SECONDS
