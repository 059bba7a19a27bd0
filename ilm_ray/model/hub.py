"""Model folders that a setting names: a path, or `hf://owner/name` on the Hugging Face Hub; and the way there."""

import re
from collections.abc import Sequence
from pathlib import Path

from ilm_ray.base.errors import UserError
from ilm_ray.base.places import located

HUB = "hf://"
# Nothing else is downloaded: no code, no pickles.
_FILES = ("*.safetensors", "*.json", "tokenizer.model", "*.jinja")
_SUBFOLDERS = ["*/*"]  # other formats of the same weights
_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def model_folder(place: str, files: Sequence[str] = _FILES) -> Path:
    """The folder of the model that a setting names. hf://owner/name is downloaded into the Hub's cache, `files` alone.

    HF_TOKEN opens private models, HF_HUB_OFFLINE=1 takes the cache's files alone. Raises UserError where it is not
    there.
    """
    if not place.startswith(HUB):
        folder = Path(located(place))
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; give that of a model, or hf://owner/name")
        return folder
    name = hub_name(place)
    from huggingface_hub import snapshot_download  # a second to import
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(files), ignore_patterns=_SUBFOLDERS))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{place} cannot be downloaded ({line}); check the name, the network and HF_TOKEN, or give a folder"
        ) from None


def upload_folder(folder: Path, place: str, token: str) -> str:
    """Upload a folder's files as the model hf://owner/name, private if it is new; returns the commit's address.

    Raises UserError where the Hub refuses it.
    """
    name = hub_name(place)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(token=token)
    try:
        api.create_repo(name, private=True, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload from ilm_ray"))
    except (HfHubHTTPError, OSError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{place} was not uploaded ({line}); check the name, the network and HF_TOKEN") from None


def hub_name(place: str) -> str:
    """owner/name of `hf://owner/name`. Raises UserError where it is none."""
    name = place.removeprefix(HUB)
    if not place.startswith(HUB) or not _NAME.fullmatch(name):
        raise UserError(f"'{place}' is no model of the Hub; write hf://owner/name")
    return name
