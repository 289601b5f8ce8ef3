"""Reading a run back: only what verifies is handed out, and how the file ended is always said."""

import json
import os
import random
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from capture_cli.errors import CaptureError, RecordsError, UsageError
from capture_cli.records import Batch, End, Epoch, RunInfo, Samples
from capture_cli.records.chain import follow_all
from capture_cli.runs import Cursor, Ending, Line, open_run
from capture_cli.runs import reading as reader
from capture_cli.runs.lines import Chain
from capture_cli.runs.reading import Reading
from runs import body, chained, rechained, run_records, write_run


def small() -> list[bytes]:
    """The lines of a small run."""
    return chained(run_records(per_class=2, batch_size=3, epochs=1))


def read(path: Path) -> tuple[list[Line], Ending]:
    with open_run(path) as run:
        return list(run.lines()), run.ending


def written(path: Path, lines: Iterable[bytes]) -> Path:
    path.write_bytes(b"".join(lines))
    return path


def counts(lines: Iterable[bytes]) -> dict[str, int]:
    """Lines by kind."""
    return dict(Counter(json.loads(line)["kind"] for line in lines))


def test_a_sealed_run_is_read_whole(tmp_path: Path) -> None:
    """Every line comes back as it was written, decodes, and the ending says what the end line says."""
    folder = write_run(tmp_path / "run")
    lines, ending = read(folder)
    data = (folder / "records.jsonl").read_bytes()
    assert b"".join(line.data + b"\n" for line in lines) == data
    assert [line.seq for line in lines] == list(range(len(lines)))
    assert (ending.state, ending.status, ending.lines, ending.bytes) == ("sealed", "completed", len(lines), len(data))
    assert ending.chain == data[-35:-3].decode()
    assert isinstance(lines[0].record(), RunInfo)
    assert isinstance(lines[-1].record(), End)
    assert sum(isinstance(line.record(), Batch) for line in lines) == ending.counts["batch"]


def test_a_run_may_be_a_folder_or_a_file(tmp_path: Path) -> None:
    """Both name the same lines; the folder is remembered."""
    folder = write_run(tmp_path / "run")
    assert read(folder) == read(folder / "records.jsonl")
    with open_run(folder) as one, open_run(folder / "records.jsonl") as other:
        assert (one.folder, other.folder) == (folder, None)


def test_every_cut_is_a_run_that_was_cut_off(tmp_path: Path) -> None:
    """Cut anywhere, the whole lines before the cut are read and the file is torn or unsealed, never damaged."""
    lines = small()
    data = b"".join(lines)
    ends = np.cumsum([len(line) for line in lines]).tolist()
    path = tmp_path / "run.jsonl"
    for cut in sorted({*range(0, len(data), 11), *ends, *(end - 1 for end in ends), *(end + 1 for end in ends[:-1])}):
        got, ending = read(written(path, [data[:cut]]))
        whole = sum(end <= cut for end in ends)
        assert [line.data + b"\n" for line in got] == lines[:whole]
        expected = "sealed" if cut == len(data) else "unsealed" if cut in (0, *ends) else "torn"
        assert (ending.state, ending.lines, ending.bytes) == (expected, whole, sum(map(len, lines[:whole])))
        assert (ending.error("it") is None) == (whole > 0)


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    """With one bit flipped nothing is shown that was not written, and the file no longer passes for sealed."""
    lines = small()
    data = b"".join(lines)
    path = tmp_path / "run.jsonl"
    for place in range(0, len(data), 5):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        got, ending = read(written(path, [bytes(changed)]))
        assert [line.data + b"\n" for line in got] == lines[: len(got)]
        assert ending.state != "sealed"
        assert ending.lines == len(got) <= data.count(b"\n", 0, place)


@pytest.mark.parametrize("block_bytes", [700, 5_000])
def test_however_a_file_is_divided_it_is_checked_as_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    """Blocks that are checked two at a time give the lines, and the reason, that one line after the other gives."""
    monkeypatch.setattr(reader, "_BLOCK_BYTES", block_bytes)
    data = b"".join(small())
    path = tmp_path / "run.jsonl"
    for place in range(0, len(data), 17):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        chain, reason, expected = Chain(Cursor()), "", []
        *whole, rest = bytes(changed).split(b"\n")
        for one in whole:
            lines, reason = chain.take_all(follow_all(one + b"\n", seq=chain.lines, previous=chain.chain))
            expected += [line.data for line in lines]
            if reason:
                break
        got, ending = read(written(path, [bytes(changed)]))
        assert [line.data for line in got] == expected
        assert (ending.reason, ending.chain, ending.counts) == (reason, chain.chain.hex(), chain.counts)
        assert (ending.lines, ending.bytes) == (len(expected), sum(len(one) + 1 for one in expected))
        assert ending.state == ("damaged" if reason else "torn" if rest else "sealed")


