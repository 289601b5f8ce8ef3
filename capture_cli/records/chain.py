"""The chain of lines: a sequence number, and a hash over each line and the chain before it.

    chain = link(previous, text)                                # the chain of the line that begins with `text`
    envelope = follow(line, seq=7, previous=chain)              # raises RecordsError unless the line follows
    followed = follow_all(block, seq=7, previous=chain)         # the same for a block of lines, quickly

Nothing here parses the JSON of a line.
"""

import re
from hashlib import blake2b
from typing import NamedTuple

from capture_cli.errors import RecordsError

GENESIS = bytes(16)
"""The chain before the first line."""


def link(previous: bytes, text: bytes | memoryview) -> bytes:
    """Return the chain (16 bytes) of the line that begins with `text`, after the line whose chain is `previous`."""
    state = blake2b(previous, digest_size=16)
    state.update(text)
    return state.digest()


_ENVELOPE = re.compile(rb'\{"seq":(0|[1-9][0-9]{0,17}),"kind":"([a-z]{1,16})"')
_TAIL = re.compile(rb',"chain":"([0-9a-f]{32})"\}\n?')
_TAIL_BYTES = len(b',"chain":""}') + 32


_FORMATS = {
    b"\xef\xbb\xbf": "UTF-8 behind a byte order mark",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"\x1f\x8b": "compressed by gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"PK\x03\x04": "a zip archive",
}
"""First bytes of a file -> what it is, if somebody converted the records."""


_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
"""First bytes of images: PNG, JPEG, GIF, WebP, BMP, TIFF."""


class Envelope(NamedTuple):
    """The parts of a line that can be read without parsing its JSON."""

    seq: int
    kind: str
    text: bytes
    """The bytes that the chain covers."""
    chain: bytes


def open_envelope(line: bytes) -> Envelope:
    """Split a line, with or without its newline, into its parts. Raises RecordsError if it is not a capture record."""
    line = line.removesuffix(b"\n")
    head, tail = _ENVELOPE.match(line), _TAIL.fullmatch(line, len(line) - _TAIL_BYTES)
    if not head or not tail:
        raise _no_record(line)
    return Envelope(int(head[1]), head[2].decode(), line[:-_TAIL_BYTES], bytes.fromhex(tail[1].decode()))


def _no_record(line: bytes) -> RecordsError:
    """Make the error of a line that is not a record, and name what was done to it if that can be seen."""
    if line.endswith(b"\r") and _TAIL.fullmatch(line, len(line) - _TAIL_BYTES - 1, len(line) - 1):
        return RecordsError("not as it was written: it ends in CR LF, which `dos2unix` turns back into LF")
    for start, what in _FORMATS.items():
        if line.startswith(start):
            return RecordsError(f"not a capture record: the file is {what}, and must be converted back")
    if line.startswith(_IMAGES):
        return RecordsError("not a capture record: the file is an image; name the run, and the image with --sample")
    return RecordsError('not a capture record: a line begins {"seq":N,"kind":"..." and ends with its chain')


class Followed(NamedTuple):
    """Lines that follow each other, and the error that ended them."""

    lines: list[tuple[int, str, bytes, int, int]]
    """(seq, kind, block, start, end) of each; the line is `block[start:end]`, without its newline."""
    chains: list[bytes]
    error: RecordsError | None


def follow_all(block: bytes, *, seq: int, previous: bytes) -> Followed:
    """Follow the lines of `block`, whose last byte is a newline, up to the first that does not follow.

    Most of the time goes into the hash, for which hashlib releases the interpreter: two threads follow two blocks in little
    more than half the time. The chain before the second block is claimed by the end of the first (`claimed_chain`).
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
        # Most lines are of the same kind as the line before; `follow` handles the others, and whatever is wrong.
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
    """Return the chain that the last line of `block` claims to have; empty where there is none."""
    tail = _TAIL.fullmatch(block, max(0, len(block) - _TAIL_BYTES - 1))
    return bytes.fromhex(tail[1].decode()) if tail else b""


def follow(line: bytes, *, seq: int, previous: bytes) -> Envelope:
    """Open the line that must be number `seq`, after a line whose chain is `previous`.

    Raises RecordsError, with the line number from 1, if it is incomplete, out of sequence or not what was written.
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
