"""What reaches the terminal: foreign text never controls it, and a closed stream ends nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from io import StringIO
from pathlib import Path

import pytest
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from humpback_ray import tables
from humpback_ray.execution.progress import StageProgress
from humpback_ray.report.console import Console, visible
from humpback_ray.report.look import Shown, ShownRow
from humpback_ray.rows import SeedPair
from humpback_ray.terminal import output as terminal
from humpback_ray.terminal.chat import talk
from humpback_ray.terminal.runs import print_rows

ATTACK = "\x1b[2J\x1b]0;taken\x07\x9b31m\u202eabc\u2066\b\r\x00\u200f\U000e0041"


def is_control(character: str) -> bool:
    kind, direction = unicodedata.category(character), unicodedata.bidirectional(character)
    overrides = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return (kind in ("Cc", "Cs") and character not in "\n\t") or direction in overrides


def controls(text: str) -> set[str]:
    return set(filter(is_control, text))


def test_visible_leaves_no_control_character_and_everything_else_alone():
    for character in map(chr, range(sys.maxunicode + 1)):
        if is_control(character):
            assert not controls(visible(character)), hex(ord(character))
    plain = "Tab\tand line\n, naïve 日本 \U0001f468\u200d\U0001f469 \\x1b [bold] :bug:"
    assert visible(plain) == plain
    assert visible("\x1b[2J") == "\\x1b[2J"
    assert visible("a\r\nb\rc") == "a\nb\\rc"


@pytest.mark.parametrize(
    "thing",
    [
        ATTACK,
        Text(ATTACK),
        Panel(ATTACK, title=Text(ATTACK)),
        Panel(Text(f"{ATTACK}\nx"), title=ATTACK),
    ],
)
def test_console_shows_foreign_controls_and_keeps_its_styles(thing):
    console = Console(file=StringIO(), width=400, force_terminal=True, color_system="truecolor")
    console.print(thing, markup=False, highlight=False)
    console.print("x", style="bold")
    printed = console.file.getvalue()
    assert controls(printed.replace("\x1b[1mx\x1b[0m", "")) == set()
    assert "\x1b[1mx\x1b[0m" in printed
    assert r"\x1b[2J\x1b]0;taken" in printed


def test_table_with_foreign_controls_keeps_its_columns():
    table = Table("a", "b")
    table.add_row(ATTACK, "x")
    table.add_row("y", "z")
    console = Console(file=StringIO(), width=400)
    console.print(table)
    lines = console.file.getvalue().splitlines()
    assert len({len(line) for line in lines}) == 1


def test_rows_are_shown_with_markup_emoji_and_backslashes_as_they_are(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "console", Console(width=120))
    text = "[bold]not bold[/bold] [/] :bug: C:\\"
    row = ShownRow(f"[red]{ATTACK}", [("text", f"{text}{ATTACK}"), ("next", text)])
    print_rows(Shown(f"/run/[/x]{ATTACK}", [row], 1))
    printed = capsys.readouterr().out
    assert controls(printed) == set()
    assert f"text  {text}\\x1b[2J" in printed
    assert f"next  {text}" in printed
    assert "[red]" in printed
    assert "rows in /run/[/x]" in printed


def test_errors_answers_progress_and_job_lines_control_nothing(capsys, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda: next(turns))
    turns = iter(["Why?", ""])
    terminal.say_error("error", f"{ATTACK} [bold] :bug:")
    talk(lambda _: iter(["So", *ATTACK, " :bug:", "[bold]"]))
    terminal.write(f"{ATTACK}\n", end="")
    StageProgress(terminal.console, "seed").note(f"[/x] {ATTACK}")
    output = capsys.readouterr()
    assert controls(output.out) == controls(output.err) == set()
    assert "[bold] :bug:" in output.err
    assert ":bug:[bold]" in output.out
    assert "seed: [/x] " in output.out


# --- streams --------------------------------------------------------------------------------------


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    pairs = [SeedPair(f"{n:03}", "naïve → 日本?", "So. " * 500) for n in range(300)]
    tables.write_rows(str(tmp_path / "rows"), pairs, SeedPair)
    return tmp_path


def shell(line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A line of bash in which `humpback` is the command."""
    script = (
        f'set -o pipefail; humpback() {{ "{sys.executable}" -m humpback_ray.cli "$@"; }}; {line}'
    )
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, errors="surrogateescape",
        env=os.environ | variables, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "humpback look {0} -n 300 | head -1",
        "humpback look {0} -n 300 | true",
        "humpback look {0} >&-",
        "humpback look {0} >&- 2>&- <&-",
    ],
)
def test_command_without_a_reader_ends_well_and_in_silence(stage, line):
    done = shell(line.format(stage))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("line", ["humpback look /no 2>&-", "humpback look /no >&- 2>&- <&-"])
def test_mistake_without_streams_has_its_exit_code(line):
    assert shell(line).returncode == 2


def test_file_of_a_command_with_closed_streams_does_not_take_their_place(tmp_path):
    script = (
        "import os, sys; from humpback_ray.report.console import open_streams; open_streams(); "
        f"file = open({str(tmp_path / 'file')!r}, 'w'); os.write(1, b'noise'); os.write(2, b'x'); "
        "print('more'); sys.stdin.read(); sys.exit(0 if file.fileno() > 2 else 1)"
    )
    line = f'{sys.executable} -c "{script}" >&- 2>&- <&-'
    assert shell(line).returncode == 0
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252"},
        {"LANG": "C", "TERM": "dumb"},
    ],
)
def test_rows_are_shown_under_every_encoding(stage, variables):
    done = shell(f"humpback look {stage} -n 1", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert "na" in done.stdout
    assert "1 of 300 rows" in done.stdout


def test_console_whose_reader_has_left_goes_on_in_silence():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as file:
        console = Console(file=file)
        console.print("x" * 100)
        assert console.quiet
        console.print("y")
