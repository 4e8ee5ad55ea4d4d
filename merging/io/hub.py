"""The Hugging Face hub: what a repository holds, its files at one commit, and one sentence for every way this can fail.

The login of huggingface_hub is used as it is; no token passes through here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..errors import MergeError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_NAME, _REVISION = r"[A-Za-z0-9][\w.-]{0,95}", r"(@(?P<revision>[\w./-]{1,200}))?"
HUB_ID = re.compile(f"(?P<repo>{_NAME}/{_NAME}){_REVISION}", re.ASCII)
BASE_ID = re.compile(f"(?P<repo>({_NAME}/)?{_NAME}){_REVISION}", re.ASCII)
"""Some of the oldest base models have no user before their name."""
TIMEOUT = 10.0  # seconds until the hub has answered


@dataclass(frozen=True)
class Repository:
    """A model repository at one commit.

    Attributes
    ----------
    repo : ``user/name``
    commit : 40 hexadecimal digits, what the revision stood for when it was looked up
    license : the model card's, or None
    sizes : {file: bytes}
    """

    repo: str
    commit: str
    license: str | None
    sizes: Mapping[str, int]

    @property
    def pinned(self) -> str:
        """``user/name@commit``."""
        return f"{self.repo}@{self.commit}"

    def download(self, names: Iterable[str]) -> dict[str, Path]:
        """Return {file: its path in huggingface_hub's cache}, fetched at this commit where it is not there yet."""
        paths = {}
        with sentences(self.repo):
            for name in names:
                paths[name] = Path(_api().hf_hub_download(self.repo, name, revision=self.commit))
        for name, path in paths.items():
            if path.stat().st_size != self.sizes[name]:
                raise MergeError(
                    f"{self.repo}: {name} has {path.stat().st_size:,} bytes, the hub lists {self.sizes[name]:,}."
                )
        return paths


def look_up(hub_id: str) -> Repository:
    """Return what the hub has under ``user/name[@revision]``, without downloading any file.

    Raises
    ------
    MergeError
        For what is no hub id; offline; for repositories and revisions that are not there or not open to this login.
    """
    parts = BASE_ID.fullmatch(hub_id)
    if parts is None:
        raise MergeError(f"{hub_id!r} is no hub id: write user/name, or user/name@revision.")
    repo = parts["repo"]
    with sentences(hub_id):
        info = _api().model_info(repo, revision=parts["revision"], files_metadata=True, timeout=TIMEOUT)
    files = {file.rfilename: file.size for file in info.siblings or ()}
    if info.sha is None or not all(isinstance(size, int) for size in files.values()):
        raise MergeError(f"The hub does not say how large the files of {hub_id} are, so nothing was downloaded.")
    license_ = info.card_data.get("license") if info.card_data else None
    if isinstance(license_, list):
        license_ = ", ".join(map(str, license_))
    return Repository(
        repo, info.sha, str(license_) if license_ else None, {name: size or 0 for name, size in files.items()}
    )


@contextmanager
def sentences(what: str) -> Iterator[None]:
    """Turn huggingface_hub's errors about ``what`` into one `MergeError` each."""
    from huggingface_hub import errors  # noqa: PLC0415 - pulls in an HTTP client

    # the base of its HTTP client's errors, whichever client a release uses
    network = cast(type[Exception], errors.HfHubHTTPError.__mro__[1])
    said: dict[type[Exception], str] = {  # the first that fits: a gated repository counts as one that is not found, too
        errors.GatedRepoError: "{} is gated: ask for access on its page and log in with `hf auth login`.",
        errors.RepositoryNotFoundError: "{} is not on the hub, or private: check its name, or log in with `hf auth "
        "login`; as a path it does not exist either.",
        errors.RevisionNotFoundError: "{}: the repository has no such revision.",
        errors.EntryNotFoundError: "{}: a file that the hub lists could not be fetched, try again.",
        errors.OfflineModeIsEnabled: "{} is not here and the hub is switched off (HF_HUB_OFFLINE): give a folder or "
        "zip file.",
        errors.HFValidationError: "{!r} is no hub id: write user/name, or user/name@revision.",
    }
    try:
        yield
    except MergeError:
        raise
    except tuple(said) as error:
        raise MergeError(next(text for kind, text in said.items() if isinstance(error, kind)).format(what)) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise MergeError(
            f"{what}: the hub refused ({status} {error.server_message or error.response.reason_phrase})."
        ) from error
    except ValueError as error:  # JSON that is none: a proxy or a login page answered
        raise MergeError(
            f"{what}: what answered is not the hub ({type(error).__name__}): check the connection."
        ) from error
    except (network, OSError) as error:
        if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError | TimeoutError):
            raise MergeError(
                f"{what}: a file on this machine could not be read or written ({error.strerror})."
            ) from error
        raise MergeError(
            f"{what} is not here and the hub could not be reached ({type(error).__name__}): give a folder or zip file."
        ) from error


def _api() -> HfApi:
    from huggingface_hub import HfApi  # noqa: PLC0415 - pulls in an HTTP client

    return HfApi()
