"""The command as it is called: what it reads, writes and answers to mistakes."""

import json
import math
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from newllm.errors import UserError
from newllm.usage.command import app, main
from newllm.usage.perplexity import row_scores
from newllm.usage.project import open_model
from tests.usage.conftest import ROWS, write_tuned

TEXT = "The song was a song\n\nof it ! " + "\n  the   YEAR"


def call(project: Path, *arguments: str, stdin: str | bytes = "") -> tuple[str, str]:
    """What goes to standard output and error."""
    done = CliRunner().invoke(app, [*arguments, "--project", str(project)], input=stdin, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def test_texts_begin_with_their_prompts_and_repeat(shared_project: Path) -> None:
    arguments = ["generate", "--prompt", "The  song xyz", "-p", "it", "--num", "3", "--temperature", "4"]
    found, _ = call(shared_project, *arguments)
    lines = found.splitlines()
    assert [line.startswith("the song <unk>") for line in lines] == [True] * 3 + [False] * 3
    assert [line.startswith("it") for line in lines] == [False] * 3 + [True] * 3
    assert len(set(lines)) == 6
    words = set(" ".join(ROWS).split()) | {"<unk>"}
    assert {word for line in lines for word in line.split()} <= words
    assert max(len(line.split()) for line in lines) > 20
    assert max(len(line.split()) for line in lines) <= 53
    assert call(shared_project, *arguments)[0] == found
    assert call(shared_project, *arguments, "--seed", "1")[0] != found


def test_prompts_are_read_from_standard_input(shared_project: Path) -> None:
    options = ["--temperature", "0", "--max-tokens", "4"]
    found, _ = call(shared_project, "generate", "-p", "it", "-p", "-", *options, stdin="of\n\nthe year")
    one_by_one = [
        call(shared_project, "generate", "-p", prompt, *options)[0] for prompt in ("it", "of", "", "the year")
    ]
    assert found == "".join(one_by_one)
    assert call(shared_project, "generate", *options)[0] == one_by_one[2]


def test_more_texts_than_are_written_at_once(shared_project: Path) -> None:
    options = ["--temperature", "4", "--max-tokens", "9"]
    many = call(shared_project, "generate", "--num", "70", *options)[0].splitlines()
    assert len(many) == 70
    assert len(set(many)) > 60
    assert max(len(line.split()) for line in many) == 9
    assert many[:3] == call(shared_project, "generate", "--num", "3", *options)[0].splitlines()


def test_a_terminal_sees_the_same(
    shared_project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["generate", "-p", "the song", "-p", "", "--num", "2", "--no-unk", "--project", str(shared_project)]
    written = []
    for is_terminal in (False, True):
        monkeypatch.setattr(sys.stdout, "isatty", lambda answer=is_terminal: answer)
        app(arguments, standalone_mode=False)
        written.append(capsys.readouterr().out)
    assert written[0] == written[1]
    assert "<unk>" not in written[0]


def test_perplexity_of_a_file_and_of_standard_input(shared_project: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    found, _ = call(shared_project, "perplexity", str(tmp_path / "text.txt"), "--json", "--depth", "2")
    total = json.loads(found)
    assert call(shared_project, "perplexity", "-", "--json", "--depth", "2", stdin=TEXT)[0] == found
    assert (total["depth"], total["model_seed"], total["rows"], total["words"]) == (2, 7, 3, 10)
    assert total["unk_share_pct"] == pytest.approx(10)
    model = open_model(shared_project, 2, 7)
    rows = [model.tokenizer.encode(row, add_special_tokens=False).ids for row in ("the song was a song", "of it !")]
    rows.append(model.tokenizer.encode("the year", add_special_tokens=False).ids)
    nats = sum(score.nats for _, score in row_scores(model.recurrence(), rows))
    assert total["loss"] == pytest.approx(nats / 13)
    assert total["ppl"] == pytest.approx(math.exp(nats / 13))
    text, _ = call(shared_project, "perplexity", "-", "--depth", "2", stdin=TEXT)
    assert f"{total['ppl']:.4f}" in text
    assert f"{total['word_ppl']:.4f}" in text


def test_lines_add_up_to_the_total(shared_project: Path) -> None:
    out, err = call(shared_project, "perplexity", "-", "--by-line", "--json", stdin=TEXT)
    lines, total = [json.loads(line) for line in out.splitlines()], json.loads(err)
    assert [line["row"] for line in lines] == [1, 3, 4]
    assert sum(line["words"] for line in lines) == total["words"]
    targets = [line["words"] + 1 for line in lines]
    mean = sum(line["loss"] * count for line, count in zip(lines, targets, strict=True)) / sum(targets)
    assert total["loss"] == pytest.approx(mean)


def test_info_names_each_depth(shared_project: Path, tmp_path: Path) -> None:
    rows = [line.split() for line in call(shared_project, "info")[0].splitlines()[1:]]
    assert [(*row[:2], *row[3:5]) for row in rows] == [
        ("2", "notebook", "1.5500", "7"),
        ("3", "notebook", "1.3500", "0"),
    ]
    assert [len(row) > 7 for row in rows] == [False, True], "the best depth is marked"
    assert "make demo" in call(tmp_path, "info")[0]


def test_tuned_models_are_told_from_the_notebooks(project: Path) -> None:
    write_tuned(project)
    rows = [line.split() for line in call(project, "info")[0].splitlines()[1:]]
    assert [row[:2] for row in rows if len(row) > 7] == [["2", "tuned"]], "the best is marked"
    scored = [
        call(project, "perplexity", "-", "--json", *more, stdin=TEXT)[0] for more in ([], ["--notebook"], ["--tuned"])
    ]
    assert [(one["depth"], one["tuned"]) for one in map(json.loads, scored)] == [(2, True), (3, False), (2, True)]
    assert "tuned depth 2, trained with seed 7" in call(project, "perplexity", "-", stdin=TEXT)[0]


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["generate"], "", "no model is there"),
        (["perplexity", "missing.txt"], "", r"missing\.txt: no such file"),
        (["perplexity", "-"], "", r"-: no row has a word"),
        (["perplexity", "-"], b"the\n\xff\n", "standard input, row 2: not valid UTF-8"),
        (["generate", "-p", "-"], b"\xff\n", "standard input, row 1: not valid UTF-8"),
    ],
)
def test_mistakes_are_named(
    shared_project: Path, tmp_path: Path, arguments: list[str], stdin: str | bytes, message: str
) -> None:
    project = tmp_path if message.startswith("no model") else shared_project
    with pytest.raises(UserError, match=message):
        call(project, *arguments, stdin=stdin)


def test_a_mistake_ends_the_command_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["newllm", "generate", "--project", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^error: ") as ended:
        main()
    assert "\n" not in str(ended.value)


@pytest.mark.parametrize("command", ["generate", "perplexity", "export", "info"])
def test_help_names_every_option(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"])
    assert done.exit_code == 0
    assert "--project" in done.stdout
