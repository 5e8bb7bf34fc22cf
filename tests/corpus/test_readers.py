"""Files to documents to segment rows."""

import base64
import bz2
import gzip
import hashlib
import importlib.metadata
import io
import json
import lzma
import os
import random
from collections import Counter

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from fastwarc.stream_io import BrotliWriter

from humpback_ray.config.settings import CorpusSettings
from humpback_ray.corpus.cut import segment_without_text, segments_of
from humpback_ray.corpus.documents import CorpusFile, Document, NotRead, Unreadable
from humpback_ray.corpus.files import content_identity, list_corpus, list_files
from humpback_ray.corpus.readers import read_documents
from humpback_ray.method.blocking import BlockList
from humpback_ray.rows import SegmentOutcome

WHALES = "Whales sing long songs. The songs change a little every year, and nobody knows why. "
WALE = "Die Wale singen lange Lieder, und niemand weiß, warum sich die Lieder jedes Jahr ändern. "
TEXT_COLUMNS = "text or Clean-Text or content or raw_content"
PAGE = f"<html><body><h1>Whales</h1><p>{WHALES}</p></body></html>"


def settings(path, **changes):
    return CorpusSettings(path=str(path), min_characters=40, max_characters=400, **changes)


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def documents_of(folder, name, content, **changes):
    """The documents of one file that holds `content`."""
    [file] = list_files(str(write(folder, {name: content}) / name))
    return list(read_documents(file, settings(folder, **changes)))


def contents(documents):
    return [d.content if isinstance(d, Document) else type(d) for d in documents]


# --- finding files ------------------------------------------------------------------------------

TREE = {
    "b.html": PAGE,
    "a/c.MD": "# x",
    "a/d/e.warc.gz": b"",
    "a/f.pdf": "no",
    "z.txt": "text",
    ".hidden.md": "no",
    ".git/g.md": "no",
    "README": "no",
}


def names(files):
    return [file.name for file in files]


def test_folder_is_listed_recursively(tmp_path):
    files = list_files(str(write(tmp_path, TREE)))
    assert names(files) == ["a/c.MD", "a/d/e.warc.gz", "b.html", "z.txt"]
    assert [file.size for file in files] == [3, 0, len(PAGE), 4]
    assert all(os.path.isfile(file.path) for file in files)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", ["a/c.MD", "a/d/e.warc.gz", "b.html", "z.txt"]),
        ("b.html", ["b.html"]),
        ("*.html", ["b.html"]),
        ("a*", ["a/c.MD", "a/d/e.warc.gz"]),
        ("a/*", ["c.MD", "d/e.warc.gz"]),
        ("**/*.MD", ["a/c.MD"]),
    ],
)
def test_folder_glob_and_file_list_the_same_local_and_remote(tmp_path, pattern, expected):
    write(tmp_path, TREE)
    memory = fsspec.filesystem("memory")
    memory.put(f"{tmp_path}/", "/listing/", recursive=True)
    local = list_files(f"{tmp_path}/{pattern}")
    remote = list_files(f"memory://listing/{pattern}")
    assert names(local) == names(remote) == expected
    assert content_identity(local) == content_identity(remote)
    document = next(iter(read_documents(remote[0], settings("memory://listing"))))
    assert document == next(iter(read_documents(local[0], settings(tmp_path))))


def test_file_name_with_glob_characters_is_no_glob(tmp_path):
    write(tmp_path, {"a[1].md": "x", "b/c.md": "y"})
    assert names(list_files(f"{tmp_path}/a[1].md")) == ["a[1].md"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing", "nothing at"),
        ("*.nothing", "nothing at"),
        ("only", "2 other files"),
        ("nowhere://x", "Protocol not known"),
    ],
)
def test_path_with_nothing_to_read_is_refused_in_one_line(tmp_path, path, words):
    write(tmp_path, {"only/a.pdf": "x", "only/b.docx": "y"})
    place = path if "://" in path else f"{tmp_path}/{path}"
    with pytest.raises(ValueError, match=words) as error:
        list_files(place)
    assert "\n" not in str(error.value)
    assert place in str(error.value)


def test_suffixes_of_the_caller_choose_the_files(tmp_path):
    files = list_files(str(write(tmp_path, TREE)), suffixes=("",))
    assert names(files) == ["README", "a/c.MD", "a/d/e.warc.gz", "a/f.pdf", "b.html", "z.txt"]


# --- identity -----------------------------------------------------------------------------------


def test_content_identity_depends_on_names_and_contents_alone(tmp_path):
    first = list_files(str(write(tmp_path / "one", TREE)))
    second = list_files(str(write(tmp_path / "elsewhere", dict(reversed(TREE.items())))))
    assert content_identity(first) == content_identity(second) == content_identity(first[::-1])
    identities = {content_identity(first)}
    for changed in ({"z.txt": "Text"}, {"z.txt": "texts"}, {"new.txt": ""}, {"z.txt": ""}):
        identities.add(content_identity(list_files(str(write(tmp_path / "one", changed)))))
    os.rename(tmp_path / "one/z.txt", tmp_path / "one/y.txt")
    identities.add(content_identity(list_files(str(tmp_path / "one"))))
    assert len(identities) == 6


