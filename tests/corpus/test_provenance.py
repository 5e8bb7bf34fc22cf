"""Facts about documents: their records, their licences, their opt-outs."""

import gzip
import json
import lzma

import pytest

from humpback_ray.config.settings import CorpusSettings
from humpback_ray.corpus.cut import rows_of
from humpback_ray.corpus.cut_tasks import Cut
from humpback_ray.corpus.files import list_files
from humpback_ray.corpus.provenance import opt_outs, utc_time
from humpback_ray.report.look import select_rows
from humpback_ray.rows import DocumentFacts, SegmentOutcome
from tests.support.archives import page

BY_SA = '<link rel="license" href="https://creativecommons.org/licenses/by-sa/4.0/">'
BY_ND = '<a href="//creativecommons.org/licenses/BY-nd/2.0/deed.de">the picture</a>'
ZERO = "<a href='http://creativecommons.org/publicdomain/zero/1.0/'>CC0</a>"
RESERVED = '<META NAME="TDM-Reservation" CONTENT="1">'


def rows(folder, files, **changes):
    for name, data in files.items():
        (folder / name).write_bytes(data)
    settings = CorpusSettings(path=str(folder), **changes)
    return [row for file in list_files(str(folder)) for row in rows_of(file, settings)]


def facts(folder, files, **changes):
    return [row for row in rows(folder, files, **changes) if isinstance(row, DocumentFacts)]


@pytest.mark.parametrize(
    ("html", "licence", "opt_out"),
    [
        ("<p>plain</p>", None, None),
        (BY_SA + BY_ND, "by-sa/4.0", None),  # the one that speaks of the page
        (BY_ND + ZERO, "by-nd/2.0, zero/1.0", None),
        ("creativecommons.org/licenses/by/4.0/ in words", None, None),
        ('<meta name="Robots" content="NoIndex,NoAI, noimageai">', None, "noai, noimageai"),
        ('<meta name="robots" content="noindex, noaim">', None, None),
        ('<meta name="description" content="noai">', None, None),
        ('<meta name="GPTBot" content="noai">', None, "noai"),
        ('<meta http-equiv="X-Robots-Tag" content="noindex, noimageai">', None, "noimageai"),
        ('<a href="https://notcreativecommons.org/licenses/by/4.0/">', None, None),
        ('<a href="/share?u=creativecommons.org/licenses/by/4.0/">', None, None),
        ('<a href="https://www.creativecommons.org/licenses/by/4.0/">', "by/4.0", None),
        (RESERVED + BY_SA, "by-sa/4.0", "tdm-reservation"),
        (RESERVED.replace("1", "0"), None, None),
    ],
)
def test_page_states_its_licence_and_its_opt_outs(tmp_path, html, licence, opt_out):
    [found] = facts(tmp_path, {"a.html": html.encode()})
    assert (found.licence, found.opt_out) == (licence, opt_out)
    assert (found.file, found.index, found.offset, found.captured_at) == ("a.html", 0, None, None)


@pytest.mark.parametrize(
    ("name", "text", "licence"),
    [
        ("a.md", "# A\n\n[CC](https://creativecommons.org/licenses/by-sa/4.0/)", "by-sa/4.0"),
        ("a.md", "<http://creativecommons.org/publicdomain/zero/1.0/>", "zero/1.0"),
        ("a.rst", "`CC <https://creativecommons.org/licenses/by/4.0/>`_", "by/4.0"),
        ("a.md", "by creativecommons.org/licenses/by/4.0/ in words", None),
        ("a.txt", "https://creativecommons.org/licenses/by/4.0/", None),
    ],
)
def test_links_in_markup_state_a_licence(tmp_path, name, text, licence):
    assert [found.licence for found in facts(tmp_path, {name: text.encode()})] == [licence]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("X-Robots-Tag", "noai", {"noai"}),
        ("x-robots-tag", "somebot: noai, noimageai", {"noai", "noimageai"}),
        ("X-Robots-Tag", "noindex", set()),
        ("TDM-Reservation", " 1 ", {"tdm-reservation"}),
        ("tdm-reservation", "0", set()),
        ("tdm-policy", "1", set()),
    ],
)
def test_http_header_opts_out(name, value, expected):
    assert opt_outs(name, value) == expected


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("2024-05-01T12:00:00Z", "2024-05-01T12:00:00Z"),
        ("2024-05-01T12:00:00.25Z", "2024-05-01T12:00:00.250000Z"),
        ("2024-05-01T14:00:00+02:00", "2024-05-01T12:00:00Z"),
        ("2024-05-01T12:00:00", "2024-05-01T12:00:00Z"),
        ("0001-01-01T00:00:00+23:00", None),
        ("yesterday", None),
        (None, None),
    ],
)
def test_time_of_a_record_is_in_utc(stated, expected):
    assert utc_time(stated) == expected


