"""Record the console sessions of every page again, and regenerate the command reference (`make docs`).

python docs/record.py                       # every page; then `git diff` shows what changes for readers
python docs/record.py README.md docs/cli.md # these pages only
"""

import sys
import tempfile
from pathlib import Path

import cli_reference
from pages import Block, blocks, commands, exchanges, pages, prepare, run_python, run_shell


def recorded(page: str, folder: Path) -> str:
    """Return `page` with new outputs in its console blocks. Raises BlockError if a block fails."""
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
        printed = ((exchange.command, run_shell(exchange.command, folder)) for exchange in exchanges(block.text))
        return "".join(f"$ {command}\n{_tidy(output)}" for command, output in printed)
    if block.info == "sh":
        for command in commands(block.text):
            run_shell(command, folder)
    elif block.info == "python":
        run_python(block.text, folder)
    return block.text


def _tidy(output: str) -> str:
    """Remove trailing spaces, which pad the last column of a table."""
    return "".join(f"{line.rstrip()}\n" for line in output.splitlines())


def main() -> None:
    """Record the pages named on the command line, or all of them."""
    cli_reference.main()
    for path in [Path(name).resolve() for name in sys.argv[1:]] or pages():
        page = path.read_text("utf-8")
        if not any(block.info.startswith("console") for block in blocks(page)):
            continue
        print(f"recording {path.name} ...", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder))
            path.write_text(recorded(page, Path(folder)), "utf-8")


if __name__ == "__main__":
    main()
