"""Tasks of every kind on the page: generated answers beside the expected ones, several labels and numbers by a
finetuned classifier; the same figures as from the command line."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("starlette", reason="starlette is not installed: pip install 'chainrule[serve]'")
from small_server import language_model
from starlette.testclient import TestClient

import chainrule
from chainrule.serving.app import make_app
from chainrule.serving.load import serve_model
from chainrule.serving.model_thread import ModelThread
from chainrule.serving.served import Served, ServedClassifier
from chainrule.tasks.examples import Task
from chainrule.tasks.figures import TITLES, in_unit, measure_figures

KINDS = ("classification", "free", "multilabel", "regression")
LABELS = {
    "classification": lambda row: ("good", "bad")[row % 2],
    "free": lambda row: f"it is {row % 3}",
    "multilabel": lambda row: ("good", "bad")[row % 2] + ("|odd" if row % 3 else ""),
    "regression": lambda row: str(row % 5),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A model, a task of each kind, and a classifier of each but the free one."""
    folder, tasks, classifiers = tmp_path_factory.mktemp("kinds"), {}, {}
    for kind in KINDS:
        rows = [f"a {('fine', 'grim')[row % 2]} day {row}\t{LABELS[kind](row)}\n" for row in range(60)]
        (folder / f"{kind}.tsv").write_text("day\tmood\n" + "".join(rows))
        prompt = '[prompt]\ntemplate = "{day}: {label}"\nseparator = "\\n"\n' if kind in KINDS[:2] else ""
        (folder / f"{kind}.toml").write_text(
            f'kind = "{kind}"\ntrain = "{kind}.tsv"\ntext = "day"\nlabel = "mood"\n{prompt}'
        )
        tasks[kind] = Task.load(folder / f"{kind}.toml")
        if kind != "free":
            found = chainrule.finetune(language_model(), tasks[kind], train="head")
            classifiers[kind] = ServedClassifier(kind, found, ModelThread(kind))
    return Served({"owl": serve_model("owl", language_model())}, classifiers, tasks)


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[TestClient]:
    with TestClient(make_app(served), base_url="http://127.0.0.1") as client:
        yield client


def asked(client: TestClient, path: str, **fields: Any) -> Any:
    answer = client.post(path, json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def measured(client: TestClient, **fields: Any) -> list[dict[str, Any]]:
    answer = client.post("/page/task/accuracy", json=fields)
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line[6:7] == "{"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_says_its_kind_and_who_answers_it(client: TestClient, kind: str) -> None:
    found = asked(client, "/page/task", task=kind)
    assert found["kind"] == kind and found["prompted"] == (kind in KINDS[:2])
    assert found["classifiers"] == ([] if kind == "free" else [kind])
    assert found["test"]["count"] == 12 and len(found["train"]["rows"]) == 48


def test_a_free_answer_is_generated_as_zero_shot_and_in_context_generate_it(client: TestClient, served: Served) -> None:
    task, lm = served.tasks["free"], served.models["owl"].lm
    row = task.test.rows[0]
    found = asked(client, "/page/task/row", task="free", row=row, demonstrations=[4, 2])
    shown = chainrule.zero_shot(lm, task).show(row)
    assert found["zero_shot"]["answer"] == shown.answer
    assert "".join(each["text"] for each in found["zero_shot"]["tokens"][1:]) == shown.prompt
    demonstrated = "".join(each["text"] for each in found["in_context"]["tokens"][1:])
    first, second = (f"{task.train.rows[index]['day']}: {task.train.labels[index]}\n" for index in (4, 2))
    assert demonstrated == first + second + shown.prompt


def test_free_answers_are_right_where_they_are_the_expected_ones(client: TestClient, served: Served) -> None:
    task, lm = served.tasks["free"], served.models["owl"].lm
    expected = chainrule.tasks.measure.measure(chainrule.zero_shot(lm, task), task)
    *_, last = measured(client, task="free")
    assert last["ended"] and last["zero_shot"]["right"] == int(expected.right.sum())
    assert last["zero_shot"]["low"] == pytest.approx(expected.interval[0])


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_a_finetuned_classifier_answers_as_predict_does(client: TestClient, served: Served, kind: str) -> None:
    classifier, row = served.classifiers[kind].classifier, served.tasks[kind].test.rows[1]
    found = asked(client, "/page/task/row", task=kind, row=row, classifier=kind)
    assert set(found) == ({"zero_shot", "finetuned"} if kind == "classification" else {"finetuned"})
    ((answer, probabilities),) = classifier.stream([row])
    assert found["finetuned"]["name"] == kind
    assert found["finetuned"]["answer"] == chainrule.tasks.answers.in_words(answer)
    assert [each["after"] for each in found["finetuned"]["labels"]] == pytest.approx(probabilities.tolist())
    chosen = {each["label"] for each in found["finetuned"]["labels"] if each["chosen"]}
    assert kind == "regression" or chosen == (set(answer) if kind == "multilabel" else {answer})


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_the_figures_of_a_kind_are_those_of_finetune(client: TestClient, served: Served, kind: str) -> None:
    expected = measure_figures(served.classifiers[kind].classifier, served.tasks[kind])
    first, *_, last = measured(client, task=kind, classifier=kind)
    assert not first["ended"] and last["ended"] and "difference" not in last
    assert last["finetuned"]["figures"] == [
        {"name": TITLES[name], **{part: in_unit(name, getattr(one, part)) for part in ("value", "low", "high")}}
        for name, one in expected.estimates.items()
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "multilabel"}, "is answered by a finetuned classifier"),
        ({"task": "regression", "classifier": "multilabel"}, "wanted one of this task's kind"),
        ({"task": "free", "classifier": "none"}, "'none'"),
    ],
)
def test_who_cannot_answer_is_said(client: TestClient, fields: dict[str, str], message: str) -> None:
    answer = client.post("/page/task/row", json={**fields, "row": {"day": "x"}})
    assert answer.status_code in (400, 404) and message in answer.json()["error"]["message"]


def test_a_task_with_labels_may_be_answered_by_either(served: Served) -> None:
    with TestClient(make_app(Served({}, {}, served.tasks)), base_url="http://127.0.0.1") as client:
        answer = client.post("/page/task/row", json={"task": "classification", "row": {"day": "x"}})
    assert answer.status_code == 400
    assert "is answered by a language model or a finetuned classifier" in answer.json()["error"]["message"]
