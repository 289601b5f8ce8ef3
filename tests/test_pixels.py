"""The shape of the inputs, and the store that holds the pixels in memory."""

import threading
import time
from collections import Counter
from hashlib import blake2b

import numpy as np
import pytest
from PIL import Image

from capture_cli.errors import CaptureError, Unusable, UsageError
from capture_cli.pixels.admission import TRIED, WORTH_A_THREAD_SECONDS, Loader, in_threads
from capture_cli.pixels.choosing import PEEKED_FILES, GeometryChoice, Wishes, choose_geometry
from capture_cli.pixels.decoding import decode
from capture_cli.pixels.geometry import Geometry
from capture_cli.pixels.store import MemoryStore
from image_bytes import GOOD, NOISE, exif, png, saved


def picture(width: int, height: int, mode: str = "L") -> bytes:
    return saved(Image.new(mode, (width, height)))


def choice(pictures: list[bytes], **asked: object) -> GeometryChoice:
    files = [f"{i}.png" for i in range(len(pictures))]
    return choose_geometry(files, lambda file: pictures[files.index(file)], Wishes(**asked))  # type: ignore[arg-type]


def chosen(pictures: list[bytes], **asked: object) -> tuple[int, int, int]:
    """(height, width, channels) for a folder of these."""
    return choice(pictures, **asked).geometry.shape[1:] + choice(pictures, **asked).geometry.shape[:1]


def test_icons_keep_their_size() -> None:
    """The size of more than half is kept. Others are scaled if their proportions are the same, else padded."""
    same = choice([picture(28, 28)] * 3)
    assert (same.geometry.shape, same.geometry.resize) == ((1, 28, 28), "stretch")
    assert same.sentence == "28x28, grey; all images have this size"
    mixed = choice([picture(20, 10)] * 3 + [picture(9, 9), picture(500, 500)])
    assert (mixed.geometry.shape, mixed.geometry.resize) == ((1, 10, 20), "pad")
    assert mixed.sentence.startswith(
        "10x20, grey, padded; most images have this size; the others, 9x9 to 500x500, are scaled to fit"
    )
    assert choice([picture(20, 10)] * 3 + [picture(40, 20)]).geometry.resize == "stretch"


def test_small_images_of_many_sizes_get_the_median_size_and_are_padded() -> None:
    """Traffic signs and letters: neither 32x32 nor 224x224, and never stretched."""
    signs = choice([picture(side, side + 3) for side in range(20, 60, 4)])
    assert (signs.geometry.height, signs.geometry.width, signs.geometry.resize) == (41, 41, "pad")
    assert "small images of 23x20 to 59x56" in signs.sentence


def test_photographs_get_224_and_a_crop() -> None:
    """Pictures of many sizes and proportions are scaled and the centre is cut out, and it is said."""
    photographs = choice([picture(400 - 7 * i, 300 + 9 * i, "RGB") for i in range(8)])
    assert (photographs.geometry.shape, photographs.geometry.resize) == ((3, 224, 224), "crop")
    assert photographs.sentence.startswith("224x224, RGB, centre crop (0.875 of the shorter side); images of 300x400 to ")
    assert photographs.sentence.endswith(" are scaled, and the centre is cut out")


def test_pictures_that_a_crop_would_halve_are_padded() -> None:
    """Lines of text and other strips of differing lengths."""
    assert choice([picture(300 + 60 * i, 40) for i in range(9)]).geometry.resize == "pad"


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(224, 100, (100, 224)), (500, 375, (168, 224)), (375, 500, (224, 168)), (4000, 4000, (224, 224)), (9000, 3, (1, 224))],
)
def test_large_pictures_of_one_shape_are_shrunk_in_proportion(width: int, height: int, expected: tuple[int, int]) -> None:
    """A longer side above 224 becomes 224: nothing is cut off and nothing distorted."""
    assert chosen([picture(width, height)])[:2] == expected
    assert choice([picture(width, height)]).geometry.resize == "stretch"


