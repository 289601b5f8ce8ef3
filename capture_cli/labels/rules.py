"""Label rules: how an image's class is read from its path.

    rule = parse_rule("field:2")            # parse_rule("auto") is None: capture_cli.labels.comparison chooses one
    rule.label_of("digit_3_0017.png")       # "3"; None where the name does not fit

| rule          | the class is                                            | for example                                        |
|---------------|---------------------------------------------------------|----------------------------------------------------|
| `parent`      | the folder the image is in                              | `cat/x.png` -> cat, `cat/a/x.png` -> a             |
| `parent:N`    | the folder N levels above the image                     | `parent:2`: `cat/a/x.png` -> cat                   |
| `folder:N`    | the Nth folder of the path, from the top                | `folder:1`: `cat/a/x.png` -> cat                   |
| `folder:N+M`  | several of them, joined with `/`                        | `folder:1+2`: `Greek/01/x.png` -> Greek/01         |
| `field:N`     | part N, from 1, of the stem split at `_`                | `field:2`: `image_3.png`, `digit_3_0017.png` -> 3  |
| `field:N:SEP` | the same, split at each of the characters SEP           | `field:2:.`: `a.cat.7.png` -> cat                  |
| `prefix`      | the text before the number at the end of the stem       | `cat_0012.jpg`, `cat12.png`, `cat (3).jpg` -> cat  |
| `suffix`      | the text after the number at the beginning of the stem  | `0012_cat.jpg`, `12cat.png` -> cat                 |
| `start`       | the text before the first number of the stem            | `cat_12_aug_3.png`, `cat-001_rot90.jpg` -> cat     |
| `end`         | the text after the last number of the stem              | `frame0012_open.png` -> open                       |
| REGEX         | the group `label` of its first match in the path        | `^(?P<label>[^/]+)/`: `cat/a/x.png` -> cat         |

A path is relative, with `/`. Words that name a split are taken out of it first (capture_cli.labels.purposes), but a REGEX
sees the path as it is. The stem is the file name without its image extension and without the ` (3)` that Windows and
browsers add to copies. Spaces, `_`, `-`, `.` and `#` between label and number are removed. Nothing else about a label is
changed: `Cat` and `cat`, or an é written in two ways, are two classes.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from capture_cli.errors import UsageError, did_you_mean
from capture_cli.sources import is_image

RULES = {
    "auto": "the rule that fits the names best",
    "parent": "the folder the image is in",
    "field:N": "part N of the name, split at _",
    "prefix": "the text before the number at the end of the name",
    "suffix": "the text after the number at the beginning of the name",
    "folder:N": "folder N of the path, from the top",
    "REGEX": "the group `label` of a regular expression, searched in the path",
}
"""Values of --labels that the help names, and what the class then is."""

_MORE = {
    "parent:N": "the folder N levels above the image",
    "start": "the text before the first number of the name",
    "end": "the text after the last number of the name",
    "table": "the label in the row of the image",
}

SEPARATORS, _DIGITS = " _-.#", "0123456789"
_COPY_SUFFIX = re.compile(r"[ _.#-]*\([0-9]+\)\Z")
ASKED = "it was asked for"


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to read labels from paths."""

    name: str
    """The value of --labels that gives this rule."""
    why: str
    """Why it was chosen, a clause: `the images are in 10 subfolders`."""
    label_of: Callable[[str], str | None] = field(compare=False)
    """Relative path -> class name, None where the path does not fit; never the empty string."""
    reads: str = "name"
    """The part that decides: `folder`, `name`, `path` as it is in the folder, or `file`, which is the name in the source."""

    @property
    def meaning(self) -> str:
        """The class under this rule, a noun phrase."""
        kind, _, rest = self.name.partition(":")
        if kind in ("parent", "folder", "field") and rest:
            number, _, separators = rest.partition(":")
            text = (RULES | _MORE)[f"{kind}:N"].replace(" N", f" {number}")
            return text.replace("split at _", f"split at {separators}") if separators else text
        return (RULES | _MORE).get(self.name, RULES["REGEX"])


NO_RULE = Rule("none", "no rule fits", lambda _: None)


def parse_rule(text: str) -> Rule | None:
    """Make the rule that `--labels TEXT` names, None for `auto`. Raises UsageError for anything that is not a rule."""
    if text == "auto":
        return None
    if text in _SIMPLE:
        return simple_rule(text, ASKED)
    kind, colon, rest = text.partition(":")
    if kind in ("parent", "folder", "field") and (colon or kind == text):
        return _numbered_rule(kind, rest, text)
    return _regex_rule(text)


def _numbered_rule(kind: str, rest: str, text: str) -> Rule:
    number = r"0*([1-9][0-9]{0,2})"
    if kind == "field" and (match := re.fullmatch(rf"(?s){number}(?::(.+))?", rest)):
        return field_rule(int(match[1]), match[2] or "_", ASKED)
    if kind == "parent" and (match := re.fullmatch(number, rest)):
        return parent_rule(int(match[1]), ASKED)
    if kind == "folder" and re.fullmatch(rf"{number}(\+{number})*", rest):
        return folder_rule(tuple(int(one) for one in rest.split("+")), ASKED)
    example = {"parent": "parent:2", "folder": "folder:1 or folder:1+2", "field": "field:2"}[kind]
    raise UsageError(f"--labels {text} is not a rule", f"the N of {kind}:N is a whole number from 1, as in {example}")


