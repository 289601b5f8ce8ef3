"""Warnings about a scan: allowed, and probably not meant by the owner of the images."""

import unicodedata
from collections import defaultdict

from capture_cli.labels import Scan, count, quoted, try_others
from capture_cli.labels.rules import SPLIT_NAMES, natural_order


def warnings(found: Scan) -> list[str]:
    """Describe what looks wrong in images to train on, one sentence each; names are not escaped."""
    if "test" in found.splits:
        return []
    return [text for check in (_single_images, _similar_names, _pooled_splits, _merged_folders) for text in check(found)]


def _single_images(found: Scan) -> list[str]:
    single = [c for c in found.per_class() if c.train + c.val == 1]
    if not single:
        return []
    if len(single) == len(found.classes):
        return [
            f"every class has a single image: is '{single[0].name}' the label of '{single[0].example}', or a running number? "
            f"If it is a number, {try_others(found.files, found.rule)}"
        ]
    names = quoted([c.name for c in single])
    return [f"{count(len(single), 'class has', 'classes have')} a single image, used for training and never validated: {names}"]


def _similar_names(found: Scan) -> list[str]:
    alike: dict[str, list[str]] = defaultdict(list)
    for name in found.classes:
        alike[unicodedata.normalize("NFC", name).casefold().strip()].append(name)
    return [
        f"class names that differ only in case, spaces or Unicode form: {quoted(names)}"
        for names in alike.values()
        if len(names) > 1
    ]


def _pooled_splits(found: Scan) -> list[str]:
    parts = {part for folder in {file.rpartition("/")[0] for file in found.files} for part in folder.split("/")}
    names = natural_order(part for part in parts - set(found.classes) if part.casefold() in SPLIT_NAMES)
    if len(names) < 2:
        return []
    return [f"the folders {quoted(names)} are pooled and split again; to train on one of them alone, name that folder"]


def _merged_folders(found: Scan) -> list[str]:
    if found.rule.name != "parent":
        return []
    places: dict[str, list[str]] = defaultdict(list)
    for folder in natural_order({file.rpartition("/")[0] for file in found.files}):
        above, _, name = folder.rpartition("/")
        if SPLIT_NAMES.isdisjoint(above.casefold().split("/")):
            places[name].append(folder)
    merged = [quoted(folders) for folders in places.values() if len(folders) > 1]
    if not merged:
        return []
    more = f" (and {count(len(merged) - 1, 'more name', 'more names')})" if len(merged) > 1 else ""
    return [
        f"folders with the same name are one class: {merged[0]}{more}; "
        "to use the first folder of the path instead: --labels '^(?P<label>[^/]+)/'"
    ]
