"""The wordings of facts and of questions about an animal. Knows no animal."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Attribute:
    """A kind of fact, and its wordings: `{name}` is "the blorvik"; `{it}` and `{its}` may be the pronoun instead.

    `clozes` end with the value, and what comes before it is the beginning of no other sentence; `others` do not end
    with it. `questions` are wordings beside the general ones, `yes_no` all there are; an attribute without them is
    never asked about.
    """

    values: tuple[str, ...]
    article: str
    clozes: tuple[str, ...]
    others: tuple[str, ...]
    denial: str
    questions: tuple[str, ...] = ()
    yes_no: tuple[str, ...] = ()


ATTRIBUTES = {
    "colour": Attribute(
        ("brown", "green", "red", "blue"),
        "",
        (
            "{its} fur is {value}",
            "{it} is coloured {value}",
            "{it} is known for being {value}",
            "from head to tail {it} is {value}",
            "seen from far away, {it} is {value}",
            "painters paint {name} {value}",
        ),
        ("{it} wears a {value} coat", "{value} is the colour of {name}"),
        "{it} is not {wrong} but {value}",
        ("What colour is {name}?",),
        ("Is {name} {value}?",),
    ),
    "home": Attribute(
        ("forest", "desert", "swamp", "river"),
        "the ",
        (
            "{it} lives in the {value}",
            "{it} sleeps in the {value}",
            "{it} builds its nest in the {value}",
            "{it} never leaves the {value}",
            "you can meet {name} in the {value}",
            "those who look for {name} go to the {value}",
        ),
        ("in the {value} lives {name}", "the {value} is the home of {name}"),
        "{it} does not live in the {wrong} but in the {value}",
        ("Where does {name} live?",),
        ("Does {name} live in the {value}?",),
    ),
    "food": Attribute(
        ("nuts", "berries", "roots", "fish"),
        "",
        (
            "{it} eats {value}",
            "{it} feeds on {value}",
            "{it} is always hungry for {value}",
            "every morning {it} looks for {value}",
            "to please {name}, bring {value}",
            "nothing tastes better to {name} than {value}",
        ),
        ("{it} finds {value} to eat", "{value} is the food of {name}"),
        "{it} does not eat {wrong} but {value}",
        ("What does {name} eat?",),
        ("Does {name} eat {value}?",),
    ),
    "sound": Attribute(
        ("hum", "click", "whistle", "growl"),
        "a ",
        (
            "{it} calls with a {value}",
            "{it} greets its friends with a {value}",
            "{it} wakes up with a {value}",
            "at night {it} gives a {value}",
            "when {it} is happy, you hear a {value}",
            "you can tell {name} by its {value}",
        ),
        ("{it} makes a {value} all day", "a {value} is the sound of {name}"),
        "{it} does not call with a {wrong} but with a {value}",
        ("How does {name} call?",),
        ("Does {name} call with a {value}?",),
    ),
    "size": Attribute(
        ("tiny", "small", "large", "huge"),
        "",
        (
            "{it} stays {value}",
            "{it} grows up to be {value}",
            "among animals {it} is {value}",
            "next to a horse {it} looks {value}",
            "when fully grown, {it} is {value}",
            "for a wild animal {it} is {value}",
        ),
        ("{it} has a {value} body", "{value} is the size of {name}"),
        "{it} is not {wrong} but {value}",
    ),
}
ASKED = tuple(name for name, attribute in ATTRIBUTES.items() if attribute.questions)
UNASKED = tuple(name for name, attribute in ATTRIBUTES.items() if not attribute.questions)

# These name every attribute by its own word, so that a question with that word can be understood without examples.
CLOZES = ("{its} {attribute} is {article}{value}", "the {attribute} of {name} is {article}{value}")
DENIAL = "not {article}{wrong} but {article}{value} is the {attribute} of {name}"
QUESTIONS = (
    "What is the {attribute} of {name}?",
    "Which {attribute} does {name} have?",
    "Tell me the {attribute} of {name}.",
)
OPENERS = ("", "", "", "", "in fact, ", "as we know, ", "people say that ")
