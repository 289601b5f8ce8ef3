"""`capture mcp`, spoken to by the protocol's own client over stdio, as an assistant does."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

from calling import Caller
from capture_cli.assistant import MAX_CHARS, Tools
from capture_cli.errors import UsageError
from capture_cli.preprocessing import Recipe
from capture_cli.records import Record, RunInfo
from conftest import CAPTURE, make_images
from runs import run_records, write_run


def talk(folder: Path, runs: list[str], conversation: Callable[[ClientSession], Any]) -> None:
    """Start the server in `folder`, hold the conversation, and end it."""

    async def session() -> None:
        parameters = StdioServerParameters(
            command=sys.executable, args=[*CAPTURE[1:], "mcp", *runs], cwd=folder, env={**os.environ}
        )
        async with stdio_client(parameters) as (read, write), ClientSession(read, write) as client:
            await client.initialize()
            await conversation(client)

    anyio.run(session)


def with_recipe(records: Iterable[Record]) -> list[Record]:
    """The records, with a recipe by which their images can be shown."""
    recipe = Recipe(height=8, width=8, channels=1).to_dict()
    return [replace(one, recipe=recipe) if isinstance(one, RunInfo) else one for one in records]


async def call_tool(client: ClientSession, tool: str, **arguments: object) -> tuple[Any, str, list[Any]]:
    """Return whether it is an error, the text, and everything."""
    done = await client.call_tool(tool, arguments)
    return done.is_error, done.content[0].text, done.content


def test_an_assistant_can_explain_a_run(tmp_path: Path) -> None:
    """Every tool answers; a sample comes with its picture; paths and other runs are out of reach; nothing is written."""
    make_images(tmp_path / "images")
    files = sorted((tmp_path / "images").iterdir())
    names = [one.name for one in files]
    digests = [blake2b(one.read_bytes(), digest_size=16).hexdigest() for one in files]
    classes = ("ant", "bee", "cat")
    records = {
        seed: run_records(classes=classes, files=names, epochs=4, folder="images", digests=digests, seed=seed)
        for seed in (0, 1)
    }
    for seed, one in records.items():
        write_run(tmp_path / f"run{seed}", with_recipe(one))
    write_run(tmp_path / "secret")
    before = sorted(tmp_path.rglob("*"))

    async def conversation(client: ClientSession) -> None:
        tools = {one.name: one for one in (await client.list_tools()).tools}
        assert set(tools) == {"inspect", "rows", "suspects", "diff", "sample"}
        assert all(one.annotations and one.annotations.read_only_hint for one in tools.values())
        failed, text, _ = await call_tool(client, "inspect", run="run0")
        assert not failed
        assert json.loads(text)["phase"]["phase"] == "val"
        _, text, _ = await call_tool(client, "inspect", run="run0", epoch="1")
        assert json.loads(text)["phase"]["epoch"] == 1
        _, text, _ = await call_tool(client, "rows", run="run0", where="not correct", columns="file,pred", limit=3)
        assert all(list(json.loads(line)) == ["file", "pred"] for line in text.splitlines())
        _, text, _ = await call_tool(client, "rows", run="run0", per="epoch")
        assert len(text.splitlines()) == 8
        _, text, _ = await call_tool(client, "suspects", run="run1", limit=5)
        assert len(json.loads(text)["suspects"]) == 5
        _, text, _ = await call_tool(client, "diff", a="run0", b="run1")
        assert json.loads(text)["measures"]["images"] == 6
        failed, text, content = await call_tool(client, "sample", run="run0", file=names[0])
        assert not failed
        assert json.loads(text)["sample"]["file"] == names[0]
        assert (content[1].type, content[1].mime_type) == ("image", "image/png")
        for tool, arguments in {
            "inspect": {"run": str(tmp_path / "secret")},
            "rows": {"run": "run0", "where": "file in (select * from read_text('/etc/passwd'))"},
            "sample": {"run": "run0", "file": "../secret/records.jsonl"},
            "diff": {"a": "run0", "b": "../run1"},
        }.items():
            failed, text, _ = await call_tool(client, tool, **arguments)
            assert failed
            assert "root:" not in text
        assert all(one.input_schema["additionalProperties"] is False for one in tools.values())
        failed, text, _ = await call_tool(client, "suspects", run="run0", top=2)
        assert failed
        assert text.endswith("suspects has no argument 'top'; it takes run, limit, label, review")
        failed, text, _ = await call_tool(client, "inspect")
        assert (failed, text.rpartition(": ")[2]) == (True, "inspect needs the argument 'run'")
        failed, text, _ = await call_tool(client, "rows", run="run0", where="nope = 1")
        assert failed
        assert "write an SQL condition on" in text

    talk(tmp_path, ["run0", "run1"], conversation)
    assert sorted(tmp_path.rglob("*")) == before


def test_answers_are_bounded(tmp_path: Path) -> None:
    """Long lists end early, and the answer says so; it is still JSON."""
    classes = [f"class {i:05d} {'x' * 400}" for i in range(30)]
    write_run(tmp_path / "run", run_records(classes=classes, files=[f"{i}.png" for i in range(400)], epochs=3, top_k=3))
    tools = Tools({"run": str(tmp_path / "run")}, None)
    for text in (tools.inspect("run"), tools.suspects("run", limit=10_000), tools.diff("run", "run", limit=10_000)):
        assert len(text) <= MAX_CHARS
        json.loads(text)
    text = tools.rows("run", limit=10_000)
    assert len(text) <= MAX_CHARS + 100
    assert text.endswith("shortened: ask for fewer rows or columns\n")
    with pytest.raises(UsageError, match="no run 'other'"):
        tools.inspect("other")


def test_a_picture_of_another_file_is_not_shown(tmp_path: Path) -> None:
    """Records that name a file by another digest, or a way out of the folder, get no picture."""
    make_images(tmp_path / "images")
    shutil.copy(tmp_path / "images" / "ant_000.png", tmp_path / "outside.png")
    records = run_records(files=["../outside.png", "ant_000.png"], folder=str(tmp_path / "images"))
    write_run(tmp_path / "run", with_recipe(records))
    tools = Tools({"run": str(tmp_path / "run")}, None)
    for name in ("../outside.png", "ant_000.png"):
        text, picture = tools.sample("run", name)
        assert picture is None
        assert "without a picture" in json.loads(text)["picture"]


def test_wrong_usage_ends_before_the_protocol(call: Caller, tmp_path: Path) -> None:
    """One line on stderr; nothing on stdout, which is the protocol's."""
    write_run(tmp_path / "run")
    for args in (["-"], ["nope"], ["run", "run"], ["run", "--folder", "nope"]):
        done = call("mcp", *args)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
