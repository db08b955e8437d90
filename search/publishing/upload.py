"""The upload to the hub: the login, the repository, and the transfer, which continues where it was cut off.

Guarantees: nothing private becomes public: a repository that exists keeps its visibility, or is refused. A repository
that holds anything but an earlier export of ours is refused. Files of such an export that this one lacks are removed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from merging.checkpoints.model_files import TOKENIZER_FILES
from merging.checkpoints.references import is_hub_id
from merging.errors import first_line
from search.errors import SearchError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

OPTION: Final = "--push-to-hub"
CARD: Final = "README.md"
_MESSAGE: Final = "Upload a merge made with merge-search"
_OURS: Final = "merge-search"  # the tag of its model cards
# Files that an earlier export may have and this one may lack; all others in the repository are its owner's.
_STALE: Final = (
    "*.safetensors", "*.safetensors.index.json", ".eval_results/*.yaml", "recipe.yaml", *TOKENIZER_FILES,
)  # fmt: skip


@dataclass(frozen=True)
class Upload:
    """The upload of an export to a repository of the hub.

    Attributes:
        api: the hub's API, with the user's login.
        repository: its id, USER/NAME.
        private: whether only its owner may see it.
    """

    api: HfApi
    repository: str
    private: bool

    @classmethod
    def prepare(cls, repository: str, private: bool) -> Upload:
        """Return the upload to a repository, which need not exist yet. Writes nothing.

        Raises SearchError if the id is not valid, nobody is logged in, or the repository is not ours to write.
        """
        from huggingface_hub import HfApi, get_token

        if not is_hub_id(repository) or "@" in repository:
            raise SearchError(f"{OPTION} {repository}: give USER/NAME, such as ada/my-merge")
        if not get_token():
            raise SearchError(
                f"{OPTION} {repository}: nobody is logged in to the hub; run `hf auth login`, or set HF_TOKEN to a "
                "token that may write"
            )
        upload = cls(HfApi(library_name=_OURS), repository, private)
        with asking(repository, "nothing was uploaded"):
            upload.api.whoami()
            upload._is_ours()
        return upload

    def push(self, folder: Path) -> str:
        """Upload a folder, and return where it is on the hub; a file that is there already is not sent again.

        Raises SearchError if the upload was cut off or refused. The same call then continues it.
        """
        again = f"the export is in {folder}, and the same command continues this upload"
        with asking(self.repository, again):
            self.api.create_repo(self.repository, private=self.private, exist_ok=True)
            if not self._is_ours():  # somebody may have made it meanwhile
                # The card first: it marks the repository as an export of ours, whatever is cut off after it.
                self.api.upload_file(
                    path_or_fileobj=folder / CARD, path_in_repo=CARD, repo_id=self.repository, commit_message=_MESSAGE
                )
            self.api.upload_folder(
                repo_id=self.repository,
                folder_path=folder,
                commit_message=_MESSAGE,
                delete_patterns=list(_STALE),
            )
        return f"{self.api.endpoint}/{self.repository}"

    def _is_ours(self) -> bool:
        """Whether the repository holds an export of ours; False if it is empty, or is not there.

        Raises SearchError if it holds something else, or is not as private as it is meant to be.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            known = self.api.model_info(self.repository)
        except RepositoryNotFoundError:
            return False
        if bool(known.private) != self.private:
            now, remedy = ("private", "give --private") if known.private else ("public", "leave --private out")
            raise SearchError(f"{OPTION} {self.repository}: exists and is {now}; {remedy}, or give another name")
        if _OURS in (known.tags or ()):
            return True
        if {file.rfilename for file in known.siblings or ()} - {".gitattributes"}:
            raise SearchError(f"{OPTION} {self.repository}: holds something else; give another name")
        return False


@contextlib.contextmanager
def asking(repository: str, otherwise: str) -> Iterator[None]:
    """Turn an error of the hub into one sentence; `otherwise` says where that leaves the user."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except SearchError:
        raise
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        reason = _REASONS.get(status) or f"the hub answers {status}: {error.server_message or first_line(error)}"
        raise SearchError(f"{OPTION} {repository}: {reason}; {otherwise}") from error
    except Exception as error:  # the errors of huggingface_hub, its HTTP client and proxies have no common base
        raise SearchError(f"{OPTION} {repository}: {_cause(error)}; {otherwise}") from error


_REASONS: Final = {
    401: "the hub does not know this login; run `hf auth login` again, or set HF_TOKEN to a token that may write",
    403: "this login may not write there; check the name, and that the token may write",
}


def _cause(error: Exception) -> str:
    """Return an error's message, with that of the first error that led to it."""
    first: BaseException = error
    while before := first.__cause__ or first.__context__:
        first = before
    said = first_line(error).rstrip(".")
    why = str(first).strip().splitlines()
    return said if first is error or not why else f"{said} ({why[0]})"
