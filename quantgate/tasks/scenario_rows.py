"""Choices of paper B's standard scenario (S1): science, sums, logic, GLUE, pronouns, grammar.

Prompts as in lm-evaluation-harness 0.4.13, blanks included: before COPA's options and behind a pronoun it puts two.
Where a data set always names the right option first or last, the options are put into alphabetical order here: each is
scored by itself, so that no score changes, and "always the last one" is no answer that could be right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Final

from quantgate.tasks.choice_rows import Benchmark
from quantgate.tasks.choices import Question
from quantgate.tasks.data import Fields, Row

_OPTION: Final = re.compile(r"[abcd] \) .*?, |e \) .*?$", re.IGNORECASE)
_LETTERS: Final = "abcde"
_DETERMINERS: Final = ("A", "An", "The", "She", "He", "It", "They", "My", "His", "Her", "Their")
_POSSESSIVE: Final = ("my", "his", "her", "our", "their")
_MASK: Final = "[MASK]"


def _in_order(context: str, options: Sequence[str], right: str) -> Question:
    """Options by the alphabet; the same one twice (a few rows of SciQ) stays twice."""
    ordered = sorted(options)
    return Question.of(context, ordered, ordered.index(right))


def swag(row: Row) -> Question:
    """A sentence's beginning and four endings."""
    return Question.of(row["startphrase"], [row[f"ending{number}"] for number in range(4)], row["label"])


def sciq(row: Row) -> Question:
    """The supporting text (often empty), the question, four answers."""
    options = [row["distractor1"], row["distractor2"], row["distractor3"], row["correct_answer"]]
    context = f"{row['support'].lstrip()}\nQuestion: {row['question']}\nAnswer:"
    return _in_order(context, options, row["correct_answer"])


def mathqa(row: Row) -> Question:
    """The problem; five answers, which the data holds in one string, ``a ) 38 , b ) 27.675 , ...``."""
    options = [found[4:].rstrip(" ,") for found in _OPTION.findall(row["options"])]
    return Question.of(f"Question: {row['Problem']}\nAnswer:", options, _letter(row["correct"]))


def logiqa(row: Row) -> Question:
    """Passage, question and lettered choices; the choices' texts are scored."""
    choices = "".join(f"{letter}. {text}\n" for letter, text in zip("ABCD", row["options"], strict=True))
    context = f"Passage: {row['context']}\nQuestion: {row['question']}\nChoices:\n{choices}Answer:"
    return Question.of(context, row["options"], _letter(row["label"].strip()))


def _letter(typed: str) -> int:
    if len(typed) != 1 or typed not in _LETTERS:
        raise ValueError(f"answer {typed!r}, expected a letter from a to e")
    return _LETTERS.index(typed)


def copa(row: Row) -> Question:
    """The premise as the beginning of a sentence that the cause or the effect ends."""
    joint = {"cause": "because", "effect": "therefore"}.get(row["question"])
    if joint is None:
        raise ValueError(f"question {row['question']!r}, expected 'cause' or 'effect'")
    options = [f" {text[:1].lower()}{text[1:]}" for text in (row["choice1"], row["choice2"])]
    return Question.of(f"{row['premise'].strip()[:-1]} {joint}", options, row["label"])


def wsc273(row: Row) -> Question:
    """Each candidate in the pronoun's place, and the rest of the sentence behind it (partial evaluation).

    The pronoun is where ``pronoun_loc`` says, or where the text holds ``[MASK]``.
    """
    text, (place, pronoun) = row["text"].replace("  ", " "), _pronoun(row)
    starts = place < 2 or text[place - 2] == "."
    names = [_named(option, pronoun, starts) for option in row["options"]]
    rest = text[place + len(pronoun) :]
    if len(names) < 2 or row["label"] not in range(len(names)) or not rest.strip():
        raise ValueError(f"{len(names)} candidates, of which number {row['label']} is right, before {rest!r}")
    return Question(tuple(text[:place] + name for name in names), (rest,) * len(names), row["label"])


