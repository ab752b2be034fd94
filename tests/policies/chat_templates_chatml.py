"""Minimal templates in the form of ChatML, its relatives and [INST], written here after reading what public ones do."""

# ruff: noqa: E501  (a template is one text)

from __future__ import annotations

from tests.policies.chat_family import ALL, BOS, EMPTY, IM, SP, THINK, Family, named
from tests.policies.chat_pieces import ALTERNATE, ASK, CHATML, LAST, REASONING, SPLIT, qwen, thinking, turns
from tests.policies.chat_tokenizers import GEMMA, GPT2, LLAMA, METASPACE

# ---- ChatML and its relatives ---------------------------------------------------------------------------------------

NO_SYSTEM = "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
SMOL_ANSWER = (
    "{% generation %}{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n' }}{% endif %}"
    "{{ m.content.lstrip('\n') + '<|im_end|>\n' }}{% endgeneration %}"
)
SMOL3 = (
    "{{ '<|im_start|>system\n## Metadata\nReasoning Mode: think\n\n' }}"
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
    "{% for t in tools or [] %}{{ '\n' + t | tojson }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"
    "{% elif m.role == 'tool' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"
    "{% elif m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}" + SMOL_ANSWER + "{% endif %}{% endfor %}"
)
SHOWN = "{% if loop.index0 > ns.last and (loop.last or r) %}{{ '<think>\n' + r.strip('\n') + '\n</think>\n\n' }}"
QWEN3 = REASONING + SHOWN + "{% set c = c.lstrip('\n') %}{% endif %}{{ c }}"
ALWAYS = "{% if loop.index0 > ns.last %}{{ '<think>\n' + r.strip() + '\n</think>\n\n' }}{% endif %}{{ c }}"
QWQ = "{% set c = c.split('</think>')[-1].lstrip('\n') %}{{ c }}"
TRIM = "{% set c = c | trim %}"
NEMOTRON3 = (
    "{% if m.reasoning_content %}{% set c = '<think>\n' + m.reasoning_content + '\n</think>\n' + c %}"
    "{% elif '</think>' not in c and '<think>' not in c %}{% set c = '<think></think>' + c %}{% endif %}"
    "{% if loop.index0 < ns.last and '</think>' in c %}{% set c = '<think></think>' + c.split('</think>')[-1] %}{% endif %}"
    "{{ c | trim }}"
)
LFM_TOOLS = "{% set own = messages[0].content if messages[0].role == 'system' else '' %}"
LFM_TOOLS += "{% if tools %}{% set own = own + '\nList of tools: ' + tools | tojson %}{% endif %}"
LFM_TOOLS += "{% if own %}{{ '<|im_start|>system\n' + own + '<|im_end|>\n' }}{% endif %}"
LFM_TURNS = "{% for m in messages %}{% if m.role != 'system' or not loop.first %}{{ '<|im_start|>' + m.role + '\n' }}"
LFM25 = (
    "{% if m.role == 'assistant' %}{% generation %}{% if m.thinking is defined and loop.index0 > ns.last %}"
    "{{ '<think>' + m.thinking + '</think>' }}{% endif %}{{ m.content }}{% for call in m.tool_calls or [] %}"
    "{{ '<|tool_call_start|>[' + call.function.name + '(' + call.function.arguments | tojson + ')]<|tool_call_end|>' }}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}"
)
TOOL_TOKENS = ("<|tool_call_start|>", "<|tool_call_end|>")
KIMI_HEAD = (
    "{% if tools %}{{ '<|im_system|>tool_declare<|im_middle|>' + tools | tojson + '<|im_end|>' }}{% endif %}"
    "{% if messages[0].role != 'system' %}{{ '<|im_system|>system<|im_middle|>You are Kimi.<|im_end|>' }}{% endif %}"
)
KIMI = KIMI_HEAD + (
    "{% for m in messages %}{% set who = m.role if m.role in ('user', 'assistant') else 'system' %}"
    "{{ '<|im_' + who + '|>' + m.role + '<|im_middle|>' + m.content }}"
    "{% if m.tool_calls %}{{ '<|tool_calls_section_begin|>' }}{% for call in m.tool_calls %}"
    "{{ call.function.name + '<|tool_call_argument_begin|>' + call.function.arguments | tojson }}{% endfor %}"
    "{{ '<|tool_calls_section_end|>' }}{% endif %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_assistant|>assistant<|im_middle|>' }}{% endif %}"
)
KIMI_TOKENS = ("<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>")
KIMI_CALLS = ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_argument_begin|>")
MINIMAX = (
    "{{ ']~!b[]~b]system\n' + (messages[0].content if messages[0].role == 'system' else 'You are MiniMax.') }}"
    "{% if tools %}{{ '\n<tools>' + tools | tojson + '</tools>' }}{% endif %}{{ '[e~[\n' }}"
    + LAST
    + "{% for m in messages %}"
    "{% set c = m.content %}{% if m.role == 'assistant' %}{{ ']~b]ai\n' }}"
    + REASONING
    + "{% if r and loop.index0 > ns.last %}"
    "{{ '<think>\n' + r + '\n</think>\n\n' }}{% endif %}{{ c }}{% if m.tool_calls %}{{ '\n<minimax:tool_call>\n' }}"
    "{% for call in m.tool_calls %}{{ '<invoke name=\"' + call.function.name + '\">\n' }}"
    "{% for k, v in call.function.arguments | items %}{{ k + '=' + v | tojson + '\n' }}{% endfor %}{{ '</invoke>\n' }}"
    "{% endfor %}{{ '</minimax:tool_call>' }}{% endif %}{{ '[e~[\n' }}{% elif m.role == 'tool' %}"
    "{{ ']~b]tool\n<response>' + m.content + '</response>[e~[\n' }}{% elif m.role == 'user' %}"
    "{{ ']~b]user\n' + c + '[e~[\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ']~b]ai\n<think>\n' }}{% endif %}"
)
RELATIVES = [
    Family("chatml", CHATML + ASK, "<|im_end|>", IM, special=("<|im_start|>",)),
    Family("chatml-without-prompt", CHATML, "<|im_end|>", IM, special=("<|im_start|>",)),
    Family("chatml-eos-is-not-the-end", CHATML + ASK, "<|im_end|>", named("<|endoftext|>"), special=("<|im_start|>",)),
    Family("smollm2", NO_SYSTEM + CHATML + ASK, "<|im_end|>",
           named("<|im_end|>", bos="<|im_start|>", unk="<|endoftext|>"), GPT2),
    Family("smollm3", SMOL3 + thinking(off="<think>\n\n</think>\n"), "<|im_end|>", IM, special=("<|im_start|>",), plain=THINK, keeps="system tags tools"),
    Family("qwen2.5", qwen(default="You are Qwen."), "<|im_end|>", IM, special=("<|im_start|>",), plain=THINK[2:], keeps=ALL),
    Family("qwen3", qwen(QWEN3, thinking(off=EMPTY)), "<|im_end|>", IM, special=("<|im_start|>",), plain=THINK, keeps=ALL + " key both"),
    Family("qwen3-off", qwen(QWEN3, thinking(off=EMPTY)), "<|im_end|>", IM, special=("<|im_start|>",), plain=THINK,
           options={"enable_thinking": False}, keeps=ALL + " key both"),
    Family("qwen3-thinking", qwen(QWEN3, thinking(off=EMPTY, on="<think>\n")), "<|im_end|>", IM,
           special=("<|im_start|>",), plain=THINK, keeps=ALL + " key both"),
    Family("qwq", qwen(QWQ, thinking(off="", on="<think>\n"), "You are helpful."), "<|im_end|>", IM,
           special=("<|im_start|>",), plain=THINK, keeps=ALL, continues=True),
    Family("qwen3.5", qwen(TRIM + REASONING + ALWAYS, thinking(off=EMPTY, on="<think>\n")), "<|im_end|>", IM,
           special=("<|im_start|>",), plain=THINK, keeps=ALL + " key both"),
    Family("nemotron-3", qwen(NEMOTRON3, thinking(off="<think></think>", on="<think>\n")), "<|im_end|>", IM,
           special=("<|im_start|>",), plain=THINK, keeps=ALL + " key both"),
    Family("hermes", {"default": CHATML + ASK, "tool_use": qwen()}, "<|im_end|>",
           named("<|im_end|>", bos="<|begin_of_text|>"), special=("<|im_start|>",), keeps=ALL),
    Family("lfm2", BOS + LFM_TOOLS + LFM_TURNS + "{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}" + ASK, "<|im_end|>",
           named("<|im_end|>", "<|pad|>", "<|startoftext|>"), special=("<|im_start|>", *TOOL_TOKENS), keeps="system tags tools"),
    Family("lfm2.5", BOS + LFM_TOOLS + LAST + LFM_TURNS + LFM25 + "{% endif %}{% endfor %}" + ASK, "<|im_end|>",
           named("<|im_end|>", "<|pad|>", "<|startoftext|>"), special=("<|im_start|>", *TOOL_TOKENS), plain=THINK, keeps=ALL + " key both"),
    Family("yi", CHATML + ASK, "<|im_end|>", named("<|im_end|>", "<unk>", "<s>", "<unk>"), GEMMA, ("<|im_start|>",)),
    Family("internlm2", BOS + CHATML + ASK, "<|im_end|>", SP, METASPACE, ("<|im_start|>",)),
    Family("kimi-k2", KIMI, "<|im_end|>", named("<|im_end|>", "[PAD]", "[BOS]"), special=(*KIMI_TOKENS, *KIMI_CALLS), keeps=ALL),
    Family("minimax-m2", MINIMAX, "[e~[", named("[e~["), special=("]~!b[", "]~b]"), plain=THINK, keeps=ALL + " key both"),
    Family("phi-4", turns("<|im_start|>user<|im_sep|>§<|im_end|>", "<|im_start|>assistant<|im_sep|>§<|im_end|>",
                          system="<|im_start|>system<|im_sep|>§<|im_end|>", ask="<|im_start|>assistant<|im_sep|>"),
           "<|im_end|>", named("<|im_end|>", "<|dummy|>", "<|endoftext|>", "<|endoftext|>"), special=("<|im_start|>", "<|im_sep|>")),
]  # fmt: skip

