"""Labels are read from paths by the rule asked for, or by the first that fits."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture_cli.errors import DataError, UsageError
from capture_cli.labels.rules import choose_rule, natural_order, other_rules, parse_rule, stem

PATHS = st.lists(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=20), min_size=1, max_size=3).map(
    "/".join
)


def label(rule: str, file: str) -> str | None:
    parsed = parse_rule(rule)
    assert parsed is not None
    return parsed.label_of(file)


@pytest.mark.parametrize(
    ("rule", "file", "expected"),
    [
        ("parent", "cat/1.png", "cat"),
        ("parent", "train/cat/1.png", "cat"),
        ("parent", "cat/a/1.png", "a"),
        ("parent", "1.png", None),
        ("field:1", "cat_12_3.png", "cat"),
        ("field:2", "image_3.png", "3"),
        ("field:2", "digit_3_0017.png", "3"),
        ("field:3", "digit_3_0017.png", "0017"),
        ("field:02", "image_3.png", "3"),
        ("field:2", "digit_3 (1).png", "3"),
        ("field:2", "a_b/cat.png", None),
        ("field:2", "image__3.png", None),
        ("field:3", "image_3.png", None),
        ("field:2", "cat.png", None),
        ("suffix", "0012_cat.jpg", "cat"),
        ("suffix", "12cat.png", "cat"),
        ("suffix", "0012 - great_pyrenees.jpg", "great_pyrenees"),
        ("suffix", "0012_cat_3.jpg", "cat_3"),
        ("suffix", "0012_cat (1).jpg", "cat"),
        ("suffix", "cat_0012.jpg", None),
        ("suffix", "0012.jpg", None),
        ("(?P<label>[a-z]+)[0-9]", "x/cat7.png", "cat"),
        ("^(?P<label>[^/]+)/", "cat/a/1.png", "cat"),
        ("^(?P<label>[a-z]*)[0-9]", "7.png", None),
        ("(?P<label>cat)?", "dog_1.png", None),
    ],
)
def test_every_rule_reads_what_its_definition_says(rule: str, file: str, expected: str | None) -> None:
    """parent, field:N, suffix and a regular expression, with the names that do not fit them."""
    assert label(rule, file) == expected


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("cat_0012.jpg", "cat"),
        ("great_pyrenees-7.jpg", "great_pyrenees"),
        ("cat12.png", "cat"),
        ("cat 12.png", "cat"),
        ("cat.12.png", "cat"),
        ("cat#12.png", "cat"),
        ("cat (3).jpg", "cat"),
        ("cat_(3).jpg", "cat"),
        ("cat_0012 (1).jpg", "cat"),
        ("digit_3_0017.png", "digit_3"),
        ("Cat 01.JPG", "Cat"),
        ("CON1.png", "CON"),
        ("C:\\photos\\cat_1.bmp", "C:\\photos\\cat"),
        ("-rf1.png", "-rf"),
        ("3_0017.png", "3"),
        ("dog1/cat_2.png", "cat"),
        ("cat.png", None),
        ("0012.png", None),
        ("(3).png", None),
        ("_7.png", None),
        ("cat_12 - Copy.png", None),
        ("cat_0012", "cat"),
    ],
)
def test_prefix_is_the_text_before_the_trailing_number(file: str, expected: str | None) -> None:
    """One number goes, with its separators and the suffix of a copy; nothing else about the label changes."""
    assert label("prefix", file) == expected


@pytest.mark.parametrize(
    ("first", "second"),
    [("caf\u00e9_1.png", "cafe\u0301_1.png"), ("Cat_1.png", "cat_1.png"), ("caf\udce9_1.png", "caf\u00e9_1.png")],
    ids=["NFC and NFD", "case", "latin-1 bytes and UTF-8"],
)
def test_similar_names_are_kept_apart(first: str, second: str) -> None:
    """Labels are compared character by character: no folding, no normal form, no guess at an encoding."""
    assert label("prefix", first) != label("prefix", second)


@pytest.mark.parametrize(
    "name", ["a\nb", "a\x1b[2J", "a\u202eb", "\udcff\udcfe", "[b]", ":smile:", "<img src=x>", "猫", "x" * 240]
)
def test_hostile_names_are_plain_data(name: str) -> None:
    """Controls, markup and bytes that are not UTF-8 stay in the label as they are, whatever the rule."""
    assert label("prefix", f"{name}_12.png") == name
    assert label("field:1", f"{name}_12.png") == name
    assert label("suffix", f"12_{name}.png") == name
    assert label("parent", f"{name}/1.png") == name
    assert label("(?s)^(?P<label>.+)_", f"{name}_12.png") == name


def test_the_stem_loses_one_image_extension_in_any_case() -> None:
    """Other endings, and a second one, belong to the name."""
    assert [stem(f) for f in ("a/b.PNG", "b.jpeg", "b.jpg.png", "b.txt", "b (2).gif")] == ["b", "b", "b.jpg", "b.txt", "b"]


@given(PATHS)
def test_no_rule_gives_an_empty_label(file: str) -> None:
    """A path has a label of at least one character or none at all, and no name makes a rule fail."""
    for rule in ("parent", "field:1", "field:2", "prefix", "suffix", "(?P<label>[a-z]*)"):
        assert label(rule, file) != ""


def test_the_name_of_a_rule_gives_the_rule_again() -> None:
    """The rule that a run records can be passed to --labels."""
    for text in ("parent", "field:2", "prefix", "suffix", "^(?P<label>[a-z]+)"):
        rule = parse_rule(text)
        assert rule is not None
        assert rule.name == text
    assert parse_rule("auto") is None
    assert choose_rule(["image_3.png", "image_4.png", "image_3_1.png", "image_4_1.png"]).name == "field:2"


@pytest.mark.parametrize("text", ["field:0", "field:-1", "field:x", "field:", "field", "field:1000", "field:2 "])
def test_a_field_is_counted_from_one(text: str) -> None:
    """Anything but a whole number from 1 up is a usage error that shows how it is written."""
    with pytest.raises(UsageError, match="not a rule") as caught:
        parse_rule(text)
    assert "field:2" in caught.value.hint


@pytest.mark.parametrize("text", ["", "prefixx", "Parent", "(cat|dog)", "(?P<name>cat)", ".png"])
def test_an_unknown_rule_is_named_with_the_known_ones(text: str) -> None:
    """A word that is no rule is an expression without the group; the message says both and lists the rules."""
    with pytest.raises(UsageError, match="neither a rule nor a regular expression with a group `label`") as caught:
        parse_rule(text)
    assert "auto, parent, field:N, prefix, suffix" in caught.value.hint


@pytest.mark.parametrize("text", ["(", "(?<label>x)", "[a-", "(?P<label>x){99999999999}", "*"])
def test_a_broken_expression_is_a_usage_error(text: str) -> None:
    """The message quotes the expression and what is wrong with it."""
    with pytest.raises(UsageError, match="is not a regular expression: ") as caught:
        parse_rule(text)
    assert "(?P<label>...)" in caught.value.hint


@pytest.mark.parametrize(
    ("files", "rule"),
    [
        (["cat/1.png", "dog/1.png"], "parent"),
        (["train/cat/1.png", "train/dog/1.png", "val/cat/2.png"], "parent"),
        (["cat/x_1.png", "cat/x_2.png", "dog/y_1.png", "stray_9.png"], "parent"),
        (["a/x_1.png", "b/x_2.png", "c/y_3.png", "d/y_4.png"], "parent"),
        (["images/cat_1.png", "images/cat_2.png", "images/dog_1.png", "images/dog_2.png"], "prefix"),
        (["train/cat_1.png", "train/dog_1.png", "val/cat_2.png", "VAL/dog_2.png"], "prefix"),
        (["a/images/cat_1.png", "b/images/cat_2.png", "a/images/dog_1.png", "b/images/dog_2.png"], "prefix"),
        ([f"image_{i}.png" for i in range(10)], "field:2"),
        ([f"digit_{i % 10}_{i:04d}.png" for i in range(50)], "field:2"),
        ([f"digit_{i % 10}_{i:04d}.png" for i in range(50)] + ["logo.png"], "field:2"),
        ([f"2024_{name}_{i}.png" for name in ("cat", "dog") for i in range(5)], "prefix"),
        (["cat_0012.jpg", "great_pyrenees-7.jpg", "cat_1.jpg", "great_pyrenees-8.jpg"], "prefix"),
        ([f"great_{name}_{i}.png" for name in ("dane", "tit") for i in range(5)], "field:2"),
        ([f"great_{name}{i}.png" for name in ("dane", "tit") for i in range(5)], "prefix"),
        (["cat (1).jpg", "cat (2).jpg", "dog (1).jpg", "dog (2).jpg"], "prefix"),
        (["0001_cat.jpg", "0002_dog.jpg", "0003_cat.jpg"], "suffix"),
        ([f"{i:05d}_{i % 10}.png" for i in range(100)], "suffix"),
        ([f"{i % 10}_{i:05d}.png" for i in range(100)], "prefix"),
        (["cat_1.png"], "field:2"),
        (["cat_1.png", "dog_1.png"], "prefix"),
    ],
)
def test_auto_takes_the_first_rule_that_fits(files: list[str], rule: str) -> None:
    """Sub-folders, then the second field after a common word, then the text before or after a number."""
    assert choose_rule(files).name == rule


@given(st.lists(st.sampled_from(["a_1.png", "a_2_1.png", "b-3.png", "7_c.png", "x/1.png", "y/2.png", "logo.png"]), min_size=1))
def test_auto_does_not_depend_on_the_order_of_files(files: list[str]) -> None:
    """The same names give the same rule, however the system lists them; or the same error."""
    shuffled = random.Random(0).sample(files, len(files))
    try:
        expected = choose_rule(files)
    except DataError:
        with pytest.raises(DataError):
            choose_rule(shuffled)
    else:
        chosen = choose_rule(shuffled)
        assert (chosen.name, chosen.why) == (expected.name, expected.why)


@pytest.mark.parametrize("files", [["cat.png", "dog.png"], ["0001.png", "0002.png"], ["only/logo.png"]])
def test_names_without_any_label_are_an_error_that_says_what_to_do(files: list[str]) -> None:
    """The message counts the names and quotes one; the hint shows names that would do."""
    with pytest.raises(DataError, match=f"no label in any of the {len(files)} names, such as '{files[0]}'") as caught:
        choose_rule(files)
    assert "cat_0012.png" in caught.value.hint


def test_other_rules_are_those_that_find_two_classes() -> None:
    """Each with how many files it labels and into how many classes; the rule in use is not among them."""
    files = ["a/cat_1.png", "a/cat_2.png", "b/dog_1.png", "b/logo.png"]
    rule = parse_rule("parent")
    assert rule is not None
    found = {t.rule.name: (t.labelled, t.classes) for t in other_rules(files, rule)}
    assert found == {"field:1": (4, 3), "field:2": (3, 2), "prefix": (3, 2)}


def test_classes_are_in_natural_order() -> None:
    """2 before 10, and names that natsort takes for equal still have one order."""
    assert natural_order(["10", "9", "a10", "a2", "1"]) == ["1", "9", "10", "a2", "a10"]
    twins = ["e\u0301", "\u00e9", "01", "1", "1\udcff"]
    assert natural_order(twins) == natural_order(reversed(twins))