def _pronoun(row: Row) -> tuple[int, str]:
    if "pronoun_loc" in row:
        return int(row["pronoun_loc"]), str(row["pronoun"])
    place = row["text"].replace("  ", " ").find(_MASK)
    if place < 0:
        raise ValueError(f"a text without {_MASK} and without pronoun_loc")
    return place, _MASK


def _named(option: str, pronoun: str, starts_a_sentence: bool) -> str:
    named = f"{option}'s" if pronoun.lower() in _POSSESSIVE else option
    first = named.split()[0]
    return named if starts_a_sentence or first not in _DETERMINERS else named.replace(first, first.lower())


def pubmedqa(row: Row) -> Question:
    """An abstract without its conclusion, the question of its title, and yes, no or maybe."""
    context = f"Abstract: {chr(10).join(row['context']['contexts'])}\nQuestion: {row['question']}\nAnswer:"
    said = ("yes", "no", "maybe")
    if row["final_decision"] not in said:
        raise ValueError(f"final_decision {row['final_decision']!r}, expected {', '.join(said)}")
    return Question.of(context, said, said.index(row["final_decision"]))


def blimp(row: Row) -> Question:
    """Two sentences that differ in little, one of them grammatical; there is no context."""
    return _in_order("", (row["sentence_good"], row["sentence_bad"]), row["sentence_good"])


def _glue(template: str, *options: str) -> Callable[[Row], Question]:
    return lambda row: Question.of(template.format(**row), options, row["label"])


def _mnli(row: Row) -> Question:
    said = row["hypothesis"].strip()
    ended = said if said.endswith(".") else f"{said}."
    context = f"{row['premise']}\nQuestion: {ended} True, False or Neither?\nAnswer:"
    return Question.of(context, ("True", "Neither", "False"), row["label"])


_TWO: Final[Fields] = {"sentence1": str, "sentence2": str, "label": int}
_WHETHER: Final = "{sentence1}\nQuestion: {sentence2} True or False?\nAnswer:"
_SAME: Final = (
    "Sentence 1: {sentence1}\nSentence 2: {sentence2}\nQuestion: Do both sentences mean the same thing?\nAnswer:"
)
_ANSWERS: Final = "{question}\n{sentence}\nQuestion: Does this response answer the question?\nAnswer:"
_FEELING: Final = "{sentence}\nQuestion: Is this sentence positive or negative?\nAnswer:"
_ASK: Final = (
    "Question 1: {question1}\nQuestion 2: {question2}\nQuestion: Do both questions ask the same thing?\nAnswer:"
)


def _of_glue(
    name: str, fields: Fields, read: Callable[[Row], Question], split: str = "validation", options: int = 2
) -> Benchmark:
    origin = next((field for field in ("premise", "sentence1", "question", "question1") if field in fields), "")
    return Benchmark("nyu-mll/glue", name, split, fields, read, 1 / options, itemgetter(origin) if origin else None)


BLIMP: Final = (
    "adjunct_island",
    "anaphor_gender_agreement",
    "anaphor_number_agreement",
    "animate_subject_passive",
    "animate_subject_trans",
    "causative",
    "complex_NP_island",
    "coordinate_structure_constraint_complex_left_branch",
    "coordinate_structure_constraint_object_extraction",
    "determiner_noun_agreement_1",
    "determiner_noun_agreement_2",
    "determiner_noun_agreement_irregular_1",
    "determiner_noun_agreement_irregular_2",
    "determiner_noun_agreement_with_adj_2",
    "determiner_noun_agreement_with_adj_irregular_1",
    "determiner_noun_agreement_with_adj_irregular_2",
    "determiner_noun_agreement_with_adjective_1",
    "distractor_agreement_relational_noun",
    "distractor_agreement_relative_clause",
    "drop_argument",
    "ellipsis_n_bar_1",
    "ellipsis_n_bar_2",
    "existential_there_object_raising",
    "existential_there_quantifiers_1",
    "existential_there_quantifiers_2",
    "existential_there_subject_raising",
    "expletive_it_object_raising",
    "inchoative",
    "intransitive",
    "irregular_past_participle_adjectives",
    "irregular_past_participle_verbs",
    "irregular_plural_subject_verb_agreement_1",
    "irregular_plural_subject_verb_agreement_2",
    "left_branch_island_echo_question",
    "left_branch_island_simple_question",
    "matrix_question_npi_licensor_present",
    "npi_present_1",
    "npi_present_2",
    "only_npi_licensor_present",
    "only_npi_scope",
    "passive_1",
    "passive_2",
    "principle_A_c_command",
    "principle_A_case_1",
    "principle_A_case_2",
    "principle_A_domain_1",
    "principle_A_domain_2",
    "principle_A_domain_3",
    "principle_A_reconstruction",
    "regular_plural_subject_verb_agreement_1",
    "regular_plural_subject_verb_agreement_2",
    "sentential_negation_npi_licensor_present",
    "sentential_negation_npi_scope",
    "sentential_subject_island",
    "superlative_quantifiers_1",
    "superlative_quantifiers_2",
    "tough_vs_raising_1",
    "tough_vs_raising_2",
    "transitive",
    "wh_island",
    "wh_questions_object_gap",
    "wh_questions_subject_gap",
    "wh_questions_subject_gap_long_distance",
    "wh_vs_that_no_gap",
    "wh_vs_that_no_gap_long_distance",
    "wh_vs_that_with_gap",
    "wh_vs_that_with_gap_long_distance",
)
"""BLiMP's 67 paradigms: what one of them tests goes well or badly together, so each is a group."""

