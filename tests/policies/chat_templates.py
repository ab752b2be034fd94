"""All families of chat templates that the tests know."""

from __future__ import annotations

from tests.policies.chat_family import Family
from tests.policies.chat_templates_chatml import INSTRUCT, RELATIVES
from tests.policies.chat_templates_headed import HEADED, TEXT

FAMILIES: dict[str, Family] = {family.name: family for family in (*RELATIVES, *INSTRUCT, *HEADED, *TEXT)}