def test_record_states_date_status_truncation_and_opt_out(tmp_path):
    record = page(
        "https://A.example/x#y", "<p>text</p>" + RESERVED, date="2024-05-01T12:00:00Z",
        headers="X-Robots-Tag: noai\r\nX-Robots-Tag: noimageai\r\n", truncated="length",
    )  # fmt: skip
    [found] = facts(tmp_path, {"a.warc": record})
    assert found.url == "https://A.example/x#y"
    assert (found.captured_at, found.http_status) == ("2024-05-01T12:00:00Z", 200)
    assert (found.truncated, found.opt_out) == ("length", "noai, noimageai, tdm-reservation")


def test_offset_leads_to_the_record(tmp_path):
    records = [page(f"http://a/{n}", "<p>text</p>" * 2000 * n) for n in range(4)]
    members = [gzip.compress(record) for record in records]
    damaged = b"".join([*members[:2], b"damage" * 9, *members[2:]])
    found = facts(tmp_path, {
        "damaged.warc.gz": damaged, "good.warc.gz": b"".join(members),
        "one.warc.xz": lzma.compress(b"".join(records)),
        "plain.warc": b"\r\n" + b"".join(records),
        "single.warc.gz": gzip.compress(b"".join(records)),
    })  # fmt: skip
    assert len(found) == 5 * len(records)
    for row in found:
        data = (tmp_path / row.file).read_bytes()
        if row.file == "one.warc.xz":
            assert row.offset is None
        elif row.file == "single.warc.gz":
            assert row.offset == 0
        else:
            at = data[row.offset :]
            text = at if row.file == "plain.warc" else gzip.decompress(at.partition(b"damage")[0])
            assert text.startswith(b"WARC/1.0")
            assert text.split(b"WARC-Target-URI: ")[1].startswith(row.url.encode() + b"\r\n")


def test_facts_name_the_row_of_a_file(tmp_path):
    found = facts(tmp_path, {"a.jsonl": b'{"text": "one"}\n{}\n{"text": "two"}\n'})
    assert [(row.file, row.index) for row in found] == [("a.jsonl", 0), ("a.jsonl", 2)]


@pytest.mark.parametrize(
    ("headers", "source_id"),
    [
        ("", None),
        ("WARC-Record-ID: <urn:uuid:1>\r\n", "<urn:uuid:1>"),
        ("warc-record-id: <urn:uuid:1>\r\nWARC-TREC-ID: clueweb12-1\r\n", "clueweb12-1"),
    ],
)
def test_record_has_the_id_of_its_archive(tmp_path, headers, source_id):
    response = page("http://a/", "<p>text</p>")
    conversion = response.replace(b"response", b"conversion", 1)
    conversion = conversion.replace(b"application/http; msgtype=response", b"text/plain")
    files = {"a.warc": response, "b.wet": conversion}
    files = {
        name: data.replace(b"WARC-Target", headers.encode() + b"WARC-Target", 1)
        for name, data in files.items()
    }
    assert [row.source_id for row in facts(tmp_path, files)] == [source_id] * 2


@pytest.mark.parametrize(
    ("stated", "source_id"),
    [
        ('" a1\\n"', "a1"), ("12", "12"), ("0", "0"), ('"a\\u0000"', "a\ufffd"),
        ("null", None), ('" "', None), ('["a"]', None), ('"' + "x" * 2000 + '"', "x" * 1024),
    ],
    ids=range(8),
)  # fmt: skip
def test_id_of_a_row_is_stored_as_text(tmp_path, stated, source_id):
    [found] = facts(tmp_path, {"a.jsonl": f'{{"text": "one", "id": {stated}}}\n'.encode()})
    assert found.source_id == source_id


def test_documents_are_looked_up_by_the_ids_of_their_corpus(tmp_path):
    names = [f"clueweb22-en0000-00-{number:05}" for number in range(3)]
    lines = [json.dumps({"ClueWeb22-ID": name, "Clean-Text": "whales sing"}) for name in names]
    (tmp_path / "corpus.json").write_text("\n".join(lines))
    settings = CorpusSettings(path=str(tmp_path / "corpus.json"))
    folders = str(tmp_path / "sections"), str(tmp_path / "documents")
    Cut(*folders, settings, None, None).cut(0, list_files(settings.path))
    shown = select_rows(folders[1], 9, [f"source_id={names[1]}"])
    [(of_facts, fields)] = [(row.title, dict(row.fields)) for row in shown.rows]
    assert (fields["source_id"], fields["index"]) == (names[1], "1")
    assert select_rows(folders[0], 9, [f"document_id={of_facts}"]).num_matching == 1


def test_pages_that_opt_out_stay_or_go(tmp_path):
    html = f"{RESERVED}<h1>Short</h1><p>text</p><h1>Long</h1><p>{'whales sing ' * 90}</p>"
    kept = rows(tmp_path, {"a.html": html.encode()})[1:]
    assert SegmentOutcome.OPTED_OUT not in {row.outcome for row in kept}
    dropped = rows(tmp_path, {}, opt_out="drop")
    assert dropped[0].opt_out == "tdm-reservation"
    assert [row.outcome for row in dropped[1:]] == [SegmentOutcome.OPTED_OUT] * len(kept)
