"""What else is served: classifiers, prompted tasks, tokens, figures; and whom the server lets in."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import random_model
from small_server import PROMPT, Running, language_model, one, running

import chainrule
from chainrule.cli import main
from chainrule.errors import OptionError
from chainrule.finetuning.classifier import load_classifier
from chainrule.language_model import LanguageModel
from chainrule.model.quantised import blocks_of
from chainrule.serving.load import Limits, load_served, named
from chainrule.serving.served import Served
from chainrule.serving.server import listen
from chainrule.tasks.examples import Task

ROWS = [(f"a {('fine', 'grim')[row % 2]} day {row}", ("good", "bad")[row % 2]) for row in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a classifier and an adapter of it, and a task."""
    folder = tmp_path_factory.mktemp("world")
    language_model(context=160).save(folder / "owl")
    (folder / "days.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in [("day", "mood"), *ROWS]))
    (folder / "moods.toml").write_text(
        'kind = "classification"\ntrain = "days.tsv"\ntext = "day"\nlabel = "mood"\n'
        '[prompt]\ntemplate = "{day}: {label}"\n'
    )
    task = Task.load(str(folder / "moods.toml"))
    chainrule.finetune(chainrule.load(folder / "owl"), task, train="head").save(folder / "moods")
    adapted = chainrule.finetune(chainrule.load(folder / "owl"), task, train="lora", rank=2, epochs=1)
    adapted.save(folder / "adapted")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    models = [str(folder / "owl"), f"twin={folder / 'owl'}", str(folder / "moods"), f"lora={folder / 'adapted'}"]
    with running(load_served(models, [folder / "moods.toml"], None, Limits(batch=4))) as found:
        yield found


def test_a_classifier_labels_texts_as_predict_does(server: Running, folder: Path) -> None:
    for name, directory in (("moods", "moods"), ("lora", "adapted")):
        wanted = load_classifier(folder / directory)
        texts = [text for text, _ in ROWS[:11]]
        found = server.made("/classify", model=name, input=texts)
        assert [each["label"] for each in found["data"]] == wanted.predict(texts)
        assert found["labels"] == list(wanted.labels)
        for each, probabilities in zip(found["data"], wanted.predict_proba(texts), strict=True):
            assert each["probs"] == pytest.approx(probabilities.tolist(), abs=1e-6) and each["num_classes"] == 2
        (row,) = server.made("/classify", model=name, input={"day": texts[0]})["data"]
        assert row["label"] == wanted.predict(texts[:1])[0]
    assert server.made("/classify", input="a day")["model"] == "moods"


@pytest.mark.parametrize("shots", [0, 3])
def test_a_task_is_prompted_as_zero_shot_and_in_context_do(server: Running, folder: Path, shots: int) -> None:
    task = Task.load(str(folder / "moods.toml"))
    wanted = chainrule.in_context(chainrule.load(folder / "owl"), task, shots, seed=5)
    texts = [text for text, _ in ROWS[:11]]
    found = server.made("/classify", model="owl", task="moods", shots=shots, seed=5, input=texts)
    for each, probabilities in zip(found["data"], wanted.predict_proba(texts), strict=True):
        assert each["probs"] == pytest.approx(probabilities.tolist(), abs=1e-5)


def test_several_labels_a_number_and_a_free_answer_are_said_as_such(folder: Path) -> None:
    rows = [(text, mood, row % 5) for row, (text, mood) in enumerate(ROWS)]
    several = [f"{text}\t{mood}|{('odd', 'even')[row % 2]}\n" for row, (text, mood, _) in enumerate(rows)]
    (folder / "several.tsv").write_text("day\tmood\n" + "".join(several))
    (folder / "numbers.tsv").write_text("day\tmood\n" + "".join(f"{text}\t{n}\n" for text, _, n in rows))
    prompt = '[prompt]\ntemplate = "{day}: {label}"\n'
    for kind, data in (("multilabel", "several"), ("regression", "numbers"), ("free", "days")):
        text = f'kind = "{kind}"\ntrain = "{data}.tsv"\ntext = "day"\nlabel = "mood"\n'
        (folder / f"{kind}.toml").write_text(text + prompt * (kind == "free"))
    for kind in ("multilabel", "regression"):
        task = Task.load(str(folder / f"{kind}.toml"))
        chainrule.finetune(chainrule.load(folder / "owl"), task, train="head").save(folder / kind)
    models = [str(folder / each) for each in ("owl", "multilabel", "regression")]
    texts = [text for text, _ in ROWS[:3]]
    with running(load_served(models, [folder / "free.toml"], None, Limits(batch=4))) as server:
        many, number = load_classifier(folder / "multilabel"), load_classifier(folder / "regression")
        found = server.made("/classify", model="multilabel", input=texts)
        assert [tuple(each["labels"]) for each in found["data"]] == many.predict(texts)
        assert found["labels"] == list(many.labels) == ["bad", "even", "good", "odd"]
        assert found["data"][0]["probs"] == pytest.approx(many.predict_proba(texts)[0].tolist(), abs=1e-6)
        found = server.made("/classify", model="regression", input=texts)
        assert [each["value"] for each in found["data"]] == pytest.approx(number.predict(texts), abs=1e-5)
        assert found["labels"] == [] and set(found["data"][0]) == {"index", "value"}
        answers = chainrule.in_context(chainrule.load(folder / "owl"), Task.load(str(folder / "free.toml")), 2, seed=0)
        found = server.made("/classify", model="owl", task="free", shots=2, input=texts)
        assert [each["label"] for each in found["data"]] == answers.predict(texts)


def test_what_cannot_be_classified_is_said(server: Running) -> None:
    for fields, status, field in (
        ({"input": [], "model": "moods"}, 400, "input"),
        ({"input": [5], "model": "moods"}, 400, "input"),
        ({"input": {"night": "x"}, "model": "moods"}, 400, None),
        ({"input": "x", "model": "owl"}, 404, "model"),
        ({"input": "x", "model": "owl", "task": "none"}, 404, "task"),
        ({"input": "x", "model": "moods", "shots": 3}, 400, "shots"),
        ({"input": "x", "model": "owl", "task": "moods", "shots": 999}, 400, None),
        ({"input": "x", "labels": ["a"]}, 400, "labels"),
    ):
        answer = server.post("/classify", **fields)
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, field), answer.text