@pytest.mark.parametrize("offset", [0, 3 * 2**20, 6 * 2**20 - 1])
def test_identity_of_large_files_sees_start_middle_and_end(tmp_path, offset):
    data = bytearray(6 * 2**20)
    before = list_files(str(write(tmp_path, {"a.txt": bytes(data)})))
    identity = content_identity(before)
    data[offset] = 1
    assert content_identity(list_files(str(write(tmp_path, {"a.txt": bytes(data)})))) != identity


def test_document_ids_do_not_depend_on_the_folder(tmp_path):
    ids = set()
    for place in ("one", "two/three"):
        [file] = list_files(str(write(tmp_path / place, {"a.jsonl": '{"text": "x"}\n' * 3})))
        ids |= {d.document_id for d in read_documents(file, settings(tmp_path))}
    assert len(ids) == 3


# --- single documents ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("<p>café".encode(), "<p>café"),
        (b"\xef\xbb\xbf<p>caf\xc3\xa9", "<p>café"),
        ("<p>café".encode("utf-16"), "<p>café"),
        ("<meta charset=iso-8859-2><p>Łódź".encode("iso-8859-2"),
         "<meta charset=iso-8859-2><p>Łódź"),
        ("<p>un café crème à la carte, déjà vu".encode("latin-1"),
         "<p>un café crème à la carte, déjà vu"),
        (b"<meta charset=utf-8><p>caf\xc3\xa9 \xff!", "<meta charset=utf-8><p>café \ufffd!"),
        (b"", ""),
    ],
)  # fmt: skip
def test_html_in_any_encoding_is_decoded(tmp_path, data, expected):
    [document] = documents_of(tmp_path, "a.html", data)
    assert (document.content, document.format, document.url) == (expected, "html", "a.html")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.htm", "html"), ("a.md", "markdown"), ("a.markdown", "markdown"), ("a.txt", "text")],
)
def test_suffix_decides_the_format(tmp_path, name, kind):
    [document] = documents_of(tmp_path, name, "x")
    assert document.format == kind


def test_text_with_invalid_characters_is_dropped_with_its_reason(tmp_path):
    cut = "Wale singen länger, höher, für Jahre, draußen.".encode() + b"\xff"
    write(tmp_path, {"a.txt": cut, "b.md": b"# A\n" + b"\0" + WHALES.encode()})
    segments = [s for f in list_files(str(tmp_path)) for s in segments_of(f, settings(tmp_path))]
    assert [s.outcome for s in segments] == [SegmentOutcome.INVALID_CHARACTERS] * 2


# --- JSONL --------------------------------------------------------------------------------------

LINES = [
    '{"text": "one", "u": "http://one"}',
    '{"text": "two", "u": 7}',
    "",
    "{not json",
    '{"other": "x"}',
    '{"text": null, "u": "http://five"}',
    '["text"]',
    "[" * 100_000,
    '{"text": "lone \\ud800"}',
    '{"text": "last"}',
]


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_jsonl_gives_a_document_or_a_reason_for_each_line(tmp_path, compress):
    name = "a.jsonl" if compress is bytes else "a.jsonl.gz"
    data = compress("\n".join(LINES).encode())
    documents = documents_of(tmp_path, name, data, url_column="u", text_format="markdown")
    assert contents(documents) == [
        "one", "two", Unreadable, Unreadable, Unreadable, Unreadable, Unreadable, "lone \ud800",
        "last",
    ]  # fmt: skip
    assert [d.url for d in documents][:5] == ["http://one", name, name, name, "http://five"]
    assert documents[0].format == "markdown"
    assert len({d.document_id for d in documents}) == len(documents)


