"""The command `generate`: a prompt continued."""

from collections.abc import Sequence
from dataclasses import asdict

from tyro.conf import Positional

from chainrule.commands.options import Device, Dtype, Json, refuse_without


def generate(
    model: Positional[str],
    prompt: Positional[str] = "",
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
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Continue a prompt by sampling softmax(u/τ), streamed.

    Args:
        model: A run, any Hugging Face directory, or a name on the Hub.
        prompt: What to continue; nothing is the beginning of a document. One that begins with - stands after --.
        temperature: τ; 0 is the most probable token.
        top_k: Sample from the k most probable tokens.
        top_p: Sample from the fewest tokens that hold this probability.
        min_p: Sample from tokens at least this share as probable as the most probable one.
        repetition_penalty: Above 1, tokens that occurred become less probable.
        max_tokens: End after so many.
        samples: How many continuations.
        stop: End before any of these strings.
        chat: The prompt is a user's message, written as the model's chat template has it.
        system: With --chat, a message before it that tells the model how to answer.
        seed: Sample s draws from the stream of (seed, s).
        device: Where to compute.
        dtype: What to compute in.
        json: Print one JSON document.
    """
    from chainrule.generation.sampling import Sampling
    from chainrule.language_model import load
    from chainrule.terminal import print_json

    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    if not chat:
        refuse_without("--chat", {"system": system}, {"system": ""})
    lm = load(model, device=device, dtype=dtype)
    asked: Sequence[int] | str = prompt
    if chat:
        before = [{"role": "system", "content": system}] if system else []
        asked, prompt = lm.chat.tokens([*before, {"role": "user", "content": prompt}]), ""
    if json:
        made = lm.completions([asked], sampling, samples=samples, max_tokens=max_tokens, stop=stop, seed=seed)
        print_json({"completions": [asdict(completion) for completion in made]})
    elif samples == 1:
        # The prompt is printed with the first piece: one that is refused prints nothing.
        for piece in lm.pieces([asked], sampling, max_tokens=max_tokens, stop=stop, seed=seed):
            print(prompt + piece.text, end="", flush=True)
            prompt = ""
        print()
    else:
        made = lm.completions([asked], sampling, samples=samples, max_tokens=max_tokens, stop=stop, seed=seed)
        for index, completion in enumerate(made):
            print(f"--- {index}\n{prompt}{completion.text}")
