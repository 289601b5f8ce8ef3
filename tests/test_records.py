"""capture_cli.records: records are read back exactly, and only lines that were written are accepted."""

import json
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from capture_cli.errors import FormatError, RecordsError
from capture_cli.records import (
    KINDS,
    Batch,
    End,
    Epoch,
    Inputs,
    Record,
    RunInfo,
    Samples,
    Skip,
    decode,
    encode,
)
from capture_cli.records.chain import GENESIS, open_envelope

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
FILE_BYTES = st.binary(min_size=1, max_size=20).filter(lambda b: b"\0" not in b)


def batch(*, losses: list[float], probs: list[list[float]], files: list[str] | None = None, loss: float = 1.5) -> Batch:
    n = len(losses)
    return Batch(
        phase="train",
        epoch=0,
        batch=3,
        step=3,
        loss=np.float32(loss),
        lr=0.001,
        ids=list(range(n)),
        files=files or [f"cat_{i}.png" for i in range(n)],
        labels=np.zeros(n, np.int64),
        preds=np.ones(n, np.int64),
        losses=np.array(losses, np.float32),
        probs=np.array(probs, np.float32),
        inputs=Inputs(shape=(1, 8, 8), dtype="float32", digests=[f"{i:016x}" for i in range(n)], not_stored=n),
    )


ONE_OF_EACH: list[Record] = [
    RunInfo(
        config={"epochs": 3},
        folder="images",
        classes=["cat", "dog"],
        model={"name": "cnn", "parameters": 10},
        recipe={"height": 8},
        versions={"python": "3.11"},
        device="cpu",
        threads=2,
    ),
    Skip(file="cat_9.png", reason="truncated", detail="12 bytes"),
    Samples(ids=[0], files=["cat_1.png"], labels=[0], splits=["train"], sizes=[70], digests=["0" * 32]),
    batch(losses=[0.1, 2.5], probs=[[0.9, 0.1], [0.08, 0.92]]),
    Epoch(phase="train", epoch=0, n=2, loss=1.3, accuracy=0.5, captured=2, not_captured=0),
    End(status="completed", counts={"run": 1, "batch": 1}),
]


@pytest.mark.parametrize("record", ONE_OF_EACH, ids=lambda record: record.kind)
def test_every_kind_reads_back_and_writes_the_same_bytes_again(record: Record) -> None:
    """Encoding a decoded record gives the same line."""
    encoded = encode(record, seq=7, previous=GENESIS)
    seq, again = decode(encoded.line)
    assert seq == 7
    assert type(again) is type(record)
    assert encode(again, seq=7, previous=GENESIS) == encoded


@pytest.mark.parametrize("record", ONE_OF_EACH, ids=lambda record: record.kind)
def test_a_line_is_json_that_begins_and_ends_as_the_format_says(record: Record) -> None:
    """Strict JSON, one line, seq and kind first, chain last."""
    line = encode(record, seq=0, previous=GENESIS).line
    assert line.startswith(b'{"seq":0,"kind":"%b"' % record.kind.encode())
    assert line.endswith(b'"}\n')
    assert line.count(b"\n") == 1
    body = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert list(body)[:2] == ["seq", "kind"]
    assert list(body)[-1] == "chain"


def test_the_chain_is_what_the_format_says_it_is() -> None:
    """BLAKE2b (16 bytes) over the chain before and the line up to its own chain."""
    first = encode(ONE_OF_EACH[0], seq=0, previous=GENESIS)
    second = encode(ONE_OF_EACH[1], seq=1, previous=first.chain)
    text = second.line[: second.line.rindex(b',"chain"')]
    assert first.line[: first.line.rindex(b',"chain"')] == open_envelope(first.line).text
    assert second.chain == blake2b(first.chain + text, digest_size=16).digest()
    assert json.loads(second.line)["chain"] == second.chain.hex()