@pytest.mark.parametrize("how", ["doubled", "removed", "swapped", "after the end", "from another run"])
def test_lines_out_of_place_are_damage(tmp_path: Path, how: str) -> None:
    """Whole lines that were moved, lost, repeated or brought from elsewhere are named by their number."""
    lines = small()
    if how == "doubled":
        lines.insert(4, lines[3])
    elif how == "removed":
        del lines[4]
    elif how == "swapped":
        lines[4], lines[5] = lines[5], lines[4]
    elif how == "after the end":
        lines.append(lines[0])
    else:
        lines[4] = chained(run_records(per_class=2, batch_size=3, epochs=1, seed=1))[4]
    got, ending = read(written(tmp_path / "run.jsonl", lines))
    place = len(lines) if how == "after the end" else 5
    assert (ending.state, ending.line, len(got)) == ("damaged", place, place - 1)
    assert ending.reason.startswith(f"line {place} ")
    error = ending.error("it")
    assert isinstance(error, RecordsError)
    assert (error.exit_code, error.line) == (4, place)
    assert f"line {place}" in error.message


def test_bytes_after_the_end_line_are_damage(tmp_path: Path) -> None:
    """A sealed file has nothing behind its seal, not even half a line."""
    interrupted = chained(run_records(status="interrupted"))
    _, ending = read(written(tmp_path / "run.jsonl", [*interrupted, b'{"seq":']))
    assert (ending.state, ending.status, ending.line) == ("damaged", "interrupted", len(interrupted) + 1)


def test_a_completed_run_may_go_on(tmp_path: Path) -> None:
    """Behind its end line comes the run record with the new options; half of that is a torn line like any other."""
    records = list(run_records(per_class=2, epochs=1))
    first, *rest, end = records
    again = chained([*records, first, *rest])
    whole = [*again, chained([*records, first, *rest, End(status="completed", counts=counts(again))])[-1]]
    path = tmp_path / "run.jsonl"
    states = []
    for count in range(len(records), len(whole) + 1):
        got, ending = read(written(path, whole[:count]))
        assert len(got) == count
        states.append((ending.state, ending.status))
    assert states == [("sealed", "completed"), *[("unsealed", None)] * len(records[1:]), ("sealed", "completed")]
    _, ending = read(written(path, [*whole[: len(records)], whole[len(records)][:50]]))
    assert (ending.state, ending.lines) == ("torn", len(records))
    assert isinstance(end, End)


def test_a_run_that_goes_on_has_the_same_classes(tmp_path: Path) -> None:
    """Labels are numbers of classes: they may not change their meaning halfway."""
    one, other = next(run_records()), next(run_records(classes=("x", "y")))
    assert isinstance(one, RunInfo)
    lines, _ = read(written(tmp_path / "it", chained([one, one, other])))
    assert lines[1].run(lines[0].run()) == one
    with pytest.raises(RecordsError, match="line 3: the classes or the task of this run record differ"):
        lines[2].run(one)


def test_kinds_out_of_place_are_damage(tmp_path: Path) -> None:
    """The chain may hold: a first line that is no run record, and an end line that miscounts, are damage."""
    lines = small()
    no_run = [body(line).replace(b'"seq":%d' % number, b'"seq":%d' % (number - 1)) for number, line in enumerate(lines)][1:]
    got, ending = read(written(tmp_path / "b", rechained(no_run)))
    assert (len(got), ending.line, "first line must be a run record" in ending.reason) == (0, 1, True)

    end = body(lines[-1]).replace(b'"run":1', b'"run":2')
    got, ending = read(written(tmp_path / "c", rechained([*map(body, lines[:-1]), end])))
    assert (len(got), ending.line, "counts" in ending.reason) == (len(lines) - 1, len(lines), True)


