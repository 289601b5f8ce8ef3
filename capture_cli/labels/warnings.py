"""Warnings about a scan: allowed, and probably not meant by the owner of the images."""

from collections import defaultdict

from capture_cli.labels import Scan
from capture_cli.labels.names import similar
from capture_cli.labels.refusals import command, copy_of_links, count, evaluation, quoted, some, try_others
from capture_cli.labels.rules import natural_order
from capture_cli.labels.subjects import noun, subjects_in_paths
from capture_cli.labels.tokens import COPY_WORDS, MASK_WORDS, PLAIN_WORDS, SPLIT_WORDS, Kind, kind_of, tokens

_MISSING = {"nan", "n/a", "na", "<na>", "null", "none", "nil", "-", "--", "?"}
"""Cells that other programs write where they have no value."""


def warnings(found: Scan, *, holds_out: bool = True) -> list[str]:
    """Describe what looks wrong in images to train on, one sentence each; names are not escaped.

    `holds_out` is False if no validation images are asked for, as with `--val-split 0`.
    """
    if found.is_evaluated:
        return []
    checks = (
        _table,
        _missing_values,
        _unknown_tests,
        _test_tables,
        _split_lists,
        _groups,
        _subjects,
        _single_images,
        _rivals,
        _similar_names,
        _doubtful,
        _split_words,
        _merged_folders,
        _lost_classes,
        _links,
    )
    texts = [text for check in checks for text in check(found)]
    return texts + _unvalidated(found) if holds_out else texts


def _links(found: Scan) -> list[str]:
    links = sorted(one.file for one in found.skipped if one.reason == "symlink")
    which = count(len(links), "symbolic link is", "symbolic links are")
    return [f"{which} skipped: {quoted(links)}; {copy_of_links(found.source)}"] if links else []


def _table(found: Scan) -> list[str]:
    if found.table is None:
        return [
            f"a table names these images; if it has their labels, use {command(found.source, '--labels', table)}"
            for table in found.tables[:1]
        ]
    missing = [one.file for one in found.skipped if one.reason == "not-in-table"]
    texts = [*found.table.warnings]
    if missing:
        texts.append(f"{count(len(missing), 'image has', 'images have')} no label in '{found.table.name}': {quoted(missing)}")
    if found.table.extra:
        rows = count(len(found.table.extra), "row", "rows")
        texts.append(f"{rows} of '{found.table.name}' without an image in the folder: {quoted(found.table.extra)}")
    if "val" in found.table.splits.values():
        open_ = [file for file in found.files if file not in found.table.splits]
        trained = count(len(open_), "image has", "images have")
        told = f"no split in the column `{found.table.split_column}` and count as training images"
        texts += [f"{trained} {told}: {quoted(open_)}"] * bool(open_)
    return texts


def _missing_values(found: Scan) -> list[str]:
    """Find classes of a table that are no names, but say that there is no label."""
    if found.table is None:
        return []
    texts = []
    for name in (one for one in found.classes if one.casefold() in _MISSING):
        files = [file for file, label in zip(found.files, found.labels, strict=True) if found.classes[label] == name]
        texts.append(
            f"'{name}' in '{found.table.name}' is a class of {count(len(files), 'image', 'images')}: {quoted(files)}; "
            "if it means that there is no label, empty these cells, and the images are skipped"
        )
    return texts


def _unknown_tests(found: Scan) -> list[str]:
    unknown = found.unknown_tests()
    images = count(sum(map(len, unknown.values())), "test image is", "test images are")
    return [f"{images} of a class that no training image has: {quoted(natural_order(unknown))}"] if unknown else []


def _test_tables(found: Scan) -> list[str]:
    folder = found.source.typed[0]
    return [
        f"'{table.partition(':')[0]}' has labels of the test images; after the training: {evaluation(folder, table)}"
        for table in found.test_tables
    ]


def _split_lists(found: Scan) -> list[str]:
    if not found.split_lists:
        return []
    table = command(found.source, "--files", "--format", "csv").replace("csv`", "csv > labels.csv`")
    are = "is" if len(found.split_lists) == 1 else "are"
    return [
        f"{quoted(found.split_lists)} may tell the splits of these images, and {are} not used; to follow them, "
        f"write a table with {table}, put them into its column `split`, and use --labels labels.csv"
    ]


def _groups(found: Scan) -> list[str]:
    if found.groups is None:
        return []
    sides: dict[str, set[str]] = defaultdict(set)
    for group, split in zip(found.groups, found.splits, strict=True):
        sides[group].add(split)
    torn = natural_order(group.removeprefix("group ") for group, splits in sides.items() if len(splits) > 1)
    which = count(len(torn), "group is", "groups are")
    return [f"{which} in both train and val: {quoted(torn)}"] if torn else []


def _unvalidated(found: Scan) -> list[str]:
    """Find that no image, or none of a class, is held out: groups, or single images, stay on one side."""
    if found.files and "val" not in found.splits:
        groups = len(set(found.groups or ()))
        reason = "each class has a single one"
        if found.groups is not None:
            reason = "--group makes one group of all" if groups == 1 else f"--group makes only {groups:,} groups of them"
            reason += "; choose smaller groups, several for each class"
        return [f"none of the {len(found.files):,} images is held out for validation: {reason}"]
    if found.groups is None or not found.is_drawn:
        return []
    without = [one.name for one in found.per_class() if one.train > 1 and not one.val]
    which = count(len(without), "class has", "classes have")
    return [f"{which} no validation images, as --group keeps its groups on one side: {quoted(without)}"] if without else []


