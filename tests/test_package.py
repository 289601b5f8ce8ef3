"""The package as users get it: its names, its sample data, and what no file may contain."""

import ast
import csv
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from importlib.metadata import entry_points, metadata, version
from pathlib import Path

import pytest
from PIL import Image

import capture_cli

ROOT = Path(__file__).parent.parent
SAMPLE_DATA = ROOT / "sample_data"
GENERATED = {".git", ".venv", "runs", "build", "dist", "data"}


def files() -> list[Path]:
    """Return every text file of the checkout: no caches, no environment, no images."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [
            name
            for name in folders
            if name not in GENERATED and not name.endswith((".egg-info", "cache", "cache__", ".hypothesis"))
        ]
        found += [
            Path(folder, name) for name in names if name not in GENERATED and not name.endswith((".png", ".svg", ".lock"))
        ]
    return found


def test_names_are_what_the_readme_says() -> None:
    """The distribution is capture-cli, its command is capture, and its version is defined once."""
    assert metadata("capture-cli")["Name"] == "capture-cli"
    assert version("capture-cli") == capture_cli.__version__
    (script,) = (point for point in entry_points(group="console_scripts") if point.name == "capture")
    assert script.value == "capture_cli.__main__:main"


@pytest.mark.parametrize("command", [[sys.executable, "-m", "capture_cli"], [str(Path(sys.executable).with_name("capture"))]])
def test_both_doors_open(command: list[str]) -> None:
    """`capture` and `python -m capture_cli` are the same command."""
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"capture {capture_cli.__version__}\n", "")


def test_lower_bounds_admit_the_versions_we_promise() -> None:
    """torch 2.10 with torchvision 0.25, and anything newer, is accepted."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert wanted["requires-python"] == ">=3.11"
    assert {"torch>=2.10", "torchvision>=0.25"} <= set(wanted["dependencies"])


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_lock_files_pin_everything_by_hash(lock: str) -> None:
    """Each requirement has one version per platform and a hash per file; no index, host or path is named."""
    text = (ROOT / lock).read_text()
    pins = re.findall(
        r"^([a-z0-9-]+)==\S+(?: ;[^\\\n]*)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE
    )
    named = {name for name, _ in pins}
    assert named >= {"torch", "torchvision", "typer", "rich", "pillow", "numpy", "orjson", "duckdb", "setuptools"}
    assert len(pins) == len(re.findall("==[0-9]", text)), "a line is not pinned with hashes"
    assert "://" not in text
    assert not re.search(r"\s(--index|--extra|--find|-e|file:)", text)


def test_both_lock_files_agree() -> None:
    """The tests run on exactly the versions that users get."""
    pins = [
        set(re.findall(r"^[a-z0-9-]+==[^\\\n]+", (ROOT / name).read_text(), re.M))
        for name in ("requirements.lock", "requirements-dev.lock")
    ]
    assert pins[0] < pins[1]


def test_lock_covers_every_dependency() -> None:
    """The lock files contain everything that pyproject.toml requires."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())
    runtime = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    dev = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements-dev.lock").read_text(), re.MULTILINE))
    assert {re.split("[<>=]", line)[0] for line in wanted["project"]["dependencies"]} <= runtime
    assert {re.split("[<>=]", line)[0] for line in wanted["dependency-groups"]["dev"]} <= dev


FORBIDDEN = {
    # Character classes keep these lines from matching themselves.
    "a path of one machine": r"/(hom[e]|User[s]|roo[t]|wor[k]|far[m])/[A-Za-z0-9_.]",
    "the host of a package index": r"pythonhoste[d]|pypi[.]or[g]|conda[.]anacond[a]|npmjs[.]or[g]|deb[.]debia[n]",
    "an address on a network": r"\b(?:10|192\.168|172\.16)(?:\.\d{1,3}){2,3}\b",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names_a_machine(what: str) -> None:
    """No file ties the project to one machine or one network."""
    found = []
    for path in files():
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if re.search(FORBIDDEN[what], line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, f"{what}:\n" + "\n".join(found)


def test_that_search_would_find_a_machine() -> None:
    """The test above can fail: each pattern finds an example."""
    examples = {
        "a path of one machine": "see /home" + "/ada/run",
        "the host of a package index": "files.python" + "hosted.org",
        "an address on a network": "at 192.168" + ".0.7",
    }
    assert all(re.search(pattern, examples[what]) for what, pattern in FORBIDDEN.items())


def risky(tree: ast.AST) -> list[tuple[int, str]]:
    """Return (line, name) of everything that evaluates code, unpickles or prints."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [
                (node.lineno, name)
                for name in names
                if name.split(".")[0] in {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
            ]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called == "np.load" and "allow_pickle=False" in map(ast.unparse, node.keywords):
                continue
            if called == "torch.load" and "weights_only=True" in map(ast.unparse, node.keywords):
                continue
            if called in {"eval", "exec", "print", "torch.load", "torch.save", "np.load", "numpy.load", "os.system"}:
                found.append((node.lineno, called))
    return found


PRINTS_ALLOWED = {"cli/__init__.py"}
"""The one module that prints, for the final error on stderr."""


def test_the_package_unpickles_nothing_and_prints_nothing() -> None:
    """No pickle in any form, no eval or exec, and no print in library code."""
    found = []
    for path in sorted((ROOT / "capture_cli").rglob("*.py")):
        inside = path.relative_to(ROOT / "capture_cli").as_posix()
        for line, name in risky(ast.parse(path.read_text("utf-8"))):
            if not (name == "print" and inside in PRINTS_ALLOWED):
                found.append(f"{inside}:{line}: {name}")
    assert not found, "\n".join(found)


