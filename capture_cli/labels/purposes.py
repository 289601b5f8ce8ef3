"""Words in paths that tell what images are for: `train/`, `val2017/`, `cars_test/`, `cat_train/`, `seg_pred/`, `Train_0.jpg`.

    places = split_folders(["train/cat", "test1"])
    places["train/cat"]     # FolderRole(folder="cat", split="train"): the words that name a split are no part of a label
    places["test1"]         # FolderRole(folder="", split="test")

Folders that lie side by side are judged together. They are splits if all of them hold a split word, or two or more with
different ones do, or one does and the others are classes. A lonely `train` among `bus` and `car` is a class, as is `test
tube` among other things. Names of a model's classes are never splits.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from capture_cli.labels.tokens import MASK_WORDS, PLAIN_WORDS, SPLIT_WORDS, tokens

NO_SPLIT = ""


class FolderRole(NamedTuple):
    """A folder as label rules see it, and the split of its images."""

    folder: str
    """Its path without parts that name a split; empty for none."""
    split: str
    """`train`, `val`, `test`, `unlabelled`, `outside` (beside folders that are splits), or empty if no word tells."""


class _Child(NamedTuple):
    split: str
    rest: str
    """The name without its split word, plain words and numbers: `cat` of `cat_train`; empty if nothing is left."""
    deep: bool
    """Holds folders with images, not images alone."""


def split_word(name: str) -> tuple[str, str]:
    """Find the split that a name's words tell; return it and the other words, joined. Two different splits are none."""
    parts = tokens(name)
    found = {SPLIT_WORDS[part] for part in parts if part in SPLIT_WORDS}
    if len(found) != 1:
        return NO_SPLIT, name
    rest = [p for p in parts if p not in SPLIT_WORDS and p not in PLAIN_WORDS and not p.isdigit()]
    return found.pop(), "_".join(rest)


def split_folders(folders: Collection[str], *, classes: Collection[str] = ()) -> tuple[dict[str, FolderRole], set[str]]:
    """Map each folder that holds images to its place; return also the names of folders that may be splits or classes.

    `folders` are paths without a final `/`, the empty string is the root.
    """
    children: dict[str, dict[str, _Child]] = defaultdict(dict)
    for folder in folders:
        parts = folder.split("/") if folder else []
        for depth, name in enumerate(parts):
            above = "/".join(parts[:depth])
            deep = depth + 1 < len(parts)
            known = children[above].get(name)
            if known is None:
                split, rest = (NO_SPLIT, name) if name in classes else split_word(name)
                children[above][name] = _Child(split, rest, deep)
            elif deep and not known.deep:
                children[above][name] = known._replace(deep=True)
    levels: dict[str, Mapping[str, str]] = {}
    doubtful: set[str] = set()
    for above, level in children.items():
        if any(child.split for child in level.values()):
            is_split, doubt = _are_splits(level)
            if is_split:
                levels[above] = _labels(level)
            doubtful |= doubt
    return {folder: _place(folder, children, levels) for folder in folders}, doubtful


def _are_splits(level: Mapping[str, _Child]) -> tuple[bool, set[str]]:
    """Decide whether folders side by side are splits; name those for which it is in doubt."""
    named = {name: child for name, child in level.items() if child.split}
    others = {n: c for n, c in level.items() if not c.split and set(tokens(n)) - PLAIN_WORDS - MASK_WORDS}
    splits = {child.split for child in named.values()}
    if not others:
        return True, set()
    flat = all(not child.deep for child in level.values())
    if len(splits) == 1:
        if splits == {"train"} and flat and len(others) >= 2:
            return False, set()
        related = {word for name in others for word in tokens(name)}
        if all(child.rest and not (child.deep or set(child.rest.split("_")) & related) for child in named.values()):
            return False, set()
        if splits == {"train"} and flat:
            return False, set(named)
        return True, set(named) if flat else set()
    if len(others) > 3 * len(named) and flat:
        return False, set(named)
    bare_train = any(child.split == "train" and not child.rest for child in named.values())
    return True, set(named) if flat and bare_train else set()


def _labels(level: Mapping[str, _Child]) -> dict[str, str]:
    """Map split folders to the label that is left of their names: `cat_train` -> `cat`, if that tells two folders apart."""
    by_split: dict[str, set[str]] = defaultdict(set)
    for child in level.values():
        if child.split:
            by_split[child.split].add(child.rest)
    first = by_split.get("train") or next(iter(by_split.values()))
    if len(first - {""}) < 2:
        return {name: "" for name, child in level.items() if child.split}
    return {name: _without_split(name) for name, child in level.items() if child.split}


