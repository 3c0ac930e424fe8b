"""What was said before this job, and what is kept of it for the next (`--ngram-file`, `--ngram-tokens`); on rank 0."""

from __future__ import annotations

from mpispec.drafters import suffix_file
from mpispec.drafters.suffix_file import SuffixFileError
from mpispec.drafters.suffix_store import SuffixStore
from mpispec.runtime.group import JobError
from mpispec.runtime.setup import JobOptions, Setup


def opened(options: JobOptions, setup: Setup) -> SuffixStore | None:
    """Return the store with the texts of the file; None where each request drafts from its own text. JobError."""
    path, model = options.ngram_file, setup.model
    if not options.ngram_tokens:
        if path is not None:
            raise JobError("--ngram-tokens 0 keeps nothing that --ngram-file could hold; give one of them.")
        return None
    store = SuffixStore(options.ngram_tokens)
    if path is not None:
        try:
            suffix_file.check_writable(path)
            texts = suffix_file.read(path, model.vocabulary, model.vocabulary_digest)
        except SuffixFileError as error:
            raise JobError(str(error)) from error
        for tokens in texts:
            store.extend(store.new_text(), tokens)
    return store


def keep(options: JobOptions, setup: Setup, store: SuffixStore | None) -> None:
    """Write the texts of the store into the file, if there is to be one. Raises JobError."""
    if store is not None and options.ngram_file is not None:
        try:
            suffix_file.write(options.ngram_file, store.texts(), setup.model.vocabulary_digest)
        except SuffixFileError as error:
            raise JobError(str(error)) from error
