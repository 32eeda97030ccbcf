"""Weights in a Hugging Face repository: `hf:OWNER/NAME`, `/FILE` where it has several, `@REVISION`."""

import re
from collections.abc import Sequence
from pathlib import Path

from supernet.files import run_folder

PREFIX = "hf:"
REPOSITORY = re.compile(r"(?:hf:)?([\w.-]+/[\w.-]+)(?:/([^@]+))?(?:@(.+))?")
OURS = (run_folder.SUBNET, run_folder.SUPERNET)
CHECKPOINT = re.compile(r"(?:.*\.(?:pth|pt|ckpt)|(?:.*/)?ofa_[^/]*)")  # checkpoints of OFA have no suffix


def is_repository(weights: str) -> bool:
    """Whether the text can name a repository: `hf:owner/name`, or `owner/name` of which nothing is here."""
    if weights.startswith(PREFIX):
        return True
    bare = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(?:@[\w./-]+)?", weights)
    return bare is not None and not Path(weights.partition("/")[0]).exists()


def fetch(weights: str) -> Path:
    """The file with the weights of a repository, from its cache where it is there already.

    Of several files it takes one of ours, else the only `.safetensors`, else the only checkpoint. ValueError
    when there is no choice, no connection, or no package `huggingface_hub`.
    """
    match = REPOSITORY.fullmatch(weights)
    if match is None:
        raise ValueError(f"weights={weights} must be hf:OWNER/NAME, hf:OWNER/NAME/FILE or either @REVISION")
    repository, file, revision = match.groups()
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise ValueError(
            f"there is no file or folder {weights} here, and weights from the Hugging Face repository "
            f"{repository} need pip install 'ofa-frontier[hub]'"
        ) from error
    try:
        name = file or choose(_files(repository, revision), weights)
        return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
    except (OSError, errors.HTTPError, errors.HFValidationError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{weights} is no file or folder here, and no weights came from the Hugging Face repository "
            f"{repository} ({first}). Without a network: download the file elsewhere and give its path"
        ) from error


def _files(repository: str, revision: str | None) -> list[str]:
    """Names of the files of a repository; where the hub is out of reach, of the copy fetched before."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return list(huggingface_hub.list_repo_files(repository, revision=revision))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise
    except (OSError, errors.HTTPError):
        copy = Path(huggingface_hub.snapshot_download(repository, revision=revision, local_files_only=True))
        return [str(path.relative_to(copy)) for path in sorted(copy.rglob("*")) if path.is_file()]


def choose(files: Sequence[str], weights: str) -> str:
    """The file of a repository that holds the weights; ValueError when none or several could."""
    tensors = [file for file in files if file.endswith(".safetensors")]
    checkpoints = [file for file in files if CHECKPOINT.fullmatch(file)]
    for candidates in ([name for name in OURS if name in files], tensors, checkpoints):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            repository, _, revision = weights.partition("@")
            named = [f"{repository}/{file}{'@' * bool(revision)}{revision}" for file in candidates[:5]]
            raise ValueError(f"{weights} has several files with weights: give {' or '.join(named)}")
    raise ValueError(f"{weights} has no file with weights (.safetensors, .pth), only {', '.join(files[:9])}")