def _place(folder: str, children: Mapping[str, Mapping[str, _Child]], levels: Mapping[str, Mapping[str, str]]) -> FolderRole:
    split, kept, above = NO_SPLIT, list[str](), ""
    for name in folder.split("/") if folder else ():
        labels = levels.get(above)
        if labels is None:
            kept.append(name)
        elif name in labels:
            split = split or children[above][name].split
            if labels[name]:
                kept.append(labels[name])
        else:
            kept.append(name)
            if not split and any(child.split == "train" for child in children[above].values()):
                split = "outside"
        above = f"{above}/{name}" if above else name
    if not split and folder in levels and any(child.split == "train" for child in children[folder].values()):
        split = "outside"  # images beside the split folders
    return FolderRole("/".join(kept), split)


def _without_split(name: str) -> str:
    """Take split words and what separates them out of a name, and leave the rest as it is written: `Cat_train2` -> `Cat`."""
    pieces = re.split(r"([\s_.#-]+)", name)
    kept = [piece for piece in pieces[::2] if piece and not set(tokens(piece)) & SPLIT_WORDS.keys()]
    return "_".join(kept) if kept else split_word(name)[1]


_IN_NAME = re.compile(rf"(?i)(?:^|[\s_.#-]+)[0-9]*({'|'.join(sorted(SPLIT_WORDS, key=len, reverse=True))})[0-9]*(?=[\s_.#-]|$)")


def names_with_split(names: Sequence[str]) -> bool:
    """Tell whether file names carry a split word each, as in `Train_0.jpg`; then `name_split` reads it."""
    sample = names[:: max(1, len(names) // 200)]
    return sum(bool(name_split(name)[0]) for name in sample) * 20 >= len(sample) * 19


def name_split(name: str) -> tuple[str, str]:
    """Read the split from a file name; return it and the name without the word: `train_cat_1.jpg` -> train, `cat_1.jpg`."""
    body, dot, extension = name.rpartition(".")
    found = _IN_NAME.search(body)
    if not found:
        return NO_SPLIT, name
    rest = body[: found.start()] + body[found.end() :]
    return SPLIT_WORDS[found[1].lower()], (rest if found.start() else rest.lstrip(" _-.#")) + dot + extension


class Placed(NamedTuple):
    """The files of a source with the splits that words tell."""

    splits: dict[str, str]
    """File -> split (see `FolderRole`), only where one is told."""
    paths: dict[str, str]
    """File -> its path without words that name a split, only where that differs."""
    doubtful: set[str]
    """Names of folders that may be splits or classes."""


def place_two(files: Sequence[str], within: str, val: str, *, use: str = "use") -> Placed:
    """Place the files of two folders: those whose name begins with `val` are for validation, whatever words say.

    The others begin with `within`. Neither beginning is read for labels.
    """
    inner = {file: file[len(val if file.startswith(val) else within) :] for file in files}
    first = place_files([inner[file] for file in files if not file.startswith(val)], use=use)
    placed = Placed({}, dict(inner), first.doubtful)
    for file, path in inner.items():
        if file.startswith(val):
            placed.splits[file] = "val"
        else:
            split = first.splits.get(path, "")
            placed.splits[file] = {"": "train", "val": "outside"}.get(split, split)
            placed.paths[file] = first.paths.get(path, path)
    return placed


def place_files(files: Sequence[str], *, classes: Collection[str] = (), use: str = "use") -> Placed:
    """Read the splits from folders, or else from file names. `use` is the value of `--split-folders`."""
    placed = Placed({}, {}, set())
    if use == "ignore":
        return placed
    places, doubtful = split_folders({file.rpartition("/")[0] for file in files}, classes=classes)
    plain = [file for file in files if not places[file.rpartition("/")[0]].split]
    may_name = not any(set(tokens(name)) & SPLIT_WORDS.keys() for name in classes)
    named = bool(plain) and may_name and names_with_split([file.rpartition("/")[2] for file in plain])
    if named or any(folder != place.folder or place.split for folder, place in places.items()):
        for file in files:
            folder, _, name = file.rpartition("/")
            place, split = places[folder], places[folder].split
            if named and not split:
                split, name = name_split(name)
            path = f"{place.folder}/{name}" if place.folder else name
            if path != file:
                placed.paths[file] = path
            if split:
                placed.splits[file] = split
    trained = len(placed.splits) < len(files) or "train" in placed.splits.values()
    if use == "pool" or not (trained or classes):
        kept = {file: split for file, split in placed.splits.items() if split in ("unlabelled", "outside")}
        return Placed(kept, placed.paths, doubtful)
    return Placed(placed.splits, placed.paths, doubtful)
