"""Addresses of datasets: what they name, which ones are refused, and where they may stand."""

from __future__ import annotations

import os

import pytest

from humpback_ray.config.dataset_address import DatasetAddress, dataset_address, is_dataset
from humpback_ray.config.recipe import load_recipe
from humpback_ray.errors import UserError


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("dataset://squad", DatasetAddress("squad")),
        ("dataset://ORG/na-me.v1", DatasetAddress("ORG/na-me.v1")),
        ("dataset://o/n?config=2023.en&split=train", DatasetAddress("o/n", "2023.en", "train")),
        ("dataset://o/n?revision=refs/pr/1", DatasetAddress("o/n", revision="refs/pr/1")),
        ("dataset://o/n?column=a%20b", DatasetAddress("o/n", column="a b")),
        ("dataset:///data/set?split=x", DatasetAddress("/data/set", split="x")),
    ],
)
def test_address_is_read_and_written_again(location, expected):
    assert is_dataset(location)
    assert dataset_address(location) == expected
    assert dataset_address(str(expected)) == expected


def test_folder_is_absolute_and_a_name_of_the_hub_has_none():
    assert dataset_address("dataset:///data/./set").folder == "/data/set"
    assert dataset_address("dataset://~/set").folder == os.path.expanduser("~/set")
    assert dataset_address("dataset://org/name").folder is None


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("dataset://", "a dataset is ORG/NAME"),
        ("dataset://./set", "a folder by its absolute path"),
        ("dataset://a/b/c", "a dataset is ORG/NAME"),
        ("dataset://o/n?en", "behind . stand KEY=VALUE"),
        ("dataset://o/n?subset=en", "some of config, split, column, revision"),
        ("dataset://o/n?split=", "each once with a value"),
        ("dataset://o/n?split=a&split=b", "each once with a value"),
        ("dataset:///data/set?revision=v1", "a folder has no revision"),
        ("hf://datasets/o/n?split=train", "hf:// names files of a repository: write dataset://"),
    ],
)
@pytest.mark.parametrize("setting", ["corpus.path", "seed.path", "evaluation.prompts"])
def test_wrong_address_is_refused_by_the_recipe_in_one_line(setting, location, reason):
    with pytest.raises(UserError, match=rf"settings\.{setting}: .*{reason}") as error:
        load_recipe("tiny", [f"settings.{setting}={location}"])
    assert "\n" not in str(error.value)


def test_dataset_is_refused_where_a_file_is_needed():
    with pytest.raises(UserError, match=r"evaluation\.safety: this setting takes a file"):
        load_recipe("tiny", ["settings.evaluation.safety=dataset://o/n"])


def test_file_of_a_hub_repository_stays_a_url():
    location = "hf://datasets/o/n/data/a.jsonl"
    assert load_recipe("tiny", [f"settings.seed.path={location}"]).settings.seed.path == location
    assert not is_dataset(location)
