"""`capture replay` as a user runs it: messages, files and exit codes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capture_cli import checkpoint
from capture_cli.errors import RecordsError, UsageError
from capture_cli.records import Batch, Record, RunInfo, decode
from capture_cli.replay.outputs import Outputs, differing_fields, restored_model
from conftest import CAPTURE, Capture
from replay_runs import VISITS, rewrite

Replayed = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def replay(here: Path, capture: Capture) -> Replayed:
    """Run `capture replay ARGS...` beside the runs."""
    return partial(capture, "replay", cwd=here)


def without_torch(here: Path) -> dict[str, str]:
    """An environment in which importing torch fails."""
    (here / "trap" / "torch").mkdir(parents=True)
    (here / "trap" / "torch" / "__init__.py").write_text("raise ImportError('torch is not asked for')\n")
    return {"PYTHONPATH": str(here / "trap")}


def records(run: Path) -> list[Record]:
    return [decode(line)[1] for line in (run / "records.jsonl").read_bytes().splitlines()]


def unstored(run: Path) -> str:
    """A file whose inputs were never stored."""
    batches = [record for record in records(run) if isinstance(record, Batch)]
    kept = {file for b in batches for file in b.files[: len(b.inputs.values or ())]}
    return next(file for b in batches for file in b.files if file not in kept)


class TestInputs:
    """Inputs reproduced and compared, without torch."""

    def test_all_inputs_are_reproduced(self, here: Path, replay: Replayed) -> None:
        """Success is one line on stdout and exit code 0; also as JSON and from a pipe."""
        env = without_torch(here)
        done = replay("whole", "--stored", env=env)
        said = f"{VISITS} inputs reproduced bit for bit; {VISITS} stored inputs compared, all equal\n"
        assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
        said = "2 inputs reproduced bit for bit; none of them was stored\n"
        assert replay("grown", "--sample", unstored(here / "grown"), "--stored").stdout == said
        done = replay("grown", "--phase", "val", "--epoch", "1", "--json", env=env)
        answer = json.loads(done.stdout)
        count = answer.pop("inputs")
        rest = {"run": "grown", "equal": count, "stored": 0, "causes": {}, "differences": [], "outputs": None}
        assert (count > 0, answer) == (True, rest)
        with (here / "grown" / "records.jsonl").open("rb") as file:
            done = replay("-", "--limit", "1", stdin=file, env=env)
        assert (done.returncode, done.stdout) == (0, "1 input reproduced bit for bit\n")

    def test_what_differs_is_named_with_its_cause(self, here: Path, replay: Replayed) -> None:
        """Differences are exit code 4 and one line per file on stderr, at most 20."""
        images = sorted((here / "images").iterdir())
        images[0].write_bytes(images[0].read_bytes() + b"\0")
        for path in images[1:31]:
            path.unlink()
        done = replay("whole", "--folder", "images")
        lines = done.stderr.splitlines()
        assert (done.returncode, len(lines)) == (4, 22)
        assert lines[20] == "... and 11 more"
        reasons = "the image files are missing (60), the image files changed after the run (2)"
        assert lines[21].endswith(f"62 inputs could not be reproduced: {reasons}; the lines above name the files")
        assert any(".png: the image file is missing; train batch " in line for line in lines)
        assert done.stdout == "58 of 120 inputs reproduced bit for bit\n"
        answer = json.loads(replay("whole", "--folder", "images", "--json").stdout)
        assert len(answer["differences"]) == 31
        (one,) = replay("whole", "--folder", "images", "--sample", images[0].name, "--json").stdout.splitlines()
        (difference,) = json.loads(one)["differences"]
        assert (difference["cause"], difference["subject"], difference["count"]) == ("changed", "ant_000.png", 2)

    def test_the_folder_may_have_moved(self, here: Path, replay: Replayed) -> None:
        """Images are found from another folder; if they were moved, --folder finds them, and the error says so."""
        elsewhere = here / "elsewhere"
        elsewhere.mkdir()
        events = here / "whole" / "events.jsonl"
        events.write_text(json.dumps({"event": "start", "folder_absolute": str(here / "images")}))
        assert replay(here / "whole", cwd=elsewhere).returncode == 0
        (here / "images").rename(here / "moved")
        done = replay("whole")
        assert (done.returncode, done.stdout) == (2, "")
        assert "the folder 'images' of this run is not here; --folder PATH says where its images are now" in done.stderr
        assert replay("whole", "--folder", "moved").returncode == 0
        done = replay("whole", "--folder", "whole", "--limit", "3")
        assert (done.returncode, done.stdout) == (4, "0 of 3 inputs reproduced bit for bit\n")

    def test_hostile_names_do_not_reach_the_terminal(self, here: Path, replay: Replayed) -> None:
        """Messages hold no control characters, whatever the files are called."""
        rewrite(here / "whole", lambda r: replace(r, files=["\x1b[2J" + f for f in r.files]) if isinstance(r, Batch) else r)
        done = replay("whole", "--limit", "2")
        assert done.returncode == 4
        assert "\x1b" not in done.stdout + done.stderr
        assert r"\x1b[2J" in done.stderr

    @pytest.mark.parametrize(
        ("args", "says"),
        [
            (["--epoch", "7"], "no captured input matches --epoch 7"),
            (["--sample", "x", "--phase", "val"], "no captured input matches --phase val --sample x"),
            (["--outputs", "--limit", "2"], "--outputs needs whole batches"),
            (["--model", "m.py:build"], "--model is for --outputs"),
            (["--folder", "nowhere"], "no such folder: 'nowhere'"),
            (["--npy", "images/ant_000.png"], "'images/ant_000.png' exists"),
            (["--png", "images/ant_000.png"], "'images/ant_000.png' cannot be made"),
        ],
    )
    def test_wrong_usage(self, replay: Replayed, args: list[str], says: str) -> None:
        """Wrong usage is exit code 2 and a way out, with nothing on stdout."""
        done = replay("whole", *args)
        assert (done.returncode, done.stdout) == (2, "")
        assert says in done.stderr

    def test_damaged_records_are_named(self, here: Path, replay: Replayed) -> None:
        """Damage is named with exit code 4 after the rest is compared; an incomplete last line is noted."""
        path = here / "whole" / "records.jsonl"
        whole = path.read_bytes()
        path.write_bytes(whole[:-10])
        done = replay("whole")
        assert (done.returncode, done.stdout) == (0, f"{VISITS} inputs reproduced bit for bit\n")
        assert "an incomplete last line" in done.stderr
        path.write_bytes(whole.replace(b'"phase":"val","epoch":1', b'"phase":"val","epoch":3', 1))
        done = replay("whole")
        assert done.returncode == 4
        assert re.fullmatch(r"[1-9]\d inputs reproduced bit for bit\n", done.stdout)  # those before the damage
        assert "its chain does not fit" in done.stderr
        path.write_bytes(b"")
        done = replay("whole")
        assert (done.returncode, done.stdout) == (4, "")
        assert "no records" in done.stderr


class TestFilesWritten:
    """--png and --npy."""

    def test_tensors_are_exact(self, here: Path, replay: Replayed) -> None:
        """--npy writes the stored bytes of the run, in the order of the records."""
        assert replay("whole", "--npy", "x.npy", "--epoch", "1").returncode == 0
        pack = (here / "whole" / "inputs" / "pack-00000.bin").read_bytes()
        batches = [r for r in records(here / "whole") if isinstance(r, Batch) and r.epoch == 1]
        places = [at for b in batches for at in (b.inputs.stored or {})["offsets"]]
        assert np.load(here / "x.npy").tobytes() == b"".join(pack[at : at + 1440] for at in places)

    def test_an_incomplete_tensor_file_is_removed(self, here: Path, replay: Replayed) -> None:
        """If inputs are missing, the .npy file is removed and a message says so."""
        (here / "images" / "ant_000.png").unlink()
        done = replay("whole", "--npy", "x.npy", "--folder", "images")
        assert done.returncode == 4
        assert "x.npy was not written: 2 inputs would be missing" in done.stderr
        assert not (here / "x.npy").exists()

    def test_pictures_are_what_the_network_saw(self, here: Path, replay: Replayed) -> None:
        """Pictures of evaluated images have the files' pixels; their names have epoch, phase, batch, position and id."""
        done = replay("whole", "--png", "seen/here", "--phase", "val", "--epoch", "1")
        assert done.returncode == 0
        assert "8 bits per channel, to seen/here; --npy writes the exact tensors" in done.stderr
        batches = [r for r in records(here / "whole") if isinstance(r, Batch) and (r.phase, r.epoch) == ("val", 1)]
        names = {f"e0001-val-b{b.batch:05d}-s{i:03d}-id{b.ids[i]}.png": file for b in batches for i, file in enumerate(b.files)}
        assert {path.name for path in (here / "seen" / "here").iterdir()} == names.keys()
        for name, file in names.items():
            with Image.open(here / "seen" / "here" / name) as seen, Image.open(here / "images" / file) as image:
                assert (np.asarray(seen) == np.asarray(image)).all()
        again = replay("whole", "--png", "seen/here", "--phase", "val", "--epoch", "1")
        assert again.returncode == 2
        assert "exists" in again.stderr
        assert replay("whole", "--png", "seen/here", "--phase", "val", "--epoch", "1", "--force").returncode == 0


