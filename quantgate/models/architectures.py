"""Which architectures can be a reference, and which of them the methods here can quantize, by ``config.json`` alone.

The lists are of transformers 5.17 and were found by trying: a small model of every causal language model class was made
with random weights and quantized by GPTQ. An architecture in neither list is left to the loader, if transformers knows
it, and to `quantgate.models.layers.decoder_blocks`, which looks at the modules themselves.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any, Final

from quantgate.core.errors import ModelError
from quantgate.core.naming import closest

# --- begin table
QUANTIZABLE: Final = frozenset((
    "ApertusForCausalLM", "ArceeForCausalLM", "BertLMHeadModel", "BigBirdForCausalLM", "BioGptForCausalLM",
    "BitNetForCausalLM", "BloomForCausalLM", "CTRLLMHeadModel", "CamembertForCausalLM", "CodeGenForCausalLM",
    "Cohere2ForCausalLM", "CohereForCausalLM", "CwmForCausalLM", "Data2VecTextForCausalLM", "DiffLlamaForCausalLM",
    "DogeForCausalLM", "ElectraForCausalLM", "Emu3ForCausalLM", "Ernie4_5ForCausalLM", "ErnieForCausalLM",
    "Exaone4ForCausalLM", "FalconForCausalLM", "GPTBigCodeForCausalLM", "GPTJForCausalLM", "GPTNeoForCausalLM",
    "GPTNeoXForCausalLM", "GPTNeoXJapaneseForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM",
    "Gemma4UnifiedForCausalLM", "GemmaForCausalLM", "Glm4ForCausalLM", "GlmForCausalLM", "GraniteForCausalLM",
    "GraniteSWAForCausalLM", "HeliumForCausalLM", "HunYuanDenseV1ForCausalLM", "HyperCLOVAXForCausalLM",
    "Jais2ForCausalLM", "Lfm2ForCausalLM", "LlamaForCausalLM", "MegatronBertForCausalLM", "Ministral3ForCausalLM",
    "MinistralForCausalLM", "MistralForCausalLM", "MllamaForCausalLM", "MoshiForCausalLM", "MptForCausalLM",
    "NanoChatForCausalLM", "NemotronForCausalLM", "OPTForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM",
    "OlmoForCausalLM", "PersimmonForCausalLM", "Phi3ForCausalLM", "PhiForCausalLM", "Qwen2ForCausalLM",
    "Qwen3ForCausalLM", "RemBertForCausalLM", "RoCBertForCausalLM", "RoFormerForCausalLM", "RobertaForCausalLM",
    "RobertaPreLayerNormForCausalLM", "SeedOssForCausalLM", "SmolLM3ForCausalLM", "StableLmForCausalLM",
    "Starcoder2ForCausalLM", "VaultGemmaForCausalLM", "XGLMForCausalLM", "XLMRobertaForCausalLM",
    "XLMRobertaXLForCausalLM", "XLMWithLMHeadModel",
))  # fmt: skip
"""Every method here was seen to find, and to quantize by GPTQ, all matrices of their blocks."""

ONLY_REFERENCE: Final = frozenset((
    "AXK1ForCausalLM", "AXK2ForCausalLM", "AfmoeForCausalLM", "AriaTextForCausalLM", "BambaForCausalLM",
    "BartForCausalLM", "BigBirdPegasusForCausalLM", "BlenderbotForCausalLM", "BlenderbotSmallForCausalLM",
    "BltForCausalLM", "Cohere2MoeForCausalLM", "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM",
    "DeepseekV4ForCausalLM", "Dots1ForCausalLM", "Ernie4_5_MoeForCausalLM", "ExaoneMoeForCausalLM",
    "FalconH1ForCausalLM", "FalconMambaForCausalLM", "FlexOlmoForCausalLM", "GPT2LMHeadModel", "Glm4MoeForCausalLM",
    "Glm4MoeLiteForCausalLM", "GptOssForCausalLM", "GraniteMoeForCausalLM", "GraniteMoeHybridForCausalLM",
    "GraniteMoeSWAForCausalLM", "GraniteMoeSharedForCausalLM", "HYV3ForCausalLM", "HYV4ForCausalLM",
    "HrmTextForCausalLM", "HunYuanMoEV1ForCausalLM", "InklingForCausalLM", "JambaForCausalLM", "JetMoeForCausalLM",
    "KimiLinearForCausalLM", "LagunaForCausalLM", "Llama4ForCausalLM", "LongcatFlashForCausalLM", "MBartForCausalLM",
    "Mamba2ForCausalLM", "MambaForCausalLM", "MarianForCausalLM", "MellumForCausalLM", "MiMoV2FlashForCausalLM",
    "MiniMaxForCausalLM", "MiniMaxM2ForCausalLM", "MiniMaxM3VLForCausalLM", "MixtralForCausalLM", "MvpForCausalLM",
    "NemotronHForCausalLM", "OlmoHybridForCausalLM", "OlmoeForCausalLM", "OpenAIGPTLMHeadModel", "PLBartForCausalLM",
    "PegasusForCausalLM", "PhimoeForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM", "Qwen3NextForCausalLM",
    "Qwen3_5ForCausalLM", "Qwen3_5MoeForCausalLM", "Qwen4ExpForCausalLM", "RecurrentGemmaForCausalLM",
    "RwkvForCausalLM", "SolarOpenForCausalLM", "TrOCRForCausalLM", "WhisperForCausalLM",
))  # fmt: skip
"""They load, but their blocks hold more than linear layers: Conv1D, fused experts, state spaces, an encoder's part."""
# --- end table

