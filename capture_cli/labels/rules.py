"""Where the label stands: the rules that read an image's class from its path. Names only; no file is opened.

    rule = parse_rule("field:2") or choose_rule(files)      # parse_rule("auto") is None
    rule.label_of("digit_3_0017.png")                       # "3"; None where the name does not fit

| rule      | the class is                                                | for example                                       |
|-----------|-------------------------------------------------------------|---------------------------------------------------|
| `parent`  | the folder that the image lies in                           | `train/cat/x.png` -> cat, `cat/a/x.png` -> a      |
| `field:N` | the N-th part, from 1, of the stem between `_`              | `field:2`: `image_3.png`, `digit_3_0017.png` -> 3 |
| `prefix`  | what stands before the number at the end of the stem        | `cat_0012.jpg`, `cat12.png`, `cat (3).jpg` -> cat |
| `suffix`  | what stands after the number at the beginning of the stem   | `0012_cat.jpg`, `12cat.png` -> cat                |
| REGEX     | the group `label` of its first match in the relative path   | `^(?P<label>[^/]+)/`: `cat/a/x.png` -> cat        |

A file is given as its path relative to the folder, with `/`. Its stem is the name without the image ending and without the
mark ` (3)` that Windows and browsers put behind the copies of a name. Between label and number blanks, `_`, `-`, `.` and `#`
do not count. Nothing else about a label is changed: `Cat` and `cat`, or an é written in two ways, are two classes.

`auto` takes the first that fits (see `choose_rule`), so the same files always give the same rule, in any order.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from capture_cli.errors import DataError, UsageError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
"""What the name of an image ends in, in capitals or not."""

RULES = {
    "auto": "the first of parent, field:2, prefix and suffix that fits the names",
    "parent": "the folder that the image lies in",
    "field:N": "the N-th part of the name between _",
    "prefix": "what stands before the number at the end",
    "suffix": "what stands after the number at the beginning",
    "REGEX": "the group `label` of a regular expression, matched against the relative path",
}
"""What --labels takes, and what the class then is."""

SPLIT_NAMES = frozenset(
    ["train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation", "holdout"]
)
"""Folders of these names (in capitals or not) say what images are for, not what they show."""

_SEPARATORS = " _-.#"
_DIGITS = "0123456789"
_COPY_MARK = re.compile(r"[ _.#-]*\([0-9]+\)\Z")
_ASKED = "it was asked for"


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to read labels from paths."""

    name: str
    """The text that gives this rule when it is handed to --labels."""
    why: str
    """How it came to be this one, a clause: `the images lie in 10 sub-folders`."""
    label_of: Callable[[str], str | None]
    """Relative path -> class name, None where the path does not fit; never the empty string."""

    @property
    def meaning(self) -> str:
        """What the class is under this rule, a clause."""
        if self.name.startswith("field:"):
            return f"part {self.name.removeprefix('field:')} of the name between _"
        return RULES.get(self.name, "the group `label` of the regular expression")


@dataclass(frozen=True, slots=True)
class Tally:
    """What a rule makes of some files."""

    rule: Rule
    labelled: int
    """Files in which it finds a label."""
    classes: int
    """Different labels it finds."""


def parse_rule(text: str) -> Rule | None:
    """The rule that `--labels TEXT` names, None for `auto`. Raises UsageError for anything that is not a rule."""
    if text == "auto":
        return None
    simple = _SIMPLE.get(text)
    if simple:
        return Rule(text, _ASKED, simple)
    if text == "field" or text.startswith("field:"):
        number = re.fullmatch(r"field:0*([1-9][0-9]{0,2})", text)
        if not number:
            raise UsageError(f"--labels {text} is not a rule", "field:N takes a whole number from 1 up, as in field:2")
        return _field_rule(int(number[1]), _ASKED)
    return _regex_rule(text)


def choose_rule(files: Sequence[str]) -> Rule:
    """`auto`: the first rule that fits the names of `files` (relative paths).

    1. `parent` if the images lie in sub-folders of two or more different names, not all of them like `train` and `val`.
    2. `field:2` if the stems begin with the same word (a first part with a letter in it); a name in which no rule finds
       a label, such as `logo.png`, has no say in this.
    3. `prefix`, then `suffix`.

    To fit, a rule must label at least half as many files as the one that labels most, into two classes or more; and a
    rule by names must not make more than one class for every two images, which is what a running number looks like.
    Where all fail that, the first that finds two classes is taken, then the first that finds any.
    Raises DataError if no rule finds a label in any name.
    """
    tallies = [tally(rule, files) for rule in _candidates(files)]
    most = max(t.labelled for t in tallies)
    if not most:
        raise DataError(
            f"no label in any of the {len(files):,} names, such as '{files[0]}'",
            "put the images of each class into a folder of its own, name them like cat_0012.png, "
            "or give a regular expression: --labels '(?P<label>...)'",
        )
    near = [t for t in tallies if 2 * t.labelled >= most]
    for t in near:
        if t.classes >= 2 and (t.rule.name == "parent" or 2 * t.classes <= t.labelled):
            return t.rule
    return next((t.rule for t in near if t.classes >= 2), near[0].rule)


