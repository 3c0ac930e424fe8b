"""One generation as text: `Completion` for a thread that may block, `AsyncCompletion` for an event loop.

The engine calls listeners on its own thread, between two runs, so a listener only puts the progress into an inbox;
tokens become text on the consumer's side. An inbox holds at most one entry for each token of `max_tokens`.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from queue import SimpleQueue
from typing import Any

from mpispec.core.effects import FinishReason, Origin
from mpispec.core.tree import BY_DRAFT, BY_EXIT, BY_HEAD
from mpispec.runtime.engine import Generation, Progress
from mpispec.serve.text.arrivals import arrivals
from mpispec.serve.text.detokenizer import LoopWatch, TextStream
from mpispec.serve.text.engine import Engine
from mpispec.serve.text.prompt import Prompt
from mpispec.serve.text.scores import NumTop, Scoring
from mpispec.serve.text.turn import Mark, Piece, PlainReader, Reader, Said, Thought, joined
from mpispec.serve.text.vocabulary import Vocabulary

_ANY_PROMPT = Prompt(())
"""How the answer to a prompt is read that is text alone."""
_AT_ONCE = 16
"""Progresses of one generation that are taken in one turn of an event loop, so that no other waits for a pile."""
_NO_SCORES = NumTop()


@dataclass(frozen=True, slots=True)
class Completed:
    """A generation that has ended."""

    text: str
    tokens: tuple[int, ...]
    """All tokens of the text, the one that completed a stop string and an end-of-text token included."""
    finish_reason: FinishReason
    """`stop` for an end-of-text token, a stop string or a cut, else what the engine said."""
    prompt_tokens: int
    report: dict[str, Any]
    """`Engine.report` of the request."""
    is_cut: bool = False
    """Whether the answer was ended because it only repeated itself."""
    stop: str | None = None
    """The stop string that ended it."""
    thought_tokens: int = 0
    """How many of the tokens were thought before the answer."""
    prompt_scores: list[dict[str, Any] | None] | None = None
    """What `Scoring.ranked` returned."""

    @property
    def is_unfinished(self) -> bool:
        """Whether the model would have gone on: the tokens wanted, or the time, were used up."""
        return self.finish_reason in ("length", "timeout")

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that were in the cache already; 0 where so many requests ended since that none knows."""
        return int(self.report.get("cached_tokens", 0))


