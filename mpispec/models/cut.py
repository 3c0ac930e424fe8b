"""Cut the part of a model that one stage needs, and keep it in the user's cache folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import platformdirs

from mpispec.models import gguf_file, registry
from mpispec.models.errors import ModelError
from mpispec.models.gguf_file import GgufFile
from mpispec.models.part import PartPlan, Piece, padded, plan

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""

FORMAT = 1
"""Raise it whenever `part.plan` changes, so that parts cut by an older version are not used."""
CHUNK_BYTES = 4 << 20
STALE_SECONDS = 86_400.0
"""Age at which a temporary file has lost its writer."""


def part(
    source: Path, layers: range, progress: Progress | None = None, insist: bool = False, has_exit: bool = False
) -> Path:
    """Return a file with the layers [start, stop) of `source`, cut now or earlier; all layers: `source` itself.

    Parts are kept under a hash of their content. Any number of ranks may ask for the same part at once. `insist`
    cuts architectures that are not certified, `has_exit` keeps norm and projection as well. Raises ModelError.
    """
    model = gguf_file.read(source)
    registry.check_cut(model, layers, insist)
    if len(layers) == registry.layer_count(model):
        return source
    folder = cache_folder()
    with _readable_errors(folder, "in MPISPEC_CACHE"):
        memo = _Memo(source, layers, folder, has_exit)
        if (known := memo.lookup()) is not None:
            return known
        folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        return memo.remember(_write(model, plan(model, layers, has_exit), folder, None, progress))


def cut(source: Path, layers: range, destination: Path, progress: Progress | None = None, insist: bool = False) -> None:
    """Write the layers [start, stop) of `source` as a file of its own. Raises ModelError."""
    model = gguf_file.read(source)
    registry.check_cut(model, layers, insist)
    write(model, plan(model, layers), destination, progress)


def make_folder(folder: Path) -> None:
    """Make the folder that a user has named for parts. Raises ModelError."""
    with _readable_errors(folder, "with --out"):
        folder.mkdir(parents=True, exist_ok=True)


def write(model: GgufFile, todo: PartPlan, destination: Path, progress: Progress | None = None) -> None:
    """Write what is planned of `model`, replacing the destination in one step. Raises ModelError."""
    with _readable_errors(destination.parent, "with --out"):
        _write(model, todo, destination.parent, destination, progress)


def cache_folder(kind: str = "parts") -> Path:
    """Return the folder of cut parts, or of another kind: in `$MPISPEC_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("MPISPEC_CACHE") or platformdirs.user_cache_dir("mpispec")) / kind


def _write(model: GgufFile, todo: PartPlan, folder: Path, destination: Path | None, progress: Progress | None) -> Path:
    """Write a file next to its destination and move it there in one step; without one, name it by its content."""
    with _temporary(folder) as file:
        key = _copy(model, todo, file, progress)
        file.flush()
        os.fsync(file.fileno())
        destination = destination or folder / f"{key}.gguf"
        os.replace(file.name, destination)
    return destination


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[IO[bytes]]:
    """Open a new file that readers do not see; it is removed unless it has been moved away."""
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".partial", delete=False) as file:
        try:
            os.fchmod(file.fileno(), 0o644)
            yield file
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file.name)


def _copy(model: GgufFile, todo: PartPlan, file: IO[bytes], progress: Progress | None) -> str:
    """Write header and tensors; return the hash of all that the part depends on."""
    digest = hashlib.blake2b(f"mpispec part {FORMAT}".encode(), digest_size=16)
    digest.update(model.header)
    digest.update(todo.header)
    file.write(todo.header)
    with _source(model.path) as source:
        before = _identity(os.fstat(source.fileno()))
        for chunk in _chunks(source.fileno(), todo, model):
            digest.update(chunk)
            file.write(chunk)
            if progress:
                progress(file.tell(), todo.n_bytes)
        if before != _identity(os.fstat(source.fileno())) or before["size"] != model.n_bytes:
            raise ModelError(f"{model.path} changed while it was read; start again once it is complete.")
    return digest.hexdigest()


def _chunks(descriptor: int, todo: PartPlan, model: GgufFile) -> Iterator[bytes]:
    for piece in todo.pieces:
        source = _piece_chunks(descriptor, piece, model.path)
        yield from source if piece.change is None else (piece.change(b"".join(source)),)
        yield bytes(padded(piece.n_bytes, todo.alignment) - piece.n_bytes)


def _piece_chunks(descriptor: int, piece: Piece, path: Path) -> Iterator[bytes]:
    done, whole = 0, piece.n_bytes if piece.source_bytes is None else piece.source_bytes
    while done < whole:
        chunk = _pread(descriptor, min(CHUNK_BYTES, whole - done), piece.source + done, path)
        if not chunk:
            raise ModelError(f"{path} became shorter while it was read; start again once it is complete.")
        done += len(chunk)
        yield chunk


def _source(path: Path) -> IO[bytes]:
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise _unreadable(path, error) from None


def _pread(descriptor: int, n_bytes: int, offset: int, path: Path) -> bytes:
    try:
        return os.pread(descriptor, n_bytes, offset)
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> ModelError:
    return ModelError(f"Cannot read the model {path}: {error.strerror or error}; check the disk and the permissions.")


def _identity(status: os.stat_result) -> dict[str, int]:
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}


class _Memo:
    """Remembers which part came from which source, so that an unchanged source is not read again at each start."""

    def __init__(self, source: Path, layers: range, folder: Path, has_exit: bool) -> None:
        self._source = source.resolve()
        self._folder = folder
        self._status = {**_identity(self._source.stat()), "format": FORMAT}
        what = f"{self._source}\0{layers.start}-{layers.stop}" + ("\0exit" if has_exit else "")
        self._file = folder / f"{hashlib.blake2b(what.encode(), digest_size=16).hexdigest()}.json"

    def lookup(self) -> Path | None:
        """Return the part if source and part are as they were."""
        try:
            record = json.loads(self._file.read_bytes())
            found = self._folder / record["part"]
            same = record["source"] == self._status and record["n_bytes"] == found.stat().st_size
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return found if same else None

    def remember(self, found: Path) -> Path:
        """Write down where the part is, and return it."""
        record = {
            "path": str(self._source),
            "source": self._status,
            "part": found.name,
            "n_bytes": found.stat().st_size,
        }
        with _temporary(self._folder) as file:
            file.write(json.dumps(record).encode())
            file.flush()
            os.replace(file.name, self._file)
        return found


def _remove_stale(folder: Path) -> None:
    """Remove what writers left behind that were killed long ago."""
    oldest = time.time() - STALE_SECONDS
    for leftover in folder.glob("*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if leftover.stat().st_mtime < oldest:
                leftover.unlink()


@contextlib.contextmanager
def _readable_errors(folder: Path, where: str) -> Iterator[None]:
    """Turn what the file system says into one sentence with the remedy; `where` says how another folder is named."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            text = f"No space is left for a model part in {folder}; free some, or name another disk {where}."
        else:
            reason = error.strerror or error
            text = f"Cannot write a model part to {folder}: {reason}; name a writable folder {where}."
        raise ModelError(text) from None