def other_rules(files: Sequence[str], rule: Rule) -> list[Tally]:
    """What the rules other than `rule` would make of `files`: those that find two classes or more, in the order of RULES.

    Of `field:N` the first four are tried.
    """
    rules = [_simple_rule("parent", ""), *(_field_rule(n, "") for n in range(1, 5))]
    rules += [_simple_rule("prefix", ""), _simple_rule("suffix", "")]
    tallies = (tally(other, files) for other in rules if other.name != rule.name)
    return [t for t in tallies if t.classes >= 2]


def tally(rule: Rule, files: Iterable[str]) -> Tally:
    """Count what `rule` finds in `files`."""
    labels = [label for file in files if (label := rule.label_of(file)) is not None]
    return Tally(rule, len(labels), len(set(labels)))


def natural_order(texts: Iterable[str]) -> list[str]:
    """Sorted with numbers by their value (2 before 10), and by code point what natsort takes for equal: no tie is left."""
    from natsort import natsort_keygen

    key = natsort_keygen()
    return sorted(texts, key=lambda text: (key(text), text))


def is_image(name: str) -> bool:
    """Whether a name ends like an image."""
    return name.lower().endswith(ENDINGS)


def stem(file: str) -> str:
    """The name at the end of the path, without its image ending and the mark ` (3)` of a copy."""
    return _stem_and_mark(file)[0]


def _stem_and_mark(file: str) -> tuple[str, str]:
    name = file.rpartition("/")[2]
    if is_image(name):
        name = name.rpartition(".")[0]
    mark = _COPY_MARK.search(name) if name.endswith(")") else None
    return (name[: mark.start()], mark[0]) if mark else (name, "")


def _parent(file: str) -> str | None:
    return file.rpartition("/")[0].rpartition("/")[2] or None


def _prefix(file: str) -> str | None:
    body, mark = _stem_and_mark(file)
    head = body.rstrip(_DIGITS)
    if head == body and not mark:  # the (3) of `cat (3).jpg` is a number at the end as well
        return None
    return head.rstrip(_SEPARATORS) or None


def _suffix(file: str) -> str | None:
    body = stem(file)
    tail = body.lstrip(_DIGITS)
    return None if tail == body else tail.lstrip(_SEPARATORS) or None


_SIMPLE: dict[str, Callable[[str], str | None]] = {"parent": _parent, "prefix": _prefix, "suffix": _suffix}


def _simple_rule(name: str, why: str) -> Rule:
    return Rule(name, why, _SIMPLE[name])


def _field_rule(number: int, why: str) -> Rule:
    def label_of(file: str) -> str | None:
        fields = stem(file).split("_", number)
        return fields[number - 1].strip(" ") or None if len(fields) >= number else None

    return Rule(f"field:{number}", why, label_of)


def _regex_rule(text: str) -> Rule:
    try:
        pattern = re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(
            f"--labels {text} is not a regular expression: {error}",
            "in a shell put it between single quotes; a named group is written (?P<label>...)",
        ) from error
    if "label" not in pattern.groupindex:
        raise UsageError(
            f"--labels {text} is neither a rule nor a regular expression with a group `label`",
            f"the rules are {', '.join(list(RULES)[:-1])}; such an expression is '^(?P<label>[a-z]+)_'",
        )

    def label_of(file: str) -> str | None:
        match = pattern.search(file)
        return match["label"] or None if match else None

    return Rule(text, _ASKED, label_of)


def _candidates(files: Sequence[str]) -> list[Rule]:
    """The rules that `auto` considers for `files`, best first."""
    rules = []
    folders = {file.rpartition("/")[0] for file in files} - {""}
    names = {folder.rpartition("/")[2] for folder in folders}
    if len(names) >= 2 and not {name.casefold() for name in names} <= SPLIT_NAMES:
        rules.append(_simple_rule("parent", f"the images lie in {len(folders):,} sub-folders"))
    word = _common_word(files)
    if word:
        rules.append(_field_rule(2, f"all names begin with {word}_"))
    rules.append(_simple_rule("prefix", "the names end in a number"))
    rules.append(_simple_rule("suffix", "the names begin with a number"))
    return rules


def _common_word(files: Iterable[str]) -> str | None:
    """The first part of every stem, if that is one word for all of them."""
    word = None
    for file in files:
        first, _, rest = stem(file).partition("_")
        if not rest:
            if _prefix(file) or _suffix(file):
                return None
        elif word is None:
            word = first
        elif first != word:
            return None
    return word if word and any(char.isalpha() for char in word) else None
