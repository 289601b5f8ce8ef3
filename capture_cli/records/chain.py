"""How lines follow each other: a number, and a hash over the line and the chain before it.

    chain = link(previous, text)                                # of the line that begins with `text`
    envelope = follow(line, seq=7, previous=chain)              # raises RecordsError where it does not follow
    followed = follow_all(block, seq=7, previous=chain)         # a block of lines, quickly

None of this reads the JSON of a line.
"""

import re
from hashlib import blake2b
from typing import NamedTuple

from capture_cli.errors import RecordsError

GENESIS = bytes(16)
"""The chain before the first line."""


def link(previous: bytes, text: bytes) -> bytes:
    """The chain (16 bytes) of the line that begins with `text` and follows the line whose chain is `previous`."""
    return blake2b(previous + text, digest_size=16).digest()


_ENVELOPE = re.compile(rb'\{"seq":(0|[1-9][0-9]{0,17}),"kind":"([a-z]{1,16})"')
_TAIL = re.compile(rb',"chain":"([0-9a-f]{32})"\}\n?')
_TAIL_BYTES = len(b',"chain":""}') + 32


class Envelope(NamedTuple):
    """What can be said of a line without reading its JSON."""

    seq: int
    kind: str
    text: bytes
    """The bytes that the chain covers."""
    chain: bytes


def open_envelope(line: bytes) -> Envelope:
    """Take a line, with or without its newline, apart. Raises RecordsError if it is not of this format."""
    line = line.removesuffix(b"\n")
    head, tail = _ENVELOPE.match(line), _TAIL.fullmatch(line, len(line) - _TAIL_BYTES)
    if not head or not tail:
        raise RecordsError('not a capture record: a line begins {"seq":N,"kind":"..." and ends with its chain')
    return Envelope(int(head[1]), head[2].decode(), line[:-_TAIL_BYTES], bytes.fromhex(tail[1].decode()))


class Followed(NamedTuple):
    """Lines that follow each other, and why they go no further."""

    lines: list[tuple[int, str, bytes, int, int]]
    """Sequence number and kind of each, the block it stands in, and from where to where, without its newline."""
    chains: list[bytes]
    error: RecordsError | None


def follow_all(block: bytes, *, seq: int, previous: bytes) -> Followed:
    """`follow` for each line of `block`, whose last byte is a newline, up to the first that does not follow.

    Most of the time goes into the hash, for which hashlib lets go of the interpreter: two threads follow two blocks in little
    more than half of the time. What the chain before the second block will be stands at the end of the first (`claimed_chain`).
    """
    followed = Followed([], [], None)
    view = memoryview(block)
    kind = "batch"
    start = 0
    while start < len(block):
        end = block.index(b"\n", start)
        tail = end - _TAIL_BYTES
        state = blake2b(previous, digest_size=16)
        state.update(view[start : max(start, tail)])
        chain = state.digest()
        as_written = tail > start and block.startswith(b',"chain":"%b"}' % chain.hex().encode(), tail)
        # Most lines are of the kind of the line before; else `follow` finds out what it is, or what is wrong.
        if not as_written or not block.startswith(b'{"seq":%d,"kind":"%b"' % (seq, kind.encode()), start):
            try:
                _, kind, _, chain = follow(block[start : end + 1], seq=seq, previous=previous)
            except RecordsError as error:
                return followed._replace(error=error)
        followed.lines.append((seq, kind, block, start, end))
        followed.chains.append(chain)
        previous = chain
        start = end + 1
        seq += 1
    return followed


def claimed_chain(block: bytes) -> bytes:
    """The chain that the last line of `block` claims to have; no bytes where there is none."""
    tail = _TAIL.fullmatch(block, max(0, len(block) - _TAIL_BYTES - 1))
    return bytes.fromhex(tail[1].decode()) if tail else b""


def follow(line: bytes, *, seq: int, previous: bytes) -> Envelope:
    """Open the line that should be number `seq` after a line whose chain is `previous`.

    Raises RecordsError, with the line's number from 1, if it is incomplete, out of sequence or not what was written.
    """
    number = seq + 1
    if not line.endswith(b"\n"):
        raise RecordsError(f"line {number} is incomplete", line=number)
    try:
        envelope = open_envelope(line)
    except RecordsError as error:
        raise RecordsError(f"line {number} is {error.message}", error.hint, line=number) from error
    if envelope.seq != seq:
        raise RecordsError(
            f"line {number} has seq {envelope.seq} where {seq} belongs: a line is missing, doubled or moved", line=number
        )
    if envelope.chain != link(previous, envelope.text):
        raise RecordsError(f"line {number} is not what was written: its chain does not fit", line=number)
    return envelope
