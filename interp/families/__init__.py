"""The supported model families. To add one, write a file like `llama.py` and list it here."""

from interp.families.family import Family, Norm
from interp.families.gemma2 import GEMMA2
from interp.families.gemma3 import GEMMA3
from interp.families.gpt2 import GPT2
from interp.families.gpt_j import GPT_J
from interp.families.gpt_neox import GPT_NEOX
from interp.families.gpt_oss import GPT_OSS
from interp.families.llama import LLAMA, MISTRAL, MIXTRAL
from interp.families.olmo2 import OLMO2, OLMO3
from interp.families.phi3 import PHI3
from interp.families.qwen2 import QWEN2
from interp.families.qwen3 import QWEN3, QWEN3_MOE

_KNOWN = (
    *(GPT2, GPT_NEOX, GPT_J, GPT_OSS, LLAMA, MISTRAL, MIXTRAL, GEMMA2, GEMMA3),
    *(QWEN2, QWEN3, QWEN3_MOE, PHI3, OLMO2, OLMO3),
)

FAMILIES = {family.model_type: family for family in _KNOWN}

__all__ = ["FAMILIES", "Family", "Norm", "family_of"]


def family_of(model_type: str) -> Family:
    """The family of a `config.model_type`.

    Raises:
        ValueError: the family is unknown; the message says what to write.
    """
    if model_type not in FAMILIES:
        raise ValueError(
            f"model family '{model_type}' is not supported; known are {', '.join(sorted(FAMILIES))}. "
            "To add it, describe its modules in interp/families/ as llama.py does and list it in __init__.py"
        )
    return FAMILIES[model_type]