class _Answer:
    """What both kinds share: submits, gathers, withdraws."""

    _reader: Reader = PlainReader()
    """Says what the text is, and when no more of it is wanted."""

    def __init__(
        self,
        engine: Engine,
        vocabulary: Vocabulary,
        generation: Generation,
        stops: Sequence[str],
        cuts_repeats: bool,
        listener: Callable[[Progress], None],
        shown: frozenset[int] = frozenset(),
    ) -> None:
        self._engine = engine
        self._vocabulary = vocabulary
        self._stream = TextStream(vocabulary, stops, shown, generation.min_tokens)
        self._loop = LoopWatch() if cuts_repeats else None
        self._min_tokens = generation.min_tokens
        self.prompt_tokens = len(generation.prompt)
        self.times = array("d")
        """When each token became final, in seconds on the monotonic clock."""
        self._texts: list[str] = []
        self._tokens: list[int] = []
        self._thought_tokens = 0
        self._finish: FinishReason | None = None
        self._marks: list[Mark] = []
        """Of tokens whose text has not been read yet; none unless the generation is traced."""
        self._is_over = False
        """Whether this side needs no further tokens."""
        self.withdrawn = False
        """Whether this side ended the request early, by a stop string too."""
        self._request = engine.submit(generation, listener)

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens so far."""
        return tuple(self._tokens)

    @property
    def has_ended(self) -> bool:
        """Whether there is a `result`."""
        return self._finish is not None

    def withdraw(self) -> None:
        """End the request early unless it has ended; iterating goes on to the engine's last word."""
        if self._finish is None and not self.withdrawn:
            self.withdrawn = True
            self._engine.withdraw(self._request)

    def result(self) -> Completed:
        """Return the ended generation; raises RuntimeError if the iteration has not come to its end."""
        if self._finish is None:
            raise RuntimeError("The generation has not ended yet; iterate to the end first.")
        return Completed(
            text=self.text,
            tokens=self.tokens,
            finish_reason=self._finish,
            prompt_tokens=self.prompt_tokens,
            report=self._engine.report(self._request),
            is_cut=self._is_cut,
            stop=self._stream.stop_found,
            thought_tokens=self._thought_tokens,
        )

    @property
    def _is_cut(self) -> bool:
        return self._loop is not None and self._loop.is_loop and len(self._tokens) >= self._min_tokens

    def _has_enough(self) -> bool:
        return self._stream.stop_found is not None or self._reader.is_over or (self._loop is not None and self._is_cut)

    def _read(self, text: str, is_last: bool = False) -> str:
        """Take the text of a token, or what was held back at the end; return it."""
        return text

    def _note_scores(self, progress: Progress) -> None:
        """Take the scores that come with a progress."""

    def _note_token(self, token: int) -> None:
        """Take a token before its text is read."""

    def _absorb(self, progress: Progress) -> str:
        """Take the next progress; return the text it adds.

        Tokens after the one that completed a stop string, or showed a loop, are left out: how many of them come along
        with it depends on the strategy, and the answer must not (law 6).
        """
        added = ""
        self._note_scores(progress)
        origins: Iterable[Origin | None] = progress.origins or repeat(None)
        for token, origin in zip(progress.tokens, origins, strict=False):
            if self._is_over:
                break
            if origin is not None:
                self._marks.append(_mark_of(origin, self._vocabulary))
            self._tokens.append(token)
            self.times.append(progress.when)
            self._thought_tokens += self._reader.is_thinking
            self._note_token(token)
            if text := self._stream.push(token):
                added += self._read(text)
            if self._loop is not None:
                self._loop.push(token)
            self._is_over = self._has_enough()
        if progress.finish is not None:
            added += self._read(self._stream.flush(), is_last=True)
            self._is_over = self._has_enough()
            self._finish = "stop" if self._is_over else progress.finish
        elif self._is_over:
            self.withdraw()
        if added:
            self._texts.append(added)
        return added


class Completion(_Answer):
    """One generation for a thread: iterate over its text, then ask for the `result`.

    Raises ValueError and EngineStopped as `Engine.submit` does. Leaving the iteration early, by an exception such
    as KeyboardInterrupt too, withdraws the request.
    """

    def __init__(
        self,
        engine: Engine,
        vocabulary: Vocabulary,
        generation: Generation,
        stops: Sequence[str] = (),
        cuts_repeats: bool = False,
    ) -> None:
        self._inbox: SimpleQueue[Progress | None] = SimpleQueue()
        super().__init__(engine, vocabulary, generation, stops, cuts_repeats, self._inbox.put)

    def interrupt(self) -> None:
        """Ask the iterating thread to withdraw the request.

        Safe in a signal handler, where a call of the engine could wait for a lock that the interrupted code holds:
        `SimpleQueue.put` is reentrant.
        """
        self._inbox.put(None)

    def __iter__(self) -> Iterator[str]:
        try:
            while self._finish is None:
                progress = self._inbox.get()
                if progress is None:
                    self.withdraw()
                elif added := self._absorb(progress):
                    yield added
        finally:
            self.withdraw()


_DRAFTERS = {BY_HEAD: "ngram", BY_DRAFT: "draft", BY_EXIT: "exit"}


def _mark_of(origin: Origin, vocabulary: Vocabulary) -> Mark:
    drafted_by = tuple(name for bit, name in _DRAFTERS.items() if origin.drafters & bit)
    rejected = b"".join(vocabulary.piece(token) for token in origin.rejected)
    return Mark(drafted_by, rejected.decode("utf-8", "replace"))