def natural_order(texts: Iterable[str]) -> list[str]:
    """Sort with numbers by value (2 before 10); what natsort takes for equal is sorted by code point."""
    from natsort import natsort_keygen

    key = natsort_keygen()
    return sorted(texts, key=lambda text: (key(text), text))


def stem(file: str) -> str:
    """Take the file name of a path without its image extension and the ` (3)` of a copy."""
    return _stem_and_copy(file)[0]


def _stem_and_copy(file: str) -> tuple[str, str]:
    name = file.rpartition("/")[2]
    if is_image(name):
        name = name.rpartition(".")[0]
    copy = _COPY_SUFFIX.search(name) if name.endswith(")") else None
    return (name[: copy.start()], copy[0]) if copy else (name, "")


def _prefix(file: str) -> str | None:
    body, copy = _stem_and_copy(file)
    head = body.rstrip(_DIGITS)
    if head == body and not copy:  # the (3) of `cat (3).jpg` is a number at the end as well
        return None
    return head.rstrip(SEPARATORS) or None


def _suffix(file: str) -> str | None:
    body = stem(file)
    tail = body.lstrip(_DIGITS)
    return None if tail == body else tail.lstrip(SEPARATORS) or None


_FIRST_NUMBER = re.compile(r"[0-9]")


def _start(file: str) -> str | None:
    body, copy = _stem_and_copy(file)
    number = _FIRST_NUMBER.search(body)
    if not number and not copy:
        return None
    return body[: number.start() if number else None].rstrip(SEPARATORS) or None


def _end(file: str) -> str | None:
    body = stem(file)
    tail = _LAST_NUMBER.sub("", body, count=1)
    return None if tail == body else tail.lstrip(SEPARATORS) or None


_LAST_NUMBER = re.compile(r"(?s)\A.*[0-9]")


def _parent(file: str) -> str | None:
    return file.rpartition("/")[0].rpartition("/")[2] or None


_PATTERN = "a regular expression looks like '^(?P<label>[a-z]+)_'"
_SIMPLE: dict[str, Callable[[str], str | None]] = {
    "parent": _parent,
    "prefix": _prefix,
    "suffix": _suffix,
    "start": _start,
    "end": _end,
}


def simple_rule(name: str, why: str = "") -> Rule:
    """Make `parent`, `prefix`, `suffix`, `start` or `end`."""
    return Rule(name, why, _SIMPLE[name], "folder" if name == "parent" else "name")


def parent_rule(number: int, why: str = "") -> Rule:
    """Make `parent:N`; the first is `parent`."""

    def label_of(file: str) -> str | None:
        parts = file.rsplit("/", number + 1)
        return parts[-number - 1] or None if len(parts) > number else None

    return Rule(f"parent:{number}", why, label_of, "folder") if number > 1 else simple_rule("parent", why)


def folder_rule(numbers: tuple[int, ...], why: str = "") -> Rule:
    """Make `folder:N` or `folder:N+M`."""

    def label_of(file: str) -> str | None:
        folders = file.split("/")[:-1]
        if max(numbers) > len(folders):
            return None
        return "/".join(folders[number - 1] for number in numbers) or None

    return Rule(f"folder:{'+'.join(map(str, numbers))}", why, label_of, "folder")


def field_rule(number: int, separators: str = "_", why: str = "") -> Rule:
    """Make `field:N` or `field:N:SEP`, which splits the stem at each of the characters `separators`."""
    if separators == "_":
        name = f"field:{number}"

        def split(text: str) -> list[str]:
            return text.split("_", number)
    else:
        name, pattern = f"field:{number}:{separators}", re.compile(f"[{re.escape(separators)}]")

        def split(text: str) -> list[str]:
            return pattern.split(text, maxsplit=number)

    def label_of(file: str) -> str | None:
        fields = split(stem(file))
        return fields[number - 1].strip(" ") or None if len(fields) >= number else None

    return Rule(name, why, label_of)


def _regex_rule(text: str) -> Rule:
    try:
        pattern = re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(
            f"--labels {text} is not a regular expression: {error}",
            "put it between single quotes; a named group is written (?P<label>...)",
        ) from error
    if "label" not in pattern.groupindex:
        names = [name for name in RULES | _MORE if name not in ("REGEX", "table")]
        raise UsageError(
            f"--labels {text} is neither a rule nor a regular expression with a group `label`",
            f"{did_you_mean(text, _SIMPLE)} the rules are {', '.join(names)}; {_PATTERN}".lstrip()
            + "; the name of a table ends in .csv, .tsv, .jsonl or .txt",
        )

    def label_of(file: str) -> str | None:
        match = pattern.search(file)
        return match["label"] or None if match else None

    return Rule(text, ASKED, label_of, "path")
