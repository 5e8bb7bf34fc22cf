"""The upload of planned repositories to the hub: one commit for each, its card in it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import httpx
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

from humpback_ray import storage
from humpback_ray.errors import UserError
from humpback_ray.publishing.plan import PlannedFile, Repository

# Of an earlier push; as a part of the weights or rows they would be read with the new ones.
REPLACED_SUFFIXES = (".safetensors", ".parquet")


def connect() -> HfApi:
    """The hub's client, with the token of the environment or of `hf auth login`.

    Raises:
        UserError: there is no token.
    """
    token = get_token()
    if not token:
        raise UserError(
            "no token for the hub: export HF_TOKEN or log in with `hf auth login`, or see with "
            "--dry-run what would be uploaded"
        )
    return HfApi(token=token, library_name="humpback_ray")


def upload(
    hub: HfApi, repositories: Sequence[Repository], is_private: bool, say: Callable[[str], None]
) -> None:
    """Create each repository where it does not exist, and commit its files, which replace older.

    Args:
        hub: the client.
        repositories: with owners.
        is_private: of repositories that do not exist yet; an existing one keeps its visibility.
        say: told of each repository that is uploaded.

    Raises:
        UserError: the hub refuses something or does not answer. The same command goes on.
    """
    for repository in repositories:
        try:
            say(f"uploaded: {_upload(hub, repository, is_private)}")
        except (OSError, ValueError, httpx.HTTPError) as error:
            raise UserError(
                f"the hub does not take {repository.repo_id}: {storage.one_line(error)[:400]}; "
                "check the token's rights and the connection, and give the same command again"
            ) from error


def _upload(hub: HfApi, repository: Repository, is_private: bool) -> str:
    repo_id, kind = repository.repo_id, repository.kind
    hub.create_repo(repo_id, repo_type=kind, private=is_private, exist_ok=True)
    paths = {file.path for file in repository.files}
    stale = [
        CommitOperationDelete(path)
        for path in hub.list_repo_files(repo_id, repo_type=kind)
        if path.endswith(REPLACED_SUFFIXES) and path not in paths
    ]
    with _local(repository.files) as places:
        added = [CommitOperationAdd(path, place) for path, place in places]
        commit = hub.create_commit(
            repo_id, [*added, *stale], repo_type=kind, commit_message="Upload by humpback_ray"
        )
    return str(commit.repo_url)


@contextmanager
def _local(files: Sequence[PlannedFile]) -> Iterator[list[tuple[str, str]]]:
    """(path in the repository, local path) of the files; copies of those at URLs."""
    with tempfile.TemporaryDirectory(prefix="humpback-push-") as folder:
        places = []
        for number, file in enumerate(files):
            place = file.location
            if storage.is_url(place):
                filesystem, path = storage.locate(place)
                place = f"{folder}/{number}"
                filesystem.get_file(path, place)
            places.append((file.path, place))
        yield places
