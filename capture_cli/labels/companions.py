"""Pictures that belong to other pictures: masks, outlines, and twins with another extension. They are no samples.

    companions(files)       # {"masks/1.png": "mask", "a_mask.png": "mask of a.png", "x.png": "twin of x.jpg"}

A folder of masks is one that is called like it (`masks`, `ground_truth`, `trimaps`) and lies beside the pictures, as in
`images` or folders of splits. `mask` beside `hat` is a class, as is `mask` beside `no_mask`. A file is a mask if its name is
that of another image and a word for it. Twins are skipped if most images of a folder have one; then the JPEG file is
the picture.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from capture_cli.labels.tokens import MASK_WORDS, PLAIN_WORDS, SPLIT_WORDS, tokens

_SURE = frozenset(["groundtruth", "trimap", "trimaps", "gt", "saliency"])
_SUFFIX = re.compile(
    r"(?i)[ _.-]*(final[ _-]masked|masked|segmented|masks?|gt|ground_?truth|seg|segmentation|trimap|annotation|overlay|contour"
    r"|heatmap|label)([ _.-]?[0-9]+)?\Z"
)
_MAY_BE = re.compile(r"(?i)mask|gt|truth|seg|trimap|annot|overlay|contour|heatmap|label")
_LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif")


def companions(files: Sequence[str]) -> dict[str, str]:
    """Map each file that belongs to another to what it is, in plain words."""
    folders: dict[str, list[str]] = defaultdict(list)
    for file in files:
        folder, _, name = file.rpartition("/")
        folders[folder].append(name)
    found: dict[str, str] = {}
    masks = _mask_folders(folders)
    for folder, names in folders.items():
        beginning = f"{folder}/" if folder else ""
        if any(folder == mask or folder.startswith(mask + "/") for mask in masks):
            found |= {beginning + name: "mask" for name in names}
            continue
        found |= {beginning + name: text for name, text in (*_masks(names), *_twins(names))}
    return found if len(found) < len(files) else {}


def _mask_folders(folders: Mapping[str, Sequence[str]]) -> list[str]:
    """Find the folders that hold masks, by their own names and those beside them."""
    children: dict[str, set[str]] = defaultdict(set)
    for folder in folders:
        parts = folder.split("/") if folder else []
        for depth, name in enumerate(parts):
            children["/".join(parts[:depth])].add(name)
    found = []
    for above, names in children.items():
        mask_names = {name for name in names if _is_mask_name(name)}
        others = names - mask_names
        if not mask_names or not (others or above in folders):
            continue
        if any("mask" in name.casefold() for name in others):
            continue  # mask and no_mask
        pictures = any(_is_plain(name) for name in others) or above in folders
        sure = [
            name
            for name in mask_names
            if pictures or _SURE & set(_words(name)) or _holds_names(f"{above}/{name}" if above else name, others, folders)
        ]
        found += [f"{above}/{name}" if above else name for name in sure]
    return found


def _holds_names(folder: str, others: Collection[str], folders: Mapping[str, Sequence[str]]) -> bool:
    """Tell whether what lies in a folder is called like the folders beside it: `masks/cat_1.png` beside `cat`."""
    inside = [
        (path[len(folder) + 1 :] + "/" + name).lstrip("/")
        for path, names in folders.items()
        if path == folder or path.startswith(folder + "/")
        for name in names
    ]
    return 10 * sum(any(path.startswith(other) for other in others) for path in inside) >= 8 * len(inside)


def _words(name: str) -> list[str]:
    joined = re.sub(r"(?i)ground[ _-]?truth", "groundtruth", name)
    return [word for word in tokens(joined) if not word.isdigit()]


def _is_mask_name(name: str) -> bool:
    words = [word for word in _words(name) if word not in SPLIT_WORDS and word not in PLAIN_WORDS]
    return bool(words) and all(word in MASK_WORDS or word == "class" or word == "object" for word in words)


def _is_plain(name: str) -> bool:
    """Tell folders of pictures: images, train, train_images."""
    return all(word in PLAIN_WORDS or word in SPLIT_WORDS for word in _words(name))


def _masks(names: Iterable[str]) -> Iterable[tuple[str, str]]:
    suspects = [name for name in names if _MAY_BE.search(name)]
    if not suspects:
        return
    by_stem = {name.rpartition(".")[0]: name for name in names}
    for name in suspects:
        stem = name.rpartition(".")[0]
        base = _SUFFIX.sub("", stem)
        if base != stem and base in by_stem:
            yield name, f"mask of {by_stem[base]}"


def _twins(names: Sequence[str]) -> Iterable[tuple[str, str]]:
    by_stem: dict[str, str] = {}
    twins: list[tuple[str, str]] = []
    for name in names:
        stem = name.rpartition(".")[0]
        known = by_stem.setdefault(stem, name)
        if known is not name:
            twins.append((known, name))
    if 2 * len(twins) < len(by_stem):
        return
    for pair in twins:
        picture, other = sorted(pair, key=lambda name: (not name.lower().endswith(_LOSSY), name))
        yield other, f"twin of {picture}"