def test_damaged_gzip_gives_the_lines_before_it(tmp_path):
    lines = b"".join(b'{"text": "%s"}\n' % os.urandom(500).hex().encode() for _ in range(200))
    data = bytearray(gzip.compress(lines))
    truncated = documents_of(tmp_path, "a.jsonl.gz", bytes(data[: len(data) // 2]))
    data[len(data) // 2 : len(data) // 2 + 100] = b"\xff" * 100
    corrupt = documents_of(tmp_path, "b.jsonl.gz", bytes(data))
    for documents in (truncated, corrupt):
        assert len(documents) > 50
        assert contents(documents).count(Unreadable) >= 1
        assert isinstance(documents[-1], Unreadable)
        assert "damaged" in documents[-1].reason


def test_text_with_a_lone_surrogate_is_dropped_and_storable(tmp_path):
    text = json.dumps({"text": WHALES + "\ud800"})
    [file] = list_files(str(write(tmp_path, {"a.jsonl": text})))
    [segment] = segments_of(file, settings(tmp_path))
    assert segment.outcome is SegmentOutcome.INVALID_CHARACTERS
    assert pyarrow.array([segment.text]).to_pylist() == [WHALES + "\ufffd"]


# --- Parquet ------------------------------------------------------------------------------------


def parquet(columns):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer, row_group_size=100)
    return buffer.getvalue()


def test_parquet_gives_a_document_or_a_reason_for_each_row(tmp_path):
    data = parquet({"body": ["one", None, "two"], "u": ["http://one", "x", None], "n": [1, 2, 3]})
    documents = documents_of(tmp_path, "a.parquet", data, text_column="body", url_column="u")
    assert contents(documents) == ["one", Unreadable, "two"]
    assert [d.url for d in documents] == ["http://one", "x", "a.parquet"]


def test_parquet_of_many_row_groups_is_read_in_order(tmp_path):
    documents = documents_of(tmp_path, "a.parquet", parquet({"text": map(str, range(1000))}))
    assert contents(documents) == [str(number) for number in range(1000)]
    assert len({d.document_id for d in documents}) == 1000


@pytest.mark.parametrize("wanted", [{"text_column": "txt"}, {"url_column": "url"}])
def test_parquet_without_the_column_is_refused_with_its_columns(tmp_path, wanted):
    with pytest.raises(ValueError, match=r"has no column '(txt|url)'; it has text, n"):
        documents_of(tmp_path, "a.parquet", parquet({"text": ["x"], "n": [1]}), **wanted)


def test_parquet_values_that_are_no_text_are_unreadable(tmp_path):
    bad_text = pyarrow.array([b"ok", b"\xff"]).view(pyarrow.string())
    assert contents(documents_of(tmp_path, "a.parquet", parquet({"text": bad_text}))) == [
        "ok",
        Unreadable,
    ]
    assert contents(documents_of(tmp_path, "b.parquet", parquet({"text": [1, 2]}))) == [
        Unreadable,
        Unreadable,
    ]


def test_damaged_parquet_gives_the_rows_before_the_damage(tmp_path):
    data = bytearray(parquet({"text": [os.urandom(50).hex() for _ in range(1000)]}))
    for name, content in {"no.parquet": b"no", "cut.parquet": bytes(data[:-100])}.items():
        [row] = documents_of(tmp_path, name, content)
        assert isinstance(row, Unreadable)
    data[len(data) // 2 : len(data) // 2 + 2000] = b"\xff" * 2000
    documents = documents_of(tmp_path, "pages.parquet", bytes(data))
    assert len(documents) > 100
    assert contents(documents).count(Unreadable) == 1
    assert isinstance(documents[-1], Unreadable)


# --- WARC ---------------------------------------------------------------------------------------


def record(url, body, status="200 OK", content_type="text/html", headers="", kind="response"):
    http = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{headers}\r\n".encode() + body
    return (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\n"
        "WARC-Record-ID: <urn:uuid:12345678-1234-1234-1234-123456789012>\r\n"
        "WARC-Date: 2026-01-01T00:00:00Z\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(http)}\r\n\r\n"
    ).encode() + http + b"\r\n\r\n"  # fmt: skip


def brotli(data):
    buffer = io.BytesIO()
    with BrotliWriter(buffer) as writer:
        writer.write(data)
    return buffer.getvalue()


ARCHIVE = [
    record("http://a/", "<p>café".encode(), content_type="text/html; charset=utf-8"),
    record("http://image/", b"\x89PNG", content_type="image/png"),
    record("http://gone/", b"<p>gone", status="404 Not Found"),
    record("http://request/", b"", kind="request"),
    record("http://latin/", b"<p>\xa3\xf3d\xbc", content_type="text/html; charset=ISO-8859-2"),
    record("http://gzip/", gzip.compress(b"<p>zip"), headers="Content-Encoding: gzip\r\n"),
    record("http://not-gzip/", b"zip", headers="Content-Encoding: gzip\r\n"),
    record("http://brotli/", brotli(b"<p>bro"), headers="Content-Encoding: br\r\n"),
    record("http://other/", b"?", headers="Content-Encoding: lzma\r\n"),
    record("http://chunked/", b"6\r\n<p>chu\r\n3\r\nnks\r\n0\r\n\r\n",
           headers="Transfer-Encoding: chunked\r\n"),
    record("http://nothing/", b"", status="", content_type=""),
    record("http://xhtml/", b"<p>x", content_type="application/xhtml+xml"),
]  # fmt: skip

ARCHIVED = {
    "http://a/": "<p>café",
    "http://image/": NotRead,
    "http://gone/": NotRead,
    "http://request/": NotRead,
    "http://latin/": "<p>Łódź",
    "http://gzip/": "<p>zip",
    "http://not-gzip/": Unreadable,
    "http://brotli/": "<p>bro",
    "http://other/": Unreadable,
    "http://chunked/": "<p>chunks",
    "http://nothing/": NotRead,
    "http://xhtml/": "<p>x",
}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.warc", b"".join(ARCHIVE)),
        ("b.warc.gz", b"".join(map(gzip.compress, ARCHIVE))),
        ("c.warc.gz", gzip.compress(b"".join(ARCHIVE))),
    ],
)
def test_warc_gives_a_document_or_a_reason_for_each_record(tmp_path, name, data):
    documents = documents_of(tmp_path, name, data)
    assert dict(zip([d.url for d in documents], contents(documents), strict=True)) == ARCHIVED
    assert len({d.document_id for d in documents}) == len(ARCHIVED)


def test_damaged_warc_gives_the_records_before_it(tmp_path):
    good = gzip.compress(ARCHIVE[0])
    damaged = {
        "cut.warc.gz": good + good[:-20],
        "garbage.warc.gz": good + b"garbage" * 100,
        "garbage.warc": ARCHIVE[0] + b"garbage\r\n" * 100,
    }
    for name, data in damaged.items():
        documents = documents_of(tmp_path, name, data)
        assert contents(documents) == ["<p>café", Unreadable], name


# --- segments -----------------------------------------------------------------------------------


def test_segments_of_a_folder_have_every_outcome(tmp_path):
    repeated = "Our shop sells the very best blue whales in town. " * 2
    write(
        tmp_path,
        {
            "a.html": PAGE,
            "b.md": f"# {'LOUD'}\n{WHALES}\n# Forum\n{WHALES}\n#\n{WHALES}\n# Short\n",
            "c.txt": "long " * 100,
            "d.md": f"# Shop\n{repeated}",
            "e.txt": "",
            "f.jsonl": "{",
            "g.txt": WHALES + "\0",
            "h.jsonl": "",
            "i.html": f"<p>{WHALES}</p>",
            "j.md": f"# Wale\n{WALE}",
            "blocked.html": PAGE,
        },
    )
    blocked = BlockList(["blocked.html"])
    segments = [
        segment
        for file in list_files(str(tmp_path))
        for segment in segments_of(file, settings(tmp_path, language="en"), blocked)
    ]
    # Those that need other documents, prompts, pages that opt out or rules that are off.
    others = [
        SegmentOutcome.EXACT_DUPLICATE,
        SegmentOutcome.NEAR_DUPLICATE,
        SegmentOutcome.SURPLUS,
        SegmentOutcome.OPTED_OUT,
        SegmentOutcome.OLDER_CAPTURE,
        SegmentOutcome.CONTAMINATED,
        SegmentOutcome.NOT_PROMISING,
        *(o for o in SegmentOutcome if o.startswith(("gopher", "c4", "fineweb", "form"))),
    ]
    expected = Counter(dict.fromkeys(SegmentOutcome, 1)) - Counter(others)
    expected[SegmentOutcome.TOO_SHORT] = 2  # the section, and the document without any
    assert Counter(s.outcome for s in segments) == expected
    assert len({(s.document_id, s.start) for s in segments}) == len(segments)
    assert all(len(s.text) <= 400 for s in segments)


def test_segment_has_its_header_url_start_and_document(tmp_path):
    [file] = list_files(str(write(tmp_path, {"x/a.html": PAGE})))
    [document] = read_documents(file, settings(tmp_path))
    [segment] = segments_of(file, settings(tmp_path))
    assert segment.outcome is SegmentOutcome.KEPT
    assert segment.text == f"Whales\n\n{WHALES.strip()}"
    assert segment.num_characters == len(segment.text)
    assert (segment.header, segment.url, segment.start) == ("Whales", "x/a.html", 0)
    assert segment.document_id == document.document_id


def test_unreadable_row_says_why(tmp_path):
    [file] = list_files(str(write(tmp_path, {"a.jsonl": '{"body": "x"}'})))
    [segment] = segments_of(file, settings(tmp_path))
    assert segment.outcome is SegmentOutcome.UNREADABLE
    assert segment.text == (f"row 1 has no string in {TEXT_COLUMNS}; it has body")


# --- installed packages -------------------------------------------------------------------------


def test_installed_packages_are_listed_and_read():
    files = list_files("installed-packages")
    assert len(files) > 20
    assert names(files) == sorted(names(files), key=lambda name: name.rpartition("-")[0])
    assert f"pytest-{importlib.metadata.version('pytest')}" in names(files)
    assert not any(name.startswith("humpback") for name in names(files))
    documents = [d for file in files for d in read_documents(file, settings("installed-packages"))]
    assert [len(d.content) for d in documents] == [file.size for file in files]
    assert {d.format for d in documents} == {"markdown", "restructuredtext"}
    assert sum(len(d.content) > 600 for d in documents) > 10
    assert content_identity(files) == content_identity(list_files("installed-packages"))
    assert content_identity(files) != content_identity(files[1:])


def test_package_that_is_not_installed_is_refused():
    file = CorpusFile("installed-packages:no-such-thing", "no-such-thing-1", 5)
    with pytest.raises(ValueError, match="no-such-thing is not installed"):
        list(read_documents(file, settings("installed-packages")))


# --- what is not read is counted ----------------------------------------------------------------


def test_everything_in_a_folder_is_read_or_has_a_reason(tmp_path):
    corpus, elsewhere = tmp_path / "corpus", tmp_path / "elsewhere"
    write(corpus, {"own.md": "x", "a.pdf": "", "README": "", "LICENSE": "", ".h.md": "",
                   "sub/.git/c.md": "", "sub/z.md": "z"})  # fmt: skip
    write(elsewhere, {"one.md": "1", "deep/two.MD": "2"})
    os.symlink(elsewhere, corpus / "link")
    os.symlink(corpus, elsewhere / "cycle")
    os.symlink("nowhere", corpus / "gone.md")
    os.symlink(corpus / "sub/z.md", corpus / "file.md")
    os.symlink(elsewhere / "one.md", elsewhere / "two.md")
    os.symlink(corpus / "README", corpus / "as_text.txt")
    os.mkfifo(corpus / "pipe.md")
    listing = list_corpus(str(corpus))
    assert names(listing.files) == [
        "as_text.txt", "link/deep/two.MD", "link/one.md", "own.md", "sub/z.md",
    ]  # fmt: skip
    assert {entry.url: entry.reason for entry in listing.not_read} == {
        ".h.md": "hidden",
        "LICENSE": "file whose name has no ending",
        "a.pdf": "file ending in .pdf",
        "file.md": "link to a file that is read under another name",
        "gone.md": "link that leads nowhere",
        "link/cycle": "link to a folder that is read under another name",
        "link/two.md": "link to a file that is read under another name",
        "pipe.md": "neither a file nor a folder",
        "sub/.git": "hidden",
    }
    assert names(list_files(str(corpus / "link"))) == [
        "cycle/as_text.txt", "cycle/own.md", "cycle/sub/z.md", "deep/two.MD", "one.md",
    ]  # fmt: skip
    assert list_corpus([str(corpus)]) == listing


@pytest.mark.parametrize("name", ["a::b.md", "c[1].md", "d?.md", "e f.md", "g*.md", "h%20i#j.md"])
def test_names_with_special_characters_are_read_alone_and_in_a_folder(tmp_path, name):
    [document] = documents_of(tmp_path / "x::y [z]", name, "text")
    assert document.content == "text"
    [file] = list_files(str(tmp_path / "x::y [z]"))
    assert [d.content for d in read_documents(file, settings(tmp_path))] == ["text"]
    assert content_identity([file])


def test_file_whose_name_is_not_utf_8_is_counted(tmp_path):
    (tmp_path / "a.md").write_text("# A\n\ntext")
    (tmp_path / os.fsdecode("fünf.md".encode("latin-1"))).write_text("# B\n\ntext")
    listing = list_corpus(str(tmp_path))
    assert names(listing.files) == ["a.md"]
    assert [entry.reason for entry in listing.not_read] == ["name that is not UTF-8"]
    segment = segment_without_text(listing.not_read[0], settings(tmp_path))
    segment.url.encode()


def test_remote_name_with_colons_is_read():
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/colons/a::b.md", b"text")
    [file] = list_files("memory://colons")
    [document] = read_documents(file, settings("memory://colons"))
    assert (file.name, document.content) == ("a::b.md", "text")


def test_file_that_is_gone_is_refused_with_its_setting(tmp_path):
    file = CorpusFile(str(tmp_path / "gone.md"), "gone.md", 1)
    with pytest.raises(ValueError, match=r"gone\.md cannot be read.*settings\.corpus\.path"):
        list(read_documents(file, settings(tmp_path)))


@pytest.mark.parametrize("name", ["a.txt", "b.jsonl.gz", "c.parquet", "d.warc.gz", "e.html"])
def test_git_lfs_pointer_is_unreadable_with_the_way_out(tmp_path, name):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    [document] = documents_of(tmp_path, name, pointer)
    assert isinstance(document, Unreadable)
    assert "git lfs pull" in document.reason


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", "café".encode("utf-16")),
        ("a.MD", "\ufeffcafé".encode()),
        ("a.HTML", "café".encode()),
    ],
)
def test_text_with_an_upper_case_suffix_or_byte_order_mark_is_read(tmp_path, name, data):
    [document] = documents_of(tmp_path, name, data)
    assert document.content == "café"


