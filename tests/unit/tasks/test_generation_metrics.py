"""FLORES and the summaries: prompts, and numbers equal to those of sacrebleu and rouge-score called directly."""

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from quantgate.core.errors import ModelError
from quantgate.core.requests import GenerateResponse
from quantgate.tasks import flores
from quantgate.tasks.base import Selection
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.flores import Flores, corpus_bleu
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.summaries import Summaries
from quantgate.verdict.paired import compare

PAIRS = [
    ("The old bridge was closed for repairs.", "这座旧桥因维修而关闭。", "旧桥因为维修关闭了。"),
    ("Rain is expected on Monday, 3 May.", "预计5月3日星期一有雨。", "5月3日星期一预计会有雨。"),
    ("She plays the violin.", "她拉小提琴。", "她拉小提琴。"),
    ("Nobody knew the way.", "没有人认识路。", "The way was not known."),
    ("The shop sells bread, cheese and fruit.", "这家店卖面包、奶酪和水果。", ""),
    ("It costs 1,200 yuan.", "它的价格是1,200元。", "它的价格是\n1,200元。"),
] * 3
EN_ZH, ZH_EN = Flores("flores_en_zh", "eng_Latn", "zho_Hans"), Flores("flores_zh_en", "zho_Hans", "eng_Latn")
XSUM = Summaries("xsum", "EdinburghNLP/xsum", "default", "document", "summary")


def said(text):
    return [GenerateResponse(text, 9, "eos")]


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer, 512, "tiny")


@pytest.fixture
def pairs(tmp_path, write_jsonl):
    rows = [{"id": n, "sentence_eng_Latn": en, "sentence_zho_Hans": zh} for n, (en, zh, _) in enumerate(PAIRS)]
    write_jsonl(tmp_path, "facebook/flores", "eng_Latn-zho_Hans", "devtest", rows)
    return DirectorySource(tmp_path)


def test_translation_prompts_are_literal(pairs, prompts):
    def asked(task):
        item = task.items(pairs, Selection(), prompts)[2]
        [request] = task.requests(item, prompts)
        return prompts.decode(request.prompt)

    turn = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    assert asked(EN_ZH) == turn.format(
        "Please translate the following English text into Chinese.\nEnglish text: She plays the violin."
    )
    assert asked(ZH_EN) == turn.format(
        "Please translate the following Chinese text into English.\nChinese text: 她拉小提琴。"
    )


@pytest.mark.parametrize(("task", "tokenizer"), [(EN_ZH, "zh"), (ZH_EN, "13a")])
def test_corpus_bleu_is_sacrebleus(pairs, prompts, task, tokenizer, monkeypatch):
    monkeypatch.setattr(flores, "tokenizer_for", lambda target: tokenizer)
    items = task.items(pairs, Selection(), prompts)
    hypotheses = [zh if task is EN_ZH else f"{en[:24]} ... {zh}" for en, _, zh in PAIRS]
    outcomes = [task.score(item, said(text)) for item, text in zip(items, hypotheses, strict=True)]
    references = [en if task is ZH_EN else zh for en, zh, _ in PAIRS]
    flat = [text.replace("\n", " ") for text in hypotheses]
    direct = BLEU(tokenize=tokenizer).corpus_score(flat, [references]).score
    assert 5 < direct < 95
    assert task.metric.of(outcomes) == pytest.approx(direct, abs=1e-9)
    single = BLEU(tokenize=tokenizer, effective_order=True).sentence_score(flat[0], [references[0]]).score
    assert outcomes[0].score == pytest.approx(single, abs=1e-9)
    assert task.metric.name == f"bleu_{tokenizer}"
    assert f"tokenizer {tokenizer})" in task.protocol


def test_bleu_of_the_reference_is_100_and_of_silence_0(pairs, prompts):
    items = EN_ZH.items(pairs, Selection(), prompts)
    perfect = [EN_ZH.score(item, said(item.row["sentence_zho_Hans"])) for item in items]
    silent = [EN_ZH.score(item, said("")) for item in items]
    assert EN_ZH.metric.of(perfect) == pytest.approx(100)
    assert EN_ZH.metric.of(silent) == 0
    found = compare(perfect, silent, EN_ZH.metric, 0.95)
    assert found.items_worse == len(items)
    assert found.ci_high < 0