def test_one_directory_is_in_memory_once_whatever_it_is_named(server: Running) -> None:
    models = server.served.models
    assert models["owl"].lm.model is models["twin"].lm.model
    listed = httpx.get(server.url + "/v1/models").json()["data"]
    assert {each["id"] for each in listed} == {"owl", "twin", "moods", "lora"}
    assert next(each for each in listed if each["id"] == "moods")["labels"] == ["bad", "good"]


def test_an_adapter_of_peft_shares_its_base_s_memory_and_gives_what_the_merged_one_gives(
    folder: Path, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "owl")
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "poet")
    served = load_served([str(folder / "owl"), str(tmp_path / "poet")], [], None, Limits())
    own, poet = served.models["owl"].lm, served.models["poet"].lm
    assert poet.model.embedding.weight.data_ptr() == own.model.embedding.weight.data_ptr()
    merged = chainrule.load(tmp_path / "poet")
    assert poet.log_prob(PROMPT) == pytest.approx(merged.log_prob(PROMPT), abs=1e-4)
    assert poet.log_prob(PROMPT) != pytest.approx(own.log_prob(PROMPT), abs=1e-3)
    with running(served) as server:
        texts = [
            server.made("/v1/completions", model=name, prompt=PROMPT, max_tokens=9, temperature=0)["choices"][0]["text"]
            for name in ("owl", "poet")
        ]
    assert texts == [lm.completions([PROMPT], chainrule.Sampling(0), max_tokens=9)[0].text for lm in (own, merged)]


def test_an_adapter_that_was_trained_beside_a_quantised_base_is_served_beside_it(folder: Path, tmp_path: Path) -> None:
    own = language_model()
    model = random_model("qwen3", vocabulary_size=300, context=96, width=64, hidden=64, head_width=32)
    LanguageModel(model, own.tokenizer, "qwen3").save(tmp_path / "owl")
    task, names = Task.load(str(folder / "moods.toml")), ("owl", "poet", "whole")
    for name, bits in (("poet", "int8"), ("whole", "none")):
        base = chainrule.load(tmp_path / "owl", quantize=bits)  # type: ignore[arg-type]
        options = {"train": "lora", "by": "words", "rank": 2, "epochs": 1, "labels": 4}
        chainrule.finetune(base, task, **options).save(tmp_path / name)  # type: ignore[arg-type]
    owl, poet, whole = (str(tmp_path / name) for name in names)
    served = load_served([owl, poet], [], None, Limits(), quantize="int8")
    plain, adapted = served.models["owl"].lm, served.models["poet"].lm
    (_, blocks), (_, shared) = (next(blocks_of(each.model)) for each in (plain, adapted))
    assert blocks.data_ptr() == shared.data_ptr(), "in memory once"
    assert adapted.log_prob(PROMPT) == pytest.approx(chainrule.load(poet, quantize="int8").log_prob(PROMPT), abs=1e-4)
    assert adapted.log_prob(PROMPT) != pytest.approx(plain.log_prob(PROMPT), abs=1e-3)
    with pytest.raises(OptionError, match=r"wanted adapters that were trained beside int8 weights, got .*whole"):
        load_served([owl, whole], [], None, Limits(), quantize="int8")
    for each in served.threads.values():
        each.stop()


