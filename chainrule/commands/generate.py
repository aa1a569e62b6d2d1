"""The command `generate`: a prompt continued."""

from collections.abc import Sequence
from dataclasses import asdict

from chainrule.commands.options import Json, Loading, Model, check_at_least, check_seed, refuse_without, unescape
from chainrule.errors import OptionError


def generate(
    model: Model,
    prompt: str = "",
    /,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    max_tokens: int = 256,
    samples: int = 1,
    stop: tuple[str, ...] = (),
    chat: bool = False,
    system: str = "",
    seed: int = 0,
    loading: Loading = Loading(),
    json: Json = False,
) -> None:
    r"""Continue a prompt, or answer a chat message.

    Args:
        prompt: Text to continue (default: a new document); put -- before one that starts with -.

    Sampling:
        temperature: Higher is more varied; 0 takes the most probable token.
        top_k: Sample from the N most probable tokens only.
        top_p: Sample from the fewest tokens whose probabilities sum to X.
        min_p: Sample from tokens at least X times as probable as the best one.
        repetition_penalty: Above 1, tokens that occurred become less probable.
        seed: The same seed gives the same text.

    Length:
        max_tokens: Stop after N tokens.
        stop: Stop before any of these strings or special tokens; \n is a newline.
        samples: Number of continuations.

    Chat:
        chat: Write PROMPT as a user's message, with the model's chat template.
        system: With --chat, instructions that come before the message.

    Example:
        chainrule generate runs/books "Once upon a time" --temperature 0.8 --max-tokens 100
    """
    from chainrule.generation.sampling import Sampling
    from chainrule.language_model import require_causal
    from chainrule.terminal import print_json

    stop = tuple(map(unescape, stop))
    check_at_least(1, max_tokens=max_tokens, samples=samples)
    check_seed(seed)
    if "" in stop:
        raise OptionError("--stop: wanted strings of at least one character, got an empty one; leave it out")
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    if not chat:
        refuse_without("--chat", system=(system, ""))
    lm = require_causal(loading.load(model), "generate", "use score, or another model")
    asked: Sequence[int] | str = prompt
    if chat:
        before = [{"role": "system", "content": system}] if system else []
        asked, prompt = lm.chat.tokens([*before, {"role": "user", "content": prompt}]), ""
    if json:
        made = lm.completions([asked], sampling, samples=samples, max_tokens=max_tokens, stop=stop, seed=seed)
        print_json({"completions": [asdict(completion) for completion in made]})
    elif samples == 1:
        # The prompt is printed with the first token: nothing is printed where it is refused.
        for new in lm.stream_completions([asked], sampling, max_tokens=max_tokens, stop=stop, seed=seed):
            print(prompt + new.text, end="", flush=True)
            prompt = ""
        print()
    else:
        made = lm.completions([asked], sampling, samples=samples, max_tokens=max_tokens, stop=stop, seed=seed)
        for index, completion in enumerate(made):
            print(f"--- {index}\n{prompt}{completion.text}")
