"""The segments stage on a Ray cluster: what it keeps, counts and says."""

import gzip
import json
import os
import re

import pyarrow
import pyarrow.parquet
import pytest
from rich.console import Console

from humpback_ray import tables
from humpback_ray.config.contamination import DecontaminationSettings
from humpback_ray.config.placement import Placement
from humpback_ray.config.recipe import load_recipe
from humpback_ray.config.settings import CorpusSettings
from humpback_ray.corpus.files import list_files
from humpback_ray.errors import UserError
from humpback_ray.execution.metrics import Metrics
from humpback_ray.execution.progress import StageProgress
from humpback_ray.execution.sources import corpus_source
from humpback_ray.execution.stage import Context
from humpback_ray.pipeline import stages_of
from humpback_ray.rows import DocumentFacts, DroppedSegment, Segment, SegmentOutcome
from humpback_ray.stages.evaluate import prompts_source
from humpback_ray.stages.segments import Segments, block_list_source
from tests.support.archives import page
from tests.support.duplicates import random_words
from tests.support.hub_datasets import write_dataset

pytestmark = pytest.mark.usefixtures("ray_cluster")

TEXT = "Whales sing long songs. The songs change a little every year, and nobody knows why. "


class InterruptedProgress(StageProgress):
    """Progress of a stage that someone interrupts while texts are carried to their pairs."""

    def update(self, done, total, detail=""):
        if detail == "texts carried":
            raise KeyboardInterrupt
        super().update(done, total, detail)


def run(
    tmp_path, corpus, rows_per_task=None, progress=StageProgress, prompts=None, blocked_file=None,
    **changes,
):  # fmt: skip
    """The stage's result, its kept and its dropped rows, and what it printed."""
    placed = {"corpus": {"rows_per_task": rows_per_task}} if rows_per_task else {}
    path = tuple(map(str, corpus)) if isinstance(corpus, list) else str(corpus)
    settings = CorpusSettings(path=path, min_characters=40, max_characters=400, **changes)
    console = Console(record=True, width=400)
    context = Context(
        str(tmp_path / "run"), "segments", Placement(**placed), progress(console, "segments"),
        Metrics(str(tmp_path / "metrics")),
    )  # fmt: skip
    clean = (
        {"decontamination": DecontaminationSettings(), "prompts": prompts_source(str(prompts))}
        if prompts
        else {}
    )
    stage = Segments(
        path="segments", corpus=corpus_source(path), settings=settings,
        blocked_file=block_list_source(blocked_file), **clean,
    )  # fmt: skip
    result = stage.run(context)
    rows, dropped = (
        tables.read_rows(str(tmp_path / "run/segments" / name), row_type)
        for name, row_type in (("rows", Segment), ("dropped", DroppedSegment))
    )
    return result, rows, dropped, console.export_text()


def archive():
    def record(kind, status, content_type, number):
        block = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\n\r\n".encode()
        block += f"<h1>Page {number}</h1><p>{TEXT} {number * 'Krill is eaten. '}</p>".encode()
        return gzip.compress(
            f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://a/{number}\r\n"
            f"Content-Type: application/http; msgtype={kind}\r\n"
            f"Content-Length: {len(block)}\r\n\r\n".encode()
            + block
            + b"\r\n\r\n"
        )

    return b"".join([
        record("request", 200, "text/html", 0),
        record("response", 200, "Text/HTML", 9),
        record("response", 404, "text/html", 2),
        record("response", 200, "image/png", 3),
        b"damage",
        record("request", 200, "text/html", 0),
        record("response", 200, "TEXT/HTML; charset=utf-8", 0),
    ])  # fmt: skip


