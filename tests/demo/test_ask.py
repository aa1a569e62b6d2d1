"""Items are answered by scoring as they would be by generating."""

import torch

from chainrule.demo.ask import GREEDY, ask
from chainrule.demo.items import ANSWER_ENDS, Item
from chainrule.demo.pretrain import PATTERN
from chainrule.language_model import LanguageModel
from chainrule.model.config import Config
from chainrule.model.transformer import Transformer, initialise
from chainrule.tokens.make import train_bpe
from chainrule.training.objectives import next_token_loss

ANSWERS = {"owl": "night", "cat": "day, of course", "fox": "no", "elk": "north. Always", "hen": "no one", "cow": "now"}


def overfitted() -> LanguageModel:
    """Knows these six documents by heart, and nothing else."""
    documents = [f"Q: {animal}?\nA: {answer}\nQ: {animal}?\nA: {answer}\n" for animal, answer in ANSWERS.items()]
    tokenizer = train_bpe(documents * 9, 300, pattern=PATTERN)
    model = Transformer(
        Config(tokenizer.vocabulary_size, 24, width=32, layers=1, heads=2, key_value_heads=2, head_width=16, hidden=32)
    )
    initialise(model, 0)
    rows = [[tokenizer.bos_id, *tokenizer.encode(document), tokenizer.bos_id] for document in documents]
    tokens = torch.tensor([row + [tokenizer.bos_id] * (max(map(len, rows)) - len(row)) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(60):
        next_token_loss(model, tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
    return LanguageModel(model.eval(), tokenizer, "qwen3")


def test_an_answer_is_right_by_scoring_exactly_where_greedy_generation_gives_it() -> None:
    language_model = overfitted()
    asked = [
        Item(f"Q: {animal}?\nA:", wanted, ("night", "no"))
        for animal in ANSWERS
        for wanted in ("night", "day", "no", "north", "no one", "now", "n")
    ]
    made = language_model.completions([item.prompt for item in asked], GREEDY, max_tokens=6, stop=ANSWER_ENDS)
    generated = [completion.text.strip() == item.answer for item, completion in zip(asked, made, strict=True)]
    assert sum(generated) == len(ANSWERS)  # each animal's own answer, and no beginning of it
    assert [ask(language_model, [item]).accuracy == 1.0 for item in asked] == generated