@pytest.mark.parametrize(
    "junk", [b"", b"\n", b"hello\n", b"\x89PNG\r\n\x1a\n" * 100, b"\0" * 1000, b"[1]\n", b"\xef\xbb\xbf" + small()[0]]
)
def test_what_is_no_run_has_nothing_in_it(tmp_path: Path, junk: bytes) -> None:
    """Any other file is an error, not an empty run."""
    got, ending = read(written(tmp_path / "it", [junk]))
    assert got == []
    assert isinstance(ending.error("it"), RecordsError)


def test_crlf_is_damage(tmp_path: Path) -> None:
    """A file whose line ends were changed is no longer what was written."""
    _, ending = read(written(tmp_path / "it", [b"".join(small()).replace(b"\n", b"\r\n")]))
    assert (ending.state, ending.line) == ("damaged", 1)


def test_a_line_has_a_longest_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line without end does not fill the memory: reading stops and says so."""
    monkeypatch.setattr(reader, "MAX_LINE_BYTES", 2 << 20)
    lines = small()
    got, ending = read(written(tmp_path / "it", [*lines[:3], b'{"seq":3,"kind":"batch"', b"x" * (8 << 20)]))
    assert (len(got), ending.state) == (3, "damaged")
    assert "line 4 is longer than 2 MB" in ending.reason


def test_lines_longer_than_a_read_are_put_together(tmp_path: Path) -> None:
    """A record may be larger than what one read brings."""
    samples = [f"{number:06}" + "x" * 4000 + ".png" for number in range(900)]
    lines = chained(run_records(files=samples, epochs=1, batch_size=500))
    assert max(map(len, lines)) > 2 << 20
    got, ending = read(written(tmp_path / "it", lines))
    assert ending.state == "sealed"
    assert [line.data + b"\n" for line in got] == lines


def test_a_file_that_grows_is_read_as_far_as_it_is(tmp_path: Path) -> None:
    """Reading while the run goes on gives the lines there are; reading again gives more."""
    lines = small()
    path = tmp_path / "run.jsonl"
    for count in range(1, len(lines) + 1):
        with path.open("ab") as file:
            file.write(lines[count - 1])
        got, ending = read(path)
        assert len(got) == count
        assert ending.state == ("sealed" if count == len(lines) else "unsealed")


def test_a_pipe_is_read_as_it_fills() -> None:
    """A line is handed out when it has arrived, not when the pipe is closed."""
    lines = small()
    source, sink = os.pipe()
    with closing(Reading(source, "pipe")) as run:
        blocks = run.line_blocks()
        for line in lines:
            os.write(sink, line[:20])
            os.write(sink, line[20:])
            assert [got.data + b"\n" for got in next(blocks)] == [line]
        os.close(sink)
        assert list(blocks) == []
    assert run.ending.state == "sealed"


@pytest.mark.parametrize(
    ("name", "message"), [("nope", "no such run: 'nope'"), (".", "no records.jsonl in '.'"), ("a\0b", "cannot be read")]
)
def test_no_such_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    """What is no run is named, with what a run would be."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CaptureError, match=message):
        open_run(name)


def test_a_fifo_in_a_run_folder_is_not_waited_for(tmp_path: Path) -> None:
    """A run folder from elsewhere cannot make a command hang."""
    os.mkfifo(tmp_path / "records.jsonl")
    with pytest.raises(UsageError, match="not a regular file"):
        open_run(tmp_path)


def test_names_that_are_not_utf8_come_back(tmp_path: Path) -> None:
    """File names are exact both ways, whatever their bytes."""
    names = [os.fsdecode(name) for name in (b"a\x80.png", b"\xff\xfe", "é😀.png".encode(), b"plain.png")]
    lines, _ = read(write_run(tmp_path / "run", run_records(files=names, classes=("x", "y"), val_every=0)))
    found = [file for line in lines if isinstance(record := line.record(), Samples) for file in record.files]
    assert found == names


def test_columns_are_found_whatever_the_names(tmp_path: Path) -> None:
    """A file name that looks like the rest of a record is not taken for it."""
    names = ['],"labels":[7],"losses":[9e9', '"],"preds":[1', "\\", '\\","labels":[5', ',"labels":[']
    lines, _ = read(write_run(tmp_path / "run", run_records(files=names, classes=("x", "y"), val_every=0)))
    batches = [line for line in lines if line.kind == "batch"]
    for line in batches:
        batch = line.record()
        assert isinstance(batch, Batch)
        assert line.column("labels") == b"[%b]" % b",".join(b"%d" % label for label in batch.labels)
        assert np.array_equal(np.fromstring(line.column("losses")[1:-1].decode(), np.float32, sep=","), batch.losses)
        assert line.phase_and_epoch() == (batch.phase, batch.epoch)
        with pytest.raises(RecordsError, match=f"line {line.seq + 1}: this batch record has no nothing"):
            line.column("nothing")


