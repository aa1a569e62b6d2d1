"""The examples of docs/serving.md run as they are printed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from small_server import chatting, language_model, running

import chainrule
from chainrule.serving.load import Limits, serve_model
from chainrule.serving.model_thread import ModelThread
from chainrule.serving.served import Served, ServedClassifier
from chainrule.tasks.examples import Task

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_page_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openai")
    rows = [f"a {('charming', 'long')[row % 2]} film {row}\t{('good', 'bad')[row % 2]}" for row in range(20)]
    (tmp_path / "rows.tsv").write_text("\n".join(["text\tlabel", *rows]))
    (tmp_path / "reviews.toml").write_text(
        'train = "rows.tsv"\ntext = "text"\nlabel = "label"\n[prompt]\ntemplate = "{text}: {label}"\n'
    )
    task = Task.load(str(tmp_path / "reviews.toml"))
    books = serve_model("books", chatting(tmp_path), Limits(batch=4))
    classifier = chainrule.finetune(language_model(), task, train="head")
    stars = ServedClassifier("stars", classifier, ModelThread("stars"))
    with running(Served({"books": books}, {"stars": stars}, {"reviews": task})) as server:
        (python,) = blocks("python")
        exec(compile(python.replace("http://127.0.0.1:8000", server.url), "serving.md", "exec"), {})
        assert "[-" in capsys.readouterr().out
        (lines,) = blocks("sh")
        if shutil.which("curl") is None:
            pytest.skip("curl is not installed")
        for line in lines.replace("http://127.0.0.1:8000", server.url).splitlines():
            command = ["sh", "-c", f"{line} -sS --fail-with-body"]
            asked = subprocess.run(command, capture_output=True, text=True, timeout=300)
            assert asked.returncode == 0 and asked.stdout, (line, asked.stdout, asked.stderr)
