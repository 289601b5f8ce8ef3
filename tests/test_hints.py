"""Every command that a message advises can be run: what nobody has tried must not be advised."""

import ast
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from capture_cli.cli import COMMANDS
from capture_cli.cli import run as command
from conftest import make_images

PACKAGE = Path(__file__).parent.parent / "capture_cli"
_NAMES = "|".join(COMMANDS)
_COMMAND = re.compile(rf"`([a-z0-9]+ [^`]*)`|\b((?:capture (?:{_NAMES})\b|pip install |ulimit )[^;,`]*)")
_NO_COMMAND = ("capture runs the code",)
PLACES = (
    (r"\{shlex\.join\(\[\*source\.\w+, \*options\]\)\}|\{[^{}]*scan\.source[^{}]*\}|\bFOLDER\b", "images"),
    (r"\{[^{}]*(output\.where|output\.place)[^{}]*\}|\{where\}|\{name\}|\bRUN\b|\bNAME\b", "run"),
    (r"\{[^{}]*str\((folder|path)\)[^{}]*\}", "damaged"),
    (r"\{folder\}", "runs"),
    (r"\{runs\[0\]\}|\bOTHER\b", "run"),
    (r"\{named\}", "images"),
    (r"\{shlex\.join\(\[named, [^{}]*\}", "images --labels prefix"),
    (r"\bNEWFILE\b", "saved.jsonl"),
    (r"\{[^{}]*uri[^{}]*\}", "sqlite:///mlflow.db"),
    (r"\{_shell\((where|wrong)\)\}", "'not correct'"),
    (r"\{_shell\(here\)\}", "'epoch = 1'"),
    (r"\{_shell\([^{}]*file\)\}", "ant_000.png"),
)
"""What stands in a command in place of a value -> such a value in the folder of the test."""


