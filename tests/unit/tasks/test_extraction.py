"""The extraction cascades on hand-written answers: the letter, and the step that must have found it."""

import pytest

from quantgate.tasks.extraction import SIMILAR, chinese_choice, english_choice

ORGANS = ("The heart.", "The liver.", "The stomach.", "The skin.")
NUMBERS = ("1", "2", "12", "20")
WORDS = ("A mammal", "A bird", "A reptile", "An insect")


@pytest.mark.parametrize(
    ("response", "options", "letter", "step"),
    [
        # 1: the answer is said
        ("The answer is B.", ORGANS, "B", 1),
        ("Answer: C", ORGANS, "C", 1),
        ("The correct answer is: D", ORGANS, "D", 1),
        ("I would choose C because it digests food.", ORGANS, "C", 1),
        ("Choose (A).", ORGANS, "A", 1),
        ("The best choice would be D.", ORGANS, "D", 1),
        ("My choice is option B.", ORGANS, "B", 1),
        ("The answer should be **A**.", ORGANS, "A", 1),
        ("The right answer is the stomach.", ORGANS, "C", 1),  # by way of step 0
        ("the answer is THE LIVER", ORGANS, "B", 1),
        ("The answer is not A. The answer is D.", ORGANS, "D", 1),
        ("The answer isn't B; choose C.", ORGANS, "C", 1),
        ("Answer\n\nB", ORGANS, "B", 1),
        # 2: a letter is said to be correct
        ("B is correct.", ORGANS, "B", 2),
        ("Option C is the right one.", ORGANS, "C", 2),
        ("A is not correct, but B is correct.", ORGANS, "B", 2),
        ("Only D would be right here.", ORGANS, "D", 2),
        ("The skin is correct.", ORGANS, "D", 2),
        # 3: it begins with the letter
        ("B. The liver", ("x1", "x2", "x3", "x4"), "B", 3),
        ("C", ORGANS, "C", 3),
        ("D: because it covers the body", ORGANS, "D", 3),
        ("A, since blood must move", ORGANS, "A", 3),
        ("The heart.", ORGANS, "A", 3),  # by way of step 0
        # 4: the first letter that stands alone
        ("(B)", ORGANS, "B", 4),
        ("It must be C or D", ORGANS, "C", 4),
        ("**D** covers the body", ORGANS, "D", 4),
        ("B) the liver cleans blood", ("x1", "x2", "x3", "x4"), "B", 4),
        ("With A=3 we get option D", ("x1", "x2", "x3", "x4"), "D", 4),
        ("VITAMIN and CAD and then B", ("x1", "x2", "x3", "x4"), "B", 4),
        ("Digestion happens in the stomach", ORGANS, "C", 4),  # by way of step 0
        # 5: the most similar text
        ("the livver", ORGANS, "B", SIMILAR),
        ("Stomachs digest", ORGANS, "C", SIMILAR),
        ("", ORGANS, "A", SIMILAR),
        ("!!!", ORGANS, "A", SIMILAR),
        # known errors of the paper's cascade, kept so that figures can be compared
        ("A heart attack hurts the heart muscle; it is D", ("x1", "x2", "x3", "x4"), "A", 4),  # the article
        ("There are 120 of them, so 20", NUMBERS, "C", 4),  # 12 inside 120
        ("It has feathers: a bird", WORDS, "B", 4),
    ],
)
def test_english(response, options, letter, step):
    assert english_choice(response, "What is it?", options) == (letter, step)


PROTOCOL = "在网络中，提供可靠传输的协议是____。"
PROTOCOLS = ("用户数据报协议", "网际协议", "传输控制协议", "地址解析协议")
CITY = "下列城市中，____位于长江沿岸。"
CITIES = ("北京", "武汉", "西安", "沈阳")