def test_texts_become_tokens_and_back(server: Running) -> None:
    tokenizer = server.served.models["owl"].lm.tokenizer
    ids = tokenizer.encode("né owl")
    found = server.made("/tokenize", prompt="né owl", return_token_strs=True)
    assert found["tokens"] == [tokenizer.bos_id, *ids] and found["count"] == len(ids) + 1
    assert "".join(found["token_strs"]).startswith(tokenizer.bos)
    assert server.made("/tokenize", prompt="né owl", add_special_tokens=False)["tokens"] == ids
    assert server.made("/tokenize", prompt=f"x{tokenizer.bos}")["tokens"].count(tokenizer.bos_id) == 1
    assert server.made("/detokenize", tokens=ids) == {"prompt": "né owl"}
    assert server.post("/detokenize", tokens=[10**9]).status_code == 400


def test_figures_are_in_prometheus_format_and_count() -> None:
    with one(language_model()) as server:
        prompt = [5] * 40
        for _ in range(2):
            server.made("/v1/completions", prompt=prompt, max_tokens=4, n=2)
        server.post("/v1/completions", prompt=prompt, foo=1)
        answer = httpx.get(server.url + "/metrics")
        httpx.get(server.url + "/a/path/of/the/client")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    for line in (
        'chainrule_requests_total{path="/v1/completions",status="200"} 2',
        'chainrule_requests_total{path="/v1/completions",status="400"} 1',
        'chainrule_prompt_tokens_total{model="owl"} 160',
        'chainrule_sequences_total{model="owl"} 4',
        'chainrule_prefix_tokens{model="owl"} 32',
        'chainrule_prefix_tokens_found_total{model="owl"} 32',
        'chainrule_up{model="owl"} 1',
    ):
        assert line in lines
    assert all(line.startswith("#") or " " in line for line in lines)


def test_only_those_who_may_are_let_in() -> None:
    from chainrule.serving.load import serve_model

    with running(Served({"owl": serve_model("owl", language_model())}), key="secret") as server:

        def status(path: str, **headers: str) -> int:
            return httpx.get(server.url + path, headers=headers).status_code

        assert status("/health") == 200
        for path in ("/v1/models", "/metrics", "/tokenizer_info"):
            assert status(path) == 401 and status(path, authorization="Bearer secre") == 401
            assert status(path, authorization="Basic secret") == 401
            assert status(path, authorization="Bearer secret") == 200
        assert httpx.post(server.url + "/classify", json={}).status_code == 401
        for host, wanted in (("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("evil.com", 403)):
            assert status("/health", host=host) == wanted
        assert status("/health", origin="http://evil.com") == 403 and status("/health", origin="null") == 403
        assert status("/health", origin=server.url) == 200
        answer = httpx.options(server.url + "/v1/completions", headers={"origin": server.url})
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_names_are_folders_or_given() -> None:
    assert named(["runs/books", "a=runs/books", "o/n@main", "o/n:f.gguf"]) == {
        "books": "runs/books", "a": "runs/books", "n@main": "o/n@main", "f.gguf": "o/n:f.gguf",
    }  # fmt: skip
    for wrong in (["a/x", "b/x"], ["=x"], ["x="]):
        with pytest.raises(OptionError):
            named(wrong)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("serve", "MODEL"),
        ("serve owl --host 0.0.0.0", "add --api-key"),
        ("serve owl --port 70000", "--port: wanted from 0 to 65535"),
        ("serve owl --batch 0", "--batch: wanted at least 1"),
        ("serve owl --host nowhere.invalid --api-key k", "wanted an address to listen on"),
        ("serve nothing --port 0", "nothing"),
        ("serve owl owl --port 0", "different names"),
        ("serve owl owl2=owl owl=moods --port 0", "different names"),
        ("serve owl --port 0 --task none.toml", "none.toml"),
        ("serve owl --port 0 --task days.tsv", "chainrule task days.tsv --out"),
        ("serve owl --prot 3", "did you mean --port?"),
        ("serve owl --port 0 --quantize int8", "a multiple of 32"),
        ("serve days.tsv --port 0", "found a file of text or rows"),
        ("serve owl --runs none", "--runs: wanted a folder"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_second_server_on_a_port_is_refused_while_the_first_still_loads() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(OptionError, match=f"127.0.0.1 port {port}.*--port 0"):
            listen("127.0.0.1", port)
