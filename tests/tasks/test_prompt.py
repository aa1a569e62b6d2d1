"""Templates, label words, and the place of the answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrule.tasks.prompt import Prompt, check_columns, fill, is_word

REVIEW = Prompt("Review: {text}\nSentiment: {label}", words={"0": "terrible", "1": "great"})
LABELS = ("0", "1")


def test_a_prompt_is_its_demonstrations_then_the_row_up_to_its_answer():
    shown = [({"text": "dull"}, "0"), ({"text": "a joy"}, "1")]
    assert REVIEW.prompt(shown, {"text": "fine"}) == (
        "Review: dull\nSentiment: terrible\n\nReview: a joy\nSentiment: great\n\nReview: fine\nSentiment: "
    )
    assert REVIEW.prompt([], {"text": "fine"}) == REVIEW.before({"text": "fine"})


def test_the_answer_may_stand_anywhere_and_what_follows_it_is_scored():
    cloze = Prompt("A {label} film: {text}!", words=REVIEW.words)
    row = {"text": "fine"}
    assert (cloze.before(row), cloze.after(row)) == ("A ", " film: fine!")
    assert cloze.questions([], row, LABELS) == [("A", " terrible film: fine!"), ("A", " great film: fine!")]
    first = Prompt("{label}: {text}")
    assert first.questions([], row, ["yes"]) == [("", "yes: fine")]


@given(text=st.text(), word=st.text(min_size=1), label=st.sampled_from(["yes", "no"]))
def test_before_the_word_and_after_are_the_filled_template(text: str, word: str, label: str):
    prompt = Prompt("{{{text}}} is {label}, {title}", words={"yes": word})
    row = {"text": text, "title": "{text}"}
    assert prompt.before(row) == "{" + text + "} is ", "braces of a text are text"
    assert prompt.filled(row, label) == prompt.before(row) + prompt.word(label) + prompt.after(row)
    (question,) = prompt.questions([], row, [label])
    assert "".join(question) == prompt.filled(row, label)
    assert not question.before.endswith(" ")


def test_texts_of_several_columns_are_named():
    prompt = Prompt("{premise} Hence {hypothesis}? {label}")
    assert prompt.before({"premise": "It rains.", "hypothesis": "it is wet"}) == "It rains. Hence it is wet? "
    with pytest.raises(ValueError, match="template: no column 'hypothesis', only 'premise'"):
        prompt.before({"premise": "It rains."})


def test_the_default_prompt_is_a_line_a_column():
    prompt = Prompt.default(("review", "title"), "stars")
    assert prompt.template == "Review: {review}\nTitle: {title}\nStars: {label}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{text}", r"\{label\} once, where the answer goes, got it 0 times"),
        ("{text} {{label}}", "got it 0 times"),
        ("{label} {text} {label}", "got it 2 times"),
        ("{text {label}", "got a single one"),
        ("text} {label}", "got a single one"),
        ("{{text} {label}", "got a single one"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(template: str, message: str):
    with pytest.raises(ValueError, match=message):
        Prompt(template)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("It was {label}", r"wanted a text column, \{text\}, \{title\}, got 'It was \{label\}', which names none"),
        ("{text} {stars} {label}", r"\{stars\} is none of the text columns \{text\}, \{title\}"),
        ("{} {label}", r"\{\} is none of the text columns"),
    ],
)
def test_a_template_names_text_columns_and_no_other(template: str, message: str):
    Prompt("{title} {label}").check_columns(("text", "title"))
    with pytest.raises(ValueError, match=message):
        Prompt(template).check_columns(("text", "title"))


def test_a_template_without_an_answer_names_no_label():
    check_columns("input", "{text}", ("text",))
    with pytest.raises(ValueError, match=r"input: \{label\} is none"):
        check_columns("input", "{text} {label}", ("text",))
    assert fill("{{{text}}}", {"text": "{a}"}) == "{{a}}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, r"labels that are words, got '0', '1': .*\[prompt.words\], as in 0 = \"…\""),
        ({"0": "bad"}, "got '1': "),
        ({"0": "good", "1": "good"}, "the word 'good' of '0' begins 'good' of '1'"),
        ({"0": "goodness", "1": "good"}, "the word 'good' of '1' begins 'goodness' of '0'"),
        ({"0": "bad", "1": " "}, "wanted a word for '1', got ' '"),
    ],
)
def test_label_words_that_cannot_tell_labels_apart_are_refused(words: dict[str, str], message: str):
    with pytest.raises(ValueError, match=message) as raised:
        Prompt("{text} {label}", words=words).check_words(LABELS)
    assert "\n" not in str(raised.value)


def test_every_beginning_is_found_not_only_a_neighbours():
    with pytest.raises(ValueError, match="'a' of 'x' begins 'a!' of 'y'"):
        Prompt("{text} {label}", words={"x": "a", "y": "a!", "z": "ab"}).check_words(("z", "y", "x"))
    REVIEW.check_words(LABELS)
    Prompt("{text} {label}", words={"0": "0", "1": "1"}).check_words(LABELS)  # said on purpose


def test_digits_signs_and_single_letters_are_no_words():
    assert not any(map(is_word, ["0", "12", "-1", "0.5", "A", "+", ""]))
    assert all(map(is_word, ["no", "true", "ja", "très", "класс", "5 stars"]))
