"""Minimal templates that write headers, roles or plain words, written here after reading what public ones do."""

# ruff: noqa: E501  (a template is one text)

from __future__ import annotations

from tests.policies.chat_family import ALL, BOS, COHERE, DEEPSEEK, HEADERS, SP, THINK, Family, named
from tests.policies.chat_pieces import LAST, REASONING, SPLIT, turns
from tests.policies.chat_tokenizers import GEMMA, GPT2, LLAMA, METASPACE

# ---- headers and roles ----------------------------------------------------------------------------------------------

LLAMA3 = (
    "{% for m in messages %}{{ (bos_token if loop.first else '') + '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{{ m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA31 = (
    SPLIT
    + BOS
    + (
        "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n' + sys | trim + '<|eot_id|>' }}"
        "{% for m in rest %}{% if m.tool_calls %}"
        "{% if m.tool_calls | length != 1 %}{{ raise_exception('Only one call at once') }}{% endif %}{% set f = m.tool_calls[0].function %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
        "{{ '{\"name\": \"' + f.name + '\", \"parameters\": ' + f.arguments | tojson + '}<|eot_id|>' }}{% else %}"
        "{{ '<|start_header_id|>' + ('ipython' if m.role == 'tool' else m.role) + '<|end_header_id|>\n\n' }}"
        "{% if tools and loop.first %}{{ 'Given these functions: ' + tools | tojson + '\n\n' }}{% endif %}"
        "{{ m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    )
)
GEMMA1 = BOS + (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}"
    "{% endif %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim }}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
GEMMA3 = (
    BOS
    + SPLIT
    + (
        "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}"
        "{% endif %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
        "{{ (sys + '\n\n' if loop.first and sys else '') + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    )
)
GEMMA4 = BOS + (  # the generation prompt has an empty block of reasoning, an answered conversation none
    "{% set own = messages[0].content | trim if messages[0].role == 'system' else '' %}{% if own or tools %}"
    "{{ '<|turn>system\n' + own }}{% for t in tools or [] %}{{ '<|tool>' + t | tojson + '<tool|>' }}{% endfor %}"
    "{{ '<turn|>\n' }}{% endif %}{% for m in messages %}{% if m.role != 'system' %}"
    "{{ '<|turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}{% for call in m.tool_calls or [] %}"
    "{{ '<|tool_call>call:' + call.function.name + call.function.arguments | tojson + '<tool_call|>' }}{% endfor %}"
    "{{ m.content.split('<channel|>')[-1] | trim + '<turn|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>model\n<|channel>thought\n<channel|>' }}{% endif %}"
)
R7B = BOS + (
    "{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|># System Preamble' }}{% if tools %}{{ '\n' + tools | tojson }}{% endif %}"
    "{% if messages[0].role == 'system' %}{{ '\n' + messages[0].content }}{% endif %}{{ '<|END_OF_TURN_TOKEN|>' }}"
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + m.content + '<|END_OF_TURN_TOKEN|>' }}{% elif m.role == 'assistant' %}"
    "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% if m.tool_calls %}"
    "{{ '<|START_ACTION|>' + m.tool_calls | tojson + '<|END_ACTION|>' }}{% else %}"
    "{% if m.reasoning_content and loop.last %}{{ '<|START_THINKING|>' + m.reasoning_content + '<|END_THINKING|>' }}{% endif %}"
    "{{ '<|START_RESPONSE|>' + m.content + '<|END_RESPONSE|>' }}{% endif %}{{ '<|END_OF_TURN_TOKEN|>' }}"
    "{% elif m.role == 'tool' %}{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + m.content + '<|END_OF_TURN_TOKEN|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)
AYA = turns(
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>§<|END_OF_TURN_TOKEN|>",
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>§<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
    system="<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>§<|END_OF_TURN_TOKEN|>",
    ask="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>", before=BOS,
)  # fmt: skip
COMMAND_R = turns(
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>§<|END_OF_TURN_TOKEN|>",
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>§|trim<|END_OF_TURN_TOKEN|>",
    system="<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>§<|END_OF_TURN_TOKEN|>",
    ask="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", before=BOS,
)  # fmt: skip
DEEPSEEK_CALLS = (
    "{% if m.tool_calls %}{{ '<｜tool▁calls▁begin｜>' }}{% for call in m.tool_calls %}"
    "{{ call.function.name + '<｜tool▁sep｜>' + call.function.arguments }}{% endfor %}{{ '<｜tool▁calls▁end｜>' }}{% endif %}"
)


def deepseek(ask: str, answered: str = "", cut: str = ".split('</think>')[-1]") -> str:
    """DeepSeek's turns, whose answers are cut behind the reasoning."""
    return BOS + (
        "{% set ns = namespace(user=true) %}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}"
        "{% for m in messages %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% set ns.user = true %}"
        "{% elif m.role == 'tool' %}{{ '<｜tool▁sep｜>' + m.content + '<｜tool▁sep｜>' }}{% elif m.role == 'assistant' %}"
        "{% if ns.user %}{{ '<｜Assistant｜>" + answered + "' }}{% endif %}{% set ns.user = false %}"
        "{{ m.content" + cut + " }}" + DEEPSEEK_CALLS + "{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt and messages[-1].role == 'user' %}{{ '<｜Assistant｜>' }}" + ask + "{% endif %}"
    )  # fmt: skip


V31 = "{% if thinking is defined and thinking %}{{ '<think>' }}{% else %}{{ '</think>' }}{% endif %}"
END = "<｜end▁of▁sentence｜>"
SENTENCE = named(END, bos="<｜begin▁of▁sentence｜>")
GLM45 = (
    "{{ '[gMASK]<sop>' }}{% if tools %}{{ '<|system|>\n' + tools | tojson }}{% endif %}"
    + LAST
    + "{% for m in messages %}{% if m.role == 'assistant' %}{% set c = m.content %}{{ '<|assistant|>' }}"
    + REASONING
    + "{% if loop.index0 > ns.last and r %}{{ '\n<think>' + r.strip() + '</think>' }}{% else %}{{ '\n<think></think>' }}{% endif %}"
    "{% if c.strip() %}{{ '\n' + c.strip() }}{% endif %}{% for call in m.tool_calls or [] %}"
    "{{ '\n<tool_call>' + call.function.name }}{% for k, v in call.function.arguments.items() %}"
    "{{ '\n<arg_key>' + k + '</arg_key>\n<arg_value>' + v | string + '</arg_value>' }}{% endfor %}{{ '\n</tool_call>' }}{% endfor %}"
    "{% elif m.role == 'tool' %}{{ '<|observation|>\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{% else %}{{ '<|' + m.role + '|>\n' + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
GLM = ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
HARMONY = SPLIT + (
    "{{ '<|start|>system<|message|>You are ChatGPT.<|end|>' }}{% if sys or tools %}{{ '<|start|>developer<|message|>' + sys }}"
    "{% for t in tools or [] %}{{ '\ntype ' + t.function.name + ' = () => any;' }}{% endfor %}{{ '<|end|>' }}{% endif %}"
    "{% for m in rest %}{% if m.role == 'assistant' %}"
    "{% if m.thinking and (m.tool_calls or loop.last and not add_generation_prompt) %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}{% if m.tool_calls %}"
    "{% set f = m.tool_calls[0].function %}{{ '<|start|>assistant to=functions.' + f.name }}"
    "{{ '<|channel|>commentary json<|message|>' + f.arguments | tojson + '<|call|>' }}{% else %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{% endif %}{% elif m.role == 'tool' %}"
    "{{ '<|start|>functions to=assistant<|channel|>commentary<|message|>' + m.content | tojson + '<|end|>' }}{% else %}"
    "{{ '<|start|>user<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
GRANITE = (
    "{% set sys = messages[0].content if messages[0].role == 'system' else 'You are Granite.' %}"
    "{{ '<|start_of_role|>system<|end_of_role|>' + sys + '<|end_of_text|>\n' }}{% if tools %}"
    "{{ '<|start_of_role|>tools<|end_of_role|>' + tools | tojson + '<|end_of_text|>\n' }}{% endif %}"
    "{% for m in messages %}{% if m.role != 'system' %}{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' }}"
    "{% if m.tool_calls %}{{ '<|tool_call|>' + m.tool_calls | tojson }}{% endif %}{{ m.content + '<|end_of_text|>\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
)
NANO2 = (  # the last answer is rendered behind the opened reasoning
    "{{ '<SPECIAL_10>System\n' }}{% if messages[0].role == 'system' %}{{ messages[0].content.replace('/no_think', '').strip() }}"
    "{% endif %}{{ '\n\n' }}{% for m in messages %}{% if m.role == 'user' %}{{ '<SPECIAL_11>User\n' + m.content.strip() + '\n' }}"
    "{% elif m.role == 'assistant' and loop.last %}{{ '<SPECIAL_11>Assistant\n<think>\n\n' + m.content.strip() + '\n<SPECIAL_12>\n\n' }}"
    "{% elif m.role == 'assistant' %}{{ '<SPECIAL_11>Assistant\n' + m.content.split('</think>')[-1].strip() + '\n<SPECIAL_12>\n\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<SPECIAL_11>Assistant\n<think>\n\n' }}{% endif %}"
)
OLMO2 = turns("<|user|>\n§\n", "<|assistant|>\n§EOS", system="<|system|>\n§\n", ask="<|assistant|>\n", before=BOS)
OLMO2 = OLMO2.replace("eos_token", "eos_token + ('' if loop.last else '\n')")
SEED = turns("{BOS}user\n§EOS", "{BOS}assistant\n§EOS", system="{BOS}system\n§EOS", ask="{BOS}assistant\n")
PHI3 = turns("<|user|>\n§<|end|>\n", "<|assistant|>\n§<|end|>\n", system="<|system|>\n§<|end|>\n")
PHI3 += "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
RESERVED = ("<reserved_106>", "<reserved_107>")
EXAONE = turns("[|user|]§\n", "[|assistant|]§[|endofturn|]\n", system="[|system|]§[|endofturn|]\n", ask="[|assistant|]")
HUNYUAN = turns(
    "<｜hy_User｜>§", "<｜hy_Assistant｜>§EOS", system="§<｜hy_split｜>", ask="<｜hy_Assistant｜>", before=BOS
)
JAMBA = turns("<|bom|><|user|> §<|eom|>", "<|bom|><|assistant|> §<|eom|>", system="<|bom|><|system|> §<|eom|>",
              ask="<|bom|><|assistant|>", before=BOS)  # fmt: skip
BAR = ("<|user|>", "<|assistant|>", "<|system|>")

HEADED = [
    Family("llama-3", LLAMA3, "<|eot_id|>", named("<|eot_id|>", "<|eot_id|>", "<|begin_of_text|>"), special=HEADERS),
    Family("llama-3.1", LLAMA31, "<|eot_id|>", named("<|eot_id|>", "<|pad|>", "<|begin_of_text|>"), special=(*HEADERS, "<|eom_id|>"), keeps="system tags tools calls results"),
    Family("gemma-2", GEMMA1, "<end_of_turn>", named("<eos>", "<pad>", "<bos>", "<unk>"), GEMMA, ("<start_of_turn>",), keeps="tags"),
    Family("gemma-3", GEMMA3, "<end_of_turn>", named("<eos>", "<pad>", "<bos>", "<unk>"), GEMMA, ("<start_of_turn>",)),
    Family("gemma-4", GEMMA4, "<turn|>", named("<eos>", "<pad>", "<bos>", "<unk>"), GEMMA,
           ("<|turn>", "<|channel>", "<channel|>", "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>"), keeps=ALL),
    Family("command-r", COMMAND_R, "<|END_OF_TURN_TOKEN|>", named("<|END_OF_TURN_TOKEN|>", "<PAD>", "<BOS_TOKEN>"), special=COHERE),
    Family("command-r7b", R7B, "<|END_RESPONSE|>", named("<|END_OF_TURN_TOKEN|>", "<PAD>", "<BOS_TOKEN>"),
           special=(*COHERE, "<|START_RESPONSE|>", "<|START_THINKING|>", "<|END_THINKING|>", "<|START_ACTION|>", "<|END_ACTION|>"),
           call_end="<|END_OF_TURN_TOKEN|>", keeps="system tags key tools calls results"),
    Family("aya", AYA, "<|END_RESPONSE|>", named("<|END_OF_TURN_TOKEN|>", "<PAD>", "<BOS_TOKEN>"), special=(*COHERE, "<|START_RESPONSE|>")),
    Family("deepseek-v2", turns("User: §\n\n", "Assistant: §EOS", system="§\n\n", ask="Assistant:", before=BOS), END, SENTENCE),
    Family("deepseek-v3", deepseek(""), END, SENTENCE, special=DEEPSEEK, plain=THINK[:2], text_calls=True, keeps="system"),
    Family("deepseek-v3.1", deepseek(V31, "</think>"), END, SENTENCE, special=DEEPSEEK, plain=THINK[:2], text_calls=True, keeps="system"),
    Family("deepseek-v3.1-on", deepseek(V31, "</think>"), END, SENTENCE, special=DEEPSEEK, plain=THINK[:2], text_calls=True,
           options={"thinking": True}, continues=True),
    Family("deepseek-r1", deepseek("{{ '<think>\n' }}"), END, SENTENCE, special=DEEPSEEK, plain=THINK[:2], text_calls=True, continues=True),
    Family("glm-4", turns("<|user|>\n§", "<|assistant|>\n§", system="<|system|>\n§", ask="<|assistant|>", before="[gMASK]<sop>"),
           None, named("<|endoftext|>"), special=GLM),
    Family("glm-4.5", GLM45, None, named("<|endoftext|>"), special=GLM, plain=THINK, keeps=ALL + " key both"),
    Family("gpt-oss", HARMONY, "<|return|>", named("<|return|>", "<|endoftext|>"), call_end="<|call|>",
           special=("<|start|>", "<|message|>", "<|channel|>", "<|end|>"), keeps="system tags key tools calls results both"),
    Family("granite-3", GRANITE, "<|end_of_text|>", named("<|end_of_text|>", None, "<|end_of_text|>", "<|end_of_text|>"), GPT2,
           ("<|start_of_role|>", "<|end_of_role|>", "<|tool_call|>"), keeps=ALL),
    Family("olmo-2", OLMO2, "<|endoftext|>", named("<|endoftext|>", "<|pad|>", "<|endoftext|>", "<|endoftext|>")),
    Family("tulu", turns("<|user|>\n§\n", "<|assistant|>\n§EOS\n", system="<|system|>\n§\n", ask="<|assistant|>\n"), "</s>", SP, LLAMA),
    Family("zephyr", turns("<|user|>\n§EOS\n", "<|assistant|>\n§EOS\n", system="<|system|>\n§EOS\n", ask="<|assistant|>\n"),
           "</s>", named("</s>", None, "<s>", "<unk>"), LLAMA),
    Family("stablelm", turns("<|user|>\n§<|endoftext|>\n", "<|assistant|>\n§<|endoftext|>\n",
                             system="<|system|>\n§<|endoftext|>\n", ask="<|assistant|>\n"),
           "<|endoftext|>", named("<|endoftext|>", None, "<|endoftext|>", "<|endoftext|>"), special=BAR),
    Family("phi-3", PHI3, "<|end|>", named("<|endoftext|>", None, "<s>", "<unk>"), LLAMA, BAR, stripping=(*BAR, "<|end|>")),
    Family("nemotron-nano-2", NANO2, "<SPECIAL_12>", named("<SPECIAL_12>", "<unk>", "<s>", "<unk>"),
           special=("<SPECIAL_10>", "<SPECIAL_11>"), always_thinks=True, continues=True),
    Family("exaone", EXAONE, "[|endofturn|]", named("[|endofturn|]", "[PAD]", "[BOS]", "[UNK]"), GPT2,
           ("[|user|]", "[|assistant|]", "[|system|]")),
    Family("hunyuan", HUNYUAN, "<｜hy_end｜>", named("<｜hy_end｜>", "<｜hy_pad｜>", "<｜hy_begin｜>"),
           special=("<｜hy_User｜>", "<｜hy_Assistant｜>", "<｜hy_split｜>")),
    Family("jamba", JAMBA, "<|eom|>", named("<|endoftext|>", "<|pad|>", "<|startoftext|>", "<|unk|>"), METASPACE, ("<|bom|>", *BAR)),
    Family("seed-oss", SEED.replace("{BOS}", "<seed:bos>"), "<seed:eos>", named("<seed:eos>", "<seed:pad>", "<seed:bos>")),
    Family("baichuan-2", turns("<reserved_106>§", "<reserved_107>§EOS", system="§", ask="<reserved_107>"), "</s>", SP, GEMMA, RESERVED),
]  # fmt: skip

# ---- text without tokens of its own ---------------------------------------------------------------------------------

CORRECT = "GPT4 Correct "
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<a>' }}{% generation %}{{ m.content + '<e>' }}{% endgeneration %}"
    "{% else %}{{ '<q>' + m.content + '<e>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<a>' }}{% endif %}"
)
TEXT = [
    Family("vicuna", turns("USER: § ", "ASSISTANT: §EOS", system="§\n\n", ask="ASSISTANT:"), "</s>", SP, LLAMA),
    Family("alpaca", turns("### Instruction:\n§\n\n", "### Response:\n§EOS\n\n", system="§\n\n", ask="### Response:\n"), "</s>", SP, LLAMA),
    Family("solar", turns("### User:\n§\n\n", "### Assistant:\n§EOS\n\n", system="### System:\n§\n\n", ask="### Assistant:\n"),
           "</s>", SP, LLAMA),
    Family("openchat", turns(f"{CORRECT}User: §<|end_of_turn|>", f"{CORRECT}Assistant: §<|end_of_turn|>",
                             system="§<|end_of_turn|>", ask=f"{CORRECT}Assistant:", before=BOS),
           "<|end_of_turn|>", named("<|end_of_turn|>", "<unk>", "<s>", "<unk>"), LLAMA),
    Family("falcon", turns("User: §\n\n", "Assistant: §\n\n", system="§\n\n", ask="Assistant:"), None, named("<|endoftext|>"), GPT2),
    Family("text-without-end", turns("Q: §\n", "A: §\n", ask="A: "), None, named("<|endoftext|>", None, "<|endoftext|>", "<|endoftext|>"), GPT2, keeps="tags"),
    Family("marked", MARKED, "<e>", named("<eos>", "<pad>"), special=("<a>", "<q>")),
]  # fmt: skip
