"""Label rules: how an image's class is read from its path.

    rule = parse_rule("field:2") or choose_rule(files)      # parse_rule("auto") is None
    rule.label_of("digit_3_0017.png")                       # "3"; None where the name does not fit

| rule      | the class is                                            | for example                                       |
|-----------|---------------------------------------------------------|---------------------------------------------------|
| `parent`  | the folder the image is in                              | `train/cat/x.png` -> cat, `cat/a/x.png` -> a      |
| `field:N` | part N, from 1, of the stem split at `_`                | `field:2`: `image_3.png`, `digit_3_0017.png` -> 3 |
| `prefix`  | the text before the number at the end of the stem       | `cat_0012.jpg`, `cat12.png`, `cat (3).jpg` -> cat |
| `suffix`  | the text after the number at the beginning of the stem  | `0012_cat.jpg`, `12cat.png` -> cat                |
| REGEX     | the group `label` of its first match in the path        | `^(?P<label>[^/]+)/`: `cat/a/x.png` -> cat        |

A path is relative, with `/`. The stem is the file name without its image extension and without the ` (3)` that Windows and
browsers add to copies. Spaces, `_`, `-`, `.` and `#` between label and number are removed. Nothing else about a label is
changed: `Cat` and `cat`, or an é written in two ways, are two classes.

`auto` takes the first rule that fits (see `choose_rule`): the same files always give the same rule, in any order.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from capture_cli.errors import DataError, UsageError
from capture_cli.sources import is_image

RULES = {
    "auto": "the first of parent, field:2, prefix and suffix that fits the names",
    "parent": "the folder the image is in",
    "field:N": "part N of the name, split at _",
    "prefix": "the text before the number at the end of the name",
    "suffix": "the text after the number at the beginning of the name",
    "REGEX": "the group `label` of a regular expression, searched in the path",
}
"""Values of --labels, and what the class then is."""

SPLIT_NAMES = frozenset(
    ["train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation", "holdout"]
)
"""Folder names, in any case, that tell what images are for, not what they show."""

_SEPARATORS, _DIGITS = " _-.#", "0123456789"
_COPY_SUFFIX = re.compile(r"[ _.#-]*\([0-9]+\)\Z")
_ASKED = "it was asked for"


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to read labels from paths."""

    name: str
    """The value of --labels that gives this rule."""
    why: str
    """Why it was chosen, a clause: `the images are in 10 sub-folders`."""
    label_of: Callable[[str], str | None]
    """Relative path -> class name, None where the path does not fit; never the empty string."""

    @property
    def meaning(self) -> str:
        """The class under this rule, a noun phrase."""
        if self.name.startswith("field:"):
            return RULES["field:N"].replace("N", self.name.removeprefix("field:"))
        return RULES.get(self.name, RULES["REGEX"])


@dataclass(frozen=True, slots=True)
class Fit:
    """The number of files that a rule labels, and of different labels that it finds."""

    rule: Rule
    labelled: int
    classes: int


def parse_rule(text: str) -> Rule | None:
    """Make the rule that `--labels TEXT` names, None for `auto`. Raises UsageError for anything that is not a rule."""
    if text == "auto":
        return None
    if text in _SIMPLE:
        return _simple_rule(text, _ASKED)
    if text == "field" or text.startswith("field:"):
        number = re.fullmatch(r"field:0*([1-9][0-9]{0,2})", text)
        if not number:
            raise UsageError(f"--labels {text} is not a rule", "the N of field:N is a whole number from 1, as in field:2")
        return _field_rule(int(number[1]), _ASKED)
    return _regex_rule(text)


def choose_rule(files: Sequence[str]) -> Rule:
    """Choose a rule for `files` (relative paths) as `auto` does: the first of these that fits.

    1. `parent` if the images are in sub-folders of two or more different names, not all of them like `train` and `val`.
    2. `field:2` if all stems begin with the same word, ignoring names in which no rule finds a label, such as `logo.png`.
    3. `prefix`, then `suffix`.

    To fit, a rule must label at least half as many files as the rule that labels most, with two classes or more. A rule by
    file name must also find two images per class on average: a running number does not. If none fits, the first rule that
    finds two classes is taken, then the first that finds any. Raises DataError if no rule finds a label in any name.
    """
    fits = [fit(rule, files) for rule in _candidates(files)]
    most = max(one.labelled for one in fits)
    if not most:
        raise DataError(
            f"no label in any of the {len(files):,} names, such as '{files[0]}'",
            "put the images of each class into a folder of its own, name them like cat_0012.png, "
            "or give a regular expression: --labels '(?P<label>...)'",
        )
    near = [one for one in fits if 2 * one.labelled >= most]
    for one in near:
        if one.classes >= 2 and (one.rule.name == "parent" or 2 * one.classes <= one.labelled):
            return one.rule
    return next((one.rule for one in near if one.classes >= 2), near[0].rule)


def other_rules(files: Sequence[str], rule: Rule) -> list[Fit]:
    """Try all rules but `rule`, and `field:N` up to 4; return those that find two classes or more, in the order of RULES."""
    rules = [_simple_rule("parent", ""), *(_field_rule(n, "") for n in range(1, 5))]
    rules += [_simple_rule("prefix", ""), _simple_rule("suffix", "")]
    fits = (fit(other, files) for other in rules if other.name != rule.name)
    return [one for one in fits if one.classes >= 2]


def fit(rule: Rule, files: Iterable[str]) -> Fit:
    """Count what `rule` finds in `files`."""
    labels = [label for file in files if (label := rule.label_of(file)) is not None]
    return Fit(rule, len(labels), len(set(labels)))


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


def _parent(file: str) -> str | None:
    return file.rpartition("/")[0].rpartition("/")[2] or None


def _prefix(file: str) -> str | None:
    body, copy = _stem_and_copy(file)
    head = body.rstrip(_DIGITS)
    if head == body and not copy:  # the (3) of `cat (3).jpg` is a number at the end as well
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
            "put it between single quotes; a named group is written (?P<label>...)",
        ) from error
    if "label" not in pattern.groupindex:
        raise UsageError(
            f"--labels {text} is neither a rule nor a regular expression with a group `label`",
            f"the rules are {', '.join(list(RULES)[:-1])}; a regular expression looks like '^(?P<label>[a-z]+)_'",
        )

    def label_of(file: str) -> str | None:
        match = pattern.search(file)
        return match["label"] or None if match else None

    return Rule(text, _ASKED, label_of)


def _candidates(files: Sequence[str]) -> list[Rule]:
    """List the rules that `auto` considers for `files`, best first."""
    rules = []
    folders = {file.rpartition("/")[0] for file in files} - {""}
    names = {folder.rpartition("/")[2] for folder in folders}
    if len(names) >= 2 and not {name.casefold() for name in names} <= SPLIT_NAMES:
        rules.append(_simple_rule("parent", f"the images are in {len(folders):,} sub-folders"))
    if word := _common_word(files):
        rules.append(_field_rule(2, f"all names begin with {word}_"))
    rules.append(_simple_rule("prefix", "the names end in a number"))
    rules.append(_simple_rule("suffix", "the names begin with a number"))
    return rules


def _common_word(files: Iterable[str]) -> str | None:
    """Find the first part of every stem, if that is one word for all of them."""
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
