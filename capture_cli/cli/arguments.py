"""An option whose value may be left out, which Typer does not know: `--mlflow [URI]`."""

from collections.abc import Sequence

MLFLOW = "--mlflow"
DEFAULT_STORE = "a URI such as http://host:5000 or sqlite:///mlflow.db; without one MLFLOW_TRACKING_URI, else the latter"


def with_values(args: Sequence[str]) -> list[str]:
    """The command line with a value for every `--mlflow`: what follows it where that is a URI, else none.

    So `capture train --mlflow FOLDER` has a folder, and `--mlflow=NAME` takes anything.
    """
    given: list[str] = []
    rest = list(args)
    while rest and rest[0] != "--":
        arg = rest.pop(0)
        if arg == MLFLOW:
            arg = f"{MLFLOW}={rest.pop(0) if rest and '://' in rest[0] else ''}"
        given.append(arg)
    return given + rest
