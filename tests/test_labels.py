"""Labels are read from paths by the rule asked for, or by the first that fits."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture_cli.errors import DataError, UsageError
from capture_cli.labels.candidates import try_rules
from capture_cli.labels.comparison import Undecided, choose
from capture_cli.labels.rules import natural_order, parse_rule, stem

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
        ("parent:2", "cat/a/1.png", "cat"),
        ("parent:2", "a/1.png", None),
        ("folder:1", "cat/a/1.png", "cat"),
        ("folder:2", "cat/1.png", None),
        ("folder:1+2", "Greek/01/1.png", "Greek/01"),
        ("field:2:.", "a.cat.7.jpg", "cat"),
        ("field:3:_-", "img_001-3.png", "3"),
        ("start", "cat_12_aug_3.png", "cat"),
        ("start", "cat-001_rot90.jpg", "cat"),
        ("start", "cat (3).jpg", "cat"),
        ("start", "12.jpg", None),
        ("end", "frame0012_open.png", "open"),
        ("end", "img_1_great_dane.png", "great_dane"),
        ("end", "img_1.png", None),
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
    for rule in (
        "parent",
        "parent:2",
        "folder:1+2",
        "field:2:.-",
        "start",
        "end",
        "field:1",
        "field:2",
        "prefix",
        "suffix",
        "(?P<label>[a-z]*)",
    ):
        assert label(rule, file) != ""


def test_the_name_of_a_rule_gives_the_rule_again() -> None:
    """The rule that a run records can be passed to --labels."""
    for text in (
        "parent",
        "parent:2",
        "folder:1",
        "folder:1+2",
        "field:2",
        "field:2:._",
        "prefix",
        "end",
        "^(?P<label>[a-z]+)",
    ):
        rule = parse_rule(text)
        assert rule is not None
        assert rule.name == text
    assert parse_rule("auto") is None
    assert choose(["image_3.png", "image_4.png", "image_3_1.png", "image_4_1.png"] * 2).rule.name == "field:2"


@pytest.mark.parametrize(
    "text",
    [
        "parent:0",
        "folder:",
        "folder:1+",
        "folder",
        "field:2:",
        "field:0",
        "field:-1",
        "field:x",
        "field:",
        "field",
        "field:1000",
        "field:2 ",
    ],
)
def test_a_field_is_counted_from_one(text: str) -> None:
    """Anything but a whole number from 1 up is a usage error that shows how it is written."""
    with pytest.raises(UsageError, match="not a rule") as caught:
        parse_rule(text)
    assert "is a whole number from 1" in caught.value.hint


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
        (["cat/x_1.png", "cat/x_2.png", "dog/y_1.png", "stray_9.png"], "parent"),
        (["a/x_1.png", "b/x_2.png", "c/y_3.png", "d/y_4.png"], "parent"),
        (["images/cat_1.png", "images/cat_2.png", "images/dog_1.png", "images/dog_2.png"], "prefix"),
        (["a/images/cat_1.png", "b/images/cat_2.png", "a/images/dog_1.png", "b/images/dog_2.png"], "prefix"),
        ([f"digit_{i % 10}_{i:04d}.png" for i in range(50)], "field:2"),
        ([f"digit_{i % 10}_{i:04d}.png" for i in range(50)] + ["logo.png"], "field:2"),
        ([f"2024_{name}_{i}.png" for name in ("cat", "dog") for i in range(5)], "prefix"),
        (["cat_0012.jpg", "great_pyrenees-7.jpg", "cat_1.jpg", "great_pyrenees-8.jpg"], "prefix"),
        ([f"great_{name}_{i}.png" for name in ("dane", "tit") for i in range(5)], "field:2"),
        ([f"great_{name}{i}.png" for name in ("dane", "tit") for i in range(5)], "prefix"),
        (["cat (1).jpg", "cat (2).jpg", "dog (1).jpg", "dog (2).jpg"], "prefix"),
        (["0001_cat.jpg", "0002_dog.jpg", "0003_cat.jpg", "0004_dog.jpg"], "suffix"),
        ([f"{i:05d}_{i % 10}.png" for i in range(100)], "suffix"),
        ([f"{i % 10}_{i:05d}.png" for i in range(100)], "prefix"),
        ([f"{d}_{i}.png" for d in range(10) for i in range(10)], "prefix"),
        ([f"{name}_{i}_aug_{j}.png" for name in ("cat", "dog") for i in range(20) for j in range(3)], "start"),
        ([f"great_{n}_{i}_rot{j}.png" for n in ("dane", "tit") for i in range(9) for j in (0, 90)], "field:2"),
        ([f"{n}_{i}_{j}.png" for n in ("great_dane", "cat") for i in range(9) for j in range(3)], "start"),
        ([f"frame{i:03d}_{n}.png" for n in ("open", "closed") for i in range(9)], "field:2"),
        ([f"{top}/{below}{i}/x.png" for top in ("cat", "dog") for below in ("set", "more") for i in range(3)], "folder:1"),
    ],
)
def test_auto_takes_the_rule_that_fits_best(files: list[str], rule: str) -> None:
    """Words before numbers, folders before names, few classes before many."""
    assert choose(files).rule.name == rule


@given(st.lists(st.sampled_from(["a_1.png", "a_2_1.png", "b-3.png", "7_c.png", "x/1.png", "y/2.png", "logo.png"]), min_size=1))
def test_auto_does_not_depend_on_the_order_of_files(files: list[str]) -> None:
    """The same names give the same rule, however the system lists them; or the same error."""
    shuffled = random.Random(0).sample(files, len(files))
    try:
        expected = choose(natural_order(files))
    except DataError:
        with pytest.raises(DataError):
            choose(natural_order(shuffled))
    else:
        chosen = choose(natural_order(shuffled))
        assert (chosen.rule.name, chosen.rule.why, chosen.rivals) == (expected.rule.name, expected.rule.why, expected.rivals)


@pytest.mark.parametrize(
    "files", [["cat.png", "dog.png"], ["0001.png", "0002.png"], ["only/logo.png"], [f"image_{i}.png" for i in range(10)]]
)
def test_names_without_any_label_are_an_error(files: list[str]) -> None:
    """No number, no word, or a class for each image; the message counts the names and quotes one."""
    with pytest.raises(Undecided, match=f"no label in the names of {len(files)} images, such as '{files[0]}'"):
        choose(files)


def test_rules_that_cross_are_no_choice() -> None:
    """Colours and kinds: the error names both fields and their classes."""
    with pytest.raises(
        Undecided, match=r"prefix \(4 classes: .*field:1 \(2 classes: red, blue.*field:2 \(2 classes: car, bike"
    ) as caught:
        choose([f"{colour}_{kind}_{i}.png" for colour in ("red", "blue") for kind in ("car", "bike") for i in range(5)])
    assert [one.rule.name for one in caught.value.fits] == ["prefix", "field:1", "field:2"]


def test_a_close_call_names_the_rival() -> None:
    """Breeds below kinds of animals: the nearest folder is taken, the other is told."""
    choice = choose(
        [
            f"{top}/{n}/{i}.png"
            for top, names in (("cat", "ab"), ("dog", "cde"))
            for n in (f"{x}x" for x in names)
            for i in range(5)
        ]
    )
    assert choice.rule.name == "parent"
    assert [(one.rule.name, one.classes) for one in choice.rivals] == [("folder:1", 2)]


def test_other_rules_are_those_that_find_two_classes() -> None:
    """Each with how many files it labels and into how many classes; the rule in use is not among them."""
    files = ["a/cat_1.png", "a/cat_2.png", "b/dog_1.png", "b/logo.png"]
    rule = parse_rule("parent")
    assert rule is not None
    found = {t.rule.name: (t.labelled, t.classes) for t in try_rules(files, rule)}
    assert found == {"field:1": (4, 3), "field:2": (3, 2), "prefix": (3, 2)}


def test_classes_are_in_natural_order() -> None:
    """2 before 10, and names that natsort takes for equal still have one order."""
    assert natural_order(["10", "9", "a10", "a2", "1"]) == ["1", "9", "10", "a2", "a10"]
    twins = ["e\u0301", "\u00e9", "01", "1", "1\udcff"]
    assert natural_order(twins) == natural_order(reversed(twins))