SUCCESSORS: Final = {
    "QWenLMHeadModel": "Qwen2.5 and Qwen3",
    "BaichuanForCausalLM": "Qwen2.5 (Baichuan-M2 is one)",
    "ChatGLMModel": "the GLM-4 checkpoints whose names end in -hf",
    "ChatGLMForConditionalGeneration": "the GLM-4 checkpoints whose names end in -hf",
}
"""Models of the source papers that bring their own code, and the nearest ones that transformers has classes for."""


def check_known(config: Mapping[str, Any], name: str) -> None:
    """Raise ModelError if transformers has no class for the architecture that ``config`` names."""
    named = [str(each) for each in config.get("architectures") or []]
    if any(each in QUANTIZABLE or each in ONLY_REFERENCE for each in named):
        return
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known = {each for value in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() for each in _names(value)}
    if known & set(named):
        return
    close = closest(named[0], known) if named else []
    own_code = "its own Python code (auto_map), which is never run" if config.get("auto_map") else ""
    raise ModelError(
        f"model {name!r}",
        f"architecture {', '.join(named) or 'unnamed'} needs {own_code}"
        if own_code
        else f"architecture {', '.join(named) or 'unnamed'} is unknown",
        expected=f"one that transformers {importlib.metadata.version('transformers')} has a class for",
        hint=_instead(named, "" if own_code or not close else close[0]),
    )


def _instead(named: Sequence[str], close: str) -> str:
    """What to take in the place of an architecture that cannot be loaded."""
    successor = next((SUCCESSORS[each] for each in named if each in SUCCESSORS), "")
    if successor:
        return f"take a successor that needs none: {successor}"
    return f"did you mean {close}?" if close else "docs/methods.md lists those that work"


def _names(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def check_quantizable(config: Mapping[str, Any], name: str, methods: Sequence[str]) -> None:
    """Raise ModelError if ``methods`` cannot quantize the architecture that ``config`` names."""
    named = [str(each) for each in config.get("architectures") or []]
    if not any(each in ONLY_REFERENCE for each in named):
        return
    raise ModelError(
        f"model {name!r}",
        f"{named[0]} can be a reference, but {', '.join(methods[:3])}{' and others' * (len(methods) > 3)} cannot "
        "quantize it: its blocks hold more than linear layers (Conv1D, fused experts, state spaces, an encoder's part)",
        hint="judge a checkpoint made elsewhere with --candidate NAME=DIR",
        expected=f"one of {', '.join(sorted(QUANTIZABLE))}",
    )
