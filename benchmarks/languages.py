"""Texts/s of the corpus's language filter / texts/s of py3langid, and what both take for English.

Seconds are processor seconds, so that other work on the machine counts little.

The texts are paragraphs of the manual pages on this machine, so their language is known by their
folder: those below `man/de` are German. Paragraphs that a translator has left in English are left
out where the English page of the same name has most of their words. Texts of a segment's size are
joined paragraphs of a page, beginnings the first 300 characters of these, and short texts single
paragraphs of about 100 characters. Ours is the filter of the recipe `llama-7b`. py3langid runs in
the environment whose Python `HUMPBACK_PY3LANGID_PYTHON` names, and decides among all its languages.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import subprocess
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import harness

from humpback_ray.config.recipe import load_recipe
from humpback_ray.config.settings import CorpusSettings
from humpback_ray.evaluation.estimates import share_of
from humpback_ray.method.languages import is_in_language

OURS, PEER = "ours", "py3langid"
VARIABLE = "HUMPBACK_PY3LANGID_PYTHON"
RECIPE = "llama-7b"
MAN = Path("/usr/share/man")
ENGLISH = "en"
SHORT = range(80, 140)  # characters of a short text
BEGINNING = 300  # characters
MIN_PARAGRAPH = 40  # characters; shorter ones are names and options
PER_PAGE = 5  # texts of one page and size at most, so that no page decides
PER_PROGRAM = 25  # English pages: of a program with many commands
NUM_PAGES = 1500  # English ones, of some thousands; of translated ones all
MAX_KNOWN = 0.5  # of a translated paragraph's three words in a row, in the English page
_CYRILLIC = re.compile("[\u0400-\u04ff]")
_KANA_OR_HAN = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")
NOT_LATIN = {
    "ja": _KANA_OR_HAN, "zh_CN": _KANA_OR_HAN, "zh_TW": _KANA_OR_HAN, "ru": _CYRILLIC,
    "uk": _CYRILLIC, "ko": re.compile("[\uac00-\ud7a3]"),
}  # fmt: skip
NUM_SHOWN = 12  # disagreements for each size
SHOWN = 200  # characters of each


@dataclass(frozen=True)
class Text:
    """A text of a page, and the language that its page is in."""

    language: str
    page: str
    text: str


# --- texts of manual pages ----------------------------------------------------------------------

_FONTS = re.compile(r"\.(?:B|I|R|SM|SB|BI|BR|IB|IR|RB|RI)\s+(.*)")
# Blocks of code, tables and definitions of macros, with the requests that end them.
_BLOCKS = {"nf": "fi", "EX": "EE", "Vb": "Ve", "TS": "TE", "de": ".", "ig": "."}
_ESCAPE = re.compile(
    r"\\(?:[fFmM](?:\(..|\[[^]]*\]|.)|s[-+]?\d|[hvwZ]'[^']*'"
    r"|\[u(?P<code>[0-9A-F]{4,6})\]|\*?(?:\((?P<two>..)|\[(?P<long>[^]]*)\])|\*.|(?P<one>.))"
)
_NAMED = {
    "aq": "'", "cq": "’", "oq": "‘", "Aq": "'", "lq": "“", "rq": "”", "dq": '"', "Bq": "„",
    "Fo": "«", "Fc": "»", "en": "–", "em": "—", "ss": "ß", "oa": "å", "oA": "Å", "/l": "ł",
    "/L": "Ł", "/o": "ø", "/O": "Ø", "ae": "æ", "AE": "Æ",
}  # fmt: skip
_ACCENTS = {"'": "\u0301", "`": "\u0300", "^": "\u0302", ":": "\u0308", "~": "\u0303",
            ",": "\u0327"}  # fmt: skip
_SINGLE = {"-": "-", "e": "\\", " ": " ", "~": " ", "0": " ", "'": "'", "`": "`", "\\": "\\"}


def paragraphs_of(page: str) -> Iterator[str]:
    """The paragraphs of a page in roff's man macros, without headers, code and tables."""
    lines: list[str] = []
    block = ""  # the request that ends the block that is open
    for line in page.partition("\n.SH")[2].split("\n")[1:]:
        request = line[1:].split(None, 1)[0] if re.match(r"[.'] *\S", line) else ""
        if block:
            block = "" if request == block else block
            continue
        block = _BLOCKS.get(request, "")
        fonts = _FONTS.match(line)
        if fonts or (line.strip() and not request):
            lines.append(_plain(fonts[1].replace('"', "") if fonts else line))
        elif not line.startswith('.\\"'):
            yield " ".join(" ".join(lines).split())
            lines = []
    yield " ".join(" ".join(lines).split())


def _plain(line: str) -> str:
    return _ESCAPE.sub(_character, re.sub(r'\\["#].*', "", line))