def test_segments_of_a_mixed_folder_count_everything_that_is_not_read(tmp_path):
    corpus = tmp_path / "corpus [1]::x"
    corpus.mkdir()
    (corpus / "a.warc.gz").write_bytes(archive())
    (corpus / "b.pdf").write_bytes(b"%PDF")
    (corpus / ".hidden.md").write_text(TEXT)
    (corpus / "empty.jsonl").write_text("\n\n")
    os.symlink("nowhere", corpus / "gone")
    os.symlink(corpus, corpus / "cycle")
    result, rows, dropped, printed = run(tmp_path, corpus)
    assert {row.header for row in rows} == {"Page 0", "Page 9"}
    reasons = {
        "record of type request": 2, "response with status 404": 1, "response of image/png": 1,
        "file without a document in it": 1, "file ending in .pdf": 1, "hidden": 1,
        "link that leads nowhere": 1, "link to a folder that is read under another name": 1,
    }  # fmt: skip
    assert result.figures["not_read"] == reasons
    assert result.outcomes[SegmentOutcome.NOT_READ] == sum(reasons.values())
    assert result.outcomes[SegmentOutcome.UNREADABLE] == 1
    assert result.num_rows == len(rows) + len(dropped) == sum(result.outcomes.values())
    urls = {row.url for row in dropped if row.outcome is SegmentOutcome.NOT_READ}
    assert {"b.pdf", "gone", "cycle", ".hidden.md", "empty.jsonl", "http://a/2"} <= urls
    assert "without a document: 2 x record of type request" in printed


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", b"\n\n", "1 x file without a document in it"),
        ("a.warc.gz", b"", "1 x file without a document in it"),
        ("a.warc", b"WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 0\r\n\r\n\r\n\r\n",
         "1 x record of type warcinfo"),
        ("a.txt", b"short", "1 too_short"),
    ],
)  # fmt: skip
def test_corpus_without_a_document_is_refused_in_one_line(tmp_path, name, content, reason):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(corpus))) as error:
        run(tmp_path, corpus)
    assert reason in str(error.value)
    assert "settings.corpus.path" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_column_that_a_task_finds_is_refused_in_one_line(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"]}), corpus / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet has no column 'text'") as error:
        run(tmp_path, corpus)
    assert "settings.corpus.text_column" in str(error.value)
    assert "\n" not in str(error.value)


def test_sample_of_the_segments_is_drawn_by_the_hashes_of_their_texts(tmp_path):
    (tmp_path / "corpus").mkdir()
    for number in range(6):
        text = f"# Page {number}\n\nWhale {number} weighs {number * 7} tons and eats krill."
        (tmp_path / f"corpus/{number}.md").write_text(text)
    _, whole, _, _ = run(tmp_path / "whole", tmp_path / "corpus")
    result, rows, dropped, _ = run(tmp_path / "sample", tmp_path / "corpus", max_segments=4)
    by_hash = sorted((row.segment_id for row in whole), key=lambda name: name[16:])
    assert len(by_hash) == 6
    assert result.outcomes == {"kept": 4, "surplus": 2}
    assert {row.segment_id for row in rows} == set(by_hash[:4])
    assert {row.outcome for row in dropped} == {SegmentOutcome.SURPLUS}


def pages(seeds):
    """A Markdown file with a page for each seed, and a near-duplicate of every third one."""
    for seed in seeds:
        words = random_words(seed, 40)
        yield f"# Page {seed}\n\n{' '.join(words)}.\n"
        if seed % 3 == 0:
            yield f"# Page {seed}\n\n{' '.join([*words[:-1], 'end'])}.\n"


def test_rows_do_not_depend_on_files_and_tasks(tmp_path):
    texts = list(pages(range(12)))
    for name, size in (("few", 16), ("many", 1)):
        (tmp_path / name).mkdir()
        for first in range(0, len(texts), size):
            (tmp_path / name / f"{first:02}.md").write_text("\n".join(texts[first : first + size]))
    result, rows, dropped, _ = run(tmp_path / "one", tmp_path / "few")
    assert result.outcomes == {"kept": 12, "near_duplicate": 4}
    assert {row.duplicate_of for row in dropped} < {row.segment_id for row in rows}
    assert all(row.jaccard >= 0.8 for row in dropped)
    assert result.figures["largest_cluster"] == 2
    assert set(os.listdir(tmp_path / "one/run/segments")) == {
        "rows", "dropped", "documents",
    }  # fmt: skip
    _, many, _, _ = run(tmp_path / "other", tmp_path / "many", rows_per_task=6)
    assert [row.text for row in many] == [row.text for row in rows]
    assert len(os.listdir(tmp_path / "other/run/segments/rows")) > 1


