"""What the page is made of, and the JSON behind its views: the same figures as from Python."""

import base64
import json
import math
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="starlette is not installed: pip install 'chainrule[serve]'")
from page_models import HOSTILE, PROMPT, served_in
from starlette.testclient import TestClient

import chainrule
from chainrule.serving.app import make_app
from chainrule.serving.page_runs import found_in, listing
from chainrule.serving.safety import Rules
from chainrule.serving.served import Served
from chainrule.tasks.examples import Task

PAGE = Path(chainrule.__file__).parent / "serving" / "page"
BASE = "http://127.0.0.1"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return served_in(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[TestClient]:
    with TestClient(make_app(served), base_url=BASE) as client:
        yield client


def asked(client: TestClient, path: str, **fields: Any) -> Any:
    answer = client.post(path, json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refusal(client: TestClient, path: str, **fields: Any) -> str:
    answer = client.post(path, json=fields)
    assert answer.status_code == (404 if fields.get("model") == "none" else 400)
    return str(answer.json()["error"]["message"])


def test_the_page_is_small_names_nothing_elsewhere_and_never_reads_text_as_html() -> None:
    files = {path: path.read_text(encoding="utf-8") for path in PAGE.iterdir()}
    assert sum(len(text.encode()) for text in files.values()) < 100_000
    for path, text in files.items():
        without_names = text.replace("http://www.w3.org/2000/svg", "")  # of a kind of element: nothing is loaded
        assert not re.search(r"https?://|//\w+\.\w+/|\bimport\(", without_names), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|style=", text), path


def test_every_file_of_the_page_is_there_with_a_policy_that_forbids_everything_else(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    names = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    modules = [f"/static/{path.name}" for path in PAGE.glob("*.js")]
    for name in {"/", *names, *modules}:
        answer = client.get(name)
        assert answer.status_code == 200, name
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self';") and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_style_begins_with_that_of_the_reports(client: TestClient) -> None:
    style = client.get("/static/style.css").text
    assert style.index("--ink:") < style.index(".method {") < style.index(".tokens")


def test_about_names_the_models_the_tasks_and_whether_there_are_runs(client: TestClient, served: Served) -> None:
    about = client.get("/page/about").json()
    assert [model["name"] for model in about["models"]] == ["small", "other"]
    assert about["models"][0]["chat"] and about["models"][0]["vocabulary_size"] == 260
    assert about["tasks"] == ["films"] and about["runs"]


@pytest.mark.parametrize("prompt", [PROMPT, "", "né", "in parts " * 25, "in parts " * 25 + "again"])
def test_the_logits_of_a_position_are_all_there_also_of_prompts_read_in_parts(
    client: TestClient, served: Served, prompt: str
) -> None:
    lm = served.models["small"].lm
    found = asked(client, "/page/next", model="small", prompt=prompt, tokens=[105])
    logits = np.frombuffer(base64.b64decode(found["logits"]), "<f4")
    expected = lm.model.logits(lm.features(prompt + "i")[-1]).detach().numpy()
    assert lm.tokenizer.encode("i") == [105]
    np.testing.assert_allclose(logits, expected, atol=2e-5)
    assert [token["id"] for token in found["best"]] == np.argsort(-logits, kind="stable")[:100].tolist()
    assert found["tokens"][0]["text"] == "⊥"
    assert len(found["tokens"]) == found["prompt_tokens"] + 1 == 2 + len(prompt.encode())


def test_a_part_of_a_character_is_shown_as_its_byte(client: TestClient) -> None:
    best = asked(client, "/page/next", model="small", prompt=PROMPT)["best"]
    assert [token["text"] for token in best[:2]] == [HOSTILE, r"\xc3"]


@pytest.mark.parametrize("text", ["a né\n film", "longer than the context of 256 " * 12])
def test_a_text_is_scored_as_score_scores_it(client: TestClient, served: Served, text: str) -> None:
    lm = served.models["other"].lm
    found = asked(client, "/page/score", model="other", text=text, given="It is")
    assert found["log_prob"] == pytest.approx(lm.log_prob(text, given="It is"), abs=1e-3)
    assert found["bytes"] == len(text.encode()) == len(found["tokens"])
    assert found["bits_per_byte"] == pytest.approx(-found["log_prob"] / found["bytes"] / math.log(2))
    for token, score in zip(found["tokens"], lm.score(text, given="It is", top=10), strict=True):
        assert token["text"] == score.text and token["log_prob"] == pytest.approx(score.log_prob, abs=1e-4)
        assert [word for word, _ in token["alternatives"]] == [word for word, _ in score.alternatives]


def test_a_row_is_scored_as_in_context_scores_it_with_the_demonstrations_in_their_order(
    client: TestClient, served: Served
) -> None:
    task, lm = served.tasks["films"], served.models["small"].lm
    row, words = {"text": "a fine film"}, {"good": "great", "bad": "awful"}
    prompt = {"template": "{text}: {label}", "separator": "; ", "words": words}
    fields = {"model": "small", "task": "films", "prompt": prompt, "row": row, "demonstrations": [9, 2]}
    found = asked(client, "/page/task/row", **fields, calibrate="content-free")
    demonstrations = "".join(f"{task.train.rows[i]['text']}: {words[task.train.labels[i]]}; " for i in (9, 2))
    for kind, before in (("zero_shot", ""), ("in_context", demonstrations)):
        text = "".join(token["text"] for token in found[kind]["tokens"])
        assert text == "⊥" + before + "a fine film:"
        log_probs = {"good": lm.log_prob(" great", given=text[1:]), "bad": lm.log_prob(" awful", given=text[1:])}
        for each in found[kind]["labels"]:
            assert each["log_prob"] == pytest.approx(log_probs[each["label"]], abs=1e-3)
        shifted = [math.exp(each["log_prob"] - each["bias"]) for each in found[kind]["labels"]]
        for each, value in zip(found[kind]["labels"], shifted, strict=True):
            assert each["after"] == pytest.approx(value / sum(shifted), abs=1e-6)
            assert each["before"] == pytest.approx(
                math.exp(each["log_prob"]) / sum(math.exp(one["log_prob"]) for one in found[kind]["labels"]), abs=1e-6
            )
    assert asked(client, "/page/task/row", **{**fields, "demonstrations": []}).keys() == {"zero_shot"}


def test_accuracy_ends_as_the_command_line_measures_it(client: TestClient, served: Served) -> None:
    task, lm = served.tasks["films"], served.models["small"].lm
    fields = {"model": "small", "task": "films", "demonstrations": [0, 1], "limit": 20}
    answer = client.post("/page/task/accuracy", json=fields)
    assert answer.headers["content-type"].startswith("text/event-stream")
    steps = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line[6:7] == "{"]
    assert [step["done"] for step in steps] == [8, 16, 20]
    assert [step["ended"] for step in steps] == [False, False, True]
    expected = chainrule.tasks.measure.measure(chainrule.zero_shot(lm, task), task, 20)
    last = steps[-1]["zero_shot"]
    assert (last["accuracy"], (last["low"], last["high"])) == (expected.accuracy, pytest.approx(expected.interval))
    assert -1 <= steps[-1]["difference"]["low"] <= steps[-1]["difference"]["value"] <= 1


PASTED = "".join(f"film {number} was fine\tgood\nfilm {number} was dull\tbad\n" for number in range(10))


def test_pasted_rows_become_the_task_that_their_saved_file_gives(client: TestClient, tmp_path: Path) -> None:
    described = asked(client, "/page/task", rows=PASTED)
    assert described["labels"] == ["bad", "good"] and described["template"] == "Text: {text}\nLabel: {label}"
    prompt = {"template": "{text}, {label}", "separator": "\n", "words": {"good": "great"}}
    files = asked(client, "/page/task/file", rows=PASTED, prompt=prompt)["files"]
    for file in files:
        (tmp_path / file["name"]).write_text(file["text"], encoding="utf-8")
    task = Task.load(tmp_path / "task.toml")
    assert task.prompt is not None and task.prompt.template == "{text}, {label}" and task.prompt.word("good") == "great"
    assert [each["row"]["text"] for each in described["test"]["rows"]] == [row["text"] for row in task.test.rows]
    shown = {each["index"]: each["row"]["text"] for each in described["train"]["rows"]}
    assert shown == dict(enumerate(row["text"] for row in task.train.rows))


def test_a_pasted_row_ends_at_its_newline_alone(client: TestClient) -> None:
    rows = PASTED + "one line\u2028and what seems another\tgood\r\n"
    described = asked(client, "/page/task", rows=rows)
    assert described["train"]["count"] + described["test"]["count"] == PASTED.count("\n") + 1


def test_a_served_task_is_saved_with_the_whole_names_of_its_data(
    client: TestClient, served: Served, tmp_path: Path
) -> None:
    prompt = {"template": "So {text} is {label}", "separator": "\n", "words": {"good": "fun", "bad": "grim"}}
    (file,) = asked(client, "/page/task/file", task="films", prompt=prompt)["files"]
    assert Path(tomllib.loads(file["text"])["train"]).is_absolute()
    (tmp_path / file["name"]).write_text(file["text"])
    task = Task.load(tmp_path / "films.toml")
    assert task.test == served.tasks["films"].test and task.prompt is not None
    assert task.prompt.template == "So {text} is {label}" and task.prompt.words == {"good": "fun", "bad": "grim"}


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        ("/page/next", {"model": "none"}, "wanted one of 'small', 'other'"),
        ("/page/next", {"model": "small", "prompt": "x" * 300}, "wanted at most 256 tokens"),
        ("/page/next", {"model": "small", "tokens": [260]}, "wanted ids from 0 to 259"),
        ("/page/next", {"model": "small", "tokens": ["a"]}, "whole numbers"),
        ("/page/next", {"model": "small", "surprise": 1}, "surprise"),
        ("/page/score", {"model": "small", "text": ""}, "wanted some text"),
        ("/page/score", {"model": "small", "text": "x" * 20_001}, "20,000 characters"),
        ("/page/task", {}, "one of both"),
        ("/page/task", {"task": "other"}, "films"),
        ("/page/task", {"rows": "no tab"}, "line 1"),
        ("/page/task", {"rows": "a\tx\nb\tx\n"}, "rows"),
        ("/page/task/file", {"task": "films", "prompt": {"template": "{text}"}}, "{label} once"),
        ("/page/task/row", {"task": "films", "model": "small", "row": {}}, "text"),
        ("/page/task/accuracy", {"task": "films", "model": "small", "demonstrations": [99]}, "wanted rows from 0"),
        ("/page/task/accuracy", {"task": "films", "model": "small", "calibrate": "twice"}, "content-free"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(client: TestClient, path: str, fields: dict[str, Any], message: str) -> None:
    found = refusal(client, path, **fields)
    assert message in found and "\n" not in found and "/tmp" not in found


def test_a_run_is_listed_with_its_last_whole_line_and_its_losses_are_those_of_its_log(client: TestClient) -> None:
    (run,) = client.get("/page/runs").json()["runs"]
    assert (run["name"], run["step"], run["steps"], run["tokens"]) == ("books/first", 29, 60, 2900)
    curves = client.get("/page/run/books/first").json()
    assert curves["training"] == [[100 * step, 5 / step] for step in range(1, 30)]
    assert curves["validation"] == [[2900, 0.3]]


def test_a_run_that_was_removed_meanwhile_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "gone"):
        (tmp_path / name).mkdir()
    (tmp_path / "here/log.jsonl").write_text('{"step": 3, "tokens": 30}\n')
    (tmp_path / "gone/log.jsonl").symlink_to(tmp_path / "nowhere")
    (run,) = listing(tmp_path, str)["runs"]
    assert (run["name"], run["step"]) == ("here", 3)
    monkeypatch.chdir(tmp_path / "here")
    assert list(found_in(Path(), "run")) == ["here"], "a name that a link can have"


def test_a_report_is_alone_in_its_own_policy(client: TestClient) -> None:
    (report,) = client.get("/page/runs").json()["reports"]
    assert report["name"] == "films" and report["task"] == HOSTILE
    answer = client.get("/page/report/films")
    policy = answer.headers["content-security-policy"]
    assert "sandbox allow-scripts" in policy and "default-src 'none'" in policy and "allow-same-origin" not in policy


def test_a_report_s_link_wants_no_key_and_opens_nothing_else(served: Served) -> None:
    sent = {"Authorization": "Bearer secret"}
    with TestClient(make_app(served, Rules(key="secret")), base_url=BASE) as client:
        (report,) = client.get("/page/runs", headers=sent).json()["reports"]
        path, _, signature = report["link"].partition("?")
        assert path == "/page/report/films" and client.get(report["link"]).status_code == 200
        for other in (path, f"{path}?signature=", f"{path}?{signature}0", f"/page/runs?{signature}", "/page/runs"):
            assert client.get(other).status_code == 401
    with TestClient(make_app(served, Rules(key="secret")), base_url=BASE) as restarted:
        assert restarted.get(report["link"]).status_code == 401


@pytest.mark.parametrize("name", ["..", "../films.toml", "%2e%2e/films.toml", "films/report.html", "", "/etc", "none"])
def test_nothing_but_listed_runs_and_reports_is_read(client: TestClient, name: str) -> None:
    for kind in ("run", "report"):
        assert client.get(f"/page/{kind}/{name}").status_code == 404
