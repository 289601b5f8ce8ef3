"""Stored inputs are compared with their digests, and exported as files."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from capture_cli.errors import RecordsError, UsageError
from capture_cli.preprocessing import digests
from capture_cli.records import Batch, Inputs
from capture_cli.replay import Replay, Reproduced, Selection
from capture_cli.replay.exports import Tensors, picture_name
from capture_cli.replay.stored import StoredInputs
from capture_cli.runs import open_run
from replay_runs import VISITS, rewrite
from test_replay import causes, records, replayed, with_batch


class TestStored:
    """Stored inputs match their digests, or are named."""

    @pytest.mark.parametrize("run", ["whole", "grown"])
    def test_a_changed_byte_is_found(self, here: Path, run: str) -> None:
        """A changed byte in a pack or a line names the sample and the position of its bytes."""
        if run == "whole":
            pack = here / "whole" / "inputs" / "pack-00000.bin"
            data = bytearray(pack.read_bytes())
            data[-5] ^= 1
            pack.write_bytes(data)
        else:
            spoilt = "AAAA" + "0" * 4
            rewrite(
                here / run,
                with_batch(lambda b: replace(b, inputs=replace(b.inputs, values=[spoilt, *(b.inputs.values or ())[1:]]))),
            )
        assert not replayed(here / run).differences
        report = replayed(here / run, stored=True)
        assert (report.equal, set(causes(report))) == (VISITS, {"stored"})
        assert len(report.differences) == 1
        assert ("pack-00000.bin at byte " if run == "whole" else "value 0: it has 6 bytes") in report.differences[0][0].detail

    def test_a_truncated_pack_is_named(self, here: Path) -> None:
        """Inputs beyond the end of a truncated pack are named, the rest are compared."""
        pack = here / "whole" / "inputs" / "pack-00000.bin"
        os.truncate(pack, pack.stat().st_size - 1)
        ((first, _),) = replayed(here / "whole", stored=True).differences
        assert "the file ends at byte" in first.detail

    @pytest.mark.parametrize(
        "stored",
        [
            {"pack": "inputs/../records.jsonl", "offsets": [0] * 8},
            {"pack": "/etc/passwd", "offsets": [0] * 8},
            {"pack": "inputs/pack-00000.bin\n", "offsets": [0] * 8},
            {"pack": 5, "offsets": [0] * 8},
            {"pack": "inputs/pack-00000.bin", "offsets": [-1] * 8},
            {"pack": "inputs/pack-00000.bin", "offsets": [2**62] * 8},
            {"pack": "inputs/pack-00000.bin", "offsets": [True] * 8},
            {"pack": "inputs/pack-00000.bin", "offsets": [0]},
            {"pack": "inputs/pack-00000.bin"},
            {},
        ],
        ids=str,
    )
    def test_a_hostile_place_is_refused(self, here: Path, stored: dict[str, object]) -> None:
        """A path outside inputs/ or an invalid offset is an error of that line, and nothing is opened."""
        rewrite(here / "whole", with_batch(lambda b: replace(b, inputs=replace(b.inputs, stored=stored))))
        with pytest.raises(RecordsError, match=r"line \d+: a batch record (whose|with) stored"):
            replayed(here / "whole", stored=True)

    @pytest.mark.parametrize("kind", ["link", "fifo", "folder", "missing", "linked-folder"])
    def test_only_regular_files_are_read_as_packs(self, here: Path, kind: str) -> None:
        """A link, FIFO or folder in place of a pack is neither followed nor waited for."""
        folder = here / "whole" / "inputs"
        pack = folder / "pack-00000.bin"
        if kind == "linked-folder":
            folder.rename(here / "elsewhere")
            folder.symlink_to(here / "elsewhere")
        else:
            pack.rename(here / "elsewhere")
        if kind == "link":
            pack.symlink_to(here / "elsewhere")
        elif kind == "fifo":
            os.mkfifo(pack)
        elif kind == "folder":
            pack.mkdir()
        report = replayed(here / "whole", stored=True)
        assert (report.stored, report.equal) == (VISITS, VISITS)
        assert report.causes == {"stored": VISITS}

    def test_invalid_values_are_refused(self) -> None:
        """Too many values, values that are not text, and impossible shapes and dtypes are refused."""
        good = Inputs(shape=[1, 1, 1], dtype="float32", digests=["0" * 16])
        bad = [
            replace(good, values=["", ""]),
            replace(good, values=[1]),  # type: ignore[list-item]
            replace(good, values="AAAA"),
            replace(good, shape=[1, -1, -1]),
            replace(good, shape=[2**20, 2**20, 2**20]),
            replace(good, shape=[-1]),
            replace(good, dtype="object"),
        ]
        for inputs in bad:
            with pytest.raises(RecordsError), StoredInputs(None) as stored:
                list(stored.mismatches(inputs, {0}))
        with StoredInputs(None) as stored:
            (mismatch,) = stored.mismatches(replace(good, values=["é"]), {0})
        assert mismatch.reason == "it is not base64"

    def test_packs_need_the_run_folder(self, here: Path) -> None:
        """Packs cannot be read from the records alone; the error says so."""
        with open_run(here / "whole" / "records.jsonl") as reading, pytest.raises(UsageError, match="pack-00000"):
            list(Replay(reading, Selection(), folder=here / "images", stored=True))

    def test_the_batch_before_a_wrong_loss_is_compared_too(self, here: Path) -> None:
        """Inputs kept by the flight recorder are compared like the others, and trusted as little."""
        kept = next(r for r in records(here / "whole") if isinstance(r, Batch))
        body = {
            "shape": list(kept.inputs.shape),
            "dtype": "float32",
            "digests": list(kept.inputs.digests),
            "stored": kept.inputs.stored,
        }
        for inputs, count in ((body, 0), (body | {"digests": ["0" * 16] * 8}, 8)):
            flight = {"reason": "nan", "before": {"inputs": inputs}}
            rewrite(here / "whole", with_batch(lambda b, flight=flight: replace(b, flight=flight)))  # type: ignore[misc]
            report = replayed(here / "whole", stored=True)
            assert (report.stored, report.causes["stored"]) == (VISITS + 8, count)
        for spoilt in ({"inputs": 3}, {"inputs": {"shape": 1, "dtype": "", "digests": []}}, [1], {"inputs": {"code": "x"}}):
            rewrite(here / "whole", with_batch(lambda b, s=spoilt: replace(b, flight={"reason": "nan", "before": s})))  # type: ignore[misc]
            with pytest.raises(RecordsError, match="flight does not fit"):
                replayed(here / "whole", stored=True)


class TestExports:
    """Reproduced inputs as files."""

    def test_names_hold_nothing_of_the_records_text(self, place: Path) -> None:
        """Picture names are made of numbers and the phase, whatever the files are called."""
        with open_run(place / "whole") as reading:
            made = next(iter(Replay(reading, Selection(limit=1), folder=place / "images")))
        assert picture_name(made, 0) == f"e0001-train-b00000-s000-id{made.batch.ids[0]}.png"

    def test_tensors_are_whole_or_not_there(self, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The .npy file has every bit; without `complete`, or if it is too large, it is removed."""
        made = self.made(place)
        path = tmp_path / "x.npy"
        with Tensors(path, force=False) as tensors:
            for part in made:
                tensors.write(part)
            tensors.complete()
        read = np.load(path, mmap_mode="r")
        assert (read.dtype, read.shape) == (np.dtype("<f4"), (60, 3, 10, 12))
        assert digests(read) == [d for part in made for d in part.batch.inputs.digests]
        with pytest.raises(UsageError, match="exists"), Tensors(path, force=False):
            pass
        with Tensors(path, force=True) as tensors:
            tensors.write(made[0])
        assert not path.exists()
        monkeypatch.setattr("capture_cli.replay.exports.MAX_BYTES", 12_000)
        with Tensors(path, force=False) as tensors:
            tensors.write(made[0])
            with pytest.raises(UsageError, match="the chosen inputs take more"):
                tensors.write(made[1])
        assert not path.exists()

    def test_an_existing_file_and_a_link_are_left_alone(self, place: Path, tmp_path: Path) -> None:
        """With force a link is replaced, never written through."""
        (tmp_path / "mine").write_bytes(b"precious")
        (tmp_path / "x.npy").symlink_to(tmp_path / "mine")
        with pytest.raises(UsageError, match="exists"), Tensors(tmp_path / "x.npy", force=False):
            pass
        with Tensors(tmp_path / "x.npy", force=True) as tensors:
            tensors.write(self.made(place)[0])
            tensors.complete()
        assert (tmp_path / "mine").read_bytes() == b"precious"
        assert np.load(tmp_path / "x.npy").shape == (8, 3, 10, 12)

    def made(self, place: Path) -> list[Reproduced]:
        with open_run(place / "whole") as reading:
            return list(Replay(reading, Selection(epoch=1), folder=place / "images"))