def test_a_size_that_was_asked_for_does_not_distort_either() -> None:
    """--img-size alone leaves the way to resize to the images; with --resize both are kept."""
    photographs = [picture(400 - 7 * i, 300 + 9 * i) for i in range(8)]
    assert choice(photographs, size=(64, 64)).geometry.resize == "crop"
    assert choice([picture(28, 20)] * 3, size=(32, 32)).geometry.resize == "pad"
    assert choice([picture(28, 28)] * 3, size=(32, 32)).geometry.resize == "stretch"
    asked = choice(photographs, size=(64, 64), resize="stretch")
    assert (asked.geometry.resize, asked.geometry.shape) == ("stretch", (1, 64, 64))
    assert "--resize was given" in asked.sentence


def test_grey_only_if_all_are_grey() -> None:
    """One picture in colour makes the inputs colour."""
    assert chosen([picture(8, 8), picture(8, 8, "1"), picture(8, 8, "LA")])[2] == 1
    assert chosen([picture(8, 8), picture(8, 8, "RGB")])[2] == 3


def test_options_are_kept() -> None:
    """A size, a number of channels, or both; if all is asked for, no file is opened."""
    assert chosen([picture(8, 8)], size=(3, 5)) == (3, 5, 1)
    assert chosen([picture(8, 6)], channels=3) == (6, 8, 3)
    wishes = Wishes(size=(300, 5), channels=1, resize="pad", depth="12", background=(1, 2, 3), max_pixels=9)
    assert choose_geometry(["a"], pytest.fail, wishes).geometry == Geometry(
        height=300, width=5, channels=1, resize="pad", depth="12", background=(1, 2, 3), max_pixels=9
    )


@pytest.mark.parametrize(
    ("most", "depth", "says"),
    [
        (59, "8", "values of 0 to 59 in 16 bits are read as 8 bits (--depth 8)"),
        (1023, "10", "read as 10 bits"),
        (4000, "12", "read as 12 bits"),
        (16383, "14", "read as 14 bits"),
        (65535, "high-byte", "keep their high 8 of 16 bits"),
    ],
)
def test_the_depth_is_that_of_the_values(most: int, depth: str, says: str) -> None:
    """Cameras of 12 bits, and 8 bits in 16, are not made black."""
    values = np.linspace(0, most, 64).astype(np.uint16).reshape(8, 8)
    found = choice([saved(values // 2), saved(values)])
    assert found.geometry.depth == depth
    assert says in found.sentence
    assert choice([saved(values)], depth="minmax").geometry.depth == "minmax"


def test_floats_and_negative_values_are_stretched_by_image() -> None:
    """TIFF holds them; no number of bits does."""
    floats = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)
    assert choice([saved(floats, "TIFF")]).geometry.depth == "minmax"
    assert choice([saved(np.arange(64, dtype=np.int32).reshape(8, 8) - 3, "TIFF")]).geometry.depth == "minmax"


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, -1, 3), (5, 5, 2), (5, 5, 4)])
def test_an_impossible_shape_is_refused(shape: tuple[int, int, int]) -> None:
    """No pixels, or channels that are neither grey nor RGB."""
    with pytest.raises(UsageError, match="not valid"):
        Geometry(height=shape[0], width=shape[1], channels=shape[2])


def test_the_size_is_that_of_the_upright_picture() -> None:
    """A photograph taken upright is stored on its side, with a note."""
    assert chosen([saved(NOISE, exif=exif(6))]) == (18, 24, 3)


def test_files_that_cannot_be_used_do_not_count() -> None:
    """Neither bytes that are no image nor files that cannot be read."""

    def read(file: str) -> bytes:
        if file == "gone":
            raise Unusable("missing")
        return b"no image" if file.startswith("bad") else picture(7, 7)

    size = choose_geometry(["bad1", "bad2", "gone", "good"], read).geometry
    assert (size.height, size.width) == (7, 7)
    size = choose_geometry(["bad1", "gone"], read).geometry
    assert (size.height, size.width, size.channels) == (32, 32, 3)