# --- JSON ---------------------------------------------------------------------------------------

ROWS = '{"text": "one"}\n{"text": "two"}\n'


def zstd(data):
    return pyarrow.compress(data, codec="zstd", asbytes=True)


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [("", bytes), (".gz", gzip.compress), (".GZ", gzip.compress), (".zst", zstd),
     (".xz", lzma.compress), (".bz2", bz2.compress)],
)  # fmt: skip
@pytest.mark.parametrize("kind", [".json", ".jsonl", ".ndjson", ".JSON"])
def test_json_in_every_compression_is_read(tmp_path, kind, suffix, compress):
    documents = documents_of(tmp_path, f"a{kind}{suffix}", compress(ROWS.encode()))
    assert contents(documents) == ["one", "two"]


@pytest.mark.parametrize(
    "text",
    [
        '[{"text": "one"}, {"text": "two"}]',
        '[\n  {"text": "one"},\n  {"text": "two"}\n]\n',
        '\n[\n{\n"text": "one"\n}\n,\n{"text": "two"}]',
        '{\n  "text": "one"\n}\n{\n  "text": "two"\n}\n',
        ROWS.replace("\n", "\r\n"),
        ROWS.strip(),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_in_every_layout_is_read(tmp_path, text, encoding):
    documents = documents_of(tmp_path, "a.json", text.encode(encoding))
    assert contents(documents) == ["one", "two"]
    assert len({d.document_id for d in documents}) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"text": "one"}, {"te', ["one", Unreadable]),
        ('[{"text": "one"}', ["one", Unreadable]),
        ('[{"text": "one"}] more', ["one", Unreadable]),
        ('[{"text": "one"}, 2, {"text": "three"}]', ["one", Unreadable, "three"]),
        ('{"text": "one"\n{"text": "two"}\n', [Unreadable, "two"]),
        ("[]", [NotRead]),
        ("", [NotRead]),
        ("\n \n", [NotRead]),
    ],
)
def test_broken_or_empty_json_gives_its_whole_rows_and_a_reason(tmp_path, text, expected):
    assert contents(documents_of(tmp_path, "a.json", text)) == expected


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".gz", gzip.compress), (".zst", zstd), (".xz", lzma.compress), (".bz2", bz2.compress)],
)
def test_truncated_json_ends_in_an_unreadable_row(tmp_path, suffix, compress):
    lines = b"".join(b'{"text": "%s"}\n' % os.urandom(5000).hex().encode() for _ in range(400))
    data = compress(lines)
    documents = documents_of(tmp_path, f"a.jsonl{suffix}", data[: len(data) * 3 // 4])
    assert len(documents) > 50
    assert [d for d in contents(documents) if d is Unreadable] == [Unreadable]
    assert "damaged" in documents[-1].reason


# --- WARC records and damage --------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    ["Text/HTML", "TEXT/HTML; CHARSET=ISO-8859-2", 'text/html;charset="Iso-8859-2"',
     "Application/XHTML+XML; charset = iso-8859-2"],
)  # fmt: skip
def test_warc_media_types_and_charsets_in_any_case_are_read(tmp_path, content_type):
    page = record("http://a/", b"<p>\xa3\xf3d\xbc is a town", content_type=content_type)
    page = page.replace(b"application/http", b"Application/HTTP")
    page = page.replace(b"WARC-Type: response", b"warc-type: Response")
    [document] = documents_of(tmp_path, "A.WARC", page)
    assert document.url == "http://a/"
    if "2" in content_type:
        assert document.content == "<p>Łódź is a town"


