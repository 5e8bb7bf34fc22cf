"""The newest capture of each URL, without Ray."""

import random

import pyarrow as pa
import pytest

from humpback_ray import tables
from humpback_ray.config.settings import CorpusSettings
from humpback_ray.corpus.captures import Captures, mark_older_captures, same_place
from humpback_ray.corpus.cut_tasks import Cut, divided, gathered
from humpback_ray.corpus.files import list_files
from humpback_ray.rows import DocumentFacts, SegmentOutcome
from tests.support.archives import page
from tests.support.duplicates import one_by_one, random_words

OLDER = SegmentOutcome.OLDER_CAPTURE


def captured(url, date, number):
    """A page of two sections, of which one is too short."""
    text = " ".join(random_words(number))
    return page(url, f"<h1>{number}</h1><p>{text}</p><h1>Short</h1><p>x</p>", date)


def write(folder, records, per_file):
    folder.mkdir()
    for first in range(0, len(records), per_file):
        content = b"".join(records[first : first + per_file])
        (folder / f"{first:03}.warc").write_bytes(content)


def search(folder, num_parts=1):
    """Cut the archives of a folder and mark; returns the search, its sections and the count."""
    files = divided(list_files(str(folder)))
    settings = CorpusSettings(path=str(folder), min_characters=40)
    work = folder.parent / f"{folder.name}-work"
    cut = Cut(str(work / "sections"), str(work / "documents"), settings, None, None)
    found = [cut.cut(number, some) for number, some in enumerate(files)]
    names = [figures["names"] for figures in found]
    captures = Captures(str(work / "steps"), cut.sections, cut.documents, names, num_parts)
    num_older = mark_older_captures(captures, one_by_one)
    return found, tables.read_table(cut.sections), num_older


def older_texts(sections):
    rows = sections.to_pylist()
    return {row["header"] for row in rows if row["outcome"] == OLDER} - {"Short"}


def test_newest_capture_of_a_url_stays(tmp_path):
    records = [
        captured("http://a.example/x", "2024-01-02T00:00:00Z", 0),
        captured("http://a.example/x", "2024-01-01T00:00:00Z", 1),
        captured("HTTP://A.example:80/x#part", "2024-01-02T00:00:00.5Z", 2),
        captured("http://a.example/X", "2023-01-01T00:00:00Z", 3),
        captured("http://b.example", "2024-01-01T00:00:00Z", 4),
        captured("http://b.example/", "2024-01-01T01:30:00+02:00", 5),
        captured("http://c.example/", "", 6),
        captured("http://c.example/", "", 7),
        captured("http://c.example/", "2020-01-01T00:00:00Z", 8),
    ]
    write(tmp_path / "in", records, 2)
    found, sections, num_older = search(tmp_path / "in")
    assert older_texts(sections) == {"0", "1", "5"}
    assert num_older == 3
    outcomes = [row["outcome"] for row in sections.to_pylist()]
    assert outcomes.count(OLDER) == 6  # the short sections of the older captures, too
    assert outcomes.count("kept") == outcomes.count("too_short") == 6
    assert sum(figures["num_captures"] for figures in found) == 7


@pytest.mark.parametrize(("per_file", "num_parts"), [(40, 3), (1, 1), (7, 4)])
def test_older_captures_do_not_depend_on_files_and_parts(tmp_path, per_file, num_parts):
    drawn = random.Random(0)
    records = [
        captured(f"http://a/{drawn.randrange(12)}", f"2024-01-01T00:{n:02}:00Z", n)
        for n in drawn.sample(range(40), 40)
    ]
    write(tmp_path / "one", records, 20)
    write(tmp_path / "other", records, per_file)
    _, sections, num_older = search(tmp_path / "one")
    _, others, num_others = search(tmp_path / "other", num_parts)
    assert older_texts(sections) == older_texts(others)
    assert num_older == num_others == len(older_texts(sections)) == 28


@pytest.mark.parametrize("bytes_per_file", [1, 2**20])
@pytest.mark.parametrize("limit", ["ROWS_PER_GROUP", "CHARACTERS_PER_GROUP"])
def test_older_captures_in_several_files_and_row_groups_go_whole(
    tmp_path, monkeypatch, limit, bytes_per_file
):
    monkeypatch.setattr(f"humpback_ray.corpus.cut_tasks.{limit}", 2)
    monkeypatch.setattr("humpback_ray.corpus.cut_tasks.BYTES_PER_FILE", bytes_per_file)
    records = [captured("http://a/", f"2024-01-0{n + 1}T00:00:00Z", n) for n in range(3)]
    write(tmp_path / "in", records, 3)
    [figures], sections, _ = search(tmp_path / "in")
    assert (len(figures["names"]) > 3) is (bytes_per_file == 1)
    outcomes = [row["outcome"] for row in sections.to_pylist()]
    assert outcomes == [OLDER] * 4 + ["kept", "too_short"]


def test_equally_old_captures_leave_the_first_id(tmp_path):
    records = [captured("http://a/", "2024-01-01T00:00:00Z", number) for number in range(3)]
    write(tmp_path / "in", records, 1)
    _, sections, num_older = search(tmp_path / "in")
    kept = [row for row in sections.to_pylist() if row["outcome"] != OLDER]
    assert num_older == 2
    assert {row["document_id"] for row in kept} == {min(sections["document_id"].to_pylist())}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://User@A.Example:443?q=1#x", "https://User@a.example/?q=1"),
        ("http://a.example:443/", "http://a.example:443/"),
        ("http://[2001:DB8::1]:80/A", "http://[2001:db8::1]/A"),
        ("http://[broken", "http://[broken"),
        ("http://a:port/", "http://a:port/"),
        ("a/file.html", "a/file.html"),
    ],
)
def test_urls_of_one_place_are_equal(url, expected):
    assert same_place(url) == expected


def test_tables_of_documents_are_the_same_whatever_the_tasks(tmp_path, monkeypatch):
    records = [captured(f"http://a/{n}", "2024-01-01T00:00:00Z", n) for n in range(7)]
    write(tmp_path / "in", records, 1)
    monkeypatch.setattr("humpback_ray.corpus.cut_tasks.DOCUMENTS_PER_FILE", 3)
    files, whole = list_files(str(tmp_path / "in")), []
    for name, tasks in (("one", [files]), ("many", [[file] for file in files])):
        settings = CorpusSettings(path="", min_characters=40)
        cut = Cut(*(str(tmp_path / name / part) for part in ("s", "d")), settings, None, None)
        found = [cut.cut(number, some) for number, some in enumerate(tasks)]
        folder = str(tmp_path / name / "documents")
        for number, names in enumerate(gathered(found)):
            cut.gather(number, names, folder)
        whole.append(pa.concat_tables(pa.Table.from_batches([b]) for b in tables.scan(folder)))
    assert len(list((tmp_path / "many/documents").iterdir())) == 3
    assert whole[0] == whole[1]
    assert whole[0].schema == tables.arrow_schema(DocumentFacts)
    assert whole[0]["url"].to_pylist() == [f"http://a/{n}" for n in range(7)]