def _character(escape: re.Match[str]) -> str:
    if code := escape["code"]:
        return chr(int(code, 16))
    if name := escape["two"] or escape["long"]:
        accent = _ACCENTS.get(name[0]) if len(name) == 2 and name[1].isalpha() else None
        return unicodedata.normalize("NFC", name[1] + accent) if accent else _NAMED.get(name, "")
    return _SINGLE.get(escape["one"] or "", "")


def read_page(file: Path) -> list[str]:
    """The paragraphs of a page that are more than a name or an option."""
    page = gzip.decompress(file.read_bytes()).decode(errors="replace")
    return [p for p in paragraphs_of(page) if len(p) >= MIN_PARAGRAPH and "\ufffd" not in p]


def english_pages() -> list[Path]:
    """A sample of the English pages, few of each program and its commands."""
    files = sorted(file for file in MAN.glob("man*/*.gz") if not file.is_symlink())
    random.Random(0).shuffle(files)
    num_of: Counter[str] = Counter()
    chosen = []
    for file in files:
        program = re.split("[-_.:]", file.name)[0]
        num_of[program] += 1
        if num_of[program] <= PER_PROGRAM:
            chosen.append(file)
    return chosen[:NUM_PAGES]


def untranslated(file: Path, paragraphs: list[str]) -> set[str]:
    """The paragraphs of a page that are left in English, by the English page of its name.

    Most three words in a row stand there too, or a paragraph in another script has none of its
    letters.
    """
    originals = [
        paragraph for page in MAN.glob(f"man*/{file.name}") for paragraph in read_page(page)
    ]
    known = {words for paragraph in originals for words in _three_words(paragraph)}
    of_script = NOT_LATIN.get(file.relative_to(MAN).parts[0])
    return {
        p for p in paragraphs
        if (of_script and not of_script.search(p))
        or sum(words in known for words in _three_words(p)) > MAX_KNOWN * len(_three_words(p))
    }  # fmt: skip


def _three_words(paragraph: str) -> list[tuple[str, ...]]:
    words = paragraph.lower().split()
    return list(zip(words, words[1:], words[2:], strict=False))


def segments_in(paragraphs: list[str], settings: CorpusSettings) -> Iterator[str]:
    """Paragraphs joined to texts of all sizes that a segment can have."""
    sizes = random.Random(len(paragraphs))
    begun, size = "", 0
    for paragraph in paragraphs:
        size = size or sizes.randint(settings.min_characters, settings.max_characters)
        begun = f"{begun}\n\n{paragraph}".strip()
        if len(begun) >= size:
            if len(begun) <= settings.max_characters:
                yield begun
            begun, size = "", 0
    if len(begun) >= settings.min_characters:
        yield begun


def texts_of(settings: CorpusSettings) -> tuple[dict[str, list[Text]], dict[str, int]]:
    """The texts of each size, and the numbers of untranslated paragraphs by folder."""
    texts: dict[str, list[Text]] = {"short": [], "beginnings": [], "segments": []}
    num_untranslated: Counter[str] = Counter()
    translated = [f for f in sorted(MAN.glob("*/man*/*.gz")) if not f.is_symlink()]
    for file in [*english_pages(), *translated]:
        place = str(file.relative_to(MAN))
        language = ENGLISH if place.startswith("man") else place.partition("/")[0]
        paragraphs = read_page(file)
        if language != ENGLISH:
            left = untranslated(file, paragraphs)
            num_untranslated[language] += sum(p in left for p in paragraphs)
            paragraphs = [p for p in paragraphs if p not in left]
        short = [p for p in paragraphs if len(p) in SHORT]
        segments = list(segments_in(paragraphs, settings))
        for size, found in (("segments", segments), ("short", short)):
            chosen = random.Random(place).sample(found, min(PER_PAGE, len(found)))
            texts[size] += [Text(language, place, text) for text in chosen]
    texts["beginnings"] = [replace(t, text=t.text[:BEGINNING]) for t in texts["segments"]]
    return texts, dict(num_untranslated)


# --- the sides ----------------------------------------------------------------------------------


def ours(texts: list[Text], settings: CorpusSettings) -> tuple[float, list[bool]]:
    """Processor seconds, and for each text True where the filter keeps it as English."""
    assert settings.language == ENGLISH
    began = time.process_time()
    kept = [is_in_language(t.text, ENGLISH, settings.language_margin) for t in texts]
    return time.process_time() - began, kept


# Runs in the environment of py3langid, which has none of our packages.
_PEER = """
import json, sys, time
import py3langid

texts = json.load(open(sys.argv[1]))
py3langid.classify(texts[0])  # loads the model
began = time.process_time()
labels = [py3langid.classify(text)[0] for text in texts]
seconds = time.process_time() - began
json.dump({"seconds": seconds, "labels": labels}, open(sys.argv[2], "w"))
"""