# ---- [INST] ---------------------------------------------------------------------------------------------------------

LLAMA2 = (
    SPLIT
    + ALTERNATE
    + (
        "{% for m in rest %}{% set c = '<<SYS>>\n' + sys + '\n<</SYS>>\n\n' + m.content if loop.first and sys else m.content %}"
        "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + c | trim + ' [/INST]' }}"
        "{% else %}{{ ' ' + c | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
    )
)
MISTRAL1 = (
    SPLIT
    + ALTERNATE
    + BOS
    + (
        "{% for m in rest %}{% if m.role == 'user' %}"
        "{{ '[INST] ' + (sys + '\n\n' if loop.first and sys else '') + m.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
    )
)
MISTRAL_CALLS = (
    "{% elif m.tool_calls %}{{ '[TOOL_CALLS] [' }}{% for call in m.tool_calls %}{{ (call.function | tojson)[:-1] }}"
    "{% if not call.id or call.id | length != 9 %}{{ raise_exception('Tool call IDs have length 9') }}{% endif %}"
    "{{ ', \"id\": \"' + call.id + '\"}' + (', ' if not loop.last else '') }}{% endfor %}{{ ']' + eos_token }}"
)
MISTRAL3 = (
    SPLIT
    + ALTERNATE
    + BOS
    + (  # the system message stands in the last turn, but only while it is the last
        "{% set asked = rest | selectattr('role', 'equalto', 'user') | list %}"
        "{% for m in rest %}{% if m.role == 'user' %}"
        "{% if tools and m == asked[-1] %}{{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}"
        "{{ '[INST] ' + (sys + '\n\n' if loop.last and sys else '') + m.content + '[/INST]' }}"
        + MISTRAL_CALLS
        + "{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS] ' + m.content + '[/TOOL_RESULTS]' }}"
        "{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"
    )
)
MISTRAL7 = BOS + (
    "{% set asked = messages | selectattr('role', 'equalto', 'user') | list %}"
    "{% for m in messages %}{% if m.role == 'system' %}{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}"
    "{% elif m.role == 'user' %}{% if tools and m == asked[-1] %}{{ '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}"
    "{% endif %}{{ '[INST]' + m.content + '[/INST]' }}"
    + MISTRAL_CALLS
    + "{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
MAGISTRAL = BOS + (
    "{% if messages[0].role != 'system' %}{{ '[SYSTEM_PROMPT]Think first.[/SYSTEM_PROMPT]' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'system' %}{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}"
    "{% elif m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}{% elif m.role == 'assistant' %}"
    "{% if m.reasoning_content %}{{ '[THINK]' + m.reasoning_content + '[/THINK]' }}{% endif %}{{ m.content + eos_token }}"
    "{% else %}{{ raise_exception('Role ' + m.role + ' is not supported') }}{% endif %}{% endfor %}"
)
INST = (
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
)
SYS = ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
INSTRUCT = [
    Family("llama-2", LLAMA2, "</s>", SP, LLAMA),
    Family("mistral-v1", MISTRAL1, "</s>", SP, LLAMA),
    Family("mistral-v3", MISTRAL3, "</s>", SP, METASPACE, INST, keeps="tags tools calls results"),
    Family("mistral-v7", MISTRAL7, "</s>", named("</s>", "<pad>", "<s>", "<unk>"), special=(*INST, *SYS), keeps="system tags tools calls results"),
    Family("magistral", MAGISTRAL, "</s>", named("</s>", "<pad>", "<s>", "<unk>"), special=(*INST, *SYS, "[THINK]", "[/THINK]"), keeps="system tags key"),
]  # fmt: skip
