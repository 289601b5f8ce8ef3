"""What the pixels show: copies, near-duplicates, leaks, contradicting labels, pictures of one colour, lost classes."""

import json
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calling import Caller
from capture_cli.errors import DataError, Unusable
from capture_cli.pixels.admission import Loader
from capture_cli.pixels.findings import Findings, Observed, find
from capture_cli.pixels.geometry import Geometry
from capture_cli.pixels.similarity import MAX_DISTANCE, perceptual_hashes, sampled, similar_pairs
from capture_cli.pixels.store import DiskStore, MemoryStore
from capture_cli.pixels.verdicts import Names, refuse_lost, warnings
from capture_cli.training import batches
from cutting import trainer
from image_bytes import saved

SIZE = Geometry(height=40, width=40, channels=3)


def photograph(number: int) -> Image.Image:
    """A smooth picture of its own."""
    small = np.random.default_rng(number).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(small).resize((60, 50), Image.Resampling.BICUBIC)


def compressed(image: Image.Image, quality: int = 60) -> bytes:
    return saved(image.resize((48, 40)), "JPEG", quality=quality)


def hashes_of(*files: bytes) -> np.ndarray:  # type: ignore[type-arg]
    store = MemoryStore(len(files), Loader(SIZE))
    return store.admit(range(len(files)), files.__getitem__).hashes


def bits(a: np.ndarray, b: np.ndarray) -> int:  # type: ignore[type-arg]
    return int(np.unpackbits(a ^ b).sum())


def test_a_copy_that_was_compressed_and_scaled_keeps_its_hash() -> None:
    """Nearly; other pictures have quite another one, and a picture of one colour has none."""
    for number in range(20):
        hashes = hashes_of(saved(photograph(number)), compressed(photograph(number)), saved(photograph(number + 100)))
        assert bits(hashes[0], hashes[1]) <= MAX_DISTANCE
        assert bits(hashes[0], hashes[2]) > 2 * MAX_DISTANCE
    assert not hashes_of(saved(Image.new("RGB", (9, 9), (1, 200, 3)))).any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 5), (1, 28, 28), (3, 8, 70), (3, 300, 300), (1, 1000, 3)])
def test_every_size_has_a_hash(shape: tuple[int, int, int]) -> None:
    """Computed alone or among others, it is the same: means of cells, compared with those before them."""
    pixels = np.random.default_rng(0).integers(0, 256, (7, *shape), np.uint8)
    together = perceptual_hashes(sampled(pixels))
    assert together.shape == (7, 16)
    assert np.array_equal(together, np.concatenate([perceptual_hashes(sampled(one)[np.newaxis]) for one in pixels]))


def test_close_hashes_are_found() -> None:
    """All pairs that a comparison of each with each finds, in a crowd of others."""
    draw = np.random.default_rng(0)
    hashes = draw.integers(0, 256, (400, 16), np.uint8)
    for i in range(100):
        hashes[300 + i] = hashes[i]
        for place in draw.choice(128, i % 7, replace=False):
            hashes[300 + i, place // 8] ^= 1 << (place % 8)
    expected = {(a, b) for a, b in combinations(range(400), 2) if bits(hashes[a], hashes[b]) <= MAX_DISTANCE}
    found = {(min(a, b), max(a, b)) for one in similar_pairs(hashes) for a, b in zip(*map(np.ndarray.tolist, one), strict=True)}
    assert found == expected
    assert len(expected) > 60


def findings(files: list[bytes], labels: list[int], splits: list[str], *, disk: Path | None = None) -> Findings:
    store = DiskStore(len(files), Loader(SIZE), [disk]) if disk else MemoryStore(len(files), Loader(SIZE))
    observed = Observed(len(files))
    for start in range(0, len(files), 3):
        observed.add(store.admit(range(start, min(start + 3, len(files))), files.__getitem__))
    found = find(observed, labels, splits, rows=store.rows)
    store.close()
    return found


@pytest.mark.parametrize("held", ["memory", "disk"])
def test_copies_leaks_and_conflicts_are_told_apart(tmp_path: Path, held: str) -> None:
    """By pixels, not by bytes: another compression of the same pixels is a copy, and so is the same file."""
    a, b, c = (photograph(i) for i in range(3))
    files = [saved(a), saved(a, compress_level=1), saved(b), saved(b), saved(c), compressed(c), compressed(a), b"no image"]
    found = findings(
        files,
        labels=[0, 0, 0, 1, 1, 1, 0, 0],
        splits=["train", "train", "train", "val", "val", "train", "val", "train"],
        disk=tmp_path if held == "disk" else None,
    )
    assert found.copies == [(0, 1)]
    assert found.leaks == [(2, 3)]
    assert found.conflicts == [(2, 3)]
    assert (5, 4) in found.near_leaks
    assert {train for train, val in found.near_leaks if val == 6} == {0, 1}
    assert found.near_conflicts == []
    assert list(found.skipped) == [7]
    assert found.usable == 7
    names = Names(
        files=[f"{i}.png" for i in range(8)],
        labels=[0, 0, 0, 1, 1, 1, 0, 0],
        splits=["train", "train", "train", "val", "val", "train", "val", "train"],
        classes=["cat", "dog"],
    )
    assert warnings(found, names) == [
        "1 of 3 validation images is identical to a training image, so accuracy is too high: '3.png' and '2.png'",
        "1 pair of images has identical pixels and different labels: '2.png' (cat) and '3.png' (dog)",
        "2 of 3 validation images are nearly the same as a training image, so accuracy is too high: "
        "'6.png' and '0.png' and 2 more pairs",
        "1 image is identical to another of the same class: '1.png' and '0.png'",
    ]


def swatch(number: int, colour: tuple[int, int, int]) -> bytes:
    """An even picture with noise and light from above, as of a sky or a wall."""
    noise = np.random.default_rng(number).normal(0, 1.5, (60, 50, 1)) + np.linspace(-14, 14, 60)[:, None, None]
    return saved(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))