def py3langid(python: str, texts: list[Text], scratch: Path) -> tuple[float, list[str]]:
    """Processor seconds without py3langid's start, and the language that it sees in each text."""
    given, output = scratch / "texts.json", scratch / "labels.json"
    given.write_text(json.dumps([text.text for text in texts]))
    subprocess.run([python, "-c", _PEER, str(given), str(output)], check=True)
    found = json.loads(output.read_text())
    return found["seconds"], found["labels"]


# --- figures ------------------------------------------------------------------------------------


def figures_of(texts: list[Text], kept: list[bool]) -> dict[str, Any]:
    """Shares of the English texts and of the others that a side takes for English.

    `by_folder` has the two numbers of each other folder.
    """
    numbers = Counter(text.language for text in texts)
    counts = Counter(text.language for text, is_kept in zip(texts, kept, strict=True) if is_kept)
    others = sorted(numbers.keys() - {ENGLISH})
    return {
        "english_kept": _share(counts[ENGLISH], numbers[ENGLISH]),
        "others_let_through": _share(sum(counts[o] for o in others), len(texts) - numbers[ENGLISH]),
        "by_folder": {folder: [counts[folder], numbers[folder]] for folder in others},
    }


def _share(number: int, total: int) -> dict[str, Any]:
    """A share with its interval, as if all texts were independent: some are of one page."""
    found = share_of(number, total)
    assert found is not None, f"no texts below {MAN}"
    return {"number": number, **asdict(found)}


def _shown(name: str, share: dict[str, Any]) -> str:
    value, low, high = (f"{share[key]:.4f}" for key in ("value", "low", "high"))
    return f"{name} {value} ({low} to {high}; {share['number']:,} of {share['n']:,})"


def balanced_accuracy(figures: dict[str, Any]) -> float:
    """The mean of the shares of English kept and of other languages dropped."""
    return float(figures["english_kept"]["value"] + 1 - figures["others_let_through"]["value"]) / 2


def disagreements(texts: list[Text], kept: list[bool], labels: list[str]) -> list[dict[str, Any]]:
    """Some of the texts that one side alone takes for English, each with what the two say."""
    found = [
        {"page": text.page, OURS: is_kept, PEER: label, "text": text.text[:SHOWN]}
        for text, is_kept, label in zip(texts, kept, labels, strict=True)
        if is_kept != (label == ENGLISH)
    ]
    return random.Random(0).sample(found, min(NUM_SHOWN, len(found)))


def compared(
    size: str, texts: list[Text], settings: CorpusSettings, options: Any
) -> tuple[list[harness.Comparison], dict[str, Any]]:
    """The accuracies and rates on texts of one size, and all shares."""
    python = os.environ.get(VARIABLE)
    rates = harness.Comparison(f"{size}, one core", "texts/s", OURS, PEER, 1)
    accuracies = harness.Comparison(f"{size}, balanced accuracy", "share", OURS, PEER, 0.99)
    labels: list[str] = []
    with harness.scratch_folder() as scratch:
        for _ in range(options.repeats):
            seconds, kept = ours(texts, settings)
            rates.add(OURS, value=len(texts) / seconds, seconds=seconds)
            if python:
                seconds, labels = py3langid(python, texts, scratch)
                rates.add(PEER, value=len(texts) / seconds, seconds=seconds)
    sides = {OURS: kept} | ({PEER: [label == ENGLISH for label in labels]} if python else {})
    figures: dict[str, Any] = {side: figures_of(texts, found) for side, found in sides.items()}
    for side, of_side in figures.items():
        accuracies.add(side, value=balanced_accuracy(of_side))
        for name in ("english_kept", "others_let_through"):
            harness.console.print(f"  {size} · {side}: {_shown(name, of_side[name])}")
    if python:
        num_same = sum(one == other for one, other in zip(*sides.values(), strict=True))
        figures["agreement"] = _share(num_same, len(texts))
        figures["disagreements"] = disagreements(texts, kept, labels)
        harness.console.print(f"  {size} · {_shown('agreement', figures['agreement'])}")
    return [accuracies, rates], figures


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    settings = load_recipe(RECIPE).settings.corpus
    texts, num_untranslated = texts_of(settings)
    comparisons, figures = [], {}
    for size, of_size in texts.items():
        found, figures[size] = compared(size, of_size, settings, options)
        comparisons += found
    if not os.environ.get(VARIABLE):
        harness.console.print(f"  py3langid left out: {VARIABLE} names no Python with it")
    harness.finish(comparisons, options.json, num_untranslated=num_untranslated, sizes=figures)


if __name__ == "__main__":
    main()
