"""The content of a Debian data package, without installing it: `unpacked("dataset-fashion-mnist", cache)`."""

import shutil
import subprocess
from pathlib import Path


class NoDataError(Exception):
    """The data of a benchmark cannot be had here; the message says what was tried and what would help."""


def unpacked(package: str, cache: Path, *, instead: str) -> Path:
    """The folder that a package is unpacked in, below `cache`, downloaded with `apt-get download` if it is not there yet.

    Raises NoDataError where that cannot be done; `instead` says what else would do.
    """
    target = cache / package
    if not target.exists():
        _download(package, target, instead)
    return target


def _download(package: str, target: Path, instead: str) -> None:
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise NoDataError(f"there is no apt-get here to download {package} with; {instead}")
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_suffix(".part")  # renamed when whole: an interrupted download leaves no folder that looks complete
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    try:
        for command in (["apt-get", "download", "-q", package], ["sh", "-c", "dpkg-deb -x *.deb ."]):
            subprocess.run(command, cwd=half, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "nothing").strip().splitlines()[-1:]
        raise NoDataError(f"{' '.join(error.cmd[:2])} failed ({''.join(said)}); {instead}") from error
    half.rename(target)
