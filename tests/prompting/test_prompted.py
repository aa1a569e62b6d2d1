"""Zero-shot and in-context: what a prompt makes of a language model, whatever its weights are."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from chainrule.language_model import LanguageModel
from chainrule.prompting import prompted
from chainrule.prompting.answers import first_word, word_ended
from chainrule.prompting.calibrate import CONTENT_FREE
from chainrule.prompting.in_context import in_context, zero_shot
from chainrule.prompting.prompted import Prompted
from chainrule.scoring.continuations import Pair
from chainrule.tasks.examples import Examples, Task
from chainrule.tasks.measure import measure
from chainrule.tasks.prompt import Prompt
from chainrule.tokens.make import byte_tokenizer, train_bpe

BPE = train_bpe(
    ["Review: a mess, the film was bad\nSentiment: terrible\n\nReview: so good\nSentiment: great"] * 20, 320
)
TEXTS = [
    ("a mess", "0"),
    ("so good", "1"),
    ("the film was bad", "0"),
    ("charming", "1"),
    ("too long", "0"),
    ("né", "1"),
]
ROWS = ["a good mess", "{label} bad", "z", "the charming film was long"]
PROMPT = Prompt("Review: {text}\nSentiment: {label}", words={"0": "terrible", "1": "great"})
# For what is about prompts and answers; a model of any family generates alike: tests/generation.
GENERATING = ("qwen3", "mistral", "gemma2", "gpt2")


def examples(pairs: list[tuple[str, str]]) -> Examples:
    return Examples([{"text": text} for text, _ in pairs], [label for _, label in pairs], [""] * len(pairs))


TASK = Task(
    "classification", ("text",), "label", examples(TEXTS), examples([(row, "1") for row in ROWS]), ("0", "1"), PROMPT
)
FREE = replace(TASK, kind="free", labels=(), prompt=Prompt("Q: {text}\nA: {label}"))


@pytest.fixture
def lm(make_model: Callable[..., object], family: str) -> LanguageModel:
    return LanguageModel(make_model(vocabulary_size=320, context=256), BPE, family)


@pytest.fixture
def byte_lm(make_model: Callable[..., object], family: str) -> LanguageModel:
    return LanguageModel(make_model(vocabulary_size=257, context=256), byte_tokenizer(), family)


def brute_force(lm: LanguageModel, prompt: str, endings: list[str], lengths: list[int] | None = None) -> np.ndarray:
    """softmax over the labels of log p(ending | prompt), each scored alone."""
    scores = [lm.log_prob(ending, given=prompt) for ending in endings]
    odds = np.exp(np.array(scores) / (lengths or 1))
    return odds / odds.sum()


@pytest.mark.parametrize("template", [PROMPT.template, "{label} is what I say of: {text}", "{text} was {label}, yes"])
@pytest.mark.parametrize("shots", [0, 3])
def test_probabilities_are_those_of_each_label_word_scored_alone(lm: LanguageModel, template: str, shots: int) -> None:
    task = replace(TASK, prompt=replace(PROMPT, template=template))
    predictor = in_context(lm, task, shots)
    found = predictor.predict_proba(ROWS)
    assert found.shape == (4, 2)
    assert found.sum(1) == pytest.approx(1)
    for row, probabilities in zip(ROWS, found, strict=True):
        prompt = predictor.show(row).prompt
        spaces = " " * (len(template.partition("{label}")[0]) - len(template.partition("{label}")[0].rstrip(" ")))
        after = task.prompt.after({"text": row})
        wanted = brute_force(lm, prompt, [f"{spaces}{word}{after}" for word in ("terrible", "great")])
        assert probabilities == pytest.approx(wanted, abs=1e-4)
    assert predictor.predict(ROWS) == [predictor.labels[best] for best in found.argmax(1)]


def test_label_words_are_compared_by_sum_by_token_and_by_byte(lm: LanguageModel) -> None:
    task = replace(TASK, prompt=replace(PROMPT, words={"0": "terrible", "1": "wonderful"}))
    words = [" terrible", " wonderful"]
    tokens = [len(lm.score(word, given="Review: z\nSentiment:")) for word in words]
    assert tokens[0] != tokens[1]
    for normalise, lengths in {"sum": [1, 1], "token": tokens, "byte": [9, 10]}.items():
        (found,) = zero_shot(lm, task, normalise=normalise).predict_proba(["z"])
        assert found == pytest.approx(brute_force(lm, "Review: z\nSentiment:", words, lengths), abs=1e-4)


def test_zero_shot_is_in_context_with_no_demonstrations(lm: LanguageModel) -> None:
    for options in ({}, {"normalise": "byte"}, {"calibrate": "content-free"}, {"calibrate": "train"}):
        wanted = zero_shot(lm, TASK, **options).predict_proba(ROWS)
        for select in ("random", "balanced", "nearest"):
            assert (in_context(lm, TASK, 0, select=select, **options).predict_proba(ROWS) == wanted).all()
    assert list(zero_shot(lm, TASK, answer="vocabulary").answers(ROWS)) == list(
        in_context(lm, TASK, 0, answer="vocabulary").answers(ROWS)
    )


@pytest.mark.parametrize("calibrate", ["none", "content-free", "train"])
@pytest.mark.parametrize("options", [{"shots": 0}, {"shots": 3}, {"shots": 2, "select": "nearest"}])
def test_the_order_of_the_rows_changes_nothing_and_one_is_the_same_alone(
    lm: LanguageModel, options: dict, calibrate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = in_context(lm, TASK, calibrate=calibrate, **options).predict_proba(ROWS)
    backwards = in_context(lm, TASK, calibrate=calibrate, **options).predict_proba(ROWS[::-1])
    assert backwards[::-1] == pytest.approx(together, abs=1e-5)
    predictor = in_context(lm, TASK, calibrate=calibrate, **options)
    for row, wanted in zip(ROWS, together, strict=True):
        assert predictor.predict_proba([{"text": row}])[0] == pytest.approx(wanted, abs=1e-5)
        assert list(predictor.show(row).probabilities.values()) == pytest.approx(wanted, abs=1e-5)
    monkeypatch.setattr(prompted, "_ROWS_AT_ONCE", 3)
    assert predictor.predict_proba(ROWS) == pytest.approx(together, abs=1e-5)


@pytest.mark.parametrize(("bound", "value"), [("_ROWS_AT_ONCE", 2), ("_OPTIONS_AT_ONCE", 4)])
def test_rows_are_read_as_they_are_needed(
    lm: LanguageModel, bound: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompted, bound, value)
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield f"row {read}"

    found = in_context(lm, TASK, 2).stream(endless())
    label, probabilities = next(found)
    assert (label in TASK.labels, probabilities.shape, read) == (True, (2,), 2)
    assert [next(found)[0] for _ in range(4)]
    assert read == 6


def test_the_prompt_is_the_demonstrations_and_the_row(lm: LanguageModel) -> None:
    predictor = in_context(lm, TASK, 3, seed=1)
    shown = predictor.show("so {text}")
    *demonstrations, question = shown.prompt.split("\n\n")
    assert question == "Review: so {text}\nSentiment:"
    known = {f"Review: {text}\nSentiment: {'terrible' if label == '0' else 'great'}" for text, label in TEXTS}
    assert len(set(demonstrations)) == 3
    assert set(demonstrations) <= known
    assert shown.answer == max(shown.probabilities, key=shown.probabilities.get)
    assert list(shown.probabilities) == ["0", "1"]


def demonstrations_of(predictor: Prompted, row: str = "z") -> list[str]:
    return predictor.show(row).prompt.split("\n\n")[:-1]


def test_a_seed_draws_the_demonstrations_and_order_only_orders_them(lm: LanguageModel) -> None:
    sets = [[demonstrations_of(in_context(lm, TASK, 4, seed=s, order=o)) for o in range(3)] for s in range(3)]
    assert all(sorted(order) == sorted(orders[0]) for orders in sets for order in orders)
    assert len({tuple(order) for orders in sets for order in orders}) > 5
    assert len({frozenset(orders[0]) for orders in sets}) > 1
    assert demonstrations_of(in_context(lm, TASK, 4, seed=2, order=1)) == sets[2][1]


def test_demonstrations_come_from_the_labels_that_may_be_used(lm: LanguageModel) -> None:
    for seed in range(3):
        allowed = {row["text"] for row in TASK.subset(4, seed).rows}
        for select in ("random", "balanced", "nearest"):
            shown = demonstrations_of(in_context(lm, TASK, 4, labels=4, seed=seed, select=select))
            assert {block.split("\n")[0].removeprefix("Review: ") for block in shown} == allowed


def test_balanced_demonstrations_have_as_many_of_each_class(lm: LanguageModel) -> None:
    for seed in range(4):
        shown = demonstrations_of(in_context(lm, TASK, 4, select="balanced", seed=seed))
        assert sum("great" in block for block in shown) == 2


@pytest.mark.parametrize("by", ["features", "bm25"])
def test_the_nearest_stands_next_to_the_question(lm: LanguageModel, by: str) -> None:
    predictor = in_context(lm, TASK, 3, select="nearest", by=by)
    for text, _ in TEXTS:
        shown = demonstrations_of(predictor, text)
        assert len(shown) == 3
        assert shown[-1].startswith(f"Review: {text}\n")


def test_what_is_nearest_does_not_depend_on_the_labels(lm: LanguageModel) -> None:
    other = replace(TASK, train=replace(TASK.train, labels=["1", "0"] * 3), test=TASK.test)
    texts = [
        [block.split("\n")[0] for block in demonstrations_of(in_context(lm, task, 6, select="nearest"))]
        for task in (TASK, other)
    ]
    assert texts[0] == texts[1]


def test_calibration_takes_out_what_texts_without_content_get(lm: LanguageModel) -> None:
    plain, calibrated = (in_context(lm, TASK, 2, calibrate=calibrate) for calibrate in ("none", "content-free"))
    prompts = [plain.show(row).prompt for row in ROWS]
    blanks = [prompts[2].replace("Review: z\nSent", f"Review: {text}\nSent") for text in CONTENT_FREE]
    assert len(set(blanks)) == 3
    logs = lambda prompt: np.log(brute_force(lm, prompt, [" terrible", " great"]))  # noqa: E731
    bias = np.mean([logs(prompt) for prompt in blanks], axis=0)
    for prompt, found in zip(prompts, calibrated.predict_proba(ROWS), strict=True):
        odds = np.exp(logs(prompt) - bias)
        assert found == pytest.approx(odds / odds.sum(), abs=1e-4)


def test_calibration_by_training_texts_leaves_them_without_a_bias(lm: LanguageModel) -> None:
    texts = [text for text, _ in TEXTS]
    for labels in (["0", "1"] * 3, ["1", "1", "1", "0", "1", "1"]):  # which are not looked at
        task = replace(TASK, train=replace(TASK.train, labels=labels))
        found = zero_shot(lm, task, calibrate="train").predict_proba(texts)
        assert np.log(found[:, 0] / found[:, 1]).mean() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("select", ["random", "nearest"])
def test_no_training_text_is_calibrated_with_its_own_answer(lm: LanguageModel, select: str) -> None:
    asked = in_context(lm, TASK, 4, select=select).prompts(TASK.train.rows, but_itself=True)
    counts = [len(one.chosen) for one in asked]
    assert counts == [4] * 6 if select == "nearest" else sorted(counts) == [3, 3, 3, 3, 4, 4]
    for one, row in zip(asked, TASK.train.rows, strict=True):
        assert one.prompt.count(f"Review: {row['text']}\n") == 1


# A context that is full.


def test_demonstrations_that_do_not_fit_are_left_out_and_counted(
    make_model: Callable[..., object], family: str
) -> None:
    short, long = (
        in_context(LanguageModel(make_model(vocabulary_size=257, context=context), byte_tokenizer(), family), TASK, 6)
        for context in (128, 512)
    )
    rows, counts = ["z", "y" * 40, "x" * 90], []
    for row in rows:
        blocks = long.show(row).prompt.split("\n\n")
        lengths = [len("\n\n".join(blocks[first:]) + " terrible") for first in range(7)]
        first = next(first for first, length in enumerate(lengths) if length <= 128)  # ⊥ is read, the last letter not
        assert short.show(row).prompt.split("\n\n") == blocks[first:]
        counts.append(6 - first)
    assert counts[0] > counts[1] > counts[2] == 0
    assert (short.notes, long.notes) == ([], [])  # nothing was predicted yet
    short.predict(rows)
    assert short.notes == [f"0 to {counts[0]} of 6 demonstrations fitted into the context of 128 tokens"]
    assert (short.fewest, short.most, short.cut) == (0, counts[0], 0)
    long.predict(rows)
    assert long.notes == []


def test_a_row_longer_than_the_context_loses_its_beginning_or_is_refused(
    make_model: Callable[..., object], family: str
) -> None:
    lm = LanguageModel(make_model(vocabulary_size=257, context=96), byte_tokenizer(), family)
    text = "".join(chr(ord("a") + place % 26) for place in range(300))
    room = 96 - len("Review: \nSentiment: terrible")  # ⊥ is read, the last letter is not
    for shots in (0, 2):
        predictor = in_context(lm, TASK, shots)
        assert predictor.show(text).prompt == f"Review: {text[-room:]}\nSentiment:"
        assert predictor.predict_proba([text]) == pytest.approx(zero_shot(lm, TASK).predict_proba([text[-room:]]))
        assert predictor.predict(["z", text, text + text]) == predictor.predict(["z", text[-room:], text[-room:]])
        assert predictor.cut == 3
        assert predictor.notes[-1] == "3 rows longer than the context of 96 tokens lost their beginning"
    with pytest.raises(ValueError, match=r"text: wanted at most 96 tokens .* got 328 in 'abcd.*shorten it") as error:
        zero_shot(lm, TASK, longer="refuse").predict(["z", text])
    assert "\n" not in str(error.value)
    assert zero_shot(lm, TASK, longer="refuse").predict([text[-room:]])


def test_of_two_texts_the_longer_is_cut_first(make_model: Callable[..., object], family: str) -> None:
    lm = LanguageModel(make_model(vocabulary_size=257, context=64), byte_tokenizer(), family)
    row = {"premise": "p" * 50, "hypothesis": "h" * 20}
    train = Examples([row, row], ["yes", "no"], ["", ""])
    prompt = Prompt("{premise}|{hypothesis}|{label}")
    task = Task("classification", ("premise", "hypothesis"), "label", train, train, ("no", "yes"), prompt)
    assert zero_shot(lm, task).show(row).prompt == "p" * 39 + "|" + "h" * 20 + "|"
    long = {"premise": "p" * 90, "hypothesis": "h" * 80}
    assert zero_shot(lm, task).show(long).prompt == "|" + "h" * 59 + "|"
    with pytest.raises(ValueError, match="template: wanted at most 64 tokens"):
        zero_shot(lm, replace(task, prompt=Prompt("x" * 70 + "{premise}|{label}"))).predict([row])


# Generated answers.


@pytest.mark.parametrize("family", GENERATING)
def test_the_most_probable_word_is_what_greedy_generation_says(byte_lm: LanguageModel) -> None:
    predictor = in_context(byte_lm, TASK, 2, answer="vocabulary")
    words = list(predictor.answers(ROWS))
    for row, word in zip(ROWS, words, strict=True):
        text = byte_lm.generate(predictor.show(row).prompt, temperature=0, max_tokens=64)
        assert word == first_word(text, ["terrible", "great"])
        assert list(predictor.answers([row])) == [word]
        assert predictor.show(row) == (predictor.show(row).prompt, word, {})
    assert predictor.predict(ROWS) == [{"terrible": "0", "great": "1"}.get(word, "") for word in words]


def test_a_word_that_is_a_label_word_is_its_label(byte_lm: LanguageModel) -> None:
    word = next(iter(zero_shot(byte_lm, TASK, answer="vocabulary").answers(["z"])))
    assert word
    task = replace(TASK, prompt=replace(PROMPT, words={"0": "terrible", "1": word}))
    predictor = zero_shot(byte_lm, task, answer="vocabulary")
    assert predictor.predict(["z"]) == ["1"]
    assert [label for label, probabilities in predictor.stream(["z"]) if probabilities.shape == (0,)] == ["1"]


@pytest.mark.parametrize(
    ("text", "word", "ended"),
    [
        (" great", "great", False),  # it may become "greater"
        (" great,", "great", True),
        (" greater", "greater", False),
        (" greater than", "greater", True),
        ("great\nand", "great", True),
        (" very", "very", False),
        (" very b", "very", False),
        (" very bad!", "very bad", True),
        (" very good", "very", True),
        ("", "", False),
        ("\n", "", True),
        ("  ... or", "...", True),
        (" déjà vu", "déjà", True),
    ],
)
def test_a_word_ends_where_more_text_cannot_change_it(text: str, word: str, ended: bool) -> None:
    words = ["great", "very bad"]
    assert (first_word(text, words), word_ended(text, words)) == (word, ended)
    if ended:
        assert all(first_word(text + more, words) == word for more in ("a", " ", ",", "\n"))


@pytest.mark.parametrize("family", GENERATING)
def test_free_answers_are_generated_greedily_to_the_end_of_the_line_or_the_separator(byte_lm: LanguageModel) -> None:
    predictor = in_context(byte_lm, FREE, 2)
    for row, answer in zip(ROWS, predictor.predict(ROWS), strict=True):
        text = byte_lm.generate(predictor.show(row).prompt, temperature=0, max_tokens=64, stop="\n")
        assert answer == text.strip()
        assert predictor.show(row).prompt.endswith(f"Q: {row}\nA:")
    whole = byte_lm.generate("Q: z\nA:", temperature=0, max_tokens=64)
    stop = whole[3:5]
    assert stop.strip()
    task = replace(FREE, prompt=Prompt("Q: {text}\nA: {label}", separator=stop))
    assert zero_shot(byte_lm, task).predict(["z"]) == [whole[: whole.index(stop)].strip()]
    assert predictor.labels == ()


@pytest.mark.parametrize("family", GENERATING)
def test_a_generated_answer_is_the_same_alone_and_in_a_batch(byte_lm: LanguageModel) -> None:
    rows = [f"{'long ' * (number % 5)}row {number}" for number in range(40)]
    for task in (TASK, FREE):
        predictor = in_context(byte_lm, task, 1, answer="vocabulary")
        together = list(predictor.answers(rows))
        assert together[::-1] == list(predictor.answers(rows[::-1]))
        assert together[33] == next(predictor.answers([rows[33]]))


def test_a_generated_answer_has_room_in_the_context(make_model: Callable[..., object], family: str) -> None:
    lm = LanguageModel(make_model(vocabulary_size=257, context=96), byte_tokenizer(), family)
    predictor = in_context(lm, FREE, 4)
    for row in ("z", "y" * 200):
        assert len(predictor.show(row).prompt) + 1 <= 96 - 24
    predictor.predict(["y" * 200])
    assert predictor.cut == 1


# Mistakes.


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda lm: in_context(lm, TASK, 7), r"shots: wanted from 0 to 6 \(the labels that may be used\), got 7"),
        (lambda lm: in_context(lm, TASK, 5, labels=4), r"shots: wanted from 0 to 4 .* got 5"),
        (lambda lm: in_context(lm, TASK, -1), "shots: wanted from 0"),
        (lambda lm: in_context(lm, TASK, 2, labels=99), "labels: wanted"),
        (lambda lm: in_context(lm, TASK, 2, select="best"), "select: wanted random or balanced or nearest, got 'best'"),
        (lambda lm: in_context(lm, TASK, 2, select="nearest", by="x"), "by: wanted features or bm25"),
        (lambda lm: in_context(lm, FREE, 2, select="balanced"), "select: wanted random or nearest"),
        (lambda lm: zero_shot(lm, TASK, answer="word"), "answer: wanted labels or vocabulary"),
        (lambda lm: zero_shot(lm, TASK, calibrate="yes"), "calibrate: wanted none or content-free or train"),
        (lambda lm: zero_shot(lm, TASK, normalise="word"), "normalise: wanted sum or token or byte"),
        (lambda lm: zero_shot(lm, TASK, longer="skip"), "longer: wanted cut or refuse"),
        (lambda lm: zero_shot(lm, FREE, calibrate="train"), "calibrate: wanted none where answers are generated"),
        (lambda lm: zero_shot(lm, TASK, answer="vocabulary").predict_proba(ROWS), "predict_proba: wanted labels"),
        (lambda lm: next(zero_shot(lm, TASK).answers(ROWS)), "answers: wanted answers that are generated"),
        (lambda lm: zero_shot(lm, TASK).predict("one text"), "rows: wanted several rows, got one alone"),
        (lambda lm: zero_shot(lm, TASK).predict({"text": "one row"}), "rows: wanted several rows, got one alone"),
        (lambda lm: zero_shot(lm, TASK).predict(["z", {"review": "z"}]), "row 2: .*text"),
        (lambda lm: zero_shot(lm, replace(TASK, prompt=None)), "prompt"),
        (
            lambda lm: zero_shot(lm, replace(TASK, prompt=Prompt(PROMPT.template))),
            "prompting wants labels that are words",
        ),
        (
            lambda lm: zero_shot(lm, replace(FREE, prompt=Prompt("{label} is said of {text}"))),
            "template: wanted {label} behind all columns",
        ),
    ],
)
def test_a_mistake_is_one_line(lm: LanguageModel, wrong: Callable[[LanguageModel], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        wrong(lm)
    assert "\n" not in str(error.value)


def test_no_rows_give_no_predictions(lm: LanguageModel) -> None:
    assert zero_shot(lm, TASK).predict([]) == []
    assert zero_shot(lm, TASK).predict_proba(iter(())).shape == (0, 2)


# Shortcuts.


def test_a_prompt_has_the_tokens_of_its_whole_text_whatever_is_encoded_once(lm: LanguageModel) -> None:
    for template, separator in ((PROMPT.template, "\n\n"), ("{text} : {label}", " "), ("{label}! {text}", "")):
        task = replace(TASK, prompt=replace(PROMPT, template=template, separator=separator))
        for answer in ("labels", "vocabulary"):
            if answer == "vocabulary" and template.startswith("{label}"):
                continue
            for one in in_context(lm, task, 4, answer=answer).prompts([{"text": row} for row in ROWS]):
                tokens = [BPE.bos_id, *BPE.encode(one.prompt)]
                assert answer == "labels" or one.tokens == tokens
                for option, ending in zip(one.options, one.endings, strict=True):
                    assert isinstance(option, Pair)
                    assert [*option.context, *option.continuation] == [BPE.bos_id, *BPE.encode(one.prompt + ending)]
                    assert option.context == one.tokens


def test_the_words_that_were_said_are_in_the_score(byte_lm: LanguageModel) -> None:
    predictor = zero_shot(byte_lm, TASK, answer="vocabulary")
    score = measure(predictor, TASK)
    assert score.answers == list(predictor.answers(ROWS))
    assert list(score.predictions) == predictor.predict(ROWS)
    assert measure(zero_shot(byte_lm, TASK), TASK, limit=2).n == 2


@pytest.mark.parametrize("calibrate", ["none", "content-free", "train"])
def test_scored_shows_how_the_probabilities_of_a_row_came_about(lm: LanguageModel, calibrate: str) -> None:
    row = {"text": "so good"}
    predictor = in_context(lm, TASK, 2, calibrate=calibrate)
    found = predictor.scored(row)
    np.testing.assert_allclose(found.probabilities, predictor.predict_proba([row])[0], atol=1e-6)
    plain = in_context(lm, TASK, 2)
    np.testing.assert_allclose(found.uncalibrated, plain.predict_proba([row])[0], atol=1e-6)
    expected = [lm.log_prob(" " + word, given=found.prompt.prompt) for word in ("terrible", "great")]
    np.testing.assert_allclose(found.log_probs, expected, atol=1e-3)
    odds = np.exp(found.log_probs - found.bias)
    np.testing.assert_allclose(found.probabilities, odds / odds.sum(), atol=1e-9)
    assert (found.bias == 0).all() == (calibrate == "none")


def test_scored_is_of_labels_alone(byte_lm: LanguageModel) -> None:
    with pytest.raises(ValueError, match="answers that are generated; use show"):
        zero_shot(byte_lm, FREE).scored("so good")
