"""The plan of docs/recipes.md does what the page says, step by step."""

from __future__ import annotations

import re
from pathlib import Path

import pexpect

from tests.support.cli import Up, on_terminal, ramify
from tests.support.recipes import PAGE


def written(folder: Path) -> str:
    """Write the files of the page into a folder; return the path of the plan."""
    section = PAGE.read_text("utf-8").split("## A plan instead of a Makefile")[1]
    for kind, name in (("yaml", "build.yaml"), ("python", "build_tasks.py")):
        # The first block is the file; later ones of the section show changes to it.
        block, *_ = re.findall(rf"^```{kind}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        (folder / name).write_text(block)
    return str(folder / "build.yaml")


def test_the_plan_of_the_page_fails_is_mended_and_ends(tmp_path: Path) -> None:
    plan = written(tmp_path)
    up = Up(tmp_path / "data")
    try:
        assert ramify("run", "--plan", plan, "--dry-run", env=up.env).returncode == 0
        failed = ramify("run", "--plan", plan, "--project", "widget", env=up.env)
        assert failed.returncode == 5
        assert "| tests | FAILED | DEPENDENCY_FAILED: 1 of 3 tasks are not done: unit |" in (
            failed.stdout
        )
        assert "the widget is not blue" in failed.stdout
        assert "| manual | DONE |" in failed.stdout
        assert "`ramify replan widget root` does again what is not done" in failed.stderr
        assert not (tmp_path / "out" / "widget.tar").exists(), "what depends on it has not run"
        assert "the widget is not blue" in (ramify("explain", "widget", env=up.env).stdout)

        (tmp_path / "out" / "a.o").write_text("a blue\n")
        (tmp_path / "out" / "widget").write_text("a blue\nb\nc debug\n")
        assert ramify("replan", "widget", "root", env=up.env).returncode == 0
        watched = ramify("watch", "widget", env=up.env)
        assert watched.returncode == 0, watched.stderr
        report = ramify("show", "widget", "--result", env=up.env).stdout
        assert "9 of 9 tasks done." in report
        assert "Widget of 3 parts is packed" in report
        assert (tmp_path / "out" / "widget.tar").exists()
        tree = ramify("show", "widget", env=up.env).stdout
        assert "FAILED superseded" in tree
        assert len(re.findall("clean: rm -rf", tree)) == 1, "what was done was not done again"
        assert len(re.findall("style: test -s", tree)) == 1, "nor in the group that had failed"
    finally:
        assert up.stop() == (0, "")


def test_ctrl_c_detaches_and_a_paused_run_goes_on_when_its_cause_is_mended(tmp_path: Path) -> None:
    plan = written(tmp_path)
    up = Up(tmp_path / "data")
    try:
        run = ("run", "--plan", plan, "--project", "widget", "--set", "on_exhausted=pause")
        terminal = on_terminal(*run, env=up.env)
        terminal.expect("PAUSED")
        terminal.sendintr()
        terminal.expect("eep watching")
        terminal.sendline("d")
        terminal.expect("nothing is lost and the run goes on")
        terminal.expect(pexpect.EOF)
        terminal.close()
        assert terminal.exitstatus == 130
        assert "resumed after EXECUTION: exit code 1" in (
            ramify("explain", "widget", env=up.env).stdout
        )
        (tmp_path / "out" / "widget").write_text("a blue\nb\nc debug\n")
        assert ramify("resume", "widget", env=up.env).returncode == 0
        assert ramify("watch", "widget", env=up.env).returncode == 0
        assert (tmp_path / "out" / "widget.tar").exists()
    finally:
        assert up.stop() == (0, "")
