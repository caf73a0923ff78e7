"""FollowBench's rules, each kind with answers that satisfy and answers that do not."""

import pytest

from quantgate.tasks.followbench_rules import rule_for

TEXT_TARGETS = [
    ("content", "E2E", "name[The Mill], food[Thai]", "name[The Mill], food[Thai]", True),
    ("content", "E2E", "name[The Mill], food[Thai].", "name[The Mill], food[Thai]", False),
    ("content", "WIKIEVENTS", "a met b", "a met b\nc met d", True),
    ("content", "WIKIEVENTS", "c met d\na met b", "a met b\nc met d", True),
    ("content", "WIKIEVENTS", "a met b\nHere you are.", "a met b\nc met d", False),
    ("content", "WIKIEVENTS", "a met b\n\nc met d", "a met b\nc met d", False),
    ("content", "CONLL2003", "Bonn", "['Bonn', \"L'Aquila\"]", True),
    ("content", "CONLL2003", "L'Aquila", "['Bonn', \"L'Aquila\"]", True),
    ("content", "CONLL2003", "Bonn.", "['Bonn']", False),
    ("content", "CONLL2003", "Bon", "['Bonn']", False),
    ("mixed", "text_editing", "pples love eting I", "pples love eting I", True),
    ("mixed", "text_editing", "Pples love eting I", "pples love eting I", False),
    ("situation", "BBH_logical", "(A) is wrong, so it is (C).", "(C)", True),
    ("situation", "BBH_logical", "(C), because (A) is wrong.", "(C)", False),
    ("situation", "BBH_logical", "C", "(C)", False),
    ("situation", "BBH_time", "From 01/02/2003 it is 04/05/2006.", "04/05/2006", True),
    ("situation", "BBH_time", "04/05/2006, counted from 01/02/2003", "04/05/2006", False),
    ("situation", "BBH_time", "4/5/2006", "04/05/2006", False),
    ("situation", "self_made_space", "He is on the 14th floor now.", "14th floor", True),
    ("situation", "self_made_space", "He is on floor 14.", "14th floor", False),
    ("situation", "gsm_8k", "$12 and $16 make $28.", "$28", True),
    ("situation", "gsm_8k", "$28, of which $12 on Friday", "$28", False),
    ("situation", "gsm_8k", "28 dollars", "$28", False),
    ("example", "any", "Answer: slow", "{instruction}\nAnswer: {answer}", True),
    ("example", "any", "Answer: ", "{instruction}\nAnswer: {answer}", True),
    ("example", "any", "slow", "{instruction}\nAnswer: {answer}", False),
    ("example", "any", "Answer: slow\nor fast", "{instruction}\nAnswer: {answer}", False),
    ("example", "any", "answer: slow", "{instruction}\nAnswer: {answer}", False),
    ("example", "any", "{'bot': 'Hi.'}", "{instruction}\n{{'bot': '{answer}'}}", True),
    ("example", "any", "{'bot': 'Hi.}", "{instruction}\n{{'bot': '{answer}'}}", False),
    ("example", "xsum", "Q: a (b)? A: c", "{instruction}\nQ: a (b)? A: {answer}", True),
]


@pytest.mark.parametrize(("category", "source", "answer", "target", "right"), TEXT_TARGETS)
def test_one_right_answer(category, source, answer, target, right):
    for level in (1, 5):
        assert rule_for(category, source, 1)(answer, target, level) is right


# (source, answer, the levels it satisfies)
SUMMARIES = [
    ("cnn_dailymail", "Potter is rich. The actor is young. His films have earned money.", "12345"),
    ("cnn_dailymail", "Potter is rich. The lavish actor is young. His films have earned money.", "123"),
    ("cnn_dailymail", "Potter is rich. The actor is young. His films earned money.", "1234"),
    ("cnn_dailymail", "He is rich. The actor is young. His films have earned money.", "12"),
    ("cnn_dailymail", f"Potter is rich. The actor {'very ' * 14}. His films have earned money.", "1"),
    ("cnn_dailymail", "Potter is rich. The actor is young.", ""),
    ("cnn_dailymail", "Potter paid 3.5 million. The actor is young. His films have earned money.", ""),
    ("xsum", "Workers are cleaning up after the flood in a big operation.", "12345"),
    ("xsum", "Workers are cleaning up after the flood.", "1234"),
    ("xsum", "Workers clean up after the flood.", "123"),
    ("xsum", "Workers are cleaning up in Newton Stewart.", "12"),
    ("xsum", "Workers " + "very " * 20 + "slowly clean", "1"),
    ("xsum", "Workers clean up. They are slow.", ""),
    ("samsum", "Kim puts off doing stuff.", "12345"),
    ("samsum", "Kim, tired, puts off doing stuff.", "1234"),
    ("samsum", "Kim is Procrastinating and does no stuff.", "123"),
    ("samsum", "Kim does little.", "12"),
    ("samsum", "Kim " + "really " * 14 + "rests", "1"),
    ("samsum", "Kim rests. Tim helps.", ""),
    ("gigaword", "two people die in attack on southern island", "12345"),
    ("gigaword", "two people die after attack on southern island", "1234"),
    ("gigaword", "two people die after attack on southern bus", "123"),
    ("gigaword", "Two people die after attack on southern island", "12"),
    ("gigaword", "two people die, after attack on southern island", "1"),
    ("gigaword", "two people die", ""),
    ("arxiv", "We trace facts to mid-layer activations.", "12345"),
    ("arxiv", "We trace facts to transformer activations.", "1234"),
    ("arxiv", "We trace facts to layers.", "123"),
    ("arxiv", "This traces facts to layers.", "12"),
    ("arxiv", "We " + "really " * 20 + "trace facts.", "1"),
    ("arxiv", "We trace facts. They are in layers.", ""),
]


@pytest.mark.parametrize(("source", "answer", "levels"), SUMMARIES)
def test_summaries_by_level(source, answer, levels):
    rule = rule_for("mixed", source, 11)
    assert "".join(str(level) for level in range(1, 6) if rule(answer, "", level)) == levels


LONG = " ".join(["word"] * 21)
POINT = "**{}. Growth:** this single sentence holds exactly eleven words in all"


@pytest.mark.parametrize(
    ("example", "answer", "levels"),
    [
        (22, f"1. {LONG}\n\n2. {LONG}\n\n3. {LONG}", "12"),  # "1" before the full stop is a sentence of one word
        (22, f"{LONG}.\n\n{LONG}.\n\n{LONG}.", "123"),
        (22, "a\n\nb\n\nc", "12"),
        (22, f"{LONG}.\n\n{LONG}.\n\n{LONG.removesuffix(' word')}.", "12"),  # 20 words are too few
        (22, "a. b. c. d\n\nb\n\nc", "1"),
        (22, "a\n\nb", ""),
        (30, " ** ", "1"),
        (30, "plain", ""),
        (30, "\n".join(POINT.format(n) for n in range(1, 6)), "123"),  # "**1." is a sentence of one word
        (30, "\n".join(POINT.format(n) for n in range(1, 5)), "1"),
    ],
)
def test_formats_by_level(example, answer, levels):
    rule = rule_for("format", "oasst", example)
    assert "".join(str(level) for level in range(1, 6) if rule(answer, "", level)) == levels


@pytest.mark.parametrize(
    ("category", "source", "example"),
    [("format", "oasst", 21), ("style", "quora", 1), ("content", "xsum", 1), ("mixed", "ROCStories", 22)],
)
def test_the_rest_is_for_a_judge(category, source, example):
    assert rule_for(category, source, example) is None
