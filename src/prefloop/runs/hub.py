"""A folder on the Hugging Face hub, on request only."""

from __future__ import annotations

from pathlib import Path

from prefloop.core.errors import UserError, raised


def push(folder: Path, repository: str, *, public: bool = False) -> str:
    """Upload an exported folder to a new repository, and return its address.

    The token is that of `hf auth login`, or of the variable HF_TOKEN.

    Args:
        repository: OWNER/NAME, which must not exist.

    Raises:
        UserError: it exists, no token, no network, or the hub is switched off (HF_HUB_OFFLINE).
    """
    from huggingface_hub import HfApi

    try:
        address = str(HfApi().create_repo(repository, private=not public, exist_ok=False))
        HfApi().upload_folder(repo_id=repository, folder_path=folder, commit_message="Exported by Prefloop")
    except Exception as error:  # of the network, of the hub, of the token: the library has dozens
        fix = f"see `hf auth login`; the folder is complete: hf upload {repository} {folder}"
        raise UserError(f"not pushed: {raised(error)}", where=f"--push {repository}", fix=fix) from error
    return address
