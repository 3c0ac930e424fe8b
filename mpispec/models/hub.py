"""Models of the Hugging Face hub.

A GGUF file is downloaded whole. Of a model in Hugging Face's own form everything but weights comes at once, with the
headers of its shards; a shard comes when a rank asks for it, so that no host downloads the layers of others. Files lie
in huggingface_hub's cache, which ranks of a host share under its locks. The model's folder is one of links in ours.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from mpispec.models import hf_folder
from mpispec.models.cut import cache_folder
from mpispec.models.errors import ModelError
from mpispec.models.registry import SPLIT, split_sentence

PREFIX = "hf:"
PREFERRED = ("Q4_K_M", "Q4_0", "Q8_0")
"""Quantisations to take, in this order, where a repository has several files and the user names none."""
_SMALL = ("*.json", "*.jinja")
_CODE = "*.py"
"""What is downloaded at once of a model in Hugging Face's form: no weights, and code only if it may be run."""
_AT_ONCE = 8
"""Headers that are asked for at a time."""


def download(name: str, has_code: bool = False) -> Path:
    """Return the file or folder of `hf:owner/repo[/file.gguf][@revision]`, with its code or without.

    Raises ModelError.
    """
    named, _, revision = name.removeprefix(PREFIX).partition("@")
    owner, _, rest = named.partition("/")
    repository, _, file = rest.partition("/")
    if not owner or not repository:
        raise ModelError(f"{name} names no repository; write hf:owner/repo or hf:owner/repo/file.gguf.")
    if part := SPLIT.search(file):  # many gigabytes that would be refused afterwards
        raise ModelError(split_sentence(file, int(part[1])))
    hub, repository = _hub(), f"{owner}/{repository}"
    with _readable_errors(hub, name, repository):
        files = [] if file else _files(hub, repository, revision or None)
        if _is_folder(files):
            return _folder(hub, repository, revision or None, has_code)
        return Path(hub.hf_hub_download(repository, file or _choose(repository, files), revision=revision or None))


class Held(NamedTuple):
    """What a rank holds of a model."""

    path: Path
    layers: range
    has_exit: bool = False


def lacking(held: Held) -> dict[str, int]:
    """Return the shards with tensors of these layers that this host still lacks, and the bytes of tensors in each.

    None are lacking where a model is a file, or a folder that the user has named. Raises ModelError.
    """
    path = held.path
    if not path.is_dir() or not (path / hf_folder.REMOTE).is_file():
        return {}
    found: dict[str, int] = {}
    needed = {tensor.file for tensor in hf_folder.tensors_of(*held).values()}
    for tensor in hf_folder.stored_tensors(path).values():
        if tensor.file in needed and not tensor.file.is_file():
            found[tensor.file.name] = found.get(tensor.file.name, 0) + tensor.n_bytes
    return found


def fetch(folder: Path, shard: str, count: Callable[[int], None]) -> None:
    """Download a shard into a model's folder; `count` is told of bytes that have come. Raises ModelError."""
    hub, origin = _hub(), hf_folder.settings(folder, hf_folder.REMOTE)
    repository, revision = str(origin["repository"]), str(origin["revision"])

    def update(_: object, n_bytes: float | None = 1) -> None:
        count(int(n_bytes or 0))

    counting = type("Counting", (hub.utils.tqdm,), {"update": update})
    with _readable_errors(hub, f"{PREFIX}{repository}/{shard}", repository):
        _link(Path(hub.hf_hub_download(repository, shard, revision=revision, tqdm_class=counting)), folder)


def _hub() -> Any:
    try:
        for part in ("errors", "constants", "utils"):  # which it does not load by itself
            importlib.import_module(f"huggingface_hub.{part}")
        return importlib.import_module("huggingface_hub")
    except ImportError:
        raise ModelError("Downloads need the package huggingface_hub; run: pip install 'mpispec[hub]'.") from None


def _files(hub: Any, repository: str, revision: str | None) -> list[str]:
    """Return the files of a repository; without a network those that were downloaded before."""
    try:
        # Not list_repo_files, which tries again for half a minute where there is no network.
        return [str(file.rfilename) for file in hub.model_info(repository, revision=revision).siblings]
    except (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError):
        raise
    except Exception:  # the HTTP library's own, whichever that is
        with contextlib.suppress(Exception):
            cached = Path(_small_files(hub, repository, revision, has_code=False, local_files_only=True))
            return [str(file.relative_to(cached)) for file in cached.rglob("*") if file.is_file()]
        raise


def _is_folder(files: Sequence[str]) -> bool:
    """Tell whether a repository is a model in Hugging Face's own form, without a GGUF file."""
    return hf_folder.CONFIG in files and not any(file.endswith(".gguf") for file in files)