def written(engine: Engine, vocabulary: Vocabulary, generation: Generation) -> Completed:
    """Have something generated to its end; raises as `Completion` does."""
    completion = Completion(engine, vocabulary, generation)
    for _ in completion:
        pass
    return completion.result()


class AsyncCompletion(_Answer):
    """One generation for the running event loop: `hearing.hear` it, then ask for the `result`.

    Raises ValueError and EngineStopped as `Engine.submit` does.
    """

    def __init__(
        self,
        engine: Engine,
        vocabulary: Vocabulary,
        generation: Generation,
        stops: Sequence[str] = (),
        cuts_repeats: bool = False,
        prompt: Prompt = _ANY_PROMPT,
        num_top: NumTop = _NO_SCORES,
    ) -> None:
        """`prompt` says how the answer is read, and whether it repeats the prompt; `num_top` what of scores is told."""
        arriving = arrivals()
        self._inbox: deque[Progress] = deque()
        self._ring: Callable[[], None] | None = None
        """To be called when something has come."""
        self._reader = prompt.new_reader()
        self._pieces: list[Piece] = []
        self._echo = prompt.echo
        """What is still to be repeated."""
        is_scored = generation.sampling.top_logprobs >= 0
        self._scoring = Scoring(vocabulary, generation.prompt, prompt.echo, num_top) if is_scored else None

        def listen(progress: Progress) -> None:
            self._inbox.append(progress)
            if self._ring is not None:
                arriving.ring(self._ring)

        super().__init__(engine, vocabulary, generation, stops, cuts_repeats, listen, prompt.shown)

    def attach(self, ring: Callable[[], None]) -> None:
        """Have `ring` called on the loop when something has come; there may be something to `take` already."""
        self._ring = ring

    @property
    def has_more(self) -> bool:
        """Whether there is something to `take`."""
        return bool(self._inbox)

    def take(self) -> list[Piece]:
        """Return the next pieces of what has come; those of one progress that belong together are one."""
        pieces: list[Piece] = []
        for _ in range(min(len(self._inbox), _AT_ONCE)):
            self._absorb(self._inbox.popleft())
            pieces += self._take_pieces()
        return pieces

    def result(self) -> Completed:
        """See `_Answer`."""
        done = super().result()
        return done if self._scoring is None else replace(done, prompt_scores=self._scoring.ranked())

    def _take_pieces(self) -> list[Piece]:
        """Return what has come since the last call, the scores with the text."""
        pieces = self._pieces
        if not pieces and self._scoring is None:
            return pieces
        self._pieces = []
        if len(pieces) > 1:
            pieces = joined(pieces)
        if self._scoring is None:
            return pieces
        for index, piece in enumerate(pieces):
            if isinstance(piece, Said):
                pieces[index] = replace(piece, scores=piece.scores + self._scoring.drain())
                return pieces
        if self._finish is not None and (scores := self._scoring.drain()):
            pieces.append(Said("", (), scores))
        return pieces

    def _note_scores(self, progress: Progress) -> None:
        if self._scoring is not None:
            self._scoring.take(progress.scores)
        if self._echo is not None and (progress.tokens or progress.finish is not None):
            scores = self._scoring.prompt() if self._scoring is not None else ()
            self._pieces.append(Said(self._echo, (), scores))
            self._echo = None

    def _note_token(self, token: int) -> None:
        if self._scoring is not None:
            self._scoring.push(token, len(self._tokens) - 1, self._reader.is_thinking)

    def _read(self, text: str, is_last: bool = False) -> str:
        pieces = self._reader.push(text) if text else []
        if is_last:
            pieces += self._reader.flush()
        if self._marks and pieces and isinstance(pieces[0], Said | Thought):
            pieces[0] = replace(pieces[0], marks=tuple(self._marks))
            self._marks = []
        self._pieces += pieces
        return text
