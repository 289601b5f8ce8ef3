"""`capture predict`: a trained model on images without labels."""

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pexpect
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from capture_cli import load_model, open_run
from capture_cli.answers.summary import summarise
from capture_cli.cli import run
from capture_cli.preprocessing import digests
from capture_cli.records import Batch
from capture_cli.sinks.pictures import picture_name
from conftest import CAPTURE, train_networks
from terminal import Screen


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of images, and a run of each of three networks on them."""
    return train_networks(tmp_path_factory.mktemp("place"), "linear", "mlp", "cnn")


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in that folder."""
    monkeypatch.chdir(place)
    return place


def _predicted(capfdbinary: pytest.CaptureFixture[bytes], *args: object, code: int = 0) -> list[dict[str, object]]:
    assert run(["predict", *map(str, args)]) == code
    return [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]


def test_each_image_has_one_line(here: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """File, prediction, probability, entropy and the most probable classes, which agree with each other."""
    lines = _predicted(capfdbinary, "linear", "images")
    assert [one["file"] for one in lines] == sorted(f"images/{one.name}" for one in (here / "images").iterdir())
    for one in lines:
        assert list(one) == ["file", "pred", "p_pred", "entropy", "topk"]
        names, ps = zip(*one["topk"], strict=True)
        assert (names[0], ps[0]) == (one["pred"], one["p_pred"])
        assert sorted(ps, reverse=True) == list(ps)
        assert sum(ps) == pytest.approx(1, abs=1e-6)
        assert one["entropy"] == pytest.approx(-sum(p * np.log(p) for p in ps), abs=1e-5)


def test_predictions_are_those_of_evaluate(here: Path, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    """The same probabilities, and the same inputs bit for bit, from paths and from pictures of Pillow."""
    for model in ("linear", "mlp", "cnn"):
        assert run(["evaluate", model, "images", "-q", "-o", str(tmp_path / f"{model}.jsonl")]) == 0
        capfdbinary.readouterr()
        with open_run(tmp_path / f"{model}.jsonl") as evaluated:
            (batch,) = [one for one in evaluated.records() if isinstance(one, Batch)]
        assert batch.files
        paths = [f"images/{file}" for file in batch.files]
        classifier = load_model(here / "runs" / model)
        assert digests(classifier.inputs(paths).numpy()) == batch.inputs.digests
        opened = [Image.open(path) for path in paths]
        assert digests(classifier.inputs(opened).numpy()) == batch.inputs.digests
        probs = np.stack([one.probs for one in classifier(paths) if one])
        assert np.abs(probs - batch.probs).max() < 1e-6  # evaluate does not fill up its last batch
        assert np.array_equal(probs.argmax(1), batch.preds)


@pytest.mark.parametrize("model", ["linear", "mlp", "cnn"])
def test_a_prediction_depends_on_its_image_alone(here: Path, model: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Not on the batch size, the other images, or their order."""
    whole = {one["file"]: one for one in _predicted(capfdbinary, model, "images")}
    files = sorted(whole)
    sizes = ([*("-b", size), "images"] for size in ("1", "7", "24", "64"))
    for args in (*sizes, files[::-1], files[3:20], files[5:6]):
        for one in _predicted(capfdbinary, model, *args):
            assert one == whole[one["file"]]


def test_csv_has_the_same_numbers(here: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """A line of names, then a row an image, with as many classes as --top asks for."""
    lines = _predicted(capfdbinary, "cnn", "images", "--top", "2")
    assert run(["predict", "cnn", "images", "--top", "2", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capfdbinary.readouterr().out.decode())))
    assert list(rows[0]) == ["file", "pred", "p_pred", "entropy", "pred_2", "p_2"]
    for row, line in zip(rows, lines, strict=True):
        assert (row["file"], row["pred"], float(row["p_pred"])) == (line["file"], line["pred"], line["p_pred"])
        assert [row["pred_2"], float(row["p_2"])] == line["topk"][1]  # type: ignore[index]


def test_images_are_named_in_many_ways(
    here: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Folders, files of any extension, patterns, links, and names on stdin; each file once, in the order given."""
    odd = tmp_path / "caf\udce9 ä,1.dat"
    odd.write_bytes((here / "images/cat_000.png").read_bytes())
    (tmp_path / "link.png").symlink_to(odd)
    names = [odd, tmp_path / "link.png", "images/bee_00[01].png", "images/bee_001.png", "images"]
    files = [one["file"] for one in _predicted(capfdbinary, "linear", *names)]
    assert files[:5] == [*map(str, names[:2]), "images/bee_000.png", "images/bee_001.png", "images/ant_000.png"]
    assert len(files) == 38
    for separator in (b"\n", b"\0"):
        names_on_stdin = io.TextIOWrapper(io.BytesIO(separator.join([os.fsencode(odd), b"images/ant_001.png", b""])))
        monkeypatch.setattr("sys.stdin", names_on_stdin)
        assert [one["file"] for one in _predicted(capfdbinary, "linear", "-")] == [str(odd), "images/ant_001.png"]
    (tmp_path / "ends in\r").write_bytes(odd.read_bytes())
    lines = os.fsencode(f"images/ant_001.png\r\n{tmp_path}/ends in\r\nimages/ant_002.png\r\n\r\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    files = [one["file"] for one in _predicted(capfdbinary, "linear", "-")]
    assert files == ["images/ant_001.png", f"{tmp_path}/ends in\r", "images/ant_002.png"]
    assert run(["predict", "linear", str(odd), "--format", "csv", "-q"]) == 0
    assert os.fsencode(str(odd)) in capfdbinary.readouterr().out


def test_the_format_has_short_options(here: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """As in rows and suspects; two of them are wrong usage."""
    for short, name in (("--csv", "csv"), ("--json", "jsonl")):
        assert run(["predict", "linear", "images", short]) == run(["predict", "linear", "images", "--format", name]) == 0
        lines = capfdbinary.readouterr().out.splitlines()
        assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]
    assert run(["predict", "linear", "images", "--csv", "--json"]) == 2
    assert run(["predict", "linear", "images", "--csv", "--format", "jsonl"]) == 2
    assert b"give one of them" in capfdbinary.readouterr().err


def test_a_run_behind_its_images_is_told_the_order(here: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """By name or path, after one folder or many files."""
    assert run(["predict", "images", "linear"]) == 2
    said = b"'images' is no run, and 'linear' is one; the run comes first: capture predict linear images\n"
    assert said in capfdbinary.readouterr().err
    assert run(["predict", "images/ant_000.png", "images/ant_001.png", "runs/linear"]) == 2
    assert b"the run comes first: capture predict runs/linear IMAGES...\n" in capfdbinary.readouterr().err
    assert run(["evaluate", "images", "linear"]) == 2
    assert b"the run comes first: capture evaluate linear images\n" in capfdbinary.readouterr().err


def test_what_cannot_be_used_is_named(here: Path, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    """On stderr, with the reason and the number; the others are predicted. Exit code 3 if there are none."""
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "notes.txt").write_text("no picture")
    assert run(["predict", "linear", str(tmp_path), "nowhere.png", "images/ant_000.png"]) == 0
    captured = capfdbinary.readouterr()
    assert len(captured.out.splitlines()) == 1
    message = captured.err.decode()
    assert f"skipped {tmp_path}/text.png: not-an-image" in message
    assert "skipped nowhere.png: missing" in message
    said = "1 image predicted by runs/linear/best.safetensors; 2 cannot be used; skipped in folders: 1 unsupported-extension"
    assert said in message
    assert run(["predict", "linear", str(tmp_path / "text.png")]) == 3
    assert "none of the 1 images can be used" in capfdbinary.readouterr().err.decode()
    (tmp_path / "text.png").unlink()
    assert run(["predict", "linear", str(tmp_path)]) == 3
    assert f"no images in {tmp_path}" in capfdbinary.readouterr().err.decode()


def test_names_without_a_file_are_one_line(here: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """A name and a pattern, each said for what it is; a pattern without a match beside images is skipped."""
    for names, said in (
        (["nowhere.png"], "no such file: 'nowhere.png'"),
        (["*.gif"], "no file matches '*.gif'"),
        (["a.png", "*.gif"], "none of these 2 files exist: 'a.png', '*.gif'"),
    ):
        assert run(["predict", "linear", *names]) == 3
        assert capfdbinary.readouterr() == (b"", f"capture: {said}; name files, folders or patterns\n".encode())
    assert run(["predict", "linear", "*.gif", "images/ant_000.png"]) == 0
    assert b"skipped *.gif: no file matches\n" in capfdbinary.readouterr().err


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_picture_on_stdin_is_no_list_of_names(
    here: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """One line; a name that is not there is no picture, in whatever encoding it is."""
    picture = io.BytesIO()
    Image.open("images/ant_000.png").save(picture, form)
    for data, code, said in (
        (picture.getvalue(), 2, "capture: stdin holds no names of files; name the images as arguments, "),
        ("größe\xa0ä.png\n".encode(), 3, "capture: no such file: 'größe"),
    ):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert run(["predict", "linear", "-"]) == code
        out, err = capfdbinary.readouterr()
        assert (out, err.count(b"\n"), err.decode().startswith(said)) == (b"", 1, True), err


def test_min_confidence_leaves_out_the_rest(here: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """And counts them."""
    lines = _predicted(capfdbinary, "linear", "images")
    middle = sorted(float(str(one["p_pred"])) for one in lines)[18]
    assert run(["predict", "linear", "images", "--min-confidence", str(middle)]) == 0
    captured = capfdbinary.readouterr()
    kept = [json.loads(line) for line in captured.out.splitlines()]
    assert kept == [one for one in lines if float(str(one["p_pred"])) >= middle]
    assert b"18 of them not shown: below --min-confidence" in captured.err


def test_records_are_a_run_that_every_command_reads(
    here: Path, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    """Phase `predict`: it verifies, its inputs are reproduced, and no sample has a label."""
    out = str(tmp_path / "run")
    (tmp_path / "text.png").write_text("no picture")
    lines = _predicted(capfdbinary, "cnn", "images", tmp_path / "text.png", "--records", out)
    for command in ("verify", "replay", "inspect"):
        assert run([command, out]) == 0, command
    capfdbinary.readouterr()
    with open_run(out) as opened:
        summary = summarise(opened)
        assert summary.state.is_finished
        assert summary.skipped == {"not-an-image": 1}
        assert summary.phase
        assert (summary.phase.phase, summary.phase.n, summary.phase.correct, summary.phase.loss) == ("predict", 36, None, None)
        assert sum(one.n for one in summary.phase.predicted) == 36
        least = min(float(str(one["p_pred"])) for one in lines)
        assert summary.phase.worst[0].visit.p_pred == pytest.approx(least)  # type: ignore[union-attr]
    assert run(["rows", out]) == 0
    rows = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [(one["pred"], one["p_pred"]) for one in rows] == [(one["pred"], one["p_pred"]) for one in lines]
    for name in ("label", "correct", "p_label", "margin", "loss_nats"):
        assert {one[name] for one in rows} == {None}
    assert run(["rows", out, "--format", "csv", "--limit", "1"]) == 0
    names, row = csv.reader(io.StringIO(capfdbinary.readouterr().out.decode()))
    assert (dict(zip(names, row, strict=True))["label"], dict(zip(names, row, strict=True))["pred"]) == ("", lines[0]["pred"])
    assert run(["inspect", out, "--sample", "ant_000.png"]) == 0
    assert run(["predict", "cnn", "images", "--records", out]) == 2
    assert b"already holds a run" in capfdbinary.readouterr().err


def test_a_name_is_a_run_in_runs(here: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """As in `train` and `evaluate`; it is overwritten only if that is asked for."""
    assert run(["predict", "cnn", "images", "-q", "--name", "named"]) == 0
    with open_run(here / "runs" / "named") as opened:
        assert [one.phase for one in opened.visits()] == ["predict"]
    assert run(["predict", "cnn", "images", "-q", "--name", "named"]) == 2
    assert run(["predict", "cnn", "images", "-q", "--name", "named", "--force"]) == 0


def test_equal_predictions_write_equal_records(here: Path, tmp_path: Path) -> None:
    """Byte for byte, whatever the number of threads that decode."""
    for name, workers in (("a", "0"), ("b", "3")):
        args = ["--workers", workers, "-q", "--records", str(tmp_path / f"{name}.jsonl")]
        assert run(["predict", "mlp", "images", *args]) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("linear images --format xml", "--format xml is not valid; choose jsonl or csv"),
        ("linear images --records -", "the predictions go to standard output"),
        ("linear images --force", "--force is only valid with --records or --name"),
        ("linear images --records a --name a", "--records and --name both say where the run goes"),
        ("lenear images", "no such run: 'lenear'; did you mean linear?"),
        ("images images", "'images' is not a run; name a run of `capture train`"),
        ("linear images --device cuda:99", "--device cuda:99 is not available"),
        ("runs/linear/model.safetensors images --last", "--last is only valid with a run folder"),
    ],
)
def test_options_are_checked_first(here: Path, args: str, message: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Exit 2, one line, nothing on stdout."""
    assert run(["predict", *args.split()]) == 2
    captured = capfdbinary.readouterr()
    assert captured.out == b""
    assert message in captured.err.decode()


def test_predictions_can_be_sent_to_a_tracker(here: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Without labels; and `suspects` says that it needs some."""
    assert run(["predict", "linear", "images", "-q", "--records", str(tmp_path / "run")]) == 0
    assert run(["log", str(tmp_path / "run"), "--tensorboard"]) == 0
    assert run(["suspects", str(tmp_path / "run")]) == 2
    assert b"has predictions of images without labels" in capfdbinary.readouterr().err
    assert picture_name(0, {"file": "a b.png", "pred": "ant"}) == "00-a_b.png-as-ant.png"


def test_a_terminal_shows_pictures(here: Path) -> None:
    """Half blocks with file, prediction and probability below; the rest, and --format, in lines."""
    for args, pictures, lines in ((["images"], 32, 4), (["images", "--format", "csv"], 0, 37)):
        env = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        env.pop("NO_COLOR", None)
        command = [*CAPTURE, "predict", "linear", *args]
        shown = pexpect.spawn(command[0], command[1:], env=env, dimensions=(60, 100), encoding="utf-8", timeout=120).read()
        screen = Screen(columns=100)
        screen.feed(shown)
        assert sum(line.count("ant_0") + line.count("bee_0") + line.count("cat_0") for line in screen.lines) == 36
        assert ("▀" in screen.text) is bool(pictures)
        assert len([line for line in screen.lines if line.startswith(("images/", "file,"))]) == lines


def test_what_a_model_prints_is_not_data(here: Path, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    """A network of one's own is announced, and may print."""
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, size, classes):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(size, classes)\n"
        "    def forward(self, x):\n"
        "        print('loud')\n"
        "        return self.layer(x.flatten(1))\n"
        "def make(classes, channels, height, width):\n"
        "    return Net(channels * height * width, classes)\n"
    )
    out = str(tmp_path / "run")
    assert run(["train", "images", "-m", f"{tmp_path}/net.py:make", "-e", "1", "--img-size", "8", "-q", "-o", out]) == 0
    capfdbinary.readouterr()
    assert run(["predict", out, "images"]) == 0
    captured = capfdbinary.readouterr()
    assert len([json.loads(line) for line in captured.out.splitlines()]) == 36
    assert b"net.py" in captured.err
    assert b"loud" in captured.err


def test_a_model_that_says_nan_gives_null(here: Path, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    """The lines stay JSON, and the records verify."""
    weights = {name: torch.full_like(value, torch.nan) for name, value in load_file("runs/linear/model.safetensors").items()}
    with safe_open("runs/linear/model.safetensors", "pt") as file:
        save_file(weights, tmp_path / "nan.safetensors", file.metadata())
    lines = _predicted(capfdbinary, tmp_path / "nan.safetensors", "images", "--records", tmp_path / "run")
    assert {(one["p_pred"], one["entropy"]) for one in lines} == {(None, None)}
    assert run(["verify", str(tmp_path / "run")]) == 0
    assert run(["inspect", str(tmp_path / "run")]) == 0
    assert run(["predict", str(tmp_path / "nan.safetensors"), "images", "--format", "csv"]) == 0
