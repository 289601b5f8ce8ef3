"""capture_cli.training.batches: which images meet, in which order, read once, the same in every process."""

from pathlib import Path

import numpy as np
import pytest
import torch

from capture_cli.config import TrainConfig
from capture_cli.errors import DataError
from capture_cli.journal import Journal
from capture_cli.pixels.admission import Loader
from capture_cli.pixels.store import MemoryStore
from capture_cli.plan import make_plan
from capture_cli.records import Samples, Skip, decode
from capture_cli.runfolder import Output
from capture_cli.training.batches import Data
from capture_cli.writer import BatchWriter
from conftest import make_images


def data(folder: Path, path: Path, *, batch_size: int = 4, strict: bool = False, threads: int = 1, **options: object) -> Data:
    """Open the batches of a folder; samples and skips are recorded at `path`."""
    plan = make_plan(str(folder), TrainConfig(batch_size=batch_size, **options))  # type: ignore[arg-type]
    store = MemoryStore(len(plan.scan.files), Loader(plan.geometry, threads=threads))
    writer = BatchWriter(Output(Journal.create(path, force=True), None, str(path)))
    return Data(plan.scan, store, plan.recipe, writer, seed=7, batch_size=batch_size, device=torch.device("cpu"), strict=strict)


def names(batches: Data, phase: str, epoch: int) -> list[list[str]]:
    return [list(batch.files) for batch in batches.batches(phase, epoch)]


def test_each_epoch_has_every_image_once_in_its_own_order(images: Path, tmp_path: Path) -> None:
    """Two epochs shuffle differently; two equal folders shuffle alike."""
    one, other = data(images, tmp_path / "1"), data(images, tmp_path / "2", threads=4)
    epochs = [names(one, "train", epoch) for epoch in (1, 2)]
    flat = [[file for batch in epoch for file in batch] for epoch in epochs]
    assert sorted(flat[0]) == sorted(flat[1])
    assert flat[0] != flat[1]
    assert epochs == [names(other, "train", epoch) for epoch in (1, 2)]
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_inputs_are_the_same_for_any_batch_size(images: Path, tmp_path: Path) -> None:
    """A sample's augmentation belongs to the sample, not to its place in a batch."""
    seen: list[dict[str, bytes]] = []
    for size in (3, 8):
        batches = data(images, tmp_path / str(size), batch_size=size, augment="flip+crop").batches("train", 2)
        seen.append({f: x.numpy().tobytes() for b in batches for f, x in zip(b.files, b.inputs, strict=True)})
    assert seen[0] == seen[1]


def test_batches_can_start_in_the_middle(images: Path, tmp_path: Path) -> None:
    """A resumed phase yields the remaining batches, the same as before."""
    whole = list(data(images, tmp_path / "1").batches("train", 1))
    rest = list(data(images, tmp_path / "2").batches("train", 1, start=2))
    assert [b.files for b in rest] == [b.files for b in whole[2:]]
    assert all(torch.equal(a.inputs, b.inputs) and a.progress == b.progress for a, b in zip(rest, whole[2:], strict=True))


@pytest.mark.parametrize(("count", "sizes"), [(9, [4, 5]), (8, [4, 4]), (10, [4, 4, 2]), (1, [1]), (5, [5])])
def test_a_last_training_batch_of_one_joins_the_one_before(tmp_path: Path, count: int, sizes: list[int]) -> None:
    """Batch normalisation cannot train on a single image; validation has no such limit."""
    folder = make_images(tmp_path / "f", classes=2, each=10)
    for file in sorted(folder.iterdir())[count:]:
        file.unlink()
    (folder / "zoo_1.png").write_bytes(b"broken, and its class with it")
    assert [len(batch.files) for batch in data(folder, tmp_path / "r", val_split=0.0).batches("train", 1)] == sizes


def test_an_undecodable_file_is_recorded_before_its_batch(images: Path, tmp_path: Path) -> None:
    """Samples and skips are recorded before the first batch that needs them; later epochs omit the broken ones."""
    (images / "ant_003.png").write_bytes(b"broken")
    batches = data(images, tmp_path / "r", val_split=0.0)
    announced: set[str] = set()
    for batch in batches.batches("train", 1):
        records = [decode(line)[1] for line in (tmp_path / "r").read_bytes().splitlines()]
        announced = {file for record in records if isinstance(record, Samples) for file in record.files}
        assert announced.issuperset(batch.files)
    assert [record.file for record in records if isinstance(record, Skip)] == ["ant_003.png"]
    assert len(announced) == 23
    before = (tmp_path / "r").read_bytes()
    assert sorted(file for batch in names(batches, "train", 2) for file in batch) == sorted(announced)
    assert (tmp_path / "r").read_bytes() == before


def test_a_phase_without_a_usable_image_is_an_error(images: Path, tmp_path: Path) -> None:
    """DataError instead of a training on nothing."""
    for file in images.iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match="none of the"):
        next(data(images, tmp_path / "r", img_size="8", channels=1).batches("train", 1))


def test_files_of_an_earlier_process_must_not_have_changed(images: Path, tmp_path: Path) -> None:
    """One changed byte is an error that names the file; unchanged files are not recorded again."""
    first = data(images, tmp_path / "1")
    names(first, "train", 1)
    known: dict[str, str | None] = {}
    for line in (tmp_path / "1").read_bytes().splitlines():
        record = decode(line)[1]
        assert isinstance(record, Samples)
        known |= dict(zip(record.files, record.digests, strict=True))
    again = data(images, tmp_path / "2")
    again.expect(known, {})
    assert names(again, "train", 1) == names(first, "train", 1)
    assert (tmp_path / "2").read_bytes() == b""
    victim = next(iter(known))
    changed = bytearray((images / victim).read_bytes())
    changed[-20] ^= 1
    (images / victim).write_bytes(changed)
    with pytest.raises(DataError, match=victim):
        data(images, tmp_path / "3").expect(known, {})


def test_labels_are_those_of_the_names(images: Path, tmp_path: Path) -> None:
    """Row i of the tensors is file i."""
    batches = data(images, tmp_path / "r")
    for batch in batches.batches("val", 1):
        classes = [batches.scan.classes[label] for label in batch.labels.tolist()]
        assert classes == [file[:3] for file in batch.files]
        assert [batches.scan.files[i] for i in batch.ids] == list(batch.files)
        assert batch.inputs.dtype == torch.float32
        assert np.isfinite(batch.inputs.numpy()).all()
