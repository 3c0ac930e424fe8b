"""The codec carries every message unchanged and turns every other input into a PeerProtocolError."""

from __future__ import annotations

import random
import struct
from dataclasses import asdict, fields
from typing import get_args

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpispec.core.ids import Actor
from mpispec.core.messages import (
    AskWork,
    Branch,
    CacheOp,
    CacheOpKind,
    Cancel,
    Close,
    Credit,
    Draft,
    EarlyDraft,
    Follow,
    Idle,
    Lost,
    Message,
    Open,
    Prime,
    Result,
    Retire,
    Row,
    Run,
    Sampling,
    Score,
    Stop,
    Work,
)
from mpispec.wire.codec import VERSION, decode, encode
from mpispec.wire.fields import MOST_GRAMMAR_BYTES, SAMPLING_RANGES, LocalProtocolError, PeerProtocolError

pytestmark = pytest.mark.unit

repeatable = settings(derandomize=True, deadline=None)

INT32 = st.integers(0, 2**31 - 1)
INT63 = st.integers(0, 2**63 - 1)
FLAGS = st.booleans()
RUN_IDS = st.lists(INT63, max_size=20).map(tuple)
TOKENS = st.lists(INT32, max_size=20).map(tuple)
PROBABILITIES = st.floats(0.0, 1.0)
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.floats(0.0, 10.0),
    top_k=INT32,
    top_p=PROBABILITIES,
    min_p=PROBABILITIES,
    repeat_penalty=st.floats(0.01, 10.0),
    repeat_last_n=INT32,
    seed=st.integers(0, 2**64 - 1),
    presence_penalty=st.floats(-2.0, 2.0),
    frequency_penalty=st.floats(-2.0, 2.0),
    begins=INT32,
    held_to=INT32,
    top_logprobs=st.integers(-1, 20),
    logit_bias=st.lists(st.tuples(INT32, st.floats(-1e6, 1e6)), max_size=5).map(tuple),
    held=TOKENS,
    scores_prompt=FLAGS,
    grammar=st.text(max_size=20),
)
ROWS = st.builds(Row, INT32, INT32, st.integers(-1, 2**31 - 2), INT32, INT32, INT32, FLAGS)
BRANCHES = st.builds(Branch, INT32, INT32, INT32, INT32)
CACHE_OPS = st.builds(CacheOp, st.sampled_from(CacheOpKind), INT32, INT32, INT32, st.integers(-1, 2**31 - 2))

LOGPROBS = st.floats(-9999.0, 0.0)
TOP = st.lists(st.tuples(INT32, LOGPROBS), max_size=20).map(tuple)
SCORES = st.builds(Score, INT32, INT32, LOGPROBS, TOP)

MESSAGES: dict[type, st.SearchStrategy[Message]] = {
    Open: st.builds(Open, INT32, SAMPLINGS, INT32, TOKENS, TOKENS),
    Close: st.builds(Close, INT32),
    Run: st.builds(
        Run,
        INT63,
        st.lists(ROWS, max_size=70).map(tuple),
        st.lists(CACHE_OPS, max_size=9).map(tuple),
        FLAGS,
        st.lists(BRANCHES, max_size=9).map(tuple),
    ),
    Result: st.builds(
        Result, INT63, TOKENS, TOKENS, TOKENS, FLAGS, st.lists(st.none() | SCORES, max_size=9).map(tuple)
    ),
    Cancel: st.builds(Cancel, RUN_IDS, RUN_IDS, TOKENS, TOKENS),
    Credit: st.builds(Credit, INT63),
    Idle: st.builds(Idle, INT63),
    AskWork: st.just(AskWork()),
    Work: st.builds(Work, INT63, RUN_IDS),
    Lost: st.builds(Lost, INT32),
    Stop: st.just(Stop()),
    Prime: st.builds(Prime, INT32, TOKENS, INT32, INT32, PROBABILITIES, SAMPLINGS, INT63),
    Follow: st.builds(Follow, INT32, INT32, TOKENS, INT32, INT63),
    Retire: st.builds(Retire, INT32),
    Draft: st.builds(
        lambda request, root, first, draft_tokens, epoch: Draft(
            request, root, first, *zip(*draft_tokens, strict=True), epoch
        ),
        INT32,
        INT32,
        INT63,
        st.lists(st.tuples(st.integers(-1, 2**62), INT32, st.floats(0, 1)), min_size=1, max_size=8),
        INT63,
    ),
    EarlyDraft: st.builds(
        lambda run, draft_tokens: EarlyDraft(run, *zip(*draft_tokens, strict=True)),
        INT63,
        st.lists(st.tuples(INT32, INT32, INT32, st.floats(0, 1)), min_size=1, max_size=8),
    ),
}
ANY_MESSAGE = st.one_of(*MESSAGES.values())
PAYLOADS = st.none() | st.binary(max_size=100)