def car(colour: tuple[int, int, int], *, mark: bool = False) -> Image.Image:
    image = Image.new("RGB", (50, 50), (230, 230, 230))
    image.paste(colour, (10, 15, 40, 35))
    if mark:
        image.paste((150, 60, 60), (21, 21, 27, 27))
    return image


def test_pictures_of_other_colours_are_no_near_duplicates() -> None:
    """Though their brightness has the same structure: cars of two colours, a sky and a lawn, a part with a mark on it."""
    red, blue = (200, 30, 40), (40, 30, 200)
    files = [saved(car(red)), saved(car(blue)), swatch(0, (90, 140, 220)), swatch(1, (70, 138, 60)), saved(car(red, mark=True))]
    hashes = hashes_of(*files)
    assert max(bits(hashes[0], hashes[1]), bits(hashes[2], hashes[3]), bits(hashes[0], hashes[4])) <= MAX_DISTANCE
    assert not findings(files[:2], [0, 1], ["train", "val"]).near_leaks
    found = findings([*files, compressed(car(blue))], [0, 1, 0, 1, 1, 0], ["train"] * 5 + ["val"])
    assert found.near_conflicts == [(1, 5)]
    assert found.near_leaks == [(1, 5)]
    assert not found.near_copies


def test_pictures_of_one_colour_are_no_copies() -> None:
    """They are listed as what they are, and one noisy pixel makes a picture."""
    spot = np.full((40, 40, 3), 255, np.uint8)
    spot[3, 3] = 0
    files = [
        saved(Image.new("RGB", (9, 9), "white")),
        saved(Image.new("RGB", (8, 8), "white")),
        saved(spot),
        saved(photograph(1)),
    ]
    found = findings(files, [0, 0, 1, 1], ["train"] * 4)
    assert found.constant == [0, 1]
    assert not found.copies
    assert not found.all_alike
    assert findings(files[:2], [0, 1], ["train"] * 2).all_alike


def lost(skipped: set[int]) -> str:
    observed = Observed(6)
    observed.skipped = {i: Unusable("truncated") for i in skipped}
    files = [f"{name}_{i}.png" for i, name in enumerate(["cat", "cat", "cat", "dog", "dog", "dog"])]
    splits = ["train", "train", "val"] * 2
    try:
        refuse_lost(observed, Names(files=files, labels=[0, 0, 0, 1, 1, 1], splits=splits, classes=["cat", "dog"]))
    except DataError as error:
        return error.message
    return ""


def test_a_class_or_a_split_that_is_lost_is_refused() -> None:
    """All training images of a class, or all images of a split; a class may lack validation images."""
    assert lost({3, 4}) == "no training image of the class 'dog' can be used: 2 truncated, such as 'dog_3.png'"
    assert lost({2, 5}) == "none of the 2 val images can be used: 2 truncated"
    assert lost({0, 1, 3, 4}).startswith("none of the 4 train images can be used")
    assert lost({0, 2, 3}) == ""


