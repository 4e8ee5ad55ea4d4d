"""Putting an exported folder on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..adapters.peft_format import CONFIG_FILE
from ..errors import MergeError
from ..io import hub

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def push_to_hub(folder: str | Path, repo_id: str, private: bool = True, api: HfApi | None = None) -> str:
    """Create the repository ``user/name`` and upload a folder written by `Merged.save` or `save_full_model`; return its
    address.

    The login of huggingface_hub is used. The folder goes up as it is: its recipe names the adapters by their paths on
    this machine unless they came from the hub.

    Parameters
    ----------
    private : only its owner sees the repository
    api : another endpoint or login than huggingface_hub's own

    Raises
    ------
    MergeError
        If nobody is logged in, the folder is no export, the repository has files already or is visible to others than
        asked for, or the hub refuses.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415 - pulls in an HTTP client

    place = Path(folder)
    if not (place / "README.md").is_file() or not any(
        (place / name).is_file() for name in (CONFIG_FILE, "config.json")
    ):
        raise MergeError(f"{folder} holds no exported adapter or model with its card: save the merge there first.")
    api = api or HfApi()
    pusher(repo_id, api)
    with hub.sentences(repo_id):
        url = str(api.create_repo(repo_id, private=private, exist_ok=True))
        info = api.model_info(repo_id)
        if bool(info.private) != private:
            visibility = "private" if info.private else "public"
            raise MergeError(
                f"{repo_id} exists already and is {visibility}: choose another name, or private={not private}."
            )
        if any(file.rfilename != ".gitattributes" for file in info.siblings or ()):
            raise MergeError(f"{repo_id} exists already and has files: choose another name.")
        api.upload_folder(
            repo_id=repo_id, folder_path=place, commit_message="Merge of LoRA adapters, made with Mergescope"
        )
    return url


def pusher(repo_id: str, api: HfApi) -> str:
    """Return the name of who would push to ``user/name`` with this login; nothing is written.

    Raises
    ------
    MergeError
        If the name is none of a repository, nobody is logged in, or the hub cannot be reached.
    """
    from huggingface_hub.errors import LocalTokenNotFoundError  # noqa: PLC0415 - pulls in an HTTP client

    if hub.HUB_ID.fullmatch(repo_id) is None or "@" in repo_id:
        raise MergeError(f"{repo_id!r} is no name of a repository: write user/name.")
    with hub.sentences(repo_id):
        try:
            return str(api.whoami()["name"])
        except LocalTokenNotFoundError as error:
            raise MergeError("Nobody is logged in to the hub: run `hf auth login`, then push again.") from error