SAMPLES: tuple[Message, ...] = (
    Open(1, Sampling(temperature=0.8, seed=2**64 - 1, logit_bias=((7, -0.5), (8, 1e6)), held=(2,)), 2, (8, 9)),
    Close(1),
    Run(
        7,
        (Row(0, 3, -1, 99, 0, 0, True), Row(0, 4, 3, 98, 1, 0, False)),
        (CacheOp(CacheOpKind.DROP, 1, 0, 5, -1),),
        branches=(Branch(0, 1, 0, 1),),
    ),
    Result(7, (0, 3), (1, 2), (5, 6), scores=(Score(4, 5, -0.5, ((5, -0.5), (8, -9999.0))), None)),
    Cancel((7, 8), (9, 9), (0, 1), (3, 4)),
    Credit(7),
    Idle(7),
    AskWork(),
    Work(1_500_000),
    Lost(3),
    Stop(),
    Prime(1, (1, 2, 3), 9, 4, 0.25, Sampling(), 3),
    Follow(1, 3, (4,), 9, 2),
    Retire(1),
    Draft(1, 2, 3, (-1, 3), (4, 5), (0.5, 1.0), 6),
    EarlyDraft(7, (0, 0), (3, 4), (98, 97), (0.5, 1.0)),
)


def frame_of(message: Message, payload: bytes | None = None, src: int = 2, dst: int = 3) -> bytes:
    return b"".join(encode(Actor(src), Actor(dst), message, payload))


def forge(items: object, version: int = VERSION, flags: int = 0, payload: bytes = b"") -> bytes:
    """A frame around any header, as a hostile peer would write it."""
    header = items if isinstance(items, bytes) else msgpack.packb(items)
    return struct.pack("<2sBBII", b"mS", version, flags, len(header), len(payload)) + header + payload


def names_of(message: Message) -> tuple[str, ...]:
    return message._fields if isinstance(message, tuple) else tuple(field.name for field in fields(message))


def test_samples_and_strategies_cover_every_message() -> None:
    classes = set(get_args(Message))
    assert {type(message) for message in SAMPLES} == classes
    assert set(MESSAGES) == classes


@repeatable
@given(message=ANY_MESSAGE, payload=PAYLOADS, src=INT32, dst=INT32)
def test_round_trip(message: Message, payload: bytes | None, src: int, dst: int) -> None:
    read_src, read_dst, read, read_payload = decode(frame_of(message, payload, src, dst))
    assert (read_src, read_dst, read) == (src, dst, message)
    assert read_payload == payload
    assert all(type(getattr(read, name)) is type(getattr(message, name)) for name in names_of(message))


@pytest.mark.parametrize(("src", "dst"), [(3, 4), (127, 4), (128, 4), (3, 200), (0, 0)])
@pytest.mark.parametrize("came_from", [2, 500])
def test_a_run_that_is_passed_on_is_written_as_if_it_were_new(src: int, dst: int, came_from: int) -> None:
    run, payload = SAMPLES[2], b"rows"
    _, _, read, _ = decode(frame_of(run, payload, came_from, 3))
    assert frame_of(read, payload, src, dst) == frame_of(run, payload, src, dst)
    assert decode(frame_of(read, None, src, dst)) == (src, dst, run, None)


def test_round_trip_keeps_types_inside_rows_and_cache_ops() -> None:
    _, _, run, _ = decode(frame_of(SAMPLES[2]))
    assert isinstance(run, Run)
    assert type(run.rows[0]) is Row and type(run.rows[0].decide) is bool
    assert type(run.cache_ops[0]) is CacheOp and type(run.cache_ops[0].kind) is CacheOpKind


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63, 2**64 - 1])
def test_unsigned_64_bit_seeds_survive(seed: int) -> None:
    message = Open(0, Sampling(seed=seed), 0, ())
    assert decode(frame_of(message))[2] == message