def test_the_advice_leaves_out_the_folder_of_a_class() -> None:
    """Where it has one of its own that no pattern would misread."""
    for files, said in (
        (["cat/1.png", "b dog/1.png"], "leave them out with --exclude 'b dog/*'"),
        (["cat/1.png", "dog[1]/1.png"], "move them out of the folder"),
        (["all/cat.png", "all/dog.png"], "move them out of the folder"),
    ):
        observed = Observed(2)
        observed.skipped = {1: Unusable("truncated")}
        with pytest.raises(DataError) as caught:
            refuse_lost(observed, Names(files=files, labels=[0, 1], splits=["train", "train"], classes=["cat", "dog"]))
        assert caught.value.hint.endswith(said)


def folder_with_trouble(folder: Path) -> Path:
    """Two classes with copies under both labels, and a third whose images all end early."""
    for number, label in enumerate(("cat", "dog", "eel")):
        (folder / label).mkdir(parents=True)
        for i in range(8):
            photograph(10 * number + i).save(folder / label / f"{i}.png")
    for i in range(8):
        path = folder / "eel" / f"{i}.png"
        path.write_bytes(path.read_bytes()[:300])
    for i in range(3):
        (folder / "dog" / f"copy{i}.png").write_bytes((folder / "cat" / f"{i}.png").read_bytes())
    return folder


def test_a_lost_class_ends_the_training_before_its_first_step(call: Caller, tmp_path: Path) -> None:
    """Exit code 3 and no batch; with the option that the message advises it trains, and says what else is wrong."""
    folder_with_trouble(tmp_path / "images")
    refused = call("train", "images", "-m", "linear", "-e", 1, "-q", "-o", "lost")
    assert refused.code == 3
    assert "no training image of the class 'eel' can be used: 8 truncated" in refused.err
    assert b'"kind":"batch"' not in (tmp_path / "lost/records.jsonl").read_bytes()
    advice = refused.err.partition("leave them out with ")[2].split()
    trained = call("train", "images", "-m", "linear", "-e", 1, "-q", "-o", "run", advice[0], advice[1].strip("'"))
    assert trained.code == 0
    assert "warning: 3 pairs of images (6 images) have identical pixels and different labels" in trained.err
    samples = [
        json.loads(line) for line in (tmp_path / "run/records.jsonl").read_bytes().splitlines() if b'"kind":"samples"' in line
    ]
    assert sum(len(set(one["pixels"])) for one in samples) >= 16
    assert all(len(one["phash"]) == len(one["ids"]) for one in samples)


def test_labels_check_shows_it_before_training(call: Caller, tmp_path: Path) -> None:
    """A table for people and every pair as JSON; exit code 3 where a training would be refused."""
    folder_with_trouble(tmp_path / "images")
    shown = call("labels", "images", "--check")
    assert shown.code == 3
    assert "cannot be used: truncated" in shown.out
    assert "cat/0.png (cat) = dog/copy0.png (dog)" in shown.out
    found = call("labels", "images", "--check", "--json", "--exclude", "eel/*")
    assert found.code == 0
    checked = json.loads(found.out)["check"]
    assert sorted(map(sorted, checked["conflicts"])) == [[f"cat/{i}.png", f"dog/copy{i}.png"] for i in range(3)]
    assert checked["inputs"].startswith("50x60, RGB")
    assert call("labels", "images", "--depth", "8").code == 2


def test_labels_check_finds_leaks_into_the_test_split(call: Caller, tmp_path: Path) -> None:
    """Copies of training and of validation images, whatever the label that the test folder gives them."""
    for i, split in enumerate(["train", "train", "val"] * 4):
        for number, label in enumerate(("cat", "dog")):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True, exist_ok=True)
            photograph(100 * number + i).save(folder / f"{i}.png")
    (tmp_path / "images/test/cat").mkdir(parents=True)
    (tmp_path / "images/test/eel").mkdir()
    photograph(200).save(tmp_path / "images/test/cat/9.png")
    shutil.copy(tmp_path / "images/train/cat/0.png", tmp_path / "images/test/cat/0.png")
    photograph(2).save(tmp_path / "images/test/eel/2.bmp")
    shown = call("labels", "images", "--check")
    assert shown.code == 0
    assert (
        "warning: 1 of 3 test images is identical to a training image, so accuracy is too high: "
        "'test/cat/0.png' and 'train/cat/0.png'\n"
    ) in shown.err
    assert "1 of 3 test images is identical to a validation image" in shown.err
    found = json.loads(call("labels", "images", "--check", "--json").out)["check"]
    assert found["leaks"] == [["train/cat/0.png", "test/cat/0.png"], ["val/cat/2.png", "test/eel/2.bmp"]]
    assert found["conflicts"] == []
    trained = call("train", "images", "-m", "linear", "-e", 1, "-q", "-o", "run")
    said = [line for line in trained.err.splitlines() if " test images " in line]
    assert said == [
        "warning: 1 of 3 test images is identical to a training image, so accuracy is too high: "
        "'test/cat/0.png' and 'train/cat/0.png'"
    ]


