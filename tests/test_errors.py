"""capture_cli.errors: the message, the way out and the exit code of each error."""

import traceback

import pytest

from capture_cli.errors import (
    CaptureError,
    DataError,
    FormatError,
    RecordsError,
    Unusable,
    UsageError,
    any_of,
    quoted,
    redacted,
)


def test_a_traceback_shows_the_message_and_the_hint() -> None:
    """A user of the Python API sees the way out too; each part is there by itself."""
    error = UsageError("ids: 3 comes twice", "pass repeats=True")
    assert str(error) == "ids: 3 comes twice; pass repeats=True"
    assert traceback.format_exception_only(error)[-1].endswith("UsageError: ids: 3 comes twice; pass repeats=True\n")
    assert (error.message, error.hint) == ("ids: 3 comes twice", "pass repeats=True")
    assert str(CaptureError("it failed")) == "it failed"
    assert str(RecordsError("no records", "nothing was captured", line=3)) == "no records; nothing was captured"
    assert str(Unusable("truncated", "12 bytes are missing")) == "truncated: 12 bytes are missing"


@pytest.mark.parametrize(
    ("kind", "code"), [(CaptureError, 1), (UsageError, 2), (DataError, 3), (Unusable, 3), (RecordsError, 4), (FormatError, 4)]
)
def test_each_error_has_its_exit_code(kind: type[CaptureError], code: int) -> None:
    """The codes that the command line documents."""
    assert kind("x").exit_code == code
    assert isinstance(kind("x"), CaptureError)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no server at http://user:pa55@host:5000/x", "no server at http://host:5000/x"),
        ("http://user:pa@55@host/x", "http://host/x"),
        ("http://user:pa/55@host", "http://host"),
        ("http://token@host", "http://host"),
        ('["--mlflow","http://user:pa55@host","me@here"]', '["--mlflow","http://host","me@here"]'),
        ("postgresql://user@host/db?password=pa55&sslmode=require", "postgresql://host/db?password=***&sslmode=require"),
        ("https://host/path?access_token=pa55", "https://host/path?access_token=***"),
        ("two: http://a:pa55@b and mysql+pymysql://c:pa55@d/e", "two: http://b and mysql+pymysql://d/e"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:////data/me@here/a:b/mlflow.db", "sqlite:////data/me@here/a:b/mlflow.db"),
        ("nothing:secret@here", "nothing:secret@here"),
    ],
)
def test_secrets_are_taken_out_of_uris(text: str, shown: str) -> None:
    """Users, passwords and tokens; what only looks like them stays."""
    assert redacted(text) == shown
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("", "ValueError"),
        ("  short.\nmore", "short"),
        ("\x1b[96mstep\x1b[0m of http://me:secret@host", "step of http://host"),
        (f"First (e.g., 'one') of it. {'Second ' * 40}", "First (e.g., 'one') of it"),
        ("word " * 60, "word " * 38 + "word…"),
        ("x" * 300, "x" * 199 + "…"),
    ],
)
def test_a_foreign_message_is_cut_at_a_sentence_or_word(said: str, shown: str) -> None:
    """One line of at most 200 characters, without escape codes and passwords."""
    assert quoted(ValueError(said)) == shown
    assert len(shown) <= 200


def test_choices_are_joined() -> None:
    """With `or` before the last one; of none there is nothing, so that a hint can say something else."""
    assert [any_of("abc"[:count]) for count in range(4)] == ["", "a", "a or b", "a, b or c"]