def test_of_many_files_a_thousand_are_looked_at() -> None:
    """Which ones depends on their paths alone, not on how they are ordered."""
    files = [f"class/{i}.png" for i in range(3 * PEEKED_FILES)]
    looked: list[set[str]] = []
    for order in (files, files[::-1]):
        seen: list[str] = []
        choose_geometry(order, lambda file, seen=seen: seen.append(file) or GOOD["PNG"])  # type: ignore[misc]
        assert len(seen) == len(set(seen)) == PEEKED_FILES
        looked.append(set(seen))
    assert looked[0] == looked[1]
    assert len(looked[0] & set(files[:PEEKED_FILES])) < PEEKED_FILES / 2  # and they are not the first ones


def test_of_many_files_that_half_cannot_be_used_is_known_from_their_headers() -> None:
    """Before anything is decoded; fewer are not worth a word, and of few files all are decoded before the first step."""
    files = [f"{i:04}.png" for i in range(PEEKED_FILES + 1)]
    for share, said in ((2, True), (3, False)):
        found = choose_geometry(files, lambda file, n=share: GOOD["PNG"] if int(file[:4]) % n else b"")  # type: ignore[misc]
        assert bool(found.warning) == (said and "not-an-image, such as '0000.png'" in found.warning)


SIZE = Geometry(height=6, width=5, channels=3)
FILES = [*GOOD.values(), b"", GOOD["PNG"][:200], png(9000, 9000)] * 20
BAD = [i for i in range(len(FILES)) if i % 10 >= 7]


def test_every_file_is_admitted_or_skipped() -> None:
    """Ids come back in the order asked for, with size and digest of the file's bytes; the others have a reason."""
    store = MemoryStore(len(FILES), Loader(SIZE))
    ids = np.random.default_rng(0).permutation(len(FILES))
    admission = store.admit(ids, FILES.__getitem__)
    assert admission.ids == [i for i in ids.tolist() if i not in BAD]
    assert admission.sizes == [len(FILES[i]) for i in admission.ids]
    assert admission.digests == [blake2b(FILES[i], digest_size=16).hexdigest() for i in admission.ids]
    assert [i for i, _ in admission.skipped] == [i for i in ids.tolist() if i in BAD]
    assert Counter(unusable.reason for _, unusable in admission.skipped) == {
        "not-an-image": 20,
        "truncated": 20,
        "too-large": 20,
    }
    assert np.flatnonzero(~store.usable).tolist() == BAD
    assert not store.pixels[BAD].any()
    for i in admission.ids:
        assert np.array_equal(store.pixels[i], decode(FILES[i], Geometry(height=6, width=5, channels=3)))


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_the_number_of_threads_changes_nothing(threads: int) -> None:
    """The same pixels, the same digests, the same skips, in the same order, and that many files at once at most."""
    reading: set[int] = set()
    most = 0

    def read(i: int) -> bytes:
        nonlocal most
        reading.add(i)
        most = max(most, len(reading))
        time.sleep(0.001)
        reading.remove(i)
        return FILES[i]

    one, many = MemoryStore(len(FILES), Loader(SIZE, threads=1)), MemoryStore(len(FILES), Loader(SIZE, threads=threads))
    expected, admission = one.admit(range(len(FILES)), FILES.__getitem__), many.admit(range(len(FILES)), read)
    assert admission[:3] == expected[:3]
    assert [(i, str(u)) for i, u in admission.skipped] == [(i, str(u)) for i, u in expected.skipped]
    assert np.array_equal(one.pixels, many.pixels)
    assert most <= threads