@pytest.mark.parametrize("looked_at", [3, 1024])
def test_a_run_that_looks_ahead_resumes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked_at: int
) -> None:
    """Whether all images are read before the first step or one of each class and split, and wherever it was killed."""
    monkeypatch.setattr(batches, "LOOKED_AT", looked_at)
    train = trainer(tmp_path, monkeypatch)
    (tmp_path / "images/ant_000.png").write_bytes(b"no image")
    assert train("images", "-e", "2", "-o", "whole") == 0
    lines = (tmp_path / "whole/records.jsonl").read_bytes().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    first = kinds.index("batch")
    read = sum(len(json.loads(line).get("ids", [1])) for line in lines[1:first])
    assert read == 24 if looked_at == 1024 else read < 24
    for cut_after in (2, first, first + 1, len(lines) // 2):
        shutil.rmtree(tmp_path / "cut", ignore_errors=True)
        assert train("images", "-e", "2", "-o", "cut", "--checkpoint-every=1", cut_after=cut_after) == -9
        assert train("--resume", "cut") == 0
        assert (tmp_path / "cut/records.jsonl").read_bytes() == (tmp_path / "whole/records.jsonl").read_bytes()


def test_of_many_images_one_of_each_class_is_looked_at(call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost class is found before the first step without reading the others; what all pixels show is said in the end."""
    monkeypatch.setattr(batches, "LOOKED_AT", 3)
    folder_with_trouble(tmp_path / "images")
    refused = call("train", "images", "-m", "linear", "-e", 1, "-q", "-o", "lost")
    assert refused.code == 3
    assert "no training image of the class 'eel' can be used: " in refused.err
    lines = (tmp_path / "lost/records.jsonl").read_bytes().splitlines()
    assert sum(len(json.loads(line).get("files", [])) for line in lines) <= 4
    trained = call("train", "images", "-m", "linear", "-e", 1, "-q", "-o", "run", "--exclude", "eel/*")
    assert "warning: 3 pairs of images (6 images) have identical pixels and different labels" in trained.err


def test_images_that_are_all_the_same_are_refused(call: Caller, tmp_path: Path) -> None:
    """Two classes of black pictures teach nothing, whatever the accuracy."""
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(6):
            Image.new("L", (8, 8), 0).save(tmp_path / "images" / label / f"{i}.png")
    refused = call("train", "images", "-m", "linear", "-e", 1, "-q", "-o", "run")
    assert refused.code == 3
    assert "all 12 usable images have the same pixels" in refused.err


def test_a_class_that_lost_half_of_its_images_is_named() -> None:
    """Also where most images of the others can be used."""
    labels = [0] * 10 + [1] * 4
    found = Findings(usable=11, skipped={i: Unusable("truncated") for i in (3, 11, 13)})
    names = Names(files=[f"{i}.png" for i in range(14)], labels=labels, splits=["train"] * 14, classes=["cat", "dog"])
    assert warnings(found, names) == ["half of the images of a class or more cannot be used: 2 of 4 of 'dog', such as '11.png'"]


def test_half_of_the_files_skipped_is_said_though_quiet(call: Caller, tmp_path: Path) -> None:
    """With the reasons and names."""
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(8):
            photograph(i + 50 * (label == "dog")).save(tmp_path / "images" / label / f"{i}.png")
            (tmp_path / "images" / label / f"{i}.jpg").write_bytes(b"<html>not found</html>")
    trained = call("train", "images", "-m", "linear", "-e", 1, "-q", "-o", "run", "--keep-companions")
    assert trained.code == 0
    assert "warning: 16 of 32 images cannot be used: 16 not-an-image, such as 'cat/0.jpg'" in trained.err
