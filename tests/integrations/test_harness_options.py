"""What a task and a model's generation_config.json ask of a generated answer is obeyed as the harness's own `hf` model
obeys it, or refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import random_model

import chainrule
from chainrule.generation.sampling import Sampling
from chainrule.integrations.harness import HarnessModel
from chainrule.integrations.harness_options import answer_options
from chainrule.language_model import LanguageModel
from chainrule.tokens.make import train_bpe

CONTEXTS = ["Review: a charming film\nSentiment:", "Review: a mess, too long\nSentiment:", "warm"]
ENDING = {"until": ["\n\n"], "max_gen_toks": 12}
PENALISED = {"repetition_penalty": 1.5}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("harness") / "model"
    tokenizer = train_bpe(CONTEXTS * 9, 300)
    model = random_model("llama", vocabulary_size=tokenizer.vocabulary_size, context=96)
    LanguageModel(model, tokenizer, "llama").save(path)
    return path


@pytest.fixture
def configured(directory: Path) -> Any:
    """Loads the model with these fields in its generation_config.json too."""
    path = directory / "generation_config.json"
    before = path.read_text()

    def load(fields: dict[str, Any]) -> LanguageModel:
        path.write_text(json.dumps({**json.loads(before), **fields}))
        lm = chainrule.load(directory, dtype="float32")
        assert isinstance(lm, LanguageModel)
        return lm

    yield load
    path.write_text(before)


def requests(options: dict[str, Any], contexts: list[str] = CONTEXTS) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [
        Instance("generate_until", doc={}, arguments=(context, dict(options)), idx=number)
        for number, context in enumerate(contexts)
    ]


@pytest.mark.parametrize(
    ("task", "model"),
    [
        (PENALISED, {}),
        ({}, PENALISED),
        ({"repetition_penalty": 1.0}, PENALISED),
        ({"do_sample": False, "temperature": 0.7, "top_k": 0, "num_beams": 1}, {"do_sample": True, "top_p": 0.8}),
        ({"do_sample": True, "temperature": 0.7, "top_k": 1}, {}),
        ({"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 0.0}, PENALISED),
        ({"temperature": 0.7, "top_p": 1.0, "min_p": 1.0}, {"typical_p": 1.0, "max_length": 13}),
        ({"temperature": 0.7}, {"top_k": 1, "repetition_penalty": None}),
        ({"temperature": 0.0}, {"typical_p": 0.5, "length_penalty": 2.0, "num_beams": 1}),
    ],
)
def test_what_leaves_no_choice_gives_the_answers_of_the_harness_own_model(
    task: dict[str, Any], model: dict[str, Any], directory: Path, configured: Any
) -> None:
    from lm_eval.models.huggingface import HFLM

    lm = configured(model)
    theirs = HFLM(str(directory), device="cpu", dtype="float32", batch_size=3, add_bos_token=True)
    options = {**ENDING, **task}
    wanted = theirs.generate_until(requests(options), disable_tqdm=True)
    assert HarnessModel(lm).generate_until(requests(options)) == wanted


def test_a_penalty_changes_the_answers_here(configured: Any) -> None:
    plain, penalised = (HarnessModel(configured(fields)).generate_until(requests(ENDING)) for fields in ({}, PENALISED))
    assert plain != penalised


@pytest.mark.parametrize(
    ("task", "model", "sampling"),
    [
        ({}, {}, Sampling(0)),
        ({}, {"do_sample": True, "temperature": 0.6, "top_p": 0.9}, Sampling(0)),  # the task decides
        ({"do_sample": True, "temperature": 0.5}, {}, Sampling(0.5, 50)),  # 50 is transformers' own k
        ({"do_sample": True}, {"temperature": 0.6, "top_k": 20, "top_p": 0.95}, Sampling(0.6, 20, 0.95)),
        ({"temperature": 0.5, "top_k": 0, "top_p": 1.0, "min_p": 0.1}, {"top_k": 20}, Sampling(0.5, None, None, 0.1)),
        ({"temperature": 0.5, "top_k": None}, {"top_k": 20, **PENALISED}, Sampling(0.5, 20, None, None, 1.5)),
        ({"temperature": "0.5", "top_k": 3}, {"top_p": None, "_from_model_config": True}, Sampling(0.5, 3)),
    ],
)
def test_the_task_goes_before_the_model_and_both_before_what_transformers_takes(
    task: dict[str, Any], model: dict[str, Any], sampling: Sampling
) -> None:
    assert answer_options({**ENDING, **task}, model) == (sampling, ["\n\n"], 12)


@pytest.mark.parametrize(
    ("task", "model", "message"),
    [
        ({"num_beams": 4}, {}, "the task's generation_kwargs: wanted none but .*, got num_beams: 4; remove it"),
        ({}, {"num_beams": 4}, "the model's generation_config.json: wanted none but .*, got num_beams: 4"),
        ({"no_repeat_ngram_size": 3}, {}, "no_repeat_ngram_size: 3"),
        ({"temperature": 0.5, "typical_p": 0.9}, {}, "typical_p: 0.9"),
        ({"max_length": 100}, {}, "max_length: 100; name max_gen_toks"),
        ({}, {"max_new_tokens": 100}, "max_new_tokens: 100; remove it: the task says"),
        ({"logits_processor": "mine"}, {}, "logits_processor: mine"),
        ({"do_sample": True, "temperature": 0.0}, {}, "wanted a temperature above 0 beside do_sample: true"),
        ({"temperature": 0.5, "top_p": "most"}, {}, "wanted top_p to be a number, got 'most'"),
        ({"temperature": 0.5, "top_p": 1.5}, {}, "top-p: wanted more than 0 and at most 1, got 1.5"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name_before_anything_is_generated(
    task: dict[str, Any], model: dict[str, Any], message: str, configured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = configured(model)
    monkeypatch.setattr(LanguageModel, "completions", lambda *_, **__: pytest.fail("generated"))
    with pytest.raises(ValueError, match=message):
        HarnessModel(lm).generate_until([*requests(ENDING), *requests({**ENDING, **task})])


def test_a_request_that_is_repeated_gets_another_sample_each_time(directory: Path) -> None:
    model = HarnessModel(chainrule.load(directory, dtype="float32"))  # type: ignore[arg-type]
    options = {**ENDING, "do_sample": True, "temperature": 1.0}
    repeated = model.generate_until(requests(options, ["warm", CONTEXTS[0], "warm", "warm"]))
    assert len({repeated[0], repeated[2], repeated[3]}) == 3
    assert repeated == model.generate_until(requests(options, ["warm", CONTEXTS[0], "warm", "warm"]))
    greedy = model.generate_until(requests(ENDING, ["warm", CONTEXTS[0], "warm"]))
    assert greedy[0] == greedy[2] != greedy[1]


def test_saving_keeps_what_generation_config_says(configured: Any, tmp_path: Path) -> None:
    configured({"temperature": 0.6, "top_k": 20}).save(tmp_path)
    fields = json.loads((tmp_path / "generation_config.json").read_text())
    assert (fields["temperature"], fields["top_k"]) == (0.6, 20)
    again = chainrule.load(tmp_path)
    assert isinstance(again, LanguageModel)
    assert again.generation == fields