def test_blocks_may_come_one_after_the_other() -> None:
    """Admitted pixels stay in the same memory while the next block comes; a file is read once."""
    read: list[int] = []

    def reading(i: int) -> bytes:
        read.append(i)
        return FILES[i]

    store = MemoryStore(len(FILES), Loader(SIZE))
    pixels = store.pixels
    for start in (0, 30, 31, 150):
        end = {0: 30, 30: 31, 31: 150, 150: len(FILES)}[start]
        store.admit(range(start, end), reading)
    whole = MemoryStore(len(FILES), Loader(SIZE))
    whole.admit(range(len(FILES)), FILES.__getitem__)
    assert pixels is store.pixels
    assert np.array_equal(pixels, whole.pixels)
    assert sorted(read) == list(range(len(FILES)))


def test_an_empty_block_is_admitted() -> None:
    """Nothing asked, nothing done."""
    admission = MemoryStore(0, Loader(SIZE)).admit([], pytest.fail)
    assert not any(map(len, admission))


@pytest.mark.parametrize("threads", [1, 3])
def test_errors_that_are_not_the_files_end_the_call(threads: int) -> None:
    """A process that is out of file descriptors has not found 100 bad files."""

    def read(i: int) -> bytes:
        raise CaptureError("files can no longer be read")

    with pytest.raises(CaptureError, match="no longer"):
        MemoryStore(100, Loader(SIZE, threads=threads)).admit(range(100), read)


def test_more_pixels_than_memory_are_refused_at_once() -> None:
    """The message says how much they would take, and what to do."""
    with pytest.raises(
        CaptureError, match=r"1,000,000,000 images of 224x224 pixels and 3 channels take 150528\.0 GB"
    ) as caught:
        MemoryStore(10**9, Loader(Geometry(height=224, width=224, channels=3)))
    assert "--img-size" in caught.value.hint


class TestEach:
    """Work on many items, in threads where it pays."""

    @staticmethod
    def threads_of(threads: int | None, seconds: float, count: int = 30) -> set[str]:
        """The names of the threads that worked on items that take so long; what they made is in order."""
        used: set[str] = set()

        def one(item: int) -> int:
            used.add(threading.current_thread().name.partition("_")[0])
            time.sleep(seconds)
            return item * item

        assert in_threads(range(count), one, threads) == [item * item for item in range(count)]
        return used

    def test_what_takes_long_is_shared(self) -> None:
        """By threads of its own, after the first few have shown how long it takes."""
        assert self.threads_of(3, 5 * WORTH_A_THREAD_SECONDS) == {threading.current_thread().name, "decode"}

    @pytest.mark.parametrize("threads", [0, 1])
    def test_no_worker_and_one_leave_it_to_the_caller(self, threads: int) -> None:
        """However long it takes."""
        assert self.threads_of(threads, 5 * WORTH_A_THREAD_SECONDS) == {threading.current_thread().name}

    def test_few_are_not_shared(self) -> None:
        """Nothing, and what was tried anyway."""
        for count in (0, 1, TRIED):
            assert self.threads_of(3, 5 * WORTH_A_THREAD_SECONDS, count) <= {threading.current_thread().name}

    @pytest.mark.parametrize("error", [IndexError, CaptureError, KeyboardInterrupt])
    def test_an_error_ends_it(self, error: type[BaseException]) -> None:
        """Whatever it is, and most of what is left is not begun."""
        begun: list[int] = []
        failing: list[threading.Thread] = []
        failed = threading.Event()

        def one(item: int) -> int:
            begun.append(item)
            time.sleep(5 * WORTH_A_THREAD_SECONDS)
            if item == 20:
                failing.append(threading.current_thread())
                failed.set()
                raise error("this one")
            if item > 60:  # as far as the others may come until the error is seen
                failed.wait()
                failing[0].join()
            return item

        with pytest.raises(error, match="this one"):
            in_threads(range(1000), one, 3)
        assert len(begun) < 100
