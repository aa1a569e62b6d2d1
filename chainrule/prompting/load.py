"""A prompted predictor from its folder: a language model or an adapter, and the prompt that asks it."""

from pathlib import Path

from chainrule.errors import ChainruleError, ModelError
from chainrule.language_model import load
from chainrule.model.formats.adapter_files import is_adapter, read_adapter
from chainrule.model.formats.load_quantised import Quantize
from chainrule.prompting.asking import Asking
from chainrule.prompting.demonstrations import the_same
from chainrule.prompting.files import FORM, read_form
from chainrule.prompting.prompted import Prompted
from chainrule.tasks.examples import Examples, Task
from chainrule.tasks.prompt import Prompt


def load_prompted(directory: Path, *, device: str = "auto", dtype: str = "auto") -> Prompted:
    """The predictor that `Prompted.save` wrote. Raises ModelError for what `load` or its chainrule.toml refuses."""
    form = read_form(directory)
    none = Examples([], [], [])
    try:
        prompt = Prompt(form.template, form.separator, form.words, form.history)
        asking = Asking(form.calibrate, form.normalise, form.longer, form.chat)  # type: ignore[arg-type]
        task = Task(form.kind, form.text, form.label, none, none, form.labels, prompt)  # type: ignore[arg-type]
        task.checked_prompt()
    except ChainruleError as error:
        raise ModelError(f"{directory / FORM}: {error}") from None
    adapter = read_adapter(directory) if is_adapter(directory) else None
    kept: Quantize = "none" if adapter is None else "auto"  # beside a quantised base, if it was trained so
    lm = load(directory, device=device, dtype=dtype, quantize=kept)
    if lm.tokenizer.bos != form.bos:
        lm = load(directory, device=device, dtype=dtype, bos=form.bos, quantize=kept)
    made = Prompted(lm, task, none, 0, the_same([]), asking)
    made.adapter = adapter
    made.end_answers(form.answer_tokens, one_line=form.one_line)
    return made