def test_an_order_without_any_match_is_smoothed_as_sacrebleu_does(pairs, prompts):
    items = ZH_EN.items(pairs, Selection(), prompts)[2:4]
    hypotheses = ["She plays the drums", "The way was long"]
    outcomes = [ZH_EN.score(item, said(text)) for item, text in zip(items, hypotheses, strict=True)]
    references = [item.row["sentence_eng_Latn"] for item in items]
    direct = BLEU(tokenize=ZH_EN.tokenizer).corpus_score(hypotheses, [references])
    assert direct.counts[3] == 0 < direct.score
    assert ZH_EN.metric.of(outcomes) == pytest.approx(direct.score, abs=1e-9)


def test_resamples_of_bleu_are_sacrebleus(pairs, prompts):
    items = EN_ZH.items(pairs, Selection(), prompts)
    outcomes = [EN_ZH.score(item, said(zh)) for item, (_, _, zh) in zip(items, PAIRS, strict=True)]
    drawn = np.random.default_rng(0).integers(0, len(items), len(items))
    direct = BLEU(tokenize=EN_ZH.tokenizer).corpus_score(
        [PAIRS[n][2].replace("\n", " ") for n in drawn], [[PAIRS[n][1] for n in drawn]]
    )
    assert corpus_bleu(np.sum([outcomes[n].facts for n in drawn], axis=0)) == pytest.approx(direct.score, abs=1e-9)


def test_pieces_are_used_only_where_their_model_is_at_hand(tmp_path, monkeypatch):
    monkeypatch.setattr("sacrebleu.utils.SACREBLEU_DIR", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert (EN_ZH.metric.name, ZH_EN.metric.name) == ("bleu_zh", "bleu_13a")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "flores200sacrebleuspm").write_bytes(b"")
    assert (EN_ZH.metric.name, ZH_EN.metric.name) == ("spbleu", "spbleu")
    assert "tokenizer flores200" in EN_ZH.protocol


@pytest.fixture
def summaries(tmp_path, write_jsonl):
    rows = [
        {"document": "The old mill burned down on Sunday.", "summary": "A mill has burned down.", "id": "1"},
        {"document": "word " * 400, "summary": "Words.", "id": "2"},
    ]
    write_jsonl(tmp_path, "EdinburghNLP/xsum", "default", "test", rows)
    return DirectorySource(tmp_path)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("A mill has burned down.", "A mill has burned down."),
        ("The mills are burning", "A mill has burned down."),  # a stemmer would see "mill" and "burn"
        ("Down burned a mill\non Sunday", "A mill has burned down."),
        ("", "A mill has burned down."),
        ("火", "A mill has burned down."),
    ],
)
def test_rouge_is_rouge_scores(answer, reference):
    from quantgate.tasks.summaries import rouge

    direct = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False).score(reference, answer)
    assert rouge(answer, reference) == {name: found.fmeasure for name, found in direct.items()}


def test_summaries_score_rouge_1_with_the_others_beside_it(summaries, prompts):
    item = XSUM.items(summaries, Selection(), prompts)[0]
    assert prompts.decode(Summaries.requests(XSUM, item, Prompts(prompts.encoding.tokenizer, 4096, "t"))[0].prompt) == (
        "<|im_start|>user\nPlease summarize the following document.\nThe old mill burned down on Sunday.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    outcome = XSUM.score(item, said("A mill has burned up."))
    assert outcome.score == pytest.approx(0.8)
    assert outcome.companions == {"capped": 0.0, "rouge2": pytest.approx(0.75), "rougeL": pytest.approx(0.8)}


def test_long_documents_are_cut_at_their_end_and_the_turn_stays_whole(summaries, prompts):
    item = XSUM.items(summaries, Selection(), prompts)[1]
    [request] = XSUM.requests(item, prompts)
    assert len(request.prompt) == prompts.max_length - XSUM.max_new_tokens
    text = prompts.decode(request.prompt)
    assert text.startswith("<|im_start|>user\nPlease summarize the following document.\nword word ")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_a_context_without_room_is_refused(summaries, tokenizer):
    prompts = Prompts(tokenizer, 300, "tiny")
    item = XSUM.items(summaries, Selection(), prompts)[0]
    with pytest.raises(ModelError, match="context of 300 tokens has no room for a prompt and 256 new tokens"):
        XSUM.requests(item, prompts)
