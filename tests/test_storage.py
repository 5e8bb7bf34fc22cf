"""Names of files and folders that libraries would take for something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from humpback_ray import storage
from humpback_ray.config.recipe import load_recipe
from humpback_ray.errors import UserError
from humpback_ray.execution.sources import model_source
from humpback_ray.figures.run_facts import run_folder_of

ODD = "a b~c=d,e&f'g(h)i{j}k@l+m!n$o:p^q_üé日|<>`\""


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("file:///data/run", "/data/run"),
        ("file://localhost/data/run", "/data/run"),
        ("local:///data/run", "/data/run"),
        ("/data/./x/../run/", "/data/run"),
        ("run", "{here}/run"),
        ("./~run", "{here}/~run"),
        ("~/run", "{home}/run"),
        ("s3://bucket/run", "s3://bucket/run"),
        ("memory://run", "memory://run"),
    ],
)
def test_absolute_path_is_what_every_library_reads(given, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/of/someone")
    assert storage.absolute(given) == path.format(here=tmp_path, home="/home/of/someone")


@pytest.mark.parametrize("name", ["a*b", "a?b", "exp [1]", "x#y", "x%20y", "x;y", "a::b", "a\nb"])
@pytest.mark.parametrize("place", ["", "s3://bucket/"])
def test_run_folder_that_a_library_would_misread_is_refused_with_the_option(name, place):
    with pytest.raises(UserError, match=r"(?s)run folder .* has .* in its path.*give --run a path"):
        run_folder_of(f"{place}{name}/run", load_recipe("tiny"))


def test_run_folder_that_is_no_text_in_the_locale_is_refused_with_the_way_out():
    name = "Läufe".encode().decode("ascii", "surrogateescape")  # as Python reads it under LC_ALL=C
    with pytest.raises(UserError, match=r"export LC_ALL=C\.UTF-8, or give --run a path of ASCII"):
        run_folder_of(f"/runs/{name}", load_recipe("tiny"))


def test_working_folder_with_brackets_refuses_the_default_run_folder(tmp_path, monkeypatch):
    (tmp_path / "[1]").mkdir()
    monkeypatch.chdir(tmp_path / "[1]")
    with pytest.raises(UserError, match="give --run a path"):
        run_folder_of(None, load_recipe("tiny"))


def test_other_names_of_run_folders_are_read_and_written_as_they_are(tmp_path):
    folder = run_folder_of(str(tmp_path / ODD), load_recipe("tiny"))
    assert folder == str(tmp_path / ODD)
    storage.check_writable(folder)
    storage.write_json(f"{folder}/a.json", {"a": "é"})
    assert storage.read_json(f"{folder}/a.json") == {"a": "é"}
    assert storage.names(folder) == {"a.json"}
    storage.delete(folder)
    assert not Path(folder).exists()


@pytest.mark.parametrize("name", ["a::b", "c[1]", "d?", "e*"])
def test_small_files_with_any_name_are_read_as_themselves(tmp_path, name):
    storage.write_json(f"{tmp_path}/{name}.json", [name])
    assert storage.read_json(f"{tmp_path}/{name}.json") == [name]
    assert storage.read_text(f"{tmp_path}/{name}.json", "file", "key").startswith("[")
    storage.delete(f"{tmp_path}/{name}.json")
    assert storage.names(str(tmp_path)) == set()


@pytest.mark.parametrize("name", ["model [1]", "model*"])
def test_base_model_whose_weights_an_engine_would_not_find_is_a_problem(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text("{}")
    source = model_source(str(tmp_path / name), None)
    assert "give settings.base.model a path without" in source.problem
    (tmp_path / name).rename(tmp_path / ODD)
    source = model_source(f"file://{tmp_path}/{ODD}", None)
    assert (source.location, source.problem) == (str(tmp_path / ODD), "")
