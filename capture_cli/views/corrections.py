"""Corrections of labels to take away: a shell script that renames files, and a label table. Nothing here touches an image.

    fix_script(flagged, names, folder="photos", source="runs/mine")     # bytes of a script to read first
    label_table(suspects)                                               # bytes of a CSV that `--labels` reads

Names are hostile: each is quoted for a POSIX shell, and comments hold no control characters.
"""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Collection, Sequence

from capture_cli.answers.suspects import Suspect
from capture_cli.views.terminal.text import safe

_HEAD = """\
#!/bin/sh
# Labels that look wrong in {source}, by `capture suspects`. Nothing has been moved.
# Look at every picture, delete the lines that are wrong, then run: sh SCRIPT [FOLDER]
# A file that exists is never overwritten.
set -eu
folder={folder}
cd -- "${{1:-$folder}}"
move() {{
    if [ -e "$2" ] || [ -L "$2" ]; then
        printf '%s exists: %s was not moved\\n' "$2" "$1" >&2
    else
        mkdir -p -- "$(dirname -- "$2")"
        mv -n -- "$1" "$2"
    fi
}}
"""


def fix_script(rows: Sequence[Suspect], names: Collection[str], *, folder: str, source: str) -> bytes:
    """A script that gives each of `rows` the name of its suggested class; `names` are the files that there are.

    A row whose label is not in its name becomes a comment.
    """
    lines = [_HEAD.format(source=safe(source), folder=shlex.quote(folder))]
    taken = set(names)
    for one in rows:
        target = renamed(one.file, one.label, one.suggested, taken) if one.digest is not None else None
        about = f"{one.label} -> {one.suggested}"
        if one.p_wrong is not None:
            about += f", p(wrong) {one.p_wrong:.2f}, confidence {one.confidence:.2f}"
        lines.append(f"\n# {safe(about)}: {safe(one.reason)}\n")
        if target is None:
            lines.append(f"# its name does not carry the label, so it cannot be renamed: {safe(one.file)}\n")
        else:
            taken.add(target)
            lines.append(f"move {shlex.quote(one.file)} {shlex.quote(target)}\n")
    if not rows:
        lines.append("\n# No label is flagged.\n")
    return "".join(lines).encode("utf-8", "surrogateescape")


def renamed(file: str, label: str, suggested: str, taken: Collection[str]) -> str | None:
    """`file` with `suggested` in place of `label`, in its last folder of that name and in its own name; None if in neither.

    A name that is taken gets the next free number, or a number at its end.
    """
    *folders, base = file.split("/")
    if "/" in suggested or suggested in ("", ".", ".."):
        return None
    if label in folders:
        place = len(folders) - 1 - folders[::-1].index(label)
        folders[place] = suggested
    # As a word: not a part of a longer one. Digits end a word, as in `boot12`.
    word = re.compile(rf"(?<![^\W\d_]){re.escape(label)}(?![^\W\d_])")
    found = word.findall(base)
    if len(found) == 1:
        base = word.sub(lambda _: suggested, base)
    target = "/".join([*folders, base])
    if target == file:
        return None
    return target if target not in taken else _free(target, taken)


def _free(target: str, taken: Collection[str]) -> str:
    folder, _, base = target.rpartition("/")
    stem, dot, extension = base.rpartition(".") if "." in base else (base, "", "")
    start = f"{folder}/" if folder else ""
    numbered = re.fullmatch(r"(.*?)(\d+)", stem, re.ASCII)
    if not numbered:
        numbered = re.fullmatch(r"(.*)()", f"{stem}-", re.DOTALL)
    assert numbered  # noqa: S101 - the second expression matches anything
    prefix, digits = numbered[1], numbered[2]
    number = int(digits or 1)
    while True:
        number += 1
        name = f"{start}{prefix}{number:0{len(digits)}d}{dot}{extension}"
        if name not in taken:
            return name


def label_table(suspects: Sequence[Suspect]) -> bytes:
    """A CSV with the columns file and label, sorted by file: the suggested class where a label is flagged, else its label."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("file", "label"))
    writer.writerows(sorted((one.file, one.suggested if one.flagged else one.label) for one in suspects))
    return out.getvalue().encode("utf-8", "surrogateescape")