@pytest.mark.parametrize(
    ("response", "question", "options", "letter", "step"),
    [
        # 1: the answer is said
        ("答案是C。", PROTOCOL, PROTOCOLS, "C", 1),
        ("答案：B", PROTOCOL, PROTOCOLS, "B", 1),
        ("正确答案为D。", PROTOCOL, PROTOCOLS, "D", 1),
        ("【答案】A", PROTOCOL, PROTOCOLS, "A", 1),
        ("应该选C。", PROTOCOL, PROTOCOLS, "C", 1),
        ("选择：B，因为它最合适", PROTOCOL, PROTOCOLS, "B", 1),
        ("我选定 D", PROTOCOL, PROTOCOLS, "D", 1),
        ("正确的选项是B选项。", PROTOCOL, PROTOCOLS, "B", 1),
        ("答案应该是：A.", PROTOCOL, PROTOCOLS, "A", 1),
        ("答案不是A，答案是C。", PROTOCOL, PROTOCOLS, "C", 1),
        ("答案是传输控制协议。", PROTOCOL, PROTOCOLS, "C", 1),  # by way of step 0
        ("在网络中，提供可靠传输的协议是传输控制协议。", PROTOCOL, PROTOCOLS, "C", 1),  # the question repeated
        ("下列城市中，武汉位于长江沿岸。", CITY, CITIES, "B", 1),  # blank in the middle: both sides of it go
        ("综上所述，本题的答案选 D）", PROTOCOL, PROTOCOLS, "D", 1),
        # 2: a letter is said to be correct
        ("B选项正确", PROTOCOL, PROTOCOLS, "B", 2),
        ("C项符合题意", PROTOCOL, PROTOCOLS, "C", 2),
        ("A是不正确的，D是正确的", PROTOCOL, PROTOCOLS, "D", 2),
        ("我认为B是对的", PROTOCOL, PROTOCOLS, "B", 2),
        ("武汉正确", CITY, CITIES, "B", 2),
        ("只有C说得对。", PROTOCOL, PROTOCOLS, "C", 2),
        ("A不对，B对。", PROTOCOL, PROTOCOLS, "B", 2),
        # 3: it begins with the letter
        ("C", PROTOCOL, PROTOCOLS, "C", 3),
        ("B。武汉在长江边", CITY, ("x1", "x2", "x3", "x4"), "B", 3),
        ("（D）", PROTOCOL, PROTOCOLS, "D", 3),
        ("A．因为它简单", PROTOCOL, PROTOCOLS, "A", 3),
        ("西安", CITY, CITIES, "C", 3),  # by way of step 0
        # 4: the first letter that stands alone
        ("我想是 C 吧", PROTOCOL, PROTOCOLS, "C", 4),
        ("TCP属于C", PROTOCOL, ("x1", "x2", "x3", "x4"), "C", 4),
        ("因为A=1，所以D", PROTOCOL, ("x1", "x2", "x3", "x4"), "D", 4),
        ("长江流经武汉这座城市", CITY, CITIES, "B", 4),  # by way of step 0
        ("可能是B或者C吧", PROTOCOL, PROTOCOLS, "B", 4),
        # 5: the most similar text
        ("用户数据报", PROTOCOL, PROTOCOLS, "A", SIMILAR),
        ("地址解析", PROTOCOL, PROTOCOLS, "D", SIMILAR),
        ("", PROTOCOL, PROTOCOLS, "A", SIMILAR),
        ("不知道", CITY, CITIES, "A", SIMILAR),
    ],
)
def test_chinese(response, question, options, letter, step):
    assert chinese_choice(response, question, options) == (letter, step)


def test_texts_are_literal_not_patterns():
    options = ("f(x) = x^2", "[0-9]+", "a\\1", "$5")
    assert english_choice("I think it is f(x) = x^2", "?", options)[0] == "A"
    assert english_choice("the pattern [0-9]+ fits", "?", options)[0] == "B"
    assert english_choice("costs $5", "?", options)[0] == "D"


def test_an_empty_option_replaces_nothing():
    assert english_choice("The answer is B", "?", ("", "two", "three", "four")) == ("B", 1)
    assert chinese_choice("答案是B", "问题", ("。", "二", "三", "四")) == ("B", 1)


def test_the_longest_text_goes_first():
    assert english_choice("I think: not reliable", "?", ("reliable", "not reliable", "fast", "slow"))[0] == "B"
    assert chinese_choice("不可靠", "问题", ("可靠", "不可靠", "快", "慢"))[0] == "B"


def test_a_short_question_is_not_replaced():
    # up to four characters could occur anywhere in an answer
    assert chinese_choice("它是什么，D", "它是什么", PROTOCOLS) == ("D", 4)


def test_long_answers_take_no_long_time():
    assert english_choice("answer " * 20_000, "?", ORGANS)[1] == SIMILAR
    assert chinese_choice("答案" * 20_000, PROTOCOL, PROTOCOLS)[1] == SIMILAR
