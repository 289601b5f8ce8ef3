"""Words in names of files and folders, and the kind of label that they make.

    tokens("trainingSet2017")           # ["training", "set", "2017"]
    kind_of(["cat", "dog"])             # Kind.WORDS
    kind_of(["patient_1", "patient_2"]) # Kind.NONE: no class is called like this

The lists of words are the knowledge of this room: how data sets call their splits, masks, cameras, patients and views. A word
counts as a whole token, in any case: `cars_train` and `PublicTest` hold a split word, `trainer` does not.
"""

import re
from collections.abc import Collection
from enum import IntEnum
from functools import cache


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SPLIT_WORDS = {
    **dict.fromkeys(["train", "training", "trn", "trainset", "traindata"], "train"),
    **dict.fromkeys(["val", "valid", "validation", "validate", "valset", "dev", "devset", "eval", "evaluation"], "val"),
    **dict.fromkeys(["test", "testing", "tst", "testset", "testdata", "holdout"], "test"),
    **dict.fromkeys(["unlabeled", "unlabelled", "pred", "predict", "prediction", "predictions", "inference"], "unlabelled"),
}
"""Word -> the split that it names. `unlabelled` images are not used."""

MASK_WORDS = _words("""
    mask masks gt groundtruth trimap trimaps annotation annotations segmentation segmentations contour contours overlay
    overlays heatmap heatmaps saliency label labels target targets
""")
"""Words of pictures that belong to another picture: outlines of what is shown in it."""

PLAIN_WORDS = _words("""
    image images chip img imgs jpg jpeg jpegs jpegimages jpgs png pngs bmp photo photos pic pics picture pictures set sets
    data dataset datasets file files folder input inputs raw full all original originals release final new the of and a
    v
""")
"""Words that say no more than that there are images."""

_ID_WORDS = _words("""
    patient patients pat subject subjects subj sub person persons participant case cases study series session sessions
    visit video videos vid clip clips movie sequence sequences seq frame frames slice slices scan scans stack burst part
    parts batch batches chunk chunks shard shards fold folds split splits cam cams camera cameras device sensor view
    views scene scenes tile tiles patch patches crop crops roi page pages disc disk vol volume volumes block sample
    samples specimen slide slides id ids uid no nr num number idx index copy run take shot shots dsc dscn dscf dscs pxl
    mvimg pano gopr dji dcim wa whatsapp screenshot screenshots isic unnamed download downloads capture camera100 apple
    android misc other others more extra extras various new day date week month year
""")
"""Words of pictures of one patient, video, camera or day: a running number follows, never a class."""

COPY_WORDS = _words("""
    aug augmented augmentation flipped hflip vflip fliplr flipud mirrored rot rotated blurred cropped zoomed shifted
    scaled resized
""")
"""Words of changed copies of other pictures."""

_VIEW_WORDS = (
    _words("""
    l r od os left right front back rear side top bottom upper lower frontal lateral profile ap pa flip mirror rotate
    rotation orig blur noise noisy bright brightness dark contrast crop zoom shift scale color colour gray grey
    grayscale greyscale rgb segmented small medium large thumb thumbnail low high res
""")
    | COPY_WORDS
)
"""Words of one thing seen in several ways."""

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+|[^\W\d_a-zA-Z]+")
_HASH = re.compile(r"(?=.*[0-9])(?=.*[a-fA-F])[0-9a-fA-F]{8,}\Z")
_MIXED = re.compile(r"[0-9][A-Za-z]|[A-Za-z][0-9]|[a-z][A-Z]")
_DATE = re.compile(r"(19|20)[0-9]{2}([-_.]?[01][0-9]([-_.]?[0-3][0-9])?)?\Z")
_MAGNIFICATION = re.compile(r"[0-9]+[xX]\Z")


class Kind(IntEnum):
    """Trust in labels, from names alone; a higher kind is preferred."""

    NONE = 0
    """Constant, a hash, a date, an id, a camera, a patient: no class."""
    VIEWS = 1
    """One thing seen in several ways: left and right, 40X and 100X, rotated."""
    NUMBERS = 2
    """Numbers or codes."""
    NUMBERED = 3
    """One word with different numbers: obj1, obj2."""
    WORDS = 4


@cache
def tokens(name: str) -> tuple[str, ...]:
    """Split a name into words and numbers, lower case: at separators, between letters and digits, and in camelCase."""
    return tuple(word.lower() for word in _WORD.findall(name))


def is_hash(text: str) -> bool:
    """Tell hexadecimal digests, UUIDs and random names from words."""
    if _HASH.match(text.replace("-", "")):
        return True
    return len(text) >= 9 and text.isalnum() and text.isascii() and len(_MIXED.findall(text)) * 4 > len(text)


def kind_of(labels: Collection[str]) -> Kind:
    """Judge a set of labels that one rule finds."""
    if len(labels) < 2:
        return Kind.NONE
    common = set.intersection(*(set(tokens(label)) for label in labels))
    kinds = [_kind(label, common) for label in labels]
    total = len(kinds)
    if kinds.count(Kind.NONE) * 10 >= 7 * total:
        return Kind.NONE
    if (kinds.count(Kind.VIEWS) + kinds.count(Kind.NONE)) * 10 >= 7 * total:
        return Kind.VIEWS
    if kinds.count(Kind.NUMBERS) * 2 >= total:
        return Kind.NUMBERS
    texts = {re.sub(r"[0-9]+", "", label) for label in labels}
    if 2 * len(texts) <= total or len(texts) < 2:
        return Kind.NUMBERED
    return Kind.WORDS


def may_be_class(label: str) -> bool:
    """Tell whether a single label reads like the name of a class."""
    return _kind(label, ()) == Kind.WORDS


def _kind(label: str, common: Collection[str]) -> Kind:
    """Judge one label of a set whose labels all hold the words `common`."""
    parts = tokens(label)
    words = [part for part in parts if not part.isdigit()]
    numbers = [part for part in parts if part.isdigit()]
    if _MAGNIFICATION.match(label):
        return Kind.VIEWS
    if not words:
        longest = max(numbers, key=len, default="")
        return Kind.NONE if len(longest) >= 7 or int(longest or 0) >= 10_000 else Kind.NUMBERS if numbers else Kind.WORDS
    if is_hash(label):
        return Kind.NONE
    distinct = [word for word in words if word not in common]
    judged = set(distinct or words)
    is_common = bool(numbers) and not distinct
    if judged <= _ID_WORDS | PLAIN_WORDS or (is_common and judged & _ID_WORDS):
        return Kind.NONE
    if judged <= _VIEW_WORDS | _ID_WORDS | PLAIN_WORDS or (is_common and judged & _VIEW_WORDS):
        return Kind.VIEWS
    if len(numbers) >= 2 and not any(len(word) >= 4 for word in distinct):
        return Kind.NUMBERS
    return Kind.WORDS
