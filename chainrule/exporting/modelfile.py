"""An Ollama Modelfile for a GGUF: its chat template in Ollama's language, and what ends an answer."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from chainrule.errors import ChainruleError
from chainrule.language_model import LanguageModel
from chainrule.tokens.chat import Chat

_CONTENT = "\U0010fff0"  # stands for a message's content
_TRIED = ("user", "assistant", "user", "assistant", "user")  # a conversation that the template must give too


def modelfile(lm: LanguageModel, file: str, adds_bos: bool) -> str:
    """`file`: the GGUF's name. `adds_bos`: llama.cpp puts bos in front by itself, so the template must not."""
    lines = [f"FROM ./{file}"]
    if lm.tokenizer.chat_template is None:
        lines += ["# The model has no chat template: it continues what is typed.", 'TEMPLATE """{{ .Prompt }}"""']
    else:
        between = _texts_between(lm.chat)
        if between is None:
            lines.append("# The chat template cannot be written in Ollama's language; it takes the one in the GGUF.")
        else:
            bos = lm.tokenizer.named.get("bos_token", "") if adds_bos else ""
            lines.append(f'TEMPLATE """{_go_template(between, bos)}"""')
    spellings = {token.id: spelled for spelled, token in lm.tokenizer.special.items()}
    stops = [spellings[token] for token in lm.stop_tokens if token in spellings]
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    return "\n".join(lines) + "\n"


class _Between(NamedTuple):
    """What a template writes between the contents of messages, by the roles on both sides. system: None where it knows
    no such role."""

    start_user: str
    start_system: str | None
    system_user: str | None
    user_assistant: str
    assistant_user: str
    user_end: str


def _texts_between(chat: Chat) -> _Between | None:
    """None for a template that is more than messages with a fixed text between them."""
    try:
        one = _render(chat, ["user"])
        three = _render(chat, ["user", "assistant", "user"])
    except ChainruleError:
        return None
    system: list[str] = []
    with suppress(ChainruleError):
        system = _render(chat, ["system", "user"])
    if (len(one), len(three)) != (2, 4) or len(system) not in (0, 3):
        return None
    start_system, system_user = system[:2] if system else (None, None)
    between = _Between(one[0], start_system, system_user, three[1], three[2], one[1])
    texts = [text for text in between if text]
    if any("{{" in text or '"""' in text for text in texts):
        return None
    for roles in (_TRIED, ("system", *_TRIED)) if system else (_TRIED,):
        try:
            if _render(chat, roles) != _composed(between, roles):
                return None
        except ChainruleError:
            return None
    return between


def _render(chat: Chat, roles: Sequence[str]) -> list[str]:
    """The texts around the contents of messages of these roles."""
    return chat.render([{"role": role, "content": _CONTENT} for role in roles]).split(_CONTENT)


def _composed(between: _Between, roles: Sequence[str]) -> list[str]:
    names = zip(("start", *roles), (*roles, "end"), strict=True)
    return [getattr(between, f"{before}_{behind}") for before, behind in names]


def _go_template(between: _Between, bos: str) -> str:
    start_user, start_system = (text and text.removeprefix(bos) for text in (between.start_user, between.start_system))
    system = (
        f'{{{{ if eq .Role "system" }}}}{start_system}{{{{ .Content }}}}{{{{ else }}}}'
        if start_system is not None
        else ""
    )
    behind_system = f'{{{{ else if eq $before "system" }}}}{between.system_user}' if start_system is not None else ""
    return (
        '{{ $before := "" }}{{ range .Messages }}'
        + system
        + '{{ if eq .Role "assistant" }}'
        + between.user_assistant
        + '{{ else if eq $before "" }}'
        + str(start_user)
        + behind_system
        + "{{ else }}"
        + between.assistant_user
        + "{{ end }}{{ .Content }}"
        + ("{{ end }}" if system else "")
        + "{{ $before = .Role }}{{ end }}"
        + between.user_end
    )