@pytest.mark.parametrize(
    ("kind", "old", "new", "field"),
    [
        ("run", b'"classes":["cat"', b'"classes":[3', "classes"),
        ("run", b'"folder":"photos"', b'"folder":null', "folder"),
        ("run", b'"lr":0.001', b'"lr":1e999', "config"),
        ("run", b'"seed":0', b'"seed":' + b"[" * 500 + b"]" * 500, "config"),
        ("samples", b'"ids":[0,', b'"ids":[', "ids"),
        ("samples", b'"ids":[0,', b'"ids":[0.5,', "ids"),
        ("skip", b'"reason":"truncated"', b'"reason":["truncated"]', "reason"),
        ("batch", b'"phase":"train"', b'"phase":"\\u001b[2J"', "phase"),
        ("batch", b'"labels":[', b'"labels":[1,', "ids, files, preds, losses, probs"),
        ("batch", b'"labels":[', b'"labels":[[],', "not those of format"),
        ("batch", b'"losses":[', b'"losses":["x",', "not those of format"),
        ("batch", b'"probs":[[', b'"probs":[[0.5,', "not those of format"),
        ("batch", b'"inputs":{', b'"topk":[[1]],"inputs":{', "topk"),
        ("batch", b'"dtype":"float32"', b'"dtype":7', "inputs"),
        ("epoch", b'"n":', b'"n":1e3,"m":', "n"),
    ],
)
def test_fields_that_do_not_fit_are_named(tmp_path: Path, kind: str, old: bytes, new: bytes, field: str) -> None:
    """A line whose chain holds but whose fields make no sense is an error with its number and the field."""
    bodies = [body(line) for line in small()]
    place = next(number for number, text in enumerate(bodies) if b'"kind":"%b"' % kind.encode() in text)
    assert old in bodies[place]
    bodies[place] = bodies[place].replace(old, new, 1)
    lines, _ = read(written(tmp_path / "it", rechained(bodies)))
    with pytest.raises(RecordsError, match=f"line {place + 1}: .*{field}") as raised:
        lines[place].record()
    assert raised.value.line == place + 1


@pytest.mark.parametrize(("number", "age"), [(1, "an older"), (3, "another")])
def test_a_record_of_another_format_is_refused(tmp_path: Path, number: int, age: str) -> None:
    """Records of another format are refused by name, never guessed at."""
    records = list(run_records())
    run = records[0]
    assert isinstance(run, RunInfo)
    lines, _ = read(written(tmp_path / "it", chained([replace(run, format=number), *records[1:]])))
    with pytest.raises(RecordsError, match=f"written by {age} version of capture .record format {number};"):
        lines[0].record()


def test_values_that_are_not_finite_come_back(tmp_path: Path) -> None:
    """NaN and infinite losses are what they were."""
    epoch = Epoch(phase="train", epoch=0, n=1, loss=float("nan"), accuracy=0.0, captured=1, not_captured=0)
    lines, _ = read(written(tmp_path / "it", chained([next(run_records()), epoch])))
    record = lines[1].record()
    assert isinstance(record, Epoch)
    assert np.isnan(record.loss)


def test_random_damage_shows_nothing_that_was_not_written(tmp_path: Path) -> None:
    """2,000 times: bytes overwritten, cut out and put in at random; what is handed out is a beginning of what was written."""
    lines = small()
    data = b"".join(lines)
    draw = random.Random(0)
    path = tmp_path / "run.jsonl"
    for _ in range(2_000):
        start = draw.randrange(len(data))
        end = start + draw.choice((0, 1, 3, 50, 5000))
        path.write_bytes(data[:start] + draw.randbytes(draw.choice((0, 1, 3, 50, 5000))) + data[end:])
        got, ending = read(path)
        assert [line.data + b"\n" for line in got] == lines[: len(got)]
        assert ending.lines == len(got)
        assert ending.state != "sealed" or path.read_bytes() == data