def test_sampling_ranges_name_the_fields_in_their_order() -> None:
    names = [field.name for field in fields(Sampling)]
    assert [*SAMPLING_RANGES, "logit_bias", "held", "scores_prompt", "grammar"] == names


@pytest.mark.parametrize("blob", [b"\xff", b"a" * (MOST_GRAMMAR_BYTES + 1), 7, None])
def test_grammars_that_are_no_bounded_text_are_refused(blob: object) -> None:
    items = [0, 0, 1, 0, sampling(grammar=blob), 0, b"", b""]
    with pytest.raises(PeerProtocolError):
        decode(forge(items))


def test_grammars_that_are_too_long_are_not_sent() -> None:
    with pytest.raises(LocalProtocolError):
        encode(Actor(0), Actor(1), Open(0, Sampling(grammar="a" * (MOST_GRAMMAR_BYTES + 1)), 0, ()))


def test_integral_sampling_parameters_arrive_as_floats() -> None:
    _, _, read, _ = decode(frame_of(Open(0, Sampling(temperature=1, top_p=1), 0, ())))
    assert isinstance(read, Open) and type(read.sampling.temperature) is float


@pytest.mark.parametrize("message", SAMPLES, ids=lambda m: type(m).__name__)
def test_payload_is_an_aligned_view_of_the_frame(message: Message) -> None:
    frame = frame_of(message, b"payload!")
    payload = decode(memoryview(frame))[3]
    assert payload is not None and payload.obj is frame
    assert (len(frame) - len(payload)) % 16 == 0


@pytest.mark.parametrize("payload", [None, b"0123456789abcdef"], ids=["bare", "with payload"])
@pytest.mark.parametrize("message", SAMPLES, ids=lambda m: type(m).__name__)
def test_truncation_at_every_byte_and_trailing_bytes_are_refused(message: Message, payload: bytes | None) -> None:
    frame = frame_of(message, payload)
    for length in range(len(frame)):
        with pytest.raises(PeerProtocolError):
            decode(frame[:length])
    for tail in (b"\0", b"\xc0", bytes(16)):
        with pytest.raises(PeerProtocolError):
            decode(frame + tail)


@pytest.mark.parametrize("message", SAMPLES, ids=lambda m: type(m).__name__)
def test_every_flipped_byte_is_refused_or_reads_as_a_message_that_can_be_written(message: Message) -> None:
    original = frame_of(message, b"x" * 5)
    rng = random.Random(type(message).__name__)
    for place in range(len(original)):
        for value in {0, 0x7F, 0x80, 0xC1, 0xFF, rng.randrange(256), original[place] ^ 1}:
            frame = bytearray(original)
            frame[place] = value
            assert_refused_or_rewritable(frame)


@repeatable
@given(noise=st.binary(max_size=80))
def test_a_header_of_noise_is_refused_or_valid(noise: bytes) -> None:
    assert_refused_or_rewritable(forge(noise))


@repeatable
@given(
    items=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(max_size=30),
        lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.integers(0, 9), inner, max_size=2),
    ),
    kind=st.integers(0, 12),
)
def test_a_header_of_wrong_types_is_refused_or_valid(items: object, kind: int) -> None:
    assert_refused_or_rewritable(forge(items))
    assert_refused_or_rewritable(forge([kind, 0, 1, *items] if isinstance(items, list) else [kind, 0, 1, items]))


def assert_refused_or_rewritable(frame: bytes | bytearray) -> None:
    try:
        src, dst, message, payload = decode(frame)
    except PeerProtocolError as error:
        sentence = str(error)
    else:
        sentence = "."
        assert decode(b"".join(encode(src, dst, message, payload)))[:3] == (src, dst, message)
    assert sentence.endswith(".") and len(sentence) < 300


def sampling(**changes: object) -> list[object]:
    """Sampling parameters as they are written."""
    neutral = asdict(Sampling(1.0, seed=0)) | {"logit_bias": b"", "held": b"", "grammar": b""}
    return list({**neutral, **changes}.values())


def rows_blob(**changes: int) -> bytes:
    row = {"request": 0, "node": 1, "parent": 0, "token": 5, "pos": 2, "seq": 0, "decide": 1, **changes}
    return struct.pack("<7i", *row.values())