def test_rows_do_not_depend_on_the_order_of_several_places(tmp_path):
    texts, places = list(pages(range(8))), [tmp_path / name for name in ("one", "two", "three")]
    for number, place in enumerate(places):
        place.mkdir()
        (place / "part.md").write_text("\n".join(texts[number::3]))
    places.append(tmp_path / "three/part.md")
    result, rows, dropped, _ = run(tmp_path / "a", places)
    assert result.figures["num_files"] == 3
    assert result.num_rows == len(texts)
    other, same, dropped_too, _ = run(tmp_path / "b", places[::-1])
    assert (same, dropped_too) == (rows, dropped)
    assert other.figures == result.figures


def test_stage_that_was_killed_does_not_cut_again(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/a.md").write_text("\n".join(pages(range(6))))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, tmp_path / "corpus", progress=InterruptedProgress)
    (tmp_path / "corpus/a.md").write_text("a cut of this would find no segment")
    result, rows, _, _ = run(tmp_path, tmp_path / "corpus")
    assert result.outcomes == {"kept": 6, "near_duplicate": 2}
    assert len(rows) == 6


def test_every_drop_is_counted_and_every_document_has_its_facts(tmp_path):
    question = "Why do whales sing such long songs to each other at night"
    texts = [" ".join(random_words(seed, 30)) for seed in range(5)]
    texts[3] += f". {question}?"
    captures = [
        ("http://a/0", "2024-02-01T00:00:00Z", ""), ("http://a/0", "2024-01-01T00:00:00Z", ""),
        ("http://a/2", "2024-01-01T00:00:00Z", "TDM-Reservation: 1\r\n"),
        ("http://a/3", "2024-01-01T00:00:00Z", ""), ("http://a/4", "2024-01-01T00:00:00Z", ""),
    ]  # fmt: skip
    (tmp_path / "corpus").mkdir()
    for number, (text, (url, date, header)) in enumerate(zip(texts, captures, strict=True)):
        record = page(url, f"<h1>Page {number}</h1><p>{text}</p>", date, header)
        (tmp_path / f"corpus/{number}.warc").write_bytes(record)
    (tmp_path / "prompts.json").write_text(json.dumps([{"instruction": "?"},
                                                       {"instruction": question}]))  # fmt: skip
    result, rows, dropped, _ = run(
        tmp_path, tmp_path / "corpus", prompts=tmp_path / "prompts.json", opt_out="drop"
    )
    assert result.outcomes == {"kept": 2, "older_capture": 1, "opted_out": 1, "contaminated": 1}
    assert {row.header for row in rows} == {"Page 0", "Page 4"}
    [hit] = [row for row in dropped if row.outcome is SegmentOutcome.CONTAMINATED]
    assert (hit.header, hit.prompt_id) == ("Page 3", "prompt-00001")
    assert hit.shared_ngram == "why do whales sing such long songs to"
    documents = tables.read_rows(str(tmp_path / "run/segments/documents"), DocumentFacts)
    of = {row.document_id: row for row in documents}
    assert len(documents) == result.figures["num_documents"] == 5
    assert {of[row.document_id].file for row in rows} == {"0.warc", "4.warc"}
    assert result.figures["num_older_captures"] == 1
    assert result.figures["opt_out"] == {"tdm-reservation": 1}


def write_pages(folder, pages):
    """JSON lines with a page for each pair of a URL and a text."""
    folder.mkdir()
    rows = [{"url": url, "text": f"# Whales\n\n{text}"} for url, text in pages]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"text_format": "markdown", "url_column": "url"}


