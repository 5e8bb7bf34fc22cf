"""Files as known corpora publish them, read with no setting but the path."""

import bz2
import gzip
import io
import json
import lzma
import os
import zlib

import pyarrow as pa
import pyarrow.parquet
import pytest

from humpback_ray.config.settings import CorpusSettings
from humpback_ray.corpus import http_bodies, opening
from humpback_ray.corpus.documents import Document
from humpback_ray.corpus.files import list_files
from humpback_ray.corpus.readers import read_documents
from humpback_ray.errors import UserError
from humpback_ray.method.segmenting import Cutting, sections_of_text


def read(folder, name, content, **changes):
    """(URL, content or reason) of every document of one file."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    [file] = list_files(str(path))
    return [
        (d.url, d.content if isinstance(d, Document) else f"{type(d).__name__}: {d.reason}")
        for d in read_documents(file, CorpusSettings(path=str(folder), **changes))
    ]


# --- rows of known corpora ----------------------------------------------------------------------

ROWS = {
    "c4": {"text": "one\ntwo", "timestamp": "2019-04-25T12:57:54Z", "url": "http://c4/"},
    "fineweb": {"text": "fine", "id": "<urn:uuid:1>", "dump": "CC-MAIN-2013-20",
                "url": "http://fineweb/", "file_path": "s3://x", "language": "en",
                "language_score": 0.9, "token_count": 1},
    "dolma": {"id": "1", "text": "dolma", "source": "cc", "added": "2023-04-11",
              "metadata": {"url": "http://dolma/", "length": 5}},
    "clueweb22": {"URL": "https://clueweb22/\n", "URL-hash": "A1", "Language": "en",
                  "ClueWeb22-ID": "clueweb22-en0000-00-00000", "Clean-Text": "clue\nweb"},
    "refinedweb": {"content": "refined", "url": "http://refinedweb/", "dump": "x"},
    "redpajama": {"raw_content": "red", "url": "http://redpajama/", "digest": "sha1:A",
                  "doc_id": "2023-14/0000/en_head.json.gz/0"},
    "oscar": {"content": "oscar", "warc_headers": {"warc-target-uri": "http://oscar/",
                                                   "warc-record-id": "<urn:uuid:2>"}},
}  # fmt: skip
READ = {
    "c4": ("http://c4/", "one\ntwo"), "fineweb": ("http://fineweb/", "fine"),
    "dolma": ("http://dolma/", "dolma"), "clueweb22": ("https://clueweb22/", "clue\nweb"),
    "refinedweb": ("http://refinedweb/", "refined"), "redpajama": ("http://redpajama/", "red"),
    "oscar": ("http://oscar/", "oscar"),
}  # fmt: skip

IDS = {
    "c4": None, "fineweb": "<urn:uuid:1>", "dolma": "1", "refinedweb": None,
    "clueweb22": "clueweb22-en0000-00-00000", "redpajama": "2023-14/0000/en_head.json.gz/0",
    "oscar": "<urn:uuid:2>",
}  # fmt: skip


def zstd(data):
    return pa.compress(data, codec="zstd", asbytes=True)


def parquet(table):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("corpus", ROWS)
@pytest.mark.parametrize(
    ("name", "compress"),
    [("a.jsonl", bytes), ("a.json.gz", gzip.compress), ("a.jsonl.zst", zstd),
     ("a.jsonl.xz", lzma.compress), ("a.jsonl.bz2", bz2.compress)],
)  # fmt: skip
def test_lines_of_known_corpora_are_read_by_the_path_alone(tmp_path, corpus, name, compress):
    line = json.dumps(ROWS[corpus]).encode() + b"\n"
    # ClueWeb22 compresses each row alone, and joined files have several streams too.
    assert read(tmp_path, name, compress(line) + compress(line)) == [READ[corpus]] * 2


@pytest.mark.parametrize("corpus", ROWS)
def test_parquet_of_known_corpora_is_read_by_the_path_alone(tmp_path, corpus):
    data = parquet(pa.Table.from_pylist([ROWS[corpus]] * 2))
    assert read(tmp_path, "a.parquet", data) == [READ[corpus]] * 2


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
@pytest.mark.parametrize("corpus", ROWS)
def test_id_of_a_row_is_kept(tmp_path, corpus, name):
    row = ROWS[corpus]
    data = json.dumps(row).encode() if name == "a.jsonl" else parquet(pa.Table.from_pylist([row]))
    (tmp_path / name).write_bytes(data)
    [document] = read_documents(*list_files(str(tmp_path)), CorpusSettings(path=str(tmp_path)))
    assert document.source_id == IDS[corpus]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(),
     pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)  # fmt: skip
def test_parquet_of_every_type_of_string_is_read(tmp_path, kind):
    texts = pa.array(["héllo", None, "two"])
    is_dictionary = pa.types.is_dictionary(kind)
    texts = texts.dictionary_encode() if is_dictionary else texts.cast(kind)
    data = parquet(pa.table({"text": texts, "url": texts}))
    missing = "Unreadable: row 2 has no string in text or Clean-Text or content or raw_content"
    read_rows = [content for _, content in read(tmp_path, "a.parquet", data)]
    assert read_rows == ["héllo", f"{missing}; it has text, url", "two"]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_nested_columns_are_named_with_dots(tmp_path, name):
    rows = [{"doc": {"body": {"text": "deep"}, "source": "http://deep/"}}, {"doc": None}]
    data = "\n".join(map(json.dumps, rows))
    if name == "a.parquet":
        data = parquet(pa.Table.from_pylist(rows))
    found = read(tmp_path, name, data, text_column="doc.body.text", url_column="doc.source")
    assert found[0] == ("http://deep/", "deep")
    assert found[1][1].startswith("Unreadable: row 2 has no string in doc.body.text; it has doc")


def test_column_whose_name_has_a_dot_is_found(tmp_path):
    row = {"a.text": "dotted", "a": {"text": "nested"}}
    assert read(tmp_path, "a.jsonl", json.dumps(row), text_column="a.text")[0][1] == "dotted"
    data = parquet(pa.table({"a.text": ["dotted"]}))
    assert read(tmp_path, "a.parquet", data, text_column="a.text")[0][1] == "dotted"


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"meta": {"page.text": "x", "page": {"text": "other"}}}, "meta.page.text"),
        ({"meta": {"page": {"text.v1": "x"}}}, "meta.page.text.v1"),
        ({"meta": {"page": 1, "page.text": "x"}}, "meta.page.text"),
    ],
)
def test_nested_column_whose_name_has_a_dot_is_found(tmp_path, name, row, column):
    data = parquet(pa.Table.from_pylist([row])) if name == "a.parquet" else json.dumps(row)
    assert read(tmp_path, name, data, text_column=column) == [(name, "x")]


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_nested_column_of_every_type_of_string_is_read(tmp_path, kind):
    texts = pa.array(["one", "two"])
    is_dictionary = pa.types.is_dictionary(kind)
    texts = texts.dictionary_encode() if is_dictionary else texts.cast(kind)
    data = parquet(pa.table({"doc": pa.StructArray.from_arrays([texts], ["text"])}))
    found = read(tmp_path, "a.parquet", data, text_column="doc.text")
    assert [content for _, content in found] == ["one", "two"]


def test_first_of_two_columns_with_one_name_is_read(tmp_path):
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"])
    assert read(tmp_path, "a.parquet", parquet(table)) == [("a.parquet", "x")]


@pytest.mark.parametrize(
    "changes", [{}, {"text_column": "body"}, {"text_column": "meta.x", "url_column": "u"}]
)
def test_columns_that_are_not_there_name_those_that_are(tmp_path, changes):
    row = {"id": 1, "meta": {"words": "x", "link": "y"}}
    with pytest.raises(UserError, match=r"it has id, meta\.words, meta\.link: set settings"):
        read(tmp_path, "a.parquet", parquet(pa.Table.from_pylist([row])), **changes)
    [(_, reason)] = read(tmp_path, "a.jsonl", json.dumps(row), **changes)
    assert reason.endswith("; it has id, meta.words, meta.link")


def test_columns_in_a_message_are_few(tmp_path):
    row = {f"column{number}": 1 for number in range(1000)}
    [(_, reason)] = read(tmp_path, "a.jsonl", json.dumps(row))
    assert len(reason) < 400
    assert reason.endswith("and 980 more")


def test_url_column_that_is_named_must_be_there(tmp_path):
    with pytest.raises(UserError, match=r"no column 'link'; it has text, url: set settings"):
        read(tmp_path, "a.parquet", parquet(pa.table({"text": ["x"], "url": ["y"]})),
             url_column="link")  # fmt: skip


def test_binary_column_of_pages_is_decoded(tmp_path):
    pages = [b"<meta charset=koi8-r><p>" + "Привет".encode("koi8-r"), bytes(range(256)) * 9]
    data = parquet(pa.table({"content": pa.array(pages, pa.binary())}))
    (_, page), (_, reason) = read(tmp_path, "a.parquet", data, text_format="html")
    assert page.endswith("Привет")
    assert reason.startswith("Unreadable: row 2 is undecodable")


# --- archives -----------------------------------------------------------------------------------


def clueweb09(url, page):
    """A record as ClueWeb09 has it: an old version, bare line feeds, a date that is none."""
    block = b"HTTP/1.1 200 OK\nContent-Type: text/html\nConnection: close\n\n" + page
    header = (
        f"WARC/0.18\nWARC-Type: response\nWARC-Target-URI: {url}\nWARC-Warcinfo-ID: 993d3969\n"
        "WARC-Date: 2009-03-65T08:43:19-0800\nWARC-Record-ID: <urn:uuid:67f7cabd>\n"
        "WARC-TREC-ID: clueweb09-en0000-00-00000\nContent-Type: application/http;msgtype=response\n"
        f"WARC-Identified-Payload-Type: \nContent-Length: {len(block)}\n\n"
    )
    return header.encode() + block + b"\n\n"


def warc(kind, url, block, content_type="application/http; msgtype=response"):
    return (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(block)}\r\n\r\n"
    ).encode() + block + b"\r\n\r\n"  # fmt: skip


def response(body, *headers, content_type="text/html", url="http://page/"):
    lines = ["HTTP/1.1 200 OK", f"Content-Type: {content_type}", *headers, "", ""]
    return warc("response", url, "\r\n".join(lines).encode() + body)


def test_names_of_a_header_are_read_in_any_case(tmp_path):
    head, _, block = response("<p>é".encode()).partition(b"\r\n\r\n")
    header = head.lower().replace(b"warc/1.0", b"WARC/1.0") + b"\r\n\r\n"
    assert read(tmp_path, "a.warc", header + block) == [("http://page/", "<p>é")]


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_clueweb09_is_read(tmp_path, compress):
    name = "00.warc" if compress is bytes else "00.warc.gz"
    info = "software: Nutch 1.0-dev (modified for clueweb09)\nisPartOf: clueweb09-en\n"
    header = "WARC/0.18\nWARC-Type: warcinfo\nContent-Type: application/warc-fields\n"
    parts = [
        f"{header}Content-Length: {len(info)}\n\n{info}\n\n".encode(),
        *(clueweb09(f"http://{number}/", b"<p>page %d" % number) for number in range(3)),
    ]
    found = read(tmp_path, name, b"".join(map(compress, parts)))
    assert found == [
        (name, "NotRead: record of type warcinfo"), ("http://0/", "<p>page 0"),
        ("http://1/", "<p>page 1"), ("http://2/", "<p>page 2"),
    ]  # fmt: skip


def test_damaged_record_of_clueweb09_costs_itself(tmp_path):
    parts = [clueweb09(f"http://{number}/", b"<p>page %d" % number) for number in range(3)]
    parts[1] = parts[1].replace(b"Content-Length: 6", b"Content-Length: 9")
    found = read(tmp_path, "00.warc", b"".join(parts))
    assert [url for url, _ in found] == ["http://0/", "00.warc", "http://2/"]
    assert found[1][1].startswith("Unreadable: the archive is damaged")


def test_revisits_are_counted_and_texts_are_read(tmp_path):
    data = (
        warc("revisit", "http://again/", b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
        + warc("conversion", "http://text/", "zwei\nZeilen – ja".encode(), "text/plain")
        + warc("response", "<http://wget/>", b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\nx")
    )
    assert read(tmp_path, "CC-MAIN.warc.wet.gz", gzip.compress(data)) == [
        ("http://again/", "NotRead: record of type revisit"),
        ("http://text/", "zwei\nZeilen – ja"),
        ("http://wget/", "x"),
    ]


PAGE = b"<p>" + b"page " * 200 + b"end"
EMPTY_MEMBER = gzip.compress(b"")


def raw_deflate(data):
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (gzip.compress(PAGE), ["Content-Encoding: GZIP"]),
        (gzip.compress(PAGE) + b"more", ["Content-Encoding: x-gzip"]),
        (gzip.compress(gzip.compress(PAGE)), ["Content-Encoding: gzip, gzip"]),
        (gzip.compress(PAGE[:400]) + gzip.compress(PAGE[400:]), ["Content-Encoding: gzip"]),
        (  # each byte a member, one without content among them, then what begins none
            b"".join(gzip.compress(bytes([byte])) for byte in PAGE) + EMPTY_MEMBER + b"\x1f\x8b",
            ["Content-Encoding: gzip"],
        ),
        # Cut in the second member's checksum, and in the third one's header.
        (gzip.compress(PAGE[:400]) + gzip.compress(PAGE[400:])[:-6], ["Content-Encoding: gzip"]),
        (gzip.compress(PAGE) + EMPTY_MEMBER + EMPTY_MEMBER[:5], ["Content-Encoding: gzip"]),
        (zlib.compress(PAGE) + zlib.compress(b"more"), ["Content-Encoding: deflate"]),
        (zlib.compress(PAGE), ["Content-Encoding: deflate"]),
        (raw_deflate(PAGE), ["Content-Encoding: deflate"]),
        (zstd(PAGE), ["Content-Encoding: zstd"]),
        (b"3ee\r\n" + PAGE + b"\r\n0\r\n\r\n", ["Transfer-Encoding: chunked"]),
        (
            b'3EE ; name="x"\r\n' + PAGE + b"\r\n00;last\r\nExpires: never\r\n\r\n",
            ["Transfer-Encoding: Chunked"],
        ),
        # Cut behind the page: by the crawler's limit, or in the next chunk's size.
        (b"4EE\r\n" + PAGE, ["Transfer-Encoding: chunked"]),
        (b"3ee\r\n" + PAGE + b"\r\n1f", ["Transfer-Encoding: chunked"]),
        (b"3ee\r\n" + PAGE, ["Transfer-Encoding: chunked"]),
        # Headers that stayed although the archive's writer has decoded the body.
        (PAGE, ["Content-Encoding: gzip", "Transfer-Encoding: chunked"]),
        (b"\xef\xbb\xbf\r\n" + PAGE, ["Content-Encoding: br"]),
        (PAGE, ["Content-Encoding: utf-8"]),
        (PAGE, ["Content-Encoding: none"]),
        (PAGE, ["X-Crawl-Content-Encoding: gzip", "X-Crawl-Transfer-Encoding: chunked"]),
    ],
    ids=range(21),
)
def test_bodies_are_read_in_the_encoding_that_they_have(tmp_path, body, headers):
    [(_, content)] = read(tmp_path, "a.warc", response(body, *headers))
    assert content.strip() == PAGE.decode()


@pytest.mark.parametrize(
    ("body", "header", "reason"),
    [
        (b"no gzip", "Content-Encoding: gzip", "header"),
        (b"no text", "Content-Encoding: compress", "content encoding 'compress'"),
        (b"x", "Content-Encoding: gzip,gzip,gzip,gzip", "4 content encodings"),
        (b"zz\r\nno chunk", "Transfer-Encoding: chunked", "a chunk has no size"),
        (b"3\r\nabcde\r\n0\r\n\r\n", "Transfer-Encoding: chunked", "a chunk does not end"),
        (gzip.compress(bytes(2 * http_bodies.MAX_PAGE)), "Content-Encoding: gzip", "decodes to"),
        (gzip.compress(PAGE) + EMPTY_MEMBER[:3] + b"\xff" * 9, "Content-Encoding: gzip", "header"),
        (EMPTY_MEMBER + gzip.compress(PAGE)[:-8] + bytes(8), "Content-Encoding: gzip", "data"),
        (gzip.compress(bytes(2**20)) * 17, "Content-Encoding: gzip", "decodes to"),
        (EMPTY_MEMBER * 2**20, "Content-Encoding: gzip", "20,971,520 bytes before it is decoded"),
        (b"<" + bytes(http_bodies.MAX_PAGE), "X: y", "a page of 16,777,217 bytes"),
    ],
    ids=range(11),
)  # fmt: skip
def test_broken_bodies_cost_their_records(tmp_path, body, header, reason):
    pages = response(body, header) + response(b"<p>next", url="http://next/")
    first, second = read(tmp_path, "a.warc", pages)
    assert first[0] == "http://page/"
    assert first[1].startswith("Unreadable: undecodable record")
    assert reason in first[1]
    assert second == ("http://next/", "<p>next")


# --- characters ---------------------------------------------------------------------------------

RUSSIAN = "<p>Широкая электрификация южных губерний даст мощный толчок подъёму"


@pytest.mark.parametrize(
    ("encoding", "declared", "in_page"),
    [
        ("utf-8", None, None),
        ("utf-8", "iso-8859-1", "koi8-r"),  # what many servers declare for every page
        ("utf-8-sig", "windows-1251", "koi8-r"),
        ("utf-16", "windows-1251", "koi8-r"),
        ("windows-1251", "windows-1251", "koi8-r"),
        ("windows-1251", "Windows-1251", None),
        ("windows-1251", "utf-8", "windows-1251"),
        ("koi8-r", None, "koi8-r"),
        ("koi8-r", "no such charset", "koi8-r"),
        ("koi8-r", None, None),
        ("utf-16-le", None, None),
        ("utf-16-be", None, "utf-8"),
        ("utf-16-le", "utf-16le", None),
    ],
)
def test_charset_is_that_of_mark_header_page_or_bytes(tmp_path, encoding, declared, in_page):
    page = f'<meta http-equiv="Content-Type" content="text/html; charset={in_page}">\n{RUSSIAN}'
    data = (page if in_page else RUSSIAN + " " * 200 + RUSSIAN).encode(encoding)
    content_type = f"text/html; charset={declared}" if declared else "text/html"
    [(_, content)] = read(tmp_path, "a.warc", response(data, content_type=content_type))
    assert content.endswith(RUSSIAN)


def test_page_in_japanese_escape_sequences_is_decoded_as_declared(tmp_path):
    page = "<meta charset=iso-2022-jp><p>日本語".encode("iso-2022-jp")
    assert read(tmp_path, "a.html", page)[0][1].endswith("日本語")


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html"])
def test_binary_data_under_the_name_of_a_text_is_undecodable(tmp_path, name):
    [(_, reason)] = read(tmp_path, name, bytes(range(256)) * 20)
    assert reason.startswith("Unreadable: undecodable")


def test_text_with_a_few_wrong_bytes_keeps_its_encoding(tmp_path):
    data = "Größe, Maß, Fuß, Öl. ".encode() * 20 + b"\xff\xfe"
    [(_, content)] = read(tmp_path, "a.txt", data)
    assert content.startswith("Größe")
    assert content.endswith("\ufffd\ufffd")


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".xz", ".bz2"])
def test_single_documents_are_read_compressed_too(tmp_path, suffix):
    compress = {".gz": gzip.compress, ".zst": zstd, ".xz": lzma.compress, ".bz2": bz2.compress}
    data = compress.get(suffix, bytes)("<p>café".encode())
    for kind in (".html", ".xhtml", ".md", ".txt"):
        assert read(tmp_path, f"a{kind}{suffix}", data) == [(f"a{kind}{suffix}", "<p>café")]


XHTML = "<html><head><title/></head><body><script src='x'/><h1>Łódź</h1></body></html>"
AS_HTML = XHTML.replace("<title/>", "<title></title>").replace("'x'/>", "'x'></script>")
XML = '<?xml version="1.0" encoding="iso-8859-2"?>'


def test_xhtml_is_read_as_html_where_it_is_known_for_it(tmp_path):
    for name in ("a.xhtml", "a.xhtml.gz"):
        data = XHTML.encode()
        data = gzip.compress(data) if name.endswith(".gz") else data
        assert read(tmp_path, name, data) == [(name, AS_HTML)]
    for name in ("a.html", "a.xhtml"):
        data = (XML + XHTML).encode("iso-8859-2")
        assert read(tmp_path, name, data) == [(name, XML + AS_HTML)]
    assert read(tmp_path, "a.html", XHTML.encode()) == [("a.html", XHTML)]
    kinds = {"application/xhtml+xml": AS_HTML, "Application/XHTML+XML; charset=utf-8": AS_HTML,
             "text/html": XHTML}  # fmt: skip
    for kind, expected in kinds.items():
        page = response(XHTML.encode(), content_type=kind)
        assert read(tmp_path, "a.warc", page) == [("http://page/", expected)]
    for rows in ([XML + XHTML], [(XML + XHTML).encode("iso-8859-2")]):
        found = read(tmp_path, "a.parquet", parquet(pa.table({"text": rows})), text_format="html")
        assert found == [("a.parquet", XML + AS_HTML)]


# --- damage and size ----------------------------------------------------------------------------


def test_damaged_gzip_member_costs_its_rows(tmp_path):
    pairs = [b'{"text": "%d"}\n{"text": "x"}\n' % number for number in range(5)]
    members = list(map(gzip.compress, pairs))
    whole = [content for _, content in read(tmp_path, "a.jsonl.gz", b"".join(members))]
    assert whole == ["0", "x", "1", "x", "2", "x", "3", "x", "4", "x"]
    for broken in (members[2][:-15], members[2][:14] + b"\xff" * 9 + members[2][23:]):
        data = b"".join([*members[:2], broken, *members[3:]])
        found = [content for _, content in read(tmp_path, "a.jsonl.gz", data)]
        assert found[:4] == whole[:4]
        assert found[-4:] == whole[-4:]
        assert [text for text in found if "damaged" in text]


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".zst", zstd), (".xz", lzma.compress), (".bz2", bz2.compress)]
)
@pytest.mark.parametrize("kind", [".jsonl", ".warc"])
def test_damaged_stream_of_a_file_costs_nothing_before_it_and_is_told(
    tmp_path, suffix, compress, kind
):
    def rows(numbers):
        if kind == ".warc":
            return b"".join(response(b"<p>%d" % n, url=f"http://{n}/") for n in numbers)
        return b"".join(b'{"text": "<p>%d"}\n' % n for n in numbers)

    streams = [compress(rows(range(first, first + 50))) for first in range(0, 200, 50)]
    whole = [content for _, content in read(tmp_path, f"a{kind}{suffix}", b"".join(streams))]
    assert whole == [f"<p>{n}" for n in range(200)]
    zeros = bytes(8) if suffix != ".zst" else b""
    filled = read(tmp_path, f"a{kind}{suffix}", zeros.join([*streams, b""]))
    assert [content for _, content in filled] == whole
    broken = {
        "header": b"XX" + streams[2][2:], "no stream": b"something else", "cut": streams[2][:-9],
    }  # fmt: skip
    for name, stream in broken.items():
        end = [] if name == "cut" else streams[3:]
        data = b"".join([*streams[:2], stream, *end])
        *found, reason = [content for _, content in read(tmp_path, f"a{kind}{suffix}", data)]
        assert found[:100] == whole[:100]
        assert not set(found[100:]) - set(whole[100:150])
        assert reason.startswith("Unreadable: the ")


def test_cut_stream_gives_every_whole_row_before_the_cut(tmp_path):
    texts = [os.urandom(200).hex() for _ in range(300)]
    data = lzma.compress(b"".join(b'{"text": "%s"}\n' % text.encode() for text in texts))
    cut = data[: len(data) - 100]  # half a row and the end of the stream
    *found, reason = [content for _, content in read(tmp_path, "a.jsonl.xz", cut)]
    assert reason.startswith("Unreadable: the rest of the file is damaged")
    assert found == texts[:299]


def test_row_above_the_limit_of_a_line_costs_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "MAX_LINE", 1000)
    monkeypatch.setattr("humpback_ray.corpus.json_values.MAX_LINE", 1000)
    lines = [json.dumps({"text": text}) for text in ("a", "b" * 300_000, "c")]
    found = [content for _, content in read(tmp_path, "a.jsonl", "\n".join(lines))]
    assert found == ["a", "Unreadable: line 2 has more than 1,000 bytes", "c"]


def test_array_above_the_limit_gives_the_rows_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr("humpback_ray.corpus.json_values.MAX_WHOLE", 1000)
    rows = "[" + ",\n".join(json.dumps({"text": str(number)}) for number in range(100)) + "]"
    found = [content for _, content in read(tmp_path, "a.json", rows)]
    assert len(found) > 40
    assert found[-1].endswith("write one row a line")


def test_file_above_the_limit_of_a_document_is_unreadable(tmp_path, monkeypatch):
    monkeypatch.setattr("humpback_ray.corpus.readers.MAX_FILE", 1000)
    [(_, reason)] = read(tmp_path, "a.txt.gz", gzip.compress(bytes(10_000)))
    assert reason == "Unreadable: it has more than 1,000 bytes, too many for one document"


def test_long_line_is_read_in_linear_time(tmp_path):
    text = "x" * 2**25
    assert read(tmp_path, "a.jsonl", json.dumps({"text": text}))[0][1] == text


# --- paragraphs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", ["\n", "\n\n", "\r\n", "\r\n \t\r\n"])
def test_paragraphs_by_blank_lines_or_line_breaks_fill_segments(gap):
    paragraphs = [f"Paragraph {number} " + "word " * 19 for number in range(50)]
    sections = list(sections_of_text(gap.join(paragraphs), Cutting(600)))
    assert [line for s in sections for line in s.text.split("\n") if line] == [
        paragraph.strip() if number % 5 == 4 else paragraph
        for number, paragraph in enumerate(paragraphs)
    ]
    assert all(450 < len(section.text) <= 600 for section in sections[:-1])