def score_blob(**changes: float) -> bytes:
    """A score with one likely token."""
    values = {"pos": 3, "token": 5, "count": 1, "logprob": -1.0, **changes}
    return struct.pack("<iiid", *values.values()) + struct.pack("<id", 6, -0.5)


@pytest.mark.parametrize(
    "items",
    [
        [0, 0, 1, 1, sampling(), 0, b"", b""],
        [0, 0, 1, 1, sampling(grammar=b"start: /a/"), 0, b"", b""],
        [0, 0, 1, 1, sampling(logit_bias=struct.pack("<id", 5, -1e6), held=bytes(4)), 0, b"", b""],
        [2, 0, 1, 7, rows_blob(), struct.pack("<5i", 0, 0, 0, 0, -1), False, b""],
        [3, 0, 1, 7, bytes(4), bytes(4), bytes(4), False, b""],
        [3, 0, 1, 7, bytes(4), bytes(4), bytes(4), False, score_blob()],
        [4, 0, 1, bytes(8), b"", b"", b""],
        [5, 0, 1, 2**63 - 1],
        [6, 0, 2**31 - 1],
        [10, 0, 1, 1, 1, 1, bytes(8), bytes(4), struct.pack("<d", 1.0), 0],
    ],
    ids=repr,
)
def test_the_right_values_in_the_same_places_are_taken(items: object) -> None:
    decode(forge(items))


@pytest.mark.parametrize(
    "items",
    [
        [99, 0, 1],
        [-1, 0, 1],
        ["6", 0, 1],
        [True, 0, 1],
        [[], 0, 1],
        [6, -1, 1],
        [6, 0, 2**31],
        [6, 0, True],
        [6, 0, 1, 0],
        [6, 0],
        [],
        6,
        None,
        {},
        [5, 0, 1, -1],
        [5, 0, 1, 2**63],
        [5, 0, 1, 1.0],
        [5, 0, 1, None],
        [3, 0, 1, 7, b"", b"", b"\0\0\0", False, b""],
        [3, 0, 1, 7, b"", b"", b"\0\0\0\x80", False, b""],
        [3, 0, 1, 7, b"", b"", [1], False, b""],
        [3, 0, 1, 7, b"", b"", b"", 0, b""],
        [3, 0, 1, 7, b"", b"", b"", False, bytes(3)],
        [3, 0, 1, 7, b"", b"", b"", False, bytes(16)],
        [3, 0, 1, 7, b"", b"", b"", False, score_blob(pos=-1)],
        [3, 0, 1, 7, b"", b"", b"", False, score_blob(count=2)],
        [3, 0, 1, 7, b"", b"", b"", False, score_blob(count=21) + bytes(240)],
        [3, 0, 1, 7, b"", b"", b"", False, score_blob(count=-2)],
        [3, 0, 1, 7, b"", b"", b"", False, score_blob(logprob=0.5)],
        [3, 0, 1, 7, b"", b"", b"", False, score_blob(logprob=float("nan"))],
        [3, 0, 1, 7, b"", b"", b"", False, score_blob()[:-8] + struct.pack("<d", float("-inf"))],
        [4, 0, 1, bytes(7), b"", b""],
        [4, 0, 1, b"\xff" * 8, b"", b""],
        [10, 0, 1, 1, 1, 1, bytes(8), bytes(8), bytes(8), 0],
        [10, 0, 1, 1, 1, 1, bytes(8), bytes(4), struct.pack("<d", float("nan")), 0],
        [10, 0, 1, 1, 1, 1, bytes(8), bytes(4), struct.pack("<d", -0.5), 0],
        [10, 0, 1, 1, 1, 1, bytes(8), bytes(4), struct.pack("<d", float("inf")), 0],
        [10, 0, 1, 1, 1, 1, struct.pack("<q", -2), bytes(4), struct.pack("<d", 1.0), 0],
        [0, 0, 1, 1, sampling()[:-1], 0, b"", b""],
        [0, 0, 1, 1, sampling(seed=-1), 0, b"", b""],
        [0, 0, 1, 1, sampling(temperature=float("nan")), 0, b"", b""],
        [0, 0, 1, 1, sampling(temperature=-1.0), 0, b"", b""],
        [0, 0, 1, 1, sampling(top_p=1.5), 0, b"", b""],
        [0, 0, 1, 1, sampling(repeat_penalty=0.0), 0, b"", b""],
        [0, 0, 1, 1, b"0123456", 0, b"", b""],
        [0, 0, 1, 1, sampling(presence_penalty=float("nan")), 0, b"", b""],
        [0, 0, 1, 1, sampling(top_logprobs=21), 0, b"", b""],
        [0, 0, 1, 1, sampling(logit_bias=bytes(11)), 0, b"", b""],
        [0, 0, 1, 1, sampling(logit_bias=struct.pack("<id", 5, float("nan"))), 0, b"", b""],
        [0, 0, 1, 1, sampling(logit_bias=struct.pack("<id", -1, 1.0)), 0, b"", b""],
        [0, 0, 1, 1, sampling(logit_bias=bytes(12 * 2049)), 0, b"", b""],
        [0, 0, 1, 1, sampling(held=bytes(4 * 1025)), 0, b"", b""],
        [0, 0, 1, 1, sampling(scores_prompt=1), 0, b"", b""],
        [2, 0, 1, 7, rows_blob(request=-1), b"", False, b""],
        [2, 0, 1, 7, rows_blob(node=-1), b"", False, b""],
        [2, 0, 1, 7, rows_blob(parent=-2), b"", False, b""],
        [2, 0, 1, 7, rows_blob(token=-(2**31)), b"", False, b""],
        [2, 0, 1, 7, rows_blob(pos=-1), b"", False, b""],
        [2, 0, 1, 7, rows_blob(seq=-1), b"", False, b""],
        [2, 0, 1, 7, rows_blob(decide=2), b"", False, b""],
        [2, 0, 1, 7, rows_blob(decide=-1), b"", False, b""],
        [2, 0, 1, 7, rows_blob()[:-1], b"", False, b""],
        [2, 0, 1, 7, "", b"", False, b""],
        [2, 0, 1, 7, b"", struct.pack("<5i", 3, 0, 0, 0, -1), False, b""],
        [2, 0, 1, 7, b"", struct.pack("<5i", -1, 0, 0, 0, -1), False, b""],
        [2, 0, 1, 7, b"", struct.pack("<5i", 0, -1, 0, 0, -1), False, b""],
        [2, 0, 1, 7, b"", struct.pack("<5i", 0, 0, 0, 0, -2), False, b""],
        [2, 0, 1, 7, b"", b"", False, struct.pack("<4i", 0, 0, -1, 0)],
        [2, 0, 1, 7, b"", b"", False, bytes(15)],
    ],
    ids=repr,
)
def test_a_wrong_value_is_refused(items: object) -> None:
    with pytest.raises(PeerProtocolError):
        decode(forge(items))


