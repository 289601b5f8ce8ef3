"""Images that a model was trained on, known by their files' digests in the records of its run.

seen = trained_digests(Path("runs/first/best.safetensors"))     # None: its run is not here
"""

from contextlib import suppress
from pathlib import Path

from capture_cli.errors import RecordsError
from capture_cli.records import Epoch, Samples
from capture_cli.runs import open_run
from capture_cli.runs.names import holds_run


def trained_digests(model: Path) -> frozenset[bytes] | None:
    """Return the digests (BLAKE2b, 16 bytes) of the files that a model was trained on; None without records beside its file.

    Reading ends with the first epoch, which has every image, unless a sampler draws them. Of damaged records what is before
    the damage counts.
    """
    if not holds_run(model.parent):
        return None
    seen = set[bytes]()
    with open_run(model.parent) as run, suppress(RecordsError):
        for block in run.blocks():
            if isinstance(block, Samples):
                pairs = zip(block.digests, block.splits, strict=True)
                seen.update(bytes.fromhex(digest) for digest, split in pairs if split == "train")
            elif isinstance(block, Epoch) and block.phase == "train" and "sampler" not in run.info.config:
                break
    return frozenset(seen)
