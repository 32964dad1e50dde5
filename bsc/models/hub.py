"""A model's files from the Hugging Face hub, through its own cache (HF_HOME and HF_HUB_OFFLINE are obeyed)."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # by whichever name the hub's client has it

from bsc.errors import UserError
from bsc.io import is_disk_full


def download(name: str, revision: str, patterns: Sequence[str]) -> Path:
    """The cached snapshot of OWNER/NAME at a revision, with the files that the patterns match; its last part is the commit.

    Raises UserError when the repository or revision is not there or not open to us, or the hub is out of reach.
    """
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except (HFValidationError, httpx.HTTPError, OSError, RuntimeError) as error:  # RuntimeError: of hf-xet
        if is_disk_full(error):
            raise
        what, fix = _explain(error, name, revision)
        raise UserError(what, where=f"hub:{name}@{revision}", fix=fix) from error


def _explain(error: Exception, name: str, revision: str) -> tuple[str, str]:
    match error:
        case GatedRepoError():
            return "the model is gated", "accept its terms on the hub, and log in: hf auth login"
        case RevisionNotFoundError():
            return "the model has no such revision", "set `revision` to a commit or a tag of it"
        case RepositoryNotFoundError() | HFValidationError():
            return "there is no such model, or it is private", "check `source`: hub:OWNER/NAME"
    fix = f"check the network and HF_HUB_OFFLINE, or fetch it where there is one: hf download {name} --revision {revision}"
    return f"the hub cannot be reached, and the model is not in the local cache ({type(error).__name__})", fix