@pytest.mark.parametrize(
    "header",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdc\xff\xff\x06",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\x94\x04\x00\x01\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\x91" * 5000,
        b"",
        b"\xc1",
    ],
    ids=["array", "array16", "map", "string", "binary", "extension", "depth", "empty", "reserved"],
)
def test_a_lying_or_deep_header_is_refused(header: bytes) -> None:
    with pytest.raises(PeerProtocolError):
        decode(forge(header))


def test_prefix_lies_are_refused() -> None:
    good = frame_of(Close(1), b"x")
    for lie in (
        b"XX" + good[2:],
        good[:3] + b"\x02" + good[4:],
        good[:3] + b"\x00" + good[4:],
        good[:4] + b"\xff\xff\xff\xff" + good[8:],
        good[:8] + b"\xff\xff\xff\xff" + good[12:],
        good[:-2] + b"\x01x",
    ):
        with pytest.raises(PeerProtocolError):
            decode(lie)


def test_another_version_is_named() -> None:
    with pytest.raises(PeerProtocolError, match=r"version 9 .* version 7; install the same mpispec on every host"):
        decode(forge([6, 0, 1], version=9))


@pytest.mark.parametrize(
    "message",
    [
        Result(7, (0,), (0,), (2**31,)),
        Credit(2**64),
        Cancel((2**63,)),
        Run(7, (Row(0, 1, 0, 2**31, 0, 0, True),)),
        Draft(0, 0, 0, (-1,), (1,), ("half",)),
        Open(0, Sampling(seed=2**64), 0, ()),
    ],
    ids=lambda m: type(m).__name__,
)
def test_our_own_misfits_are_our_own_errors(message: Message) -> None:
    with pytest.raises(LocalProtocolError):
        encode(Actor(0), Actor(1), message)
