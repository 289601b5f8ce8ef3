"""`make docs`: runs the console blocks of every page and writes down what they printed; writes the command reference anew.

python docs/record.py           # afterwards, `git diff` shows what has changed for whoever reads the pages
"""

import sys
import tempfile
from pathlib import Path

import cli_reference
from pages import Block, blocks, commands, exchanges, pages, prepare, run_python, run_shell


def recorded(page: str, folder: Path) -> str:
    """`page` with the outputs of its console blocks as they come out now. Raises BlockError where a block does not run."""
    lines = page.splitlines(keepends=True)
    pieces, at = [], 0
    for block in blocks(page):
        length = block.text.count("\n")
        pieces += lines[at : block.line - 1]
        pieces.append(_ran(block, folder))
        at = block.line - 1 + length
    return "".join([*pieces, *lines[at:]])


def _ran(block: Block, folder: Path) -> str:
    kind = block.info.split(" ")[0]
    if kind == "console":
        said = ((exchange.command, run_shell(exchange.command, folder)) for exchange in exchanges(block.text))
        return "".join(f"$ {command}\n{_tidy(output)}" for command, output in said)
    if block.info == "sh":
        for command in commands(block.text):
            run_shell(command, folder)
    elif block.info == "python":
        run_python(block.text, folder)
    return block.text


def _tidy(output: str) -> str:
    """Spaces at the end of a line are padding of a table's last column."""
    return "".join(f"{line.rstrip()}\n" for line in output.splitlines())


def main() -> None:
    """Record every page that has something to record."""
    cli_reference.main()
    for path in pages():
        page = path.read_text("utf-8")
        if not any(block.info.startswith("console") for block in blocks(page)):
            continue
        print(f"recording {path.name} ...", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder))
            path.write_text(recorded(page, Path(folder)), "utf-8")


if __name__ == "__main__":
    main()
