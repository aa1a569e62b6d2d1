"""A masked model is served for what it can do: embeddings, tasks, blanks; and says so where it cannot."""

import base64
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import random_model
from small_server import Running, language_model, running

import chainrule
from chainrule.masked_language_model import MaskedLanguageModel
from chainrule.serving.load import Limits, load_served
from chainrule.tasks.examples import Task
from chainrule.tokens.make import byte_tokenizer

TEXTS = ["a fine day", "grim", "a day of some length, né"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked")
    MaskedLanguageModel(random_model("bert", 258, 64), byte_tokenizer(mask=True), "bert").save(folder / "bert")
    language_model().save(folder / "owl")
    rows = [f"a {('fine', 'grim')[row % 2]} day {row}\t{('good', 'bad')[row % 2]}\n" for row in range(20)]
    (folder / "days.tsv").write_text("day\tmood\n" + "".join(rows))
    (folder / "moods.toml").write_text(
        'train = "days.tsv"\ntext = "day"\nlabel = "mood"\n[prompt]\ntemplate = "{day}: {label}"\n'
    )
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    models = [str(folder / "owl"), str(folder / "bert")]
    with running(load_served(models, [folder / "moods.toml"], None, Limits(batch=4))) as found:
        yield found


def test_its_embeddings_are_those_of_each_text_alone(server: Running, folder: Path) -> None:
    lm = chainrule.load(folder / "bert")
    assert isinstance(lm, MaskedLanguageModel)
    closing = len(lm.tokenizer.closing)
    found = server.made("/v1/embeddings", model="bert", input=TEXTS, pooling="mean")["data"]
    for text, each in zip(TEXTS, found, strict=True):
        assert each["embedding"] == pytest.approx(lm.features(text)[1 : -closing or None].mean(0).tolist(), abs=1e-5)
    together = server.made("/v1/embeddings", model="bert", input=TEXTS)["data"]
    for text, each in zip(TEXTS, together, strict=True):
        (alone,) = server.made("/v1/embeddings", model="bert", input=text)["data"]
        assert each["embedding"] == pytest.approx(alone["embedding"], abs=1e-5)


def test_a_task_is_prompted_as_zero_shot_does(server: Running, folder: Path) -> None:
    wanted = chainrule.in_context(chainrule.load(folder / "bert"), Task.load(str(folder / "moods.toml")), 1, seed=3)
    found = server.made("/classify", model="bert", task="moods", shots=1, seed=3, input=TEXTS[:2])["data"]
    for each, probabilities in zip(found, wanted.predict_proba(TEXTS[:2]), strict=True):
        assert each["probs"] == pytest.approx(probabilities.tolist(), abs=1e-5)
    row = server.made("/page/task/row", model="bert", task="moods", row={"day": TEXTS[0]})["zero_shot"]
    assert sum(label["after"] for label in row["labels"]) == pytest.approx(1)


def test_the_page_fills_its_blanks_one_after_the_other(server: Running, folder: Path) -> None:
    lm = chainrule.load(folder / "bert")
    assert isinstance(lm, MaskedLanguageModel)
    mask = lm.tokenizer.named["mask_token"]
    text = f"a {mask} d{mask}y"
    first = server.made("/page/next", model="bert", prompt=text)
    logits = np.frombuffer(base64.b64decode(first["logits"]), "<f4").astype(float)
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    wanted = dict(lm.fill(text, top=3)[0])
    for each in first["best"][:3]:
        assert probabilities[each["id"]] == pytest.approx(wanted[each["text"]], abs=1e-5)
    a = lm.tokenizer.encode("a")[0]
    second = server.made("/page/next", model="bert", prompt=text, tokens=[a])
    assert second["position"] > first["position"] and second["tokens"][first["position"]]["id"] == a
    assert second["best"][0]["text"] == lm.fill(f"a a d{mask}y", top=1)[0][0][0]
    for fields in ({"prompt": "none"}, {"prompt": text, "tokens": [a, a]}, {"prompt": text, "tokens": [999]}):
        assert server.post("/page/next", model="bert", **fields).status_code == 400
    described = httpx.get(server.url + "/page/about").json()["models"]
    assert {each["name"]: each["mask"] for each in described} == {"owl": None, "bert": mask}


def test_what_it_cannot_do_is_refused_in_one_line(server: Running) -> None:
    for path, fields in (
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ("/page/score", {"text": "a"}),
    ):
        answer = server.post(path, model="bert", **fields)
        assert answer.status_code == 400 and "masked" in answer.json()["error"]["message"]
    cards = httpx.get(server.url + "/v1/models").json()["data"]
    assert {card["id"]: card["max_model_len"] for card in cards} == {"owl": 96, "bert": 64}