def test_that_search_would_find_them() -> None:
    """The test above can fail: it finds each of these, but not a method called eval, nor a load that cannot unpickle."""
    code = "import pickle\nfrom torch import nn\ntorch.load(f)\neval(x)\nprint(x)\nmodel.eval()\nnp.load(f)\n"
    code += "np.load(f, allow_pickle=False)\ntorch.load(f, weights_only=True)\n"
    assert [name for _, name in risky(ast.parse(code))] == ["pickle", "torch.load", "eval", "print", "np.load"]


def mislabelled() -> list[dict[str, str]]:
    """Return the rows of MISLABELLED.tsv."""
    with (SAMPLE_DATA / "MISLABELLED.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_sample_data_holds_600_small_grey_pngs() -> None:
    """There are sixty files of each of ten classes, each a 28x28 greyscale PNG, less than 1 MB in total."""
    images = sorted(SAMPLE_DATA.glob("*.png"))
    classes = Counter(re.fullmatch(r"([a-z]+)_(\d{4})\.png", path.name)[1] for path in images)  # type: ignore[index]
    assert len(classes) == 10
    assert set(classes.values()) == {60}
    for path in images:
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (28, 28)), path.name
    assert sum(path.stat().st_size for path in SAMPLE_DATA.iterdir()) < 1_000_000
    assert len({path.read_bytes() for path in images}) == 600, "duplicate images"


def test_exactly_12_samples_are_mislabelled_and_listed() -> None:
    """Each row names an existing file, the class in its name, and another class."""
    rows = mislabelled()
    classes = {path.name.split("_")[0] for path in SAMPLE_DATA.glob("*.png")}
    assert len({row["file"] for row in rows}) == 12 == len(rows)
    for row in rows:
        assert list(row) == ["file", "label", "true_label"]
        assert (SAMPLE_DATA / row["file"]).is_file()
        assert row["label"] == row["file"].split("_")[0]
        assert row["true_label"] in classes - {row["label"]}


def test_sample_data_carries_its_licence() -> None:
    """The MIT licence of Fashion-MNIST is beside the images."""
    text = (SAMPLE_DATA / "LICENSE").read_text()
    assert "Copyright (c) 2017 Zalando SE" in text
    assert "The above copyright notice and this permission notice shall be included" in text


def test_ci_runs_the_command_of_the_readme() -> None:
    """.ci/run does not repeat the README's test command: it reads it."""
    section = (ROOT / "README.md").read_text().split("\n## Tests\n")[1].split("\n## ")[0]
    command = re.search(r"```sh[^\n]*\n(.*)\n", section)
    assert command
    assert command[1].split() == ["make", "check"]
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert "make" not in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("target", ["help", "setup", "demo", "test", "oldest", "lint", "types", "check", "bench", "clean"])
def test_make_knows_its_targets_and_lists_them(target: str) -> None:
    """`make` alone lists every target with its description, and `make -n` accepts each."""
    listed = subprocess.run(["make", "-C", str(ROOT), "--no-print-directory"], capture_output=True, text=True, timeout=60)
    assert re.search(rf"^  make {target} +\S", listed.stdout, re.MULTILINE), listed.stdout + listed.stderr
    planned = subprocess.run(["make", "-C", str(ROOT), "-n", target], capture_output=True, text=True, timeout=60)
    assert planned.returncode == 0, planned.stderr


def test_setup_says_which_python_it_needs(tmp_path: Path) -> None:
    """With a Python that is too old, `make setup` says so in one line and creates nothing."""
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    for lock in ("requirements.lock", "pyproject.toml"):
        (tmp_path / lock).touch()
    done = subprocess.run(["make", "setup", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0].startswith("capture needs Python 3.11 or newer")
    assert not (tmp_path / ".venv").exists()


PUBLIC = {
    "__version__",
    *{"Recorder", "ListSink", "identified", "open_run", "load_model", "Run", "Cursor", "CaptureError"},
    *{"MlflowSink", "TensorBoardSink", "LightningCapture", "TransformersCapture"},
}
"""The public API. Adding or removing a name is a decision."""


def test_the_public_names_are_few_and_each_is_there() -> None:
    """`__all__` lists them, each has a docstring, and any other name is an AttributeError."""
    assert set(capture_cli.__all__) == set(dir(capture_cli)) == PUBLIC
    for name in PUBLIC - {"__version__"}:
        one = getattr(capture_cli, name)
        assert one.__name__ == name
        assert one.__doc__
    with pytest.raises(AttributeError, match="module 'capture_cli' has no attribute 'Recoder'"):
        _ = capture_cli.Recoder


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_on_a_page(name: str) -> None:
    """Every public name appears on at least one page."""
    pages = "".join(page.read_text("utf-8") for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    assert name in pages or name == "__version__"


MISSING = {"LightningCapture": "Lightning is not installed", "TransformersCapture": "Transformers is not installed"}


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_package_is_one_line(name: str) -> None:
    """The hint names the extra; the rest of capture works without it."""
    code = f"""
import sys
for missing in ("lightning", "pytorch_lightning", "transformers"):
    sys.modules[missing] = None
from capture_cli import Recorder, identified
from capture_cli.errors import UsageError
try:
    from capture_cli import {name}
except UsageError as error:
    print(error.message + "; " + error.hint)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    extra = "lightning" if name == "LightningCapture" else "transformers"
    assert done.stdout.strip() == f"{MISSING[name]}; pip install 'capture-cli[{extra}]'", done.stderr