def warc(kind, content_type, block):
    return (
        f"WARC/1.1\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://{kind}/\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(block)}\r\n\r\n"
    ).encode() + block + b"\r\n\r\n"  # fmt: skip


def test_texts_and_resources_are_read_and_other_records_are_counted(tmp_path):
    data = b"".join([
        warc("warcinfo", "application/warc-fields", b"software: x"),
        warc("conversion", "text/plain", b"a\nb"),
        warc("conversion", "image/png", b"a"),
        warc("resource", "text/html", b"<p>x"),
        warc("resource", "Image/PNG", b"x"),
        warc("metadata", "application/warc-fields", b"x: y"),
    ])  # fmt: skip
    for name, content in (("a.warc.wet.gz", gzip.compress(data)), ("b.warc.zst", zstd(data))):
        documents = documents_of(tmp_path, name, content)
        assert [getattr(d, "reason", None) or d.content for d in documents] == [
            "record of type warcinfo", "a\nb", "conversion of image/png", "<p>x",
            "resource of image/png", "record of type metadata",
        ]  # fmt: skip


def test_reason_with_a_strange_media_type_is_printable(tmp_path):
    page = record("http://a/", b"x", content_type="\x1b[31mred/\u202etext")
    [document] = documents_of(tmp_path, "a.warc", page)
    assert document.reason.isascii()
    assert document.reason.isprintable()
    assert "red/" in document.reason