def _choose(repository: str, files: Sequence[str]) -> str:
    every = sorted(file for file in files if file.endswith(".gguf"))
    models = [file for file in every if not SPLIT.search(file)]
    if len(models) == 1:
        return models[0]
    for quantisation in PREFERRED:
        matching = [file for file in models if quantisation.lower() in file.lower()]
        if len(matching) == 1:
            return matching[0]
    if not models and every:
        raise ModelError(
            f"{PREFIX}{repository} holds split models alone; download the files of one, bring them together with "
            f"`llama-gguf-split --merge {every[0]} MERGED.gguf`, and give that file."
        )
    if not models:
        raise ModelError(f"{repository} holds no GGUF file and no config.json; name a repository of a language model.")
    shown = ", ".join(models[:8])
    raise ModelError(f"{PREFIX}{repository} holds {len(models)} models; add the name of one: {shown}.")


def _folder(hub: Any, repository: str, revision: str | None, has_code: bool) -> Path:
    """Return a folder with links to all files that are here, and with the headers of all shards."""
    snapshot = Path(_small_files(hub, repository, revision, has_code))
    key = hashlib.blake2b(str(snapshot).encode(), digest_size=8).hexdigest()
    folder = cache_folder("hub") / key / repository.partition("/")[2]
    folder.mkdir(parents=True, exist_ok=True)
    for file in snapshot.iterdir():
        if file.name != hf_folder.REMOTE:  # that one is ours
            _link(file, folder)
    if not (folder / hf_folder.REMOTE).is_file():
        headers = _headers(hub, folder, repository, snapshot.name)
        origin = {"repository": repository, "revision": snapshot.name, "headers": headers}
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".partial", delete=False) as written:
            os.fchmod(written.fileno(), 0o644)
            json.dump(origin, written)
        os.replace(written.name, folder / hf_folder.REMOTE)
    return folder


def _small_files(hub: Any, repository: str, revision: str | None, has_code: bool, **options: Any) -> str:
    """Download what is small; return the snapshot that it is in, which is named by the commit."""
    hub.utils.disable_progress_bars()  # each rank would draw its own
    # The files of subfolders are other forms of the same model.
    patterns = {"allow_patterns": (*_SMALL, _CODE) if has_code else _SMALL, "ignore_patterns": "*/*"}
    return str(hub.snapshot_download(repository, revision=revision, **patterns, **options))


def _link(file: Path, folder: Path) -> None:
    with contextlib.suppress(FileExistsError):  # by an earlier start, or another rank
        (folder / file.name).symlink_to(file)


def _headers(hub: Any, folder: Path, repository: str, revision: str) -> dict[str, Any]:
    """Return for each shard what its header says of each tensor, in the form of the header."""
    api = hub.HfApi()

    def read(shard: str) -> dict[str, Any]:
        if (folder / shard).is_file():
            return hf_folder.read_header(folder / shard)
        found = api.parse_safetensors_file_metadata(repository, shard, revision=revision).tensors
        return {name: {key: getattr(said, key) for key in hf_folder.HEADER_KEYS} for name, said in found.items()}

    shards = hf_folder.shard_names(folder)
    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return dict(zip(shards, pool.map(read, shards), strict=True))
    except hub.errors.EntryNotFoundError as error:
        raise ModelError(
            f"{PREFIX}{repository} lacks weights as safetensors, or a part of them; choose another repository."
        ) from error


@contextlib.contextmanager
def _readable_errors(hub: Any, name: str, repository: str) -> Iterator[None]:
    """Turn what goes wrong with a download into one sentence with the remedy.

    The hub's client raises its own, its HTTP library's and the system's errors, and some of them for several reasons.
    """
    errors = hub.errors
    try:
        yield
    except ModelError:
        raise
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{name} is gated; accept its terms at {hub.constants.ENDPOINT}/{repository}, then run: hf auth login."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"The hub has no model {repository}, or it is private; check the name, or run: hf auth login."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{repository} has no such revision; check what follows @ in {name}.") from error
    except Exception as error:
        if _is_no_space(error):
            cache = hub.constants.HF_HUB_CACHE
            raise ModelError(
                f"No space is left for {name} in {cache}; free some, or name another disk in HF_HOME."
            ) from error
        reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        raise ModelError(
            f"Cannot download {name}: {reason}; check the name and the network, or give the path of a file or folder."
        ) from error


def _is_no_space(error: BaseException | None) -> bool:
    """Tell whether a disk was full, at the bottom of an error: hf_xet says it in words alone."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