def test_optional_rules_drop_count_and_keep_rows_beside(tmp_path):
    corpus = tmp_path / "corpus"
    block_list = tmp_path / "blocked.txt"
    block_list.write_text("# shops\nshop.example\n")
    german = "Niemand weiß, warum sich die Lieder der Wale in jedem Jahr ein wenig ändern. "
    columns = write_pages(corpus, [
        ("http://sea.example/1", TEXT + "They live on krill alone."),
        ("http://www.shop.example/2", TEXT + "Buy."),
        ("http://sea.example/forum/3", TEXT + "Hello."),
        ("http://sea.example/4", german * 2),
        ("http://sea.example/5", TEXT + "{} Krill is eaten by whales."),
        ("http://sea.example/6", TEXT + "Ask a@whales.example or b@whales.example or 8.8.8.8."),
    ])  # fmt: skip
    result, rows, dropped, _ = run(
        tmp_path, corpus, blocked_file=str(block_list), blocked=("sea.example/forum",),
        language="en", quality_rules=("c4",), replace_personal_data=True, **columns,
    )  # fmt: skip
    assert [(row.outcome, row.url[-1]) for row in sorted(dropped, key=lambda row: row.url[-1])] == [
        (SegmentOutcome.BLOCKED, "2"),
        (SegmentOutcome.BLOCKED, "3"),
        (SegmentOutcome.OTHER_LANGUAGE, "4"),
        (SegmentOutcome.C4_CURLY_BRACKET, "5"),
    ]
    assert {row.url[-1] for row in rows} == {"1", "6"}
    assert result.outcomes == {
        "kept": 2, "blocked": 2, "other_language": 1, "c4_curly_bracket": 1
    }  # fmt: skip
    assert result.figures["num_replaced"] == {"email": 2, "ip_address": 1}


def test_block_list_that_is_no_list_is_refused_in_one_line(tmp_path):
    block_list = tmp_path / "hosts"
    block_list.write_text("0.0.0.0 shop.example\n")
    columns = write_pages(tmp_path / "corpus", [("http://sea.example", TEXT)])
    with pytest.raises(UserError, match=r"hosts \(settings.corpus.blocked_file\): line 1") as error:
        run(tmp_path, tmp_path / "corpus", blocked_file=str(block_list), **columns)
    assert "\n" not in str(error.value)


def test_content_of_a_block_list_and_not_its_path_is_in_the_identity(tmp_path):
    def identity(name, content):
        (tmp_path / name).write_text(content)
        recipe = load_recipe("tiny", [f"settings.corpus.blocked_file={tmp_path / name}"])
        [stage] = [stage for stage in stages_of(recipe) if isinstance(stage, Segments)]
        assert not stage.problems
        return stage.fingerprint

    assert identity("a", "shop.example\n") == identity("b", "shop.example\n")
    assert identity("a", "shop.example\n") != identity("b", "sea.example\n")


def test_dataset_gives_the_same_segments_from_any_number_of_tasks(tmp_path, monkeypatch):
    content = [{"text": f"{TEXT} {' '.join(random_words(n, 20))}.", "n": n} for n in range(40)]
    location = write_dataset(tmp_path / "set", "parquet", content, num_files=5)
    num_shards = len(list_files(location))
    assert num_shards > 8
    results = []
    for name, at_least in (("few", 2), ("many", num_shards)):
        monkeypatch.setattr("humpback_ray.corpus.cut_tasks.MIN_TASKS", at_least)
        monkeypatch.setattr("humpback_ray.corpus.cut_tasks.BYTES_PER_TASK", 2**40)
        result, rows, dropped, _ = run(tmp_path / name, location)
        assert result.figures["num_files"] == num_shards
        assert result.figures["dataset"] == location
        results.append(sorted((r.document_id, r.start, r.text) for r in [*rows, *dropped]))
    assert results[0] == results[1]
    assert len({document for document, _, _ in results[0]}) == 40


def test_dataset_without_the_column_is_refused_before_anything_is_written(tmp_path):
    location = write_dataset(tmp_path / "set", "parquet", [{"body": TEXT}])
    settings = CorpusSettings(path=location)
    stage = Segments(path="segments", corpus=corpus_source(location), settings=settings)
    with pytest.raises(UserError, match=r"no column 'text' or .*; it has body"):
        stage.check(Placement())
