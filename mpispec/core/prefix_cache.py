"""Cached texts that requests share: a tree of token prefixes over sequence ids.

As in SGLang's RadixAttention (arXiv 2312.07104) a node is a stretch of tokens with their cells, and a new prompt keeps
the cells of the longest path that it begins with. Cells carry labels here: sharing a path copies no cell, it adds one
label to all cells of the path. Each active request has a label of its own for all of its text. A path that no request
uses has one label, that of its leaf; so an inner node needs none.

| what                                         | cache operations                                                      |
|----------------------------------------------|-----------------------------------------------------------------------|
| a prompt ends where an idle leaf does        | none: the request takes its label over                                |
| a prompt shares another beginning of a path  | SHARE with a fresh label                                              |
| a request has ended                          | DROP of its label behind what is settled; the leaf keeps the label    |
| cells are short                              | DROP of the end of the leaf that was used longest ago                 |
| labels are short                             | DROP of that leaf                                                     |

Only cells that every stage has are shared: a withdrawn request's runs may be cancelled and leave holes. So a request
whose prompt an older one is computing waits, unless there is little to gain; then both compute it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mpispec.core.cells import Slot, num_common
from mpispec.core.ids import Pos, SeqId, Token
from mpispec.core.messages import CacheOp, CacheOpKind
from mpispec.core.sequences import TO_END, SequencePool
from mpispec.core.traits import Prefill

_LEAST_EVICTED = 32
"""Cells that are evicted at least, where a leaf has them: an operation for each new cell would be many."""


@dataclass(slots=True, eq=False)
class Segment:
    """Cells of consecutive positions behind those of the segments above it."""

    parent: Segment | None
    start: int
    tokens: tuple[Token, ...]
    num_prompt: int
    """Length of the prompt of the request that wrote them: positions below it were computed as a prompt."""
    children: dict[Token, list[Segment]] = field(default_factory=dict)
    """By first token. Several begin with the same one where their bits differ, or where nobody could share."""
    users: dict[Slot, None] = field(default_factory=dict)
    """Active requests whose own cells follow."""
    num_users: int = 0
    """Active requests here and in segments below."""
    seq: SeqId | None = None
    """Label of the path that ends here, where no request and no segment below has one."""
    last_use: int = 0

    @property
    def end(self) -> int:
        """Position behind the last of them."""
        return self.start + len(self.tokens)

    @property
    def is_labelled(self) -> bool:
        """Whether anything but a request that leaves gives its cells a label."""
        return self.parent is None or bool(self.children or self.users) or self.seq is not None


class PrefixCache:
    """The tree, and the operations that keep the stages' cells equal to it."""

    def __init__(self, pool: SequencePool, prefill: Prefill, plan: list[CacheOp]) -> None:
        """Add operations to `plan`, in order. Without a `chunk` in `prefill` any common prefix is kept."""
        self._pool = pool
        self._prefill = prefill
        self._plan = plan
        self._root = Segment(None, 0, (), 0)
        self._places: dict[Slot, Segment] = {}
        """Active requests, the oldest first, each with the segment that its own cells follow."""
        self._leaves: dict[Segment, None] = {}
        """Segments with a label of their own."""
        self._uses = 0
        self.num_cells = 0
        """Cells of all segments."""
        self.num_idle = 0
        """Those that no active request uses."""

    @property
    def held(self) -> set[SeqId]:
        """See `Texts`."""
        return {leaf.seq for leaf in self._leaves if leaf.seq is not None}

    @property
    def num_idle_ids(self) -> int:
        """See `Texts`. An eviction frees one, at the latest when no text is left above it."""
        return len(self._leaves)

    def adopt(self, tokens: tuple[Token, ...], num_prompt: int, most_in_use: int | None) -> tuple[Slot, int] | None:
        """See `Texts`."""
        self._settle()
        found, kept = self._longest(tokens, num_prompt)
        place = self._place_at(found, kept)
        self._count_user(place, 1)  # so that it is not evicted
        in_use = self.num_cells - self.num_idle + len(tokens) - kept
        is_short = most_in_use is not None and in_use > most_in_use
        seq = None if is_short else self._label_for(place)
        self._count_user(place, -1)
        if seq is None:
            return None
        slot = Slot(seq, tokens, num_prompt)
        self._enter(slot, place)
        return slot, kept

    def catch_up(self, slot: Slot) -> int:
        """See `Texts`."""
        self._settle()
        found, kept = self._longest(slot.tokens, slot.num_prompt)
        if kept <= slot.start:
            return slot.start
        place = self._place_at(found, kept)
        seq = slot.label
        if slot.start:
            self._plan.append(_drop(seq))
        self._plan.append(CacheOp(CacheOpKind.SHARE, self._source(place), seq, Pos(0), Pos(kept)))
        self._move(slot, place)
        if place.seq is not None:  # its cells have the request's label now
            self._give_up(self._unlabel(place))
        return kept

    def is_coming(self, slot: Slot, at_least: int) -> bool:
        """See `Texts`."""
        for other in self._places:
            if other is slot:
                return False
            common = num_common(other.tokens[: other.num_prompt], slot.tokens)
            if self._kept(slot.tokens, slot.num_prompt, common, other.num_prompt) - slot.start >= at_least:
                return True
        return False

    def roll_back(self, slot: Slot, pos: int) -> None:
        """See `Texts`."""
        slot.tokens, slot.num_prompt = slot.tokens[:pos], min(slot.num_prompt, pos)
        if pos < slot.start:
            self._move(slot, self._place_at(self._places[slot], pos))

    def keep(self, slot: Slot, tokens: tuple[Token, ...]) -> None:
        """See `Texts`."""
        if len(tokens) > slot.start:
            self._grow(slot, tokens)
        place = self._places[slot]
        self._touch(place)
        self._leave(slot)
        if place.is_labelled:
            self._give_up(slot.label)
        else:
            self._relabel(place, slot.label)

    def evict(self, num_cells: int) -> None:
        """See `Texts`."""
        while num_cells > 0 and (leaf := self._oldest()) is not None:
            num_evicted = min(len(leaf.tokens), max(num_cells, _LEAST_EVICTED))
            num_cells -= num_evicted
            self._shorten(leaf, num_evicted)

    def take_id(self) -> SeqId | None:
        """See `Texts`."""
        while not self._pool.num_free and (leaf := self._oldest()) is not None:
            self._shorten(leaf, len(leaf.tokens))
        return self._pool.take()

    def check(self) -> None:
        """See `Texts`."""
        num_cells = num_idle = 0
        pending, leaves = [self._root], set()
        while pending:
            segment = pending.pop()
            children = [child for alike in segment.children.values() for child in alike]
            pending += children
            assert segment.is_labelled, "cells that nobody labels are counted"
            assert segment.num_users == len(segment.users) + sum(child.num_users for child in children)
            assert all(child.start == segment.end and child.tokens for child in children)
            num_cells += len(segment.tokens)
            num_idle += 0 if segment.num_users else len(segment.tokens)
            if segment.seq is not None:
                leaves.add(segment)
                assert not (children or segment.users), "a label too many"
        assert (num_cells, num_idle) == (self.num_cells, self.num_idle), "cells are counted wrongly"
        assert leaves == set(self._leaves)

    # -- looking for prefixes -------------------------------------------------------------------------------------

    def _longest(self, tokens: tuple[Token, ...], num_prompt: int) -> tuple[Segment, int]:
        """Return how many positions of given tokens may be kept, and the segment of which they are, or one below."""
        best, found = 0, self._root
        pending = [self._root]
        while pending:
            above = pending.pop()
            for segment in above.children.get(tokens[above.end], ()) if above.end < len(tokens) else ():
                end = segment.start + num_common(segment.tokens, tokens[segment.start : segment.end])
                kept = self._kept(tokens, num_prompt, end, segment.num_prompt)
                if kept > best:
                    best, found = kept, segment
                if end == segment.end:
                    pending.append(segment)
        return found, best

    def _kept(self, tokens: tuple[Token, ...], num_prompt: int, common: int, written_for: int) -> int:
        """Return how many of the first `common` tokens, cached by a request with such a prompt, may be kept."""
        common = min(common, len(tokens) - 1)
        return self._prefill.kept(num_prompt, common, min(common, written_for), written_for)

    def _settle(self) -> None:
        """Put into the tree what every stage has by now of the prompts of active requests."""
        for slot in self._places:
            if slot.holder is not None:
                settled = min(slot.holder.answered_to, slot.num_prompt)
                if settled > slot.start:
                    self._grow(slot, slot.tokens[:settled])

    # -- changing the tree ----------------------------------------------------------------------------------------

    def _grow(self, slot: Slot, tokens: tuple[Token, ...]) -> None:
        """Count cells of a request as the tree's, so that `tokens` are all in it."""
        place, new = self._places[slot], tokens[slot.start :]
        self.num_cells += len(new)
        slot.start = len(tokens)
        is_alone = place.parent is not None and place.num_users == 1 and not place.children
        if is_alone and place.num_prompt == slot.num_prompt:
            place.tokens += new
            return
        segment = Segment(place, place.end, new, slot.num_prompt, num_users=1, last_use=self._uses)
        place.children.setdefault(new[0], []).append(segment)
        del place.users[slot]
        segment.users[slot] = None
        self._places[slot] = segment

    def _place_at(self, segment: Segment, pos: int) -> Segment:
        """Return the segment of a path that ends at a position, after dividing one if none does."""
        while pos <= segment.start and segment.parent is not None:
            segment = segment.parent
        above, size = segment.parent, pos - segment.start
        if pos == segment.end or above is None:
            return segment
        upper = Segment(above, segment.start, segment.tokens[:size], segment.num_prompt)
        upper.num_users, upper.last_use = segment.num_users, segment.last_use
        alike = above.children[segment.tokens[0]]
        alike[alike.index(segment)] = upper
        segment.parent, segment.start, segment.tokens = upper, pos, segment.tokens[size:]
        upper.children[segment.tokens[0]] = [segment]
        return upper

    def _enter(self, slot: Slot, place: Segment) -> None:
        self._places[slot] = place
        slot.start = place.end
        place.users[slot] = None
        self._count_user(place, 1)
        self._touch(place)

    def _leave(self, slot: Slot) -> None:
        place = self._places.pop(slot)
        del place.users[slot]
        self._count_user(place, -1)

    def _move(self, slot: Slot, place: Segment) -> None:
        """Have a request's own cells follow another segment; those that it alone has had are gone."""
        left = self._places[slot]
        del left.users[slot]
        self._count_user(left, -1)
        self._enter(slot, place)
        while not left.is_labelled:
            left = self._remove(left)

    def _remove(self, segment: Segment) -> Segment:
        """Take a segment without children out; return the one above."""
        above = segment.parent
        assert above is not None
        alike = above.children[segment.tokens[0]]
        alike.remove(segment)
        if not alike:
            del above.children[segment.tokens[0]]
        self.num_cells -= len(segment.tokens)
        self.num_idle -= len(segment.tokens)
        return above

    def _count_user(self, place: Segment, change: int) -> None:
        segment: Segment | None = place
        while segment is not None:
            was_used = segment.num_users > 0
            segment.num_users += change
            self.num_idle += len(segment.tokens) * (was_used - (segment.num_users > 0))
            segment = segment.parent

    def _touch(self, place: Segment) -> None:
        self._uses += 1
        segment: Segment | None = place
        while segment is not None:
            segment.last_use = self._uses
            segment = segment.parent

    # -- labels ---------------------------------------------------------------------------------------------------

    def _label_for(self, place: Segment) -> SeqId | None:
        """Return a label for a request whose own cells will follow a segment, after sharing the path with it."""
        while place.seq is None and not self._pool.num_free:
            leaf = self._oldest()
            if leaf is None:
                return None
            self._shorten(leaf, len(leaf.tokens))  # may hand its label to the segment
        if (seq := place.seq) is not None:
            self._unlabel(place)
            return seq
        seq = self._pool.take()
        assert seq is not None
        if place.end:
            self._plan.append(CacheOp(CacheOpKind.SHARE, self._source(place), seq, Pos(0), Pos(place.end)))
        return seq

    def _source(self, place: Segment) -> SeqId:
        """Return a label that all cells down to a segment have."""
        while place.seq is None:
            if place.users:
                return next(iter(place.users)).label
            place = next(iter(place.children.values()))[0]
        return place.seq

    def _relabel(self, place: Segment, seq: SeqId) -> None:
        """Leave a label to a path that ends at a segment."""
        place.seq = seq
        self._leaves[place] = None
        self._plan.append(_drop(seq, place.end))

    def _unlabel(self, place: Segment) -> SeqId:
        seq = place.seq
        assert seq is not None
        place.seq = None
        del self._leaves[place]
        return seq

    def _oldest(self) -> Segment | None:
        idle = (leaf for leaf in self._leaves if not leaf.num_users)
        return min(idle, key=lambda leaf: leaf.last_use, default=None)

    def _shorten(self, leaf: Segment, num_cells: int) -> None:
        """Drop the last cells of an idle leaf, and the leaf if these are all."""
        if num_cells < len(leaf.tokens):
            leaf.tokens = leaf.tokens[:-num_cells]
            self.num_cells -= num_cells
            self.num_idle -= num_cells
            self._relabel(leaf, self._unlabel(leaf))
            return
        seq, above = self._unlabel(leaf), self._remove(leaf)
        if above.is_labelled:
            self._give_up(seq)
        else:
            self._relabel(above, seq)

    def _give_up(self, seq: SeqId) -> None:
        self._plan.append(_drop(seq))
        self._pool.release(seq)


def _drop(seq: SeqId, start: int = 0) -> CacheOp:
    return CacheOp(CacheOpKind.DROP, seq, seq, Pos(start), TO_END)