def strings(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the texts of a module that are no docstrings; values in them stand as {expression}."""
    skipped = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):  # parents come before what is in them
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Expr):
            skipped.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            skipped |= {id(one) for one in node.values}
            parts = (one.value if isinstance(one, ast.Constant) else f"{{{ast.unparse(one.value)}}}" for one in node.values)  # type: ignore[attr-defined]
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def advised() -> dict[str, str]:
    """Return every command that is in a text of the package, and one place where it is."""
    found: dict[str, str] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        for line, text in strings(file):
            for match in _COMMAND.finditer(text):
                one = (match[1] or match[2]).rstrip(" .)`'\"")
                if not one.startswith(_NO_COMMAND):
                    found.setdefault(one, f"{file.relative_to(PACKAGE)}:{line}")
    return found


ADVISED = advised()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a completed run, an unfinished one, a damaged one, and runs/."""
    folder = tmp_path_factory.mktemp("hints")
    make_images(folder / "images")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert command(["train", "images", "-m", "linear", "-e", "1", "-q", "-o", "runs/run", "--device", "cpu"]) == 0
    shutil.copytree(folder / "runs/run", folder / "run")
    shutil.copytree(folder / "runs/run", folder / "damaged")
    records = folder / "damaged/records.jsonl"
    records.write_bytes(records.read_bytes().replace(b'"loss":', b'"lass":', 1))
    return folder


@pytest.mark.parametrize("advice", [one for one in ADVISED if one.startswith("capture ")])
def test_a_command_that_is_advised_can_be_run(place: Path, monkeypatch: pytest.MonkeyPatch, advice: str) -> None:
    """With the values that stand in it; one of them that is not in the table fails, and needs a line there."""
    monkeypatch.chdir(place)
    (place / "saved.jsonl").unlink(missing_ok=True)
    if advice.count(" ") == 1:  # it is spoken of, and not advised as it stands
        assert command([*advice.split()[1:], "--help"]) == 0
        return
    text = advice.partition(" | ")[0]
    for pattern, value in PLACES:
        text = re.sub(pattern, value, text)
    assert not re.search(r"[{}]|\b[A-Z]{3,}\b", text), f"{ADVISED[advice]}: {advice} needs a value in PLACES"
    args = shlex.split(text)[1:]
    if args[:2] == ["train", "--resume"]:
        half_done(place)
    if args[0] == "train" and "--help" not in args:
        args += ["-q", "--device", "cpu"]
    elif args[0] == "evaluate":
        args += ["-q", "--device", "cpu", "-o", "evaluated", "--force"]
    elif args[0] == "log" and "--mlflow" in args:
        pytest.importorskip("mlflow")
    shown = command([*args, *(["--yes"] if "--rm" in args else [])])
    assert shown == 0, text
    assert args[0] != "verify" or (place / "saved.jsonl").stat().st_size > 0
    if "--rm" in args:
        shutil.copytree(place / "damaged", place / "run")


def half_done(place: Path) -> None:
    """Make `run` one that was stopped."""
    shutil.rmtree(place / "run")
    code = (
        "from torch import nn\n"
        "def make(classes, channels, height, width):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, classes))\n"
    )
    (place / "net.py").write_text(code)
    assert command(["train", "images", "-m", "net.py:make", "-e", "2", "-q", "-o", "run", "--device", "cpu"]) == 0
    lines = (place / "run/records.jsonl").read_bytes().splitlines(keepends=True)
    (place / "run/records.jsonl").write_bytes(b"".join(lines[:-3]))
    for name in ("checkpoint.safetensors", "checkpoint-previous.safetensors"):
        (place / "run" / name).unlink(missing_ok=True)


@pytest.mark.parametrize("advice", [one for one in ADVISED if one.startswith("pip ")])
def test_a_package_that_is_advised_is_an_extra_or_a_plain_name(advice: str) -> None:
    """`pip install 'capture-cli[NAME]'` names an extra that there is."""
    extras = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = re.search(r"capture-cli\[(\w+)", advice)
    assert wanted[1] in extras if wanted else re.fullmatch(r"pip install [\w-]+", advice)


@pytest.mark.parametrize("advice", [one for one in ADVISED if not one.startswith(("pip ", "capture "))])
def test_another_program_that_is_advised_takes_these_options(place: Path, advice: str) -> None:
    """In a shell."""
    if advice.startswith(("cp -rL {folder}", "iconv ")):
        return  # the test below, and test_table_files
    if shutil.which(advice.split()[0]) is None and advice.split()[0] != "ulimit":
        pytest.skip("it is not installed")
    arguments = " --help" if advice == "mlflow server" else ""
    done = subprocess.run(["bash", "-c", advice + arguments], cwd=place, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_folder_of_links_is_copied_as_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data sets of links are common on clusters: the command that the message advises makes a folder that trains."""
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "images")
    Path("my links").mkdir()
    for image in Path("images").iterdir():
        Path("my links", image.name).symlink_to(image.absolute())
    for args in (["labels", "my links"], ["train", "my links"]):
        assert command(args) == 3
        said = capsys.readouterr().err
        assert "'my links' holds 24 symbolic links, which are not followed: 'ant_000.png'" in said
    advice = re.search("`(cp -rL [^`]*)`", said)
    assert advice
    for line in (advice[1], advice[1].replace("-rL", "-rLl").replace("-copied", "-linked")):
        assert subprocess.run(["bash", "-c", line], check=False).returncode == 0
    for folder in ("my links-copied", "my links-linked"):
        assert command(["labels", folder, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["images"] == 24
    Path("images", "cow_000.png").symlink_to(Path("images/ant_000.png").absolute())
    assert command(["labels", "images"]) == 0
    assert "warning: 1 symbolic link is skipped: 'cow_000.png'; copy what they lead to: `cp -rL images images-copied`" in (
        capsys.readouterr().err
    )


def test_nothing_is_advised_that_this_file_does_not_see() -> None:
    """The search finds what it should: commands between backticks, at the end of a sentence, with values in them."""
    assert {"capture train --resume {where}", "capture train FOLDER", "ulimit -n"} <= ADVISED.keys()
    assert any(one.startswith("capture verify {") for one in ADVISED)


def test_what_a_run_advises_at_its_end_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the folder is called."""
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "images")
    assert command(["train", "images", "-m", "linear", "-e", "1", "-o", "my run's; $(touch x)", "--device", "cpu"]) == 0
    advice = capsys.readouterr().err.splitlines()[-1].partition("look at it with: capture ")[2]
    assert command(shlex.split(advice)) == 0
    assert not (tmp_path / "x").exists()


def test_what_is_advised_after_nan_can_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new run with --allow-nonfinite goes to the end; the old one cannot become it, and does not claim to."""
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "images")
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def forward(self, x): return super().forward(x.flatten(1)) * (float('nan') if self.training else 1)\n"
        "def make(classes, channels, height, width): return Net(channels * height * width, classes)\n"
    )
    args = ["train", "images", "-m", "net.py:make", "-e", "1", "-q", "--device", "cpu"]
    assert command([*args, "-o", "run"]) == 1
    said = capsys.readouterr().err
    assert "start a new run with a lower --lr or with --allow-nonfinite" in said
    assert "resume" not in said
    assert command([*args, "-o", "new", "--allow-nonfinite"]) == 0
