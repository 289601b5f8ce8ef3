"""Tracking URIs: find out in seconds if anything is there, where MLflow itself tries for minutes.

check(uri)          # raises UsageError, naming it, if nobody answers
absolute(uri)       # a file's URI as it is from any folder
"""

import os
import socket
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from capture_cli.errors import UsageError, redacted

CONNECT_SECONDS = 5.0
"""For a server to take a connection; one that is not there mostly refuses it at once."""
ANSWER_SECONDS = 20.0
"""For a server that has taken it: on a busy machine it may be slow."""
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
OTHER = "give another URI, such as sqlite:///mlflow.db"
HINT = f"start one with `mlflow server`, or {OTHER}"


def check(uri: str) -> None:
    """Raise UsageError unless a server answers, or the folder of a database or store is there."""
    parts = urlsplit(uri)
    kind = parts.scheme.partition("+")[0]
    if kind in ("http", "https"):
        _ask(uri)
    elif kind == "sqlite":
        path = Path(unquote(parts.path[1:])).absolute()
        if not (os.access(path, os.W_OK) if path.exists() else os.access(path.parent, os.W_OK)) or path.is_dir():
            raise UsageError(f"the database '{path}' cannot be written", "give a file in a folder that is there")
    elif kind in _PORTS and parts.hostname:
        try:
            socket.create_connection((parts.hostname, parts.port or _PORTS[kind]), CONNECT_SECONDS).close()
        except OSError as error:
            raise UsageError(f"no server at {redacted(uri)}: {error.strerror or error}", HINT) from error


def _ask(uri: str) -> None:
    import requests

    url, seconds = f"{uri.rstrip('/')}/health", (CONNECT_SECONDS, ANSWER_SECONDS)
    try:  # any answer will do: a server that refuses it is there, and MLflow has the credentials
        requests.get(url, timeout=seconds, stream=True, verify=False).close()  # noqa: S501 - nothing is sent
    except requests.ReadTimeout as error:
        message = f"the server at {redacted(uri)} takes connections, but does not answer within {ANSWER_SECONDS:g} seconds"
        raise UsageError(message, "it may be overloaded: look at its log, or give another URI") from error
    except (requests.RequestException, ValueError) as error:
        raise UsageError(f"no server at {redacted(uri)}", HINT) from error


def absolute(uri: str) -> str:
    """Make the URI of a SQLite file hold from any folder; return any other as it is."""
    parts = urlsplit(uri)
    if parts.scheme.partition("+")[0] != "sqlite" or not parts.path.strip("/"):
        return uri
    return f"{parts.scheme}:///{quote(str(Path(unquote(parts.path[1:])).absolute()))}"
