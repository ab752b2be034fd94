"""What chat templates of several families have in common, as pieces of Jinja written for these tests."""

# ruff: noqa: E501  (a template is one text)

from __future__ import annotations

ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
CHATML = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
RESULT = (  # results of tools are a turn of the user, neighbours in one
    "{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
)
CALLS = (  # of the assistant, behind its content c
    "{% for call in m.tool_calls or [] %}{% set f = call.function or call %}"
    "{% if c or not loop.first %}{{ '\n' }}{% endif %}{{ '<tool_call>\n{\"name\": \"' + f.name + '\", \"arguments\": ' }}"
    "{{ f.arguments if f.arguments is string else f.arguments | tojson }}{{ '}\n</tool_call>' }}{% endfor %}"
)
SYSTEM = (  # with tools; `default` is what it says where the conversation has no system message
    "{% set own = messages[0].content if messages[0].role == 'system' else default %}"
    "{% if tools %}{{ '<|im_start|>system\n' + (own + '\n\n' if own else '') + '# Tools\n<tools>' }}"
    "{% for t in tools %}{{ '\n' + t | tojson }}{% endfor %}{{ '\n</tools><|im_end|>\n' }}"
    "{% elif own %}{{ '<|im_start|>system\n' + own + '<|im_end|>\n' }}{% endif %}"
)
LAST = (  # index of the last question; what follows it is the turn whose reasoning is shown
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}"
)
REASONING = (  # r: from its key, or from the tags in the content c
    "{% set r = m.reasoning_content if m.reasoning_content is string else '' %}"
    "{% if not r and '</think>' in c %}{% set r = c.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
)
SPLIT = (  # the system message and the rest
    "{% if messages[0].role == 'system' %}{% set sys, rest = messages[0].content, messages[1:] %}"
    "{% else %}{% set sys, rest = '', messages %}{% endif %}"
)
ALTERNATE = (  # of the rest, without what tools have to do with
    "{% set ns = namespace(i=0) %}{% for m in rest %}{% if m.role != 'tool' and not m.tool_calls %}"
    "{% if (m.role == 'user') != (ns.i % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% set ns.i = ns.i + 1 %}{% endif %}{% endfor %}"
)


def thinking(*, off: str, on: str = "") -> str:
    """A generation prompt of ChatML that depends on `enable_thinking`."""
    which = f"{{% if enable_thinking is defined and not enable_thinking %}}{{{{ '{off}' }}}}"
    other = f"{{% else %}}{{{{ '{on}' }}}}" if on else ""
    return ASK.replace("{% endif %}", which + other + "{% endif %}{% endif %}")


def qwen(assistant: str = "{{ c }}", ask: str = ASK, default: str = "") -> str:
    """ChatML with tools; `assistant` renders the content c and the reasoning r of an assistant's turn."""
    return (
        f"{{% set default = '{default}' %}}{SYSTEM}{LAST}"
        "{% for m in messages %}{% set c = m.content %}{% if m.role == 'tool' %}"
        + RESULT
        + "{% elif m.role == 'assistant' %}"
        "{{ '<|im_start|>assistant\n' }}"
        + assistant
        + CALLS
        + "{{ '<|im_end|>\n' }}{% elif m.role == 'user' or not loop.first %}"
        "{{ '<|im_start|>' + m.role + '\n' + c + '<|im_end|>\n' }}{% endif %}{% endfor %}" + ask
    )


def turns(user: str, assistant: str, *, system: str = "", ask: str = "", before: str = "", after: str = "") -> str:
    """A template of three forms of text, such as `<|user|>\\n§\\n`, where § is the content and EOS the token.

    Args:
        system: the form of system messages; rejected if empty.
        ask: the generation prompt.
        before, after: Jinja around all messages.
    """
    body = "{% for m in messages %}{% if m.role == 'user' %}" + _form(user)
    body += "{% elif m.role == 'assistant' %}" + _form(assistant)
    body += "{% elif m.role == 'system' %}" + _form(system) if system else ""
    body += "{% else %}{{ raise_exception('Role ' + m.role + ' is not supported') }}{% endif %}{% endfor %}"
    return before + body + after + (f"{{% if add_generation_prompt %}}{{{{ {ask!r} }}}}{{% endif %}}" if ask else "")


def _form(text: str) -> str:
    head, tail = text.split("§")
    trimmed = " | trim" if tail.startswith("|trim") else ""
    pieces = [repr(piece) for piece in tail.removeprefix("|trim").split("EOS")]
    return f"{{{{ {head!r} + (m.content{trimmed}) + {' + eos_token + '.join(pieces)} }}}}"