PAGES = {
    f"http://page/{number}": f"<p>page {random.Random(number).randbytes(2000).hex()}".encode()
    for number in range(40)
}  # fmt: skip
RECORDS = [record(url, page) for url, page in PAGES.items()]


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
@pytest.mark.parametrize("damage", ["overwritten", "removed", "inserted"])
@pytest.mark.parametrize("size", [200, 3000, 9000])
@pytest.mark.parametrize("place", [0.001, 0.2, 0.5, 0.77])
def test_warc_records_after_damage_are_read(tmp_path, name, damage, size, place):
    parts = RECORDS if name == "a.warc" else [gzip.compress(part) for part in RECORDS]
    data, noise = b"".join(parts), random.Random(size).randbytes(size)
    begin = int(len(data) * place)
    end = begin if damage == "inserted" else begin + size
    data = data[:begin] + (b"" if damage == "removed" else noise) + data[end:]
    documents = documents_of(tmp_path, name, data)
    whole = [d.url for d in documents if contents([d]) == [PAGES.get(d.url, b"").decode()]]
    lost = set(PAGES) - set(whole)
    num_hit = 2 + size // min(map(len, parts))
    assert 1 <= len(lost) <= num_hit
    assert "http://page/39" in whole
    # A damaged body of the right length looks like a whole one; all other damage is counted.
    assert Unreadable in contents(documents) or (name == "a.warc" and len(lost) == 1)


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "one-member.warc.gz"])
def test_archive_cut_in_the_middle_gives_the_records_before(tmp_path, name):
    data = b"".join(RECORDS if name == "a.warc" else map(gzip.compress, RECORDS))
    if name.startswith("one"):
        data = gzip.compress(b"".join(RECORDS))
    documents = documents_of(tmp_path, name, data[: len(data) // 2])
    assert [d.url for d in documents[:-1]] == list(PAGES)[: len(documents) - 1]
    assert len(documents) >= 19
    assert contents(documents[-1:]) == [Unreadable]


def test_warc_length_that_is_no_number_or_too_large_loses_one_record(tmp_path):
    first = RECORDS[0]
    for wrong in (b"many", b"999999999", b"99999999999999"):
        begin, separator, rest = first.partition(b"Content-Length: ")
        _, line_break, rest = rest.partition(b"\r\n")
        data = begin + separator + wrong + line_break + rest + b"".join(RECORDS[1:5])
        documents = documents_of(tmp_path, "a.warc", data)
        assert contents(documents)[0] is Unreadable
        assert [d.url for d in documents[1:]] == list(PAGES)[1:5]


def with_digest(part, digest):
    block = part.removesuffix(b"\r\n\r\n").partition(b"\r\n\r\n")[2]
    return part.replace(
        b"WARC-Date:", b"warc-block-digest: " + digest(block).encode() + b"\r\nWARC-Date:", 1
    )


def sha1_base32(block):
    return "sha1:" + base64.b32encode(hashlib.sha1(block).digest()).decode()


@pytest.mark.parametrize(
    "digest",
    [
        sha1_base32,
        lambda block: "SHA-256:" + hashlib.sha256(block).hexdigest(),
        lambda block: "md5:" + base64.b64encode(hashlib.md5(block).digest()).decode(),
    ],
)
@pytest.mark.parametrize("noise", [b"x", b"\0" * 40, b"\xff" * 700])
def test_record_overwritten_in_place_is_found_by_its_digest(tmp_path, digest, noise):
    parts = [with_digest(part, digest) for part in RECORDS[:6]]
    assert [d.url for d in documents_of(tmp_path, "a.warc", b"".join(parts))] == list(PAGES)[:6]
    begin = len(parts[3]) - 2000
    assert parts[3][begin:][: len(noise)] != noise
    parts[3] = parts[3][:begin] + noise + parts[3][begin + len(noise) :]
    documents = documents_of(tmp_path, "a.warc", b"".join(parts))
    assert [d.url for d in documents] == list(PAGES)[:6]
    assert contents(documents)[3] is Unreadable
    assert documents[3].reason.endswith("a record is not what its digest says")
    assert contents(documents).count(Unreadable) == 1


@pytest.mark.parametrize("digest", ["sha1:AAAA", "crc32:12345678", "sha1:", "x"])
def test_digest_of_an_unknown_kind_or_length_is_not_looked_at(tmp_path, digest):
    part = with_digest(RECORDS[0], lambda block: digest)
    assert [d.url for d in documents_of(tmp_path, "a.warc", part)] == ["http://page/0"]


def test_line_breaks_overwritten_behind_a_record_lose_nothing(tmp_path):
    first = RECORDS[0].removesuffix(b"\r\n\r\n")
    documents = documents_of(tmp_path, "a.warc", first + b"\xff" * 4 + b"".join(RECORDS[1:3]))
    assert [d.url for d in documents if not isinstance(d, Unreadable)] == list(PAGES)[:3]
    first = with_digest(RECORDS[0], sha1_base32).removesuffix(b"\r\n\r\n")
    second = b"\xff" * 30 + RECORDS[1][30:]
    documents = documents_of(tmp_path, "a.warc", first + b"\xff" * 4 + second + RECORDS[2])
    assert [d.url for d in documents if not isinstance(d, Unreadable)] == [
        "http://page/0",
        "http://page/2",
    ]
    assert contents(documents).count(Unreadable) == 1


def test_damage_in_a_gzip_file_of_one_member_is_counted_once(tmp_path):
    data = bytearray(gzip.compress(b"".join(RECORDS)))
    data[len(data) // 2 : len(data) // 2 + 40] = b"\xff" * 40
    documents = documents_of(tmp_path, "one-member.warc.gz", bytes(data))
    whole = [d.url for d in documents if not isinstance(d, Unreadable)]
    assert 15 <= len(whole) < 25
    assert whole == list(PAGES)[: len(whole)]
    assert 1 <= contents(documents).count(Unreadable) <= 2
    assert isinstance(documents[-1], Unreadable)


def test_zeros_after_the_last_gzip_member_are_no_damage(tmp_path):
    documents = documents_of(tmp_path, "a.warc.gz", gzip.compress(RECORDS[0]) + bytes(5000))
    assert [d.url for d in documents] == ["http://page/0"]


# --- sections that give way ---------------------------------------------------------------------


@pytest.mark.parametrize("header", ["<img alt=logo>", "OUR SITE", "Forum"])
def test_page_whose_first_header_is_refused_keeps_its_subsections(tmp_path, header):
    page = f"<h1>{header}</h1><h2>Whales</h2><p>{WHALES}</p><h2>More</h2><p>{WHALES}</p>"
    [file] = list_files(str(write(tmp_path, {"a.html": page})))
    segments = list(segments_of(file, settings(tmp_path)))
    kept = [s.header for s in segments if s.outcome is SegmentOutcome.KEPT]
    assert kept == ["Whales", "More"]
    assert [s.start for s in segments] == [0, 1, 2]


def test_page_that_repeats_itself_gives_way_to_its_subsections(tmp_path):
    repeated = "Our shop sells the very best blue whales in the whole town today. "
    page = f"<h1>Whales</h1><p>{repeated}{repeated}</p><h2>Songs</h2><p>{WHALES}</p>"
    [file] = list_files(str(write(tmp_path, {"a.html": page})))
    segments = list(segments_of(file, settings(tmp_path)))
    assert [(s.header, s.outcome, s.start) for s in segments] == [
        ("Whales", SegmentOutcome.REPETITIVE, 0),
        ("Songs", SegmentOutcome.KEPT, 1),
    ]


def test_page_in_another_language_gives_way_to_its_subsections(tmp_path):
    page = f"<h1>Wale</h1><p>{WALE * 2}</p><h2>Whales</h2><p>{WHALES}</p>"
    [file] = list_files(str(write(tmp_path, {"a.html": page})))
    segments = list(segments_of(file, settings(tmp_path, language="en")))
    assert [s.outcome for s in segments] == [SegmentOutcome.OTHER_LANGUAGE, SegmentOutcome.KEPT]


def test_segment_without_keep_header_has_no_header_in_its_text(tmp_path):
    [file] = list_files(str(write(tmp_path, {"a.html": PAGE})))
    [segment] = segments_of(file, settings(tmp_path, keep_header=False))
    assert (segment.header, segment.text) == ("Whales", WHALES.strip())


# --- rules beside the paper's -------------------------------------------------------------------


@pytest.mark.parametrize(("name", "page"), [("a.html", f"<p>{WHALES}</p>"), ("a.md", WHALES)])
def test_page_without_headers_is_a_segment_if_whole_pages_are_asked_for(tmp_path, name, page):
    [file] = list_files(str(write(tmp_path, {name: page})))
    for whole_pages, expected in (
        (False, SegmentOutcome.NO_HEADER),
        (True, SegmentOutcome.KEPT),
    ):
        [segment] = segments_of(file, settings(tmp_path, whole_pages=whole_pages))
        assert (segment.outcome, segment.text) == (expected, WHALES.strip())


def test_whole_page_keeps_the_rule_of_length(tmp_path):
    [file] = list_files(str(write(tmp_path, {"a.html": f"<p>{WHALES * 6}</p>"})))
    [segment] = segments_of(file, settings(tmp_path, whole_pages=True))
    assert (segment.outcome, segment.header) == (SegmentOutcome.TOO_LONG, "")


def test_blocked_document_is_one_row_with_the_entry_that_blocks_it(tmp_path):
    rows = [
        {"text": WHALES, "url": url}
        for url in ("http://www.Shop.example/a", "https://sea.example/forum/1", "sea.example/a")
    ]
    lines = "\n".join(map(json.dumps, [*rows, {"url": "http://shop.example"}]))
    [file] = list_files(str(write(tmp_path, {"a.jsonl": lines})))
    blocked = BlockList(["shop.example", "sea.example/forum"])
    segments = list(segments_of(file, settings(tmp_path, url_column="url"), blocked))
    assert [(s.outcome, s.text, s.num_characters) for s in segments] == [
        (SegmentOutcome.BLOCKED, "shop.example", 0),
        (SegmentOutcome.BLOCKED, "sea.example/forum", 0),
        (SegmentOutcome.KEPT, WHALES.strip(), len(WHALES.strip())),
        (SegmentOutcome.UNREADABLE, f"row 4 has no string in {TEXT_COLUMNS}; it has url", 0),
    ]


def test_personal_data_are_replaced_before_the_rules_see_the_text(tmp_path):
    page = f"<h1>Ask a.long.name@whales.example.org</h1><p>{WHALES} Or 8.8.8.8.</p>"
    [file] = list_files(str(write(tmp_path, {"a.html": page})))
    [as_it_is] = segments_of(file, settings(tmp_path))
    [replaced] = segments_of(file, settings(tmp_path, replace_personal_data=True))
    assert as_it_is.header == "Ask a.long.name@whales.example.org"
    assert replaced.header == "Ask email@example.com"
    assert replaced.text == f"Ask email@example.com\n\n{WHALES} Or 192.0.2.1.".replace("  ", " ")
    assert replaced.num_characters == len(replaced.text)
    assert replaced.segment_id != as_it_is.segment_id