def _subjects(found: Scan) -> list[str]:
    """Find patients, videos and the like whose images are drawn for both train and val."""
    if found.groups is not None or not found.is_drawn:
        return []
    told = found.table.subjects if found.table else {}
    candidates = [(column, [values.get(file) for file in found.files]) for column, values in told.items()]
    candidates.append(subjects_in_paths(found.files))
    labels = found.table.asked if found.table else found.rule.name
    for group, keys in candidates:
        sides: dict[str, set[str]] = defaultdict(set)
        for key, split in zip(keys, found.splits, strict=True):
            if key:
                sides[key].add(split)
        torn = natural_order(name for name, splits in sides.items() if len(splits) > 1)
        if torn and len(sides) > len(found.classes):
            way = command(found.source, "--labels", labels, "--group", group)
            return [
                f"images of one {noun(group)} are in both train and val, such as those of {quoted(torn[:2])}: what is learned "
                f"of it counts as right; to keep them together: {way}"
            ]
    return []


def _single_images(found: Scan) -> list[str]:
    single = [c for c in found.per_class() if c.train + c.val == 1]
    if not single:
        return []
    if len(single) == len(found.classes):
        paths = [found.paths.get(file, file) for file in found.files]
        return [
            f"every class has a single image: is '{single[0].name}' the label of '{single[0].example}', or a running number? "
            f"If it is a number, {try_others(found.source, paths, found.rule)}"
        ]
    names = quoted([c.name for c in single])
    return [f"{count(len(single), 'class has', 'classes have')} a single image, used for training and never validated: {names}"]


def _rivals(found: Scan) -> list[str]:
    kept = command(found.source, "--labels", found.rule.name)
    return [
        f"another rule fits nearly as well: {some(one)}; take it with {command(found.source, '--labels', one.rule.name)}, "
        f"or keep {found.rule.name} ({count(len(found.classes), 'class', 'classes')}) with {kept}"
        for one in found.rivals
    ]


def _similar_names(found: Scan) -> list[str]:
    return [
        f"class names that differ only in case, spaces or Unicode form: {quoted(names)}; --merge-names makes them one class"
        for names in similar(found.classes)
    ]


def _doubtful(found: Scan) -> list[str]:
    if not found.doubtful:
        return []
    names = quoted(found.doubtful)
    if set(found.doubtful) & set(found.classes):
        return [f"{names} may be splits: here they are classes, since there would be no labels otherwise; --exclude skips them"]
    return [f"{names} are taken for splits; if they are classes, use {command(found.source, '--split-folders', 'ignore')}"]


def _split_words(found: Scan) -> list[str]:
    names = [name for name in found.classes if set(tokens(name)) & SPLIT_WORDS.keys() and name not in found.doubtful]
    masks = [name for name in found.classes if tokens(name) and set(tokens(name)) <= MASK_WORDS]
    skips = "take their rows out of the table to skip them" if found.table else "--exclude skips them"
    texts = [f"classes called like splits: {quoted(names)}"] if names else []
    copies = [
        name for name in found.classes if (words := {one for one in tokens(name) if not one.isdigit()}) and words <= COPY_WORDS
    ]
    if copies and len(copies) < len(found.classes):
        which = "the class {} sounds" if len(copies) == 1 else "the classes {} sound"
        texts.append(f"{which.format(quoted(copies))} like altered copies of the other images; {skips}")
    others = [name for name in found.classes if name not in masks and "mask" in name.casefold()]
    return [*texts, f"classes called like masks: {quoted(masks)}; {skips}"] if masks and not others else texts


def _lost_classes(found: Scan) -> list[str]:
    """Find folders that lie where classes lie and hold no image that can be used."""
    if found.rule.reads != "folder":
        return []
    used = {file.rpartition("/")[0] for file in found.files}
    levels = {folder.rpartition("/")[0] for folder in used}
    lost: dict[str, list[str]] = defaultdict(list)
    for file, reason, _ in found.skipped:
        folder = file.rpartition("/")[0] if not file.endswith("/") else file[:-1]
        if reason in ("unsupported-extension", "empty-folder") and folder and folder.rpartition("/")[0] in levels:
            lost[folder].append(file)
    names = [
        f"'{folder}' ({'empty' if files[0].endswith('/') else f'{len(files):,} files such as {files[0]}'})"
        for folder, files in lost.items()
        if not any(one == folder or one.startswith(folder + "/") for one in used)
        and set(tokens(folder.rpartition("/")[2])) - PLAIN_WORDS - MASK_WORDS
    ]
    if not names:
        return []
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return [f"folders without a usable image are no classes: {', '.join(names[:5])}{more}"]


def _merged_folders(found: Scan) -> list[str]:
    if found.rule.name != "parent":
        return []
    places: dict[str, set[str]] = defaultdict(set)
    for file in found.files:
        folder = found.paths.get(file, file).rpartition("/")[0]
        places[folder.rpartition("/")[2]].add(folder)
    tops = {folder.rpartition("/")[0] for folders in places.values() for folder in folders}
    if kind_of(tops) in (Kind.NONE, Kind.NUMBERED) and len(tops) > 1:
        return []  # cam1/cat and cam2/cat
    merged = [quoted(natural_order(folders)) for folders in places.values() if len(folders) > 1]
    if not merged:
        return []
    more = f" (and {count(len(merged) - 1, 'more name', 'more names')})" if len(merged) > 1 else ""
    return [
        f"folders with the same name are one class: {merged[0]}{more}; to use the first folder of the path instead: "
        f"{command(found.source, '--labels', 'folder:1')}"
    ]
