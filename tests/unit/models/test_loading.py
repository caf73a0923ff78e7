import pytest
import torch
import transformers as hf
from transformers.models.auto import tokenization_auto

from quantgate.models.loading import attention_implementation, has_foreign_classes, load_reference
from tests.property.test_company import FAMILIES
from tests.unit.engines.tiny import plain_logprobs

WITHOUT_SDPA = ("bloom", "codegen", "gpt_neo", "gpt_oss", "gptj", "mpt", "xglm")


@pytest.mark.parametrize("family", [*WITHOUT_SDPA, "llama"])
def test_attention_is_one_that_the_architecture_has(family, tmp_path):
    config = hf.AutoConfig.for_model(family, **FAMILIES[family])
    assert attention_implementation(config) == ("eager" if family in WITHOUT_SDPA else "sdpa")
    torch.manual_seed(3)
    made = hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    made.save_pretrained(tmp_path)
    loaded = load_reference(tmp_path, family, "float32", "cpu")
    tokens = [5, 7, 9, 11, 4, 6]
    torch.testing.assert_close(plain_logprobs(loaded, tokens), plain_logprobs(made, tokens), rtol=1e-4, atol=1e-4)


class TaughtConfig(hf.LlamaConfig):
    model_type = "taught_here"


class TaughtTokenizer(hf.PreTrainedTokenizerFast):
    pass


def taught_config(monkeypatch):
    monkeypatch.setattr(hf.CONFIG_MAPPING, "_extra_content", {})
    hf.AutoConfig.register("taught_here", TaughtConfig)


def taught_tokenizer(monkeypatch):
    taught_config(monkeypatch)
    monkeypatch.setattr(hf.CONFIG_MAPPING, "_extra_content", {})
    monkeypatch.setattr(hf.TOKENIZER_MAPPING, "_extra_content", {})
    for name in ("REGISTERED_TOKENIZER_CLASSES", "REGISTERED_FAST_ALIASES"):
        monkeypatch.setattr(tokenization_auto, name, {})
    hf.AutoTokenizer.register(TaughtConfig, fast_tokenizer_class=TaughtTokenizer)


@pytest.mark.parametrize("teach", [taught_config, taught_tokenizer])
def test_classes_that_transformers_was_taught_are_foreign(teach, monkeypatch):
    assert has_foreign_classes() is False
    teach(monkeypatch)
    assert has_foreign_classes() is True
    monkeypatch.undo()
    assert has_foreign_classes() is False