def spoil_weights(path: Path, *, chain: str | None = None) -> None:
    """Change one weight of a checkpoint, or its chain, as anyone who knows the format could."""
    progress, tensors = checkpoint.read(path)
    name = next(name for name in tensors if name.startswith("model.") and name.endswith("weight"))
    if chain is None:
        tensors[name].view(-1)[0] += 0.25
    body = {"progress": {**vars(progress), "journal": {**progress.journal, "chain": chain or progress.journal["chain"]}}}
    path.write_bytes(checkpoint.to_bytes(json.dumps(body), tensors))


class TestOutputs:
    """Outputs are recomputed where there are weights."""

    def test_they_are_equal_bit_for_bit(self, here: Path, replay: Replayed) -> None:
        """A training batch with dropout, batch normalisation and augmentation is equal, and so is the last evaluation."""
        answer = json.loads(replay("whole", "--outputs", "--json").stdout)
        batches = [r for r in records(here / "whole") if isinstance(r, Batch)]
        steps = {int(checkpoint.read(path)[0].writer["step"]) for path in (here / "whole").glob("checkpoint*")}
        matching = [b for b in batches if b.step in steps]
        assert {b.phase for b in matching} == {"train", "val"}
        assert (answer["outputs"], answer["equal"], answer["causes"]) == (len(matching), VISITS, {})
        done = replay("grown", "--outputs")  # of the two most probable classes only
        assert done.returncode == 0
        assert "recomputed, all equal" in done.stdout

    def test_another_weight_is_noticed(self, here: Path, replay: Replayed) -> None:
        """A damaged checkpoint is found by its digest, a rebuilt one with another weight by the outputs."""
        path = here / "whole" / "checkpoint.safetensors"
        spoil_weights(path)
        (here / "whole" / "checkpoint-previous.safetensors").write_bytes(path.read_bytes()[:-8] + bytes(8))
        done = replay("whole", "--outputs", "--phase", "val")
        assert done.returncode == 4
        assert "checkpoint-previous.safetensors cannot be used: its bytes are not those that were written" in done.stderr
        assert "val batch 0 of epoch 2: the model's outputs differ from the record (loss was " in done.stderr
        assert re.search(r"losses of \d samples, probs of \d samples", done.stderr)

    def test_other_threads_are_named(self, here: Path, replay: Replayed) -> None:
        """Other software, threads or device than the run's are exit code 2, since bits may differ."""
        run = records(here / "whole")[0]
        assert isinstance(run, RunInfo)
        other = run.threads - 1 or 2  # torch takes no more threads than there are processors
        done = replay("whole", "--outputs", env={"OMP_NUM_THREADS": str(other)})
        assert (done.returncode, done.stdout) == (2, "")
        assert f"threads were {run.threads}, are {other}; OMP_NUM_THREADS={run.threads} sets the threads" in done.stderr

    def test_missing_weights_are_named(self, here: Path, replay: Replayed) -> None:
        """Missing or foreign weights are named; for the last evaluation the final model is enough."""
        done = replay("whole", "--outputs", "--epoch", "1", "--phase", "train")
        assert done.returncode == 2
        assert "no batch could be recomputed: the checkpoints are of step" in done.stderr
        with pytest.raises(UsageError, match="needs the checkpoints of a run folder"):
            Outputs(None)
        for path in (here / "whole").glob("checkpoint*"):
            spoil_weights(path, chain="0" * 32)
        with pytest.raises(UsageError, match="does not belong to these records"):
            Outputs(here / "whole")
        for path in (here / "whole").glob("checkpoint*"):
            path.unlink()
            os.mkfifo(path)
        with pytest.raises(UsageError, match="it is not a regular file"):
            Outputs(here / "whole")
        for path in (here / "whole").glob("checkpoint*"):
            path.unlink()
        answer = json.loads(replay("whole", "--outputs", "--json").stdout)
        last = [r for r in records(here / "whole") if isinstance(r, Batch) and (r.phase, r.epoch) == ("val", 2)]
        assert answer["outputs"] == len(last) > 0
        (here / "whole" / "model.safetensors").unlink()
        with pytest.raises(UsageError, match="no weights in"):
            Outputs(here / "whole")

    def test_code_that_a_record_names_does_not_run(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file of code runs only if the user names it, whatever the records say."""
        monkeypatch.chdir(here)
        Path("evil.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
        run = records(Path("whole"))[0]
        assert isinstance(run, RunInfo)
        hostile = replace(run, config={**run.config, "model": "evil.py:build"})
        with pytest.raises(UsageError, match=r"the model of this run is evil\.py:build, a file of code"):
            restored_model(hostile, None)
        assert not Path("ran").exists()
        with pytest.raises(UsageError, match="is not the model of this run"):
            restored_model(run, "evil.py:build")
        assert not Path("ran").exists()

    def test_run_records_are_checked(self, here: Path) -> None:
        """Unknown options, an evaluation, other software and another device are refused."""
        run = records(here / "whole")[0]
        assert isinstance(run, RunInfo)
        with pytest.raises(RecordsError, match="does not know"):
            restored_model(replace(run, config={**run.config, "new": 1}), None)
        with pytest.raises(UsageError, match="capture evaluate"):
            restored_model(replace(run, config={"weights_digest": "0" * 32}), None)
        with pytest.raises(UsageError, match=r"torch was 1\.0, is .*; device was cuda:7 X, is "):
            restored_model(replace(run, versions={**run.versions, "torch": "1.0"}, device="cuda:7 X"), None)

    def test_bits_are_compared(self, here: Path) -> None:
        """The next float, another sign of zero and another shape are differences; NaN equals NaN."""
        batch = next(r for r in records(here / "whole") if isinstance(r, Batch))
        probs = batch.probs.copy()
        probs[2, 1] = np.nextafter(probs[2, 1], np.float32(1))
        assert differing_fields(batch, replace(batch, probs=probs)) == "probs of 1 samples"
        zeros = replace(batch, losses=np.zeros(8, np.float32))
        assert differing_fields(zeros, replace(batch, losses=-np.zeros(8, np.float32))) == "losses of 8 samples"
        nans = np.full(8, np.nan, np.float32)
        other = (nans.view(np.int32) | 1).view(np.float32)
        assert differing_fields(replace(batch, losses=nans), replace(batch, losses=other)) == ""
        assert differing_fields(batch, replace(batch, probs=probs[:, :2])) == "probs of another shape"
        assert differing_fields(batch, replace(batch, topk=batch.labels[:, None])) == "topk of another shape"


def test_torch_is_loaded_for_outputs_alone(here: Path) -> None:
    """The trap in these tests works, and the library does not import torch."""
    code = "import sys, capture_cli.replay.exports, capture_cli.views.terminal.replay; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
    args = [*CAPTURE, "replay", "whole", "--outputs"]
    done = subprocess.run(args, cwd=here, env={**os.environ, **without_torch(here)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "torch is not asked for" in done.stderr