SCENARIO: Final[Mapping[str, Benchmark]] = {
    "swag": Benchmark(
        "allenai/swag",
        "regular",
        "validation",
        {"startphrase": str, "label": int, **{f"ending{number}": str for number in range(4)}},
        swag,
        0.25,
        itemgetter("startphrase"),
    ),
    "sciq": Benchmark(
        "allenai/sciq",
        "default",
        "test",
        {
            **{"question": str, "support": str, "correct_answer": str},
            **{f"distractor{number}": str for number in (1, 2, 3)},
        },
        sciq,
        0.25,
    ),
    "mathqa": Benchmark(
        "allenai/math_qa", "default", "test", {"Problem": str, "options": str, "correct": str}, mathqa, 0.2
    ),
    "logiqa": Benchmark(
        "EleutherAI/logiqa",
        "logiqa",
        "test",
        {"context": str, "question": str, "options": list, "label": str},
        logiqa,
        0.25,
        itemgetter("context"),
    ),
    "copa": Benchmark(
        "aps/super_glue",
        "copa",
        "validation",
        {"premise": str, "choice1": str, "choice2": str, "question": str, "label": int},
        copa,
        0.5,
    ),
    "wsc273": Benchmark(
        "ErnestSDavis/winograd_wsc",
        "wsc273",
        "test",
        {"text": str, "options": list, "label": int},
        wsc273,
        0.5,
        examples="",
    ),
    "pubmedqa": Benchmark(
        "qiaojin/PubMedQA",
        "pqa_labeled",
        "test",
        {"question": str, "context": dict, "final_decision": str},
        pubmedqa,
        1 / 3,
    ),
    "mnli": _of_glue(
        "mnli", {"premise": str, "hypothesis": str, "label": int}, _mnli, split="validation_matched", options=3
    ),
    "rte": _of_glue("rte", _TWO, _glue(_WHETHER, "True", "False")),
    "wnli": _of_glue("wnli", _TWO, _glue(_WHETHER, "False", "True")),
    "mrpc": _of_glue("mrpc", _TWO, _glue(_SAME, "no", "yes"), split="test"),  # its test split has labels, and is larger
    "qnli": _of_glue("qnli", {"question": str, "sentence": str, "label": int}, _glue(_ANSWERS, "yes", "no")),
    "qqp": _of_glue("qqp", {"question1": str, "question2": str, "label": int}, _glue(_ASK, "no", "yes")),
    "sst2": _of_glue("sst2", {"sentence": str, "label": int}, _glue(_FEELING, "negative", "positive")),
    "blimp": Benchmark(
        "nyu-mll/blimp",
        BLIMP[0],
        "train",  # the only one
        {"sentence_good": str, "sentence_bad": str, "UID": str},
        blimp,
        0.5,
        itemgetter("UID"),
        more=BLIMP[1:],
        examples="",
    ),
}