@given(arrays(np.float32, (3, 4), elements=FLOATS), arrays(np.float32, 3, elements=FLOATS), FLOATS)
def test_every_float32_comes_back_exactly(probs: np.ndarray, losses: np.ndarray, loss: float) -> None:
    """Never rounded; NaN and both infinities come back as themselves."""
    _, again = decode(encode(batch(losses=losses.tolist(), probs=probs.tolist(), loss=loss), seq=0, previous=GENESIS).line)
    assert isinstance(again, Batch)
    np.testing.assert_array_equal(again.probs, probs)
    np.testing.assert_array_equal(again.losses, losses)
    np.testing.assert_array_equal(np.float32(again.loss), np.float32(loss))


def test_a_nonfinite_number_is_null_and_named() -> None:
    """`nonfinite` lists, per field and in order, what its nulls stand for."""
    body = json.loads(encode(batch(losses=[np.nan, 1, -np.inf], probs=[[0.5, np.inf]] * 3), seq=0, previous=GENESIS).line)
    assert body["losses"] == [None, 1.0, None]
    assert body["nonfinite"] == {"losses": ["nan", "-inf"], "probs": ["inf", "inf", "inf"]}


@given(st.lists(FILE_BYTES, min_size=1, max_size=3))
def test_file_names_of_any_bytes_come_back_exactly(names: list[bytes]) -> None:
    """Names that are not UTF-8, or have newlines, quotes or escapes, are kept byte for byte in one line."""
    files = [name.decode("utf-8", "surrogateescape") for name in names]
    line = encode(batch(losses=[1.0] * len(files), probs=[[0.5, 0.5]] * len(files), files=files), seq=0, previous=GENESIS).line
    assert line.count(b"\n") == 1
    line.decode("ascii" if any("\udc80" <= c <= "\udcff" for f in files for c in f) else "utf-8")
    _, again = decode(line)
    assert isinstance(again, Batch)
    assert [file.encode("utf-8", "surrogateescape") for file in again.files] == names


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b'{"seq":0,"kind":"run"}',
        b'{"seq":-1,"kind":"skip","chain":"' + b"0" * 32 + b'"}',
        b'{"seq":0,"kind":"skip","file":1e999,"chain":"' + b"0" * 32 + b'"}',
        b'{"seq":0,"kind":"skip","chain":"' + b"0" * 32 + b'"}',
        b'{"seq":0,"kind":"other","chain":"' + b"0" * 32 + b'"}',
        b'{"seq":0,"kind":"skip",' + b"[" * 5000 + b',"chain":"' + b"0" * 32 + b'"}',
        b'{"seq":0,"kind":"skip","file":"\xff","reason":"x","chain":"' + b"0" * 32 + b'"}',
        b'{"seq":0,"kind":"batch","nonfinite":7,"chain":"' + b"0" * 32 + b'"}',
        b'{"seq":0,"kind":"batch","losses":["a"],"inputs":[],"chain":"' + b"0" * 32 + b'"}',
    ],
)
def test_a_line_that_was_never_written_is_refused(line: bytes) -> None:
    """Hostile lines raise RecordsError and nothing else."""
    with pytest.raises(RecordsError):
        decode(line)


@pytest.mark.parametrize(("number", "age"), [("1", "an older"), ("3", "another"), ('"2"', "another"), ("null", "another")])
def test_records_of_another_format_are_refused_by_number(number: str, age: str) -> None:
    """An older or newer file says so instead of being misread."""
    line = encode(ONE_OF_EACH[0], seq=0, previous=GENESIS).line.replace(b'"format":2', b'"format":' + number.encode())
    with pytest.raises(FormatError, match=f"written by {age} version of capture") as caught:
        decode(line)
    assert "this version reads format 2" in caught.value.message


def test_the_kinds_are_those_of_the_format() -> None:
    """Adding or removing a kind is a decision, to be documented in docs/records.md."""
    assert set(KINDS) == {"run", "samples", "skip", "batch", "numbers", "measures", "epoch", "end"}
