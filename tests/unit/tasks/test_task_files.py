"""Tasks out of files: what they ask and score by hand, what they refuse, and that no template gets out or grows."""

import json

import pytest

from quantgate.core.errors import DataError, UsageError
from quantgate.core.requests import GenerateResponse, LikelihoodResponse, Rolling
from quantgate.tasks.base import Selection
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.table import TASKS
from quantgate.tasks.written.described import Described
from quantgate.tasks.written.lm_eval import LmEval
from quantgate.tasks.written.load import add_task_files
from quantgate.tasks.written.templates import rendered


class Words:
    """Stands in for prompts: texts instead of tokens, so that what is asked can be read."""

    def pair(self, context, continuation):
        return (context, continuation)

    def encode(self, text):
        return text

    def chat(self, messages):
        return " | ".join(f"{each['role']}: {each['content']}" for each in messages)


@pytest.fixture
def at(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture(autouse=True)
def the_table_as_it_was():
    yield
    add_task_files([])


HEAD = 'schema = 1\nname = "capitals"\n'
CHOICE = HEAD + 'kind = "multiple-choice"\nrows = "rows.jsonl"\n'
ROWS = [
    {"ask": "Capital of France?", "names": ["Paris", "Rome"], "key": "A", "land": "fr"},
    {"ask": "Capital of Italy?", "names": ["Paris", "Rome"], "key": "B", "land": "it"},
    {"ask": "Capital of Peru?", "names": ["Lima", "Cusco", "Ica"], "key": "A", "land": "pe"},
]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def asked(task, data=None, **selection):
    items = task.items(data, Selection(**selection), Words())
    return items, [task.requests(item, Words()) for item in items]


def test_options_from_fields_and_letters(at):
    at("rows.jsonl", lines(ROWS))
    path = at("t.toml", CHOICE + 'question = "Q: {{ ask }}\\nA:"\noptions = "names"\nright = "key"\ngroup = "land"\n')
    [task] = Described(path).tasks()
    items, requests = asked(task)
    assert requests[1] == [("Q: Capital of Italy?\nA:", " Paris"), ("Q: Capital of Italy?\nA:", " Rome")]
    assert [item.row["right"] for item in items] == [0, 1, 0]
    assert [item.group for item in items] == ["rows/fr", "rows/it", "rows/pe"]
    likely = [LikelihoodResponse(-2.0, 1, False), LikelihoodResponse(-1.0, 1, True)]
    assert [task.score(item, likely).score for item in items[:2]] == [0.0, 1.0]
    assert task.carries.startswith("rows.jsonl, sha256 ")
    assert task.quoted(items[0]) == ""


def test_options_per_character_and_examples_from_csv(at):
    at("rows.csv", 'ask,a,b,key\n"Long, or short?",no,certainly,1\n')
    at("dev.csv", "ask,a,b,key\nFirst?,yes,no,0\nSecond?,yes,no,no\n")
    text = CHOICE.replace("rows.jsonl", "rows.csv") + (
        'question = "{{ ask }}"\noptions = ["{{ a }}", "{{ b }}"]\nright = "key"\ncompare = "both"\n'
        'examples = "dev.csv"\nshots = 2\nbefore = "Answer.\\n"\nquote = true\n'
    )
    summed, normed = Described(at("t.toml", text)).tasks()
    items, requests = asked(normed)
    assert requests[0][1] == ("Answer.\nFirst? yes\n\nSecond? no\n\nLong, or short?", " certainly")
    likely = [LikelihoodResponse(-3.0, 1, False), LikelihoodResponse(-9.0, 2, True)]
    assert (summed.id, normed.id) == ("capitals", "capitals_norm")
    assert summed.score(items[0], likely).score == 0.0
    assert normed.score(items[0], likely).score == 1.0  # -3 / 2 letters against -9 / 9
    assert summed.quoted(items[0]) == "Long, or short?"


ANSWER = HEAD + 'kind = "answer"\nrows = "rows.jsonl"\nquestion = "ask"\nanswer = "key"\n'


@pytest.mark.parametrize(("more", "text", "right"), [
    ("", " Four.\n", True), ("", "four.", True), ("", "four", False), ("", "It is Four.", False),
    ("ignore_case = false", "four.", False), ("ignore_punctuation = true", "four", True),
    ('extractor = "first_line"', "Four.\nor five", True), ('extractor = "first_line"', "It is\nFour.", False),
    ('extractor = "pattern"\npattern = "is (\\\\w+[.])"', "this is six. no, it is Four.", True),
    ('extractor = "pattern"\npattern = "is (\\\\w+[.])"', "Four.", False),
])  # fmt: skip
def test_free_answers(at, more, text, right):
    at("rows.jsonl", lines([{"ask": "2 + 2?", "key": "Four."}]))
    [task] = Described(at("t.toml", f"{ANSWER}{more}\n")).tasks()
    [item], [[request]] = asked(task)
    assert request.prompt == "2 + 2?"
    assert task.score(item, [GenerateResponse(text, 3, "stop")]).score == float(right)


@pytest.mark.parametrize("key", ["...", " . "])
def test_a_right_answer_of_which_nothing_is_left_is_refused(at, key):
    """Every answer of which nothing is left would be right."""
    at("rows.jsonl", lines([{"ask": "2 + 2?", "key": key}]))
    [task] = Described(at("t.toml", f"{ANSWER}ignore_punctuation = true\n")).tasks()
    with pytest.raises(DataError, match="nothing is left of the right answer"):
        asked(task)


def test_a_pattern_that_comes_to_no_end_leaves_the_item_unscored(at):
    at("rows.jsonl", lines([{"ask": "?", "key": "a"}]))
    [task] = Described(at("t.toml", ANSWER + 'extractor = "pattern"\npattern = "^(a|a)*$"\n')).tasks()
    [item], _ = asked(task)
    outcome = task.score(item, [GenerateResponse("a" * 60 + "b", 3, "stop")])
    assert (outcome.score, outcome.unscored) == (None, "a pattern of the task file came to no end")


def test_numbers_and_chat(at):
    at("rows.jsonl", lines([{"ask": "6 x 7?", "key": 42}, {"ask": "1,000 + 1?", "key": "1,001"}]))
    more = 'extractor = "last_number"\nchat = true\nstop = ["\\n\\n"]\nmax_new_tokens = 9\n'
    [task] = Described(at("t.toml", ANSWER + more)).tasks()
    items, requests = asked(task)
    assert (requests[0][0].prompt, requests[0][0].max_new_tokens, requests[0][0].stop) == ("user: 6 x 7?", 9, ("\n\n",))
    assert [task.score(item, [GenerateResponse("so 1 + 1 is 1001.0", 5, "eos")]).score for item in items] == [0, 1]
    at("rows.jsonl", lines([{"ask": "?", "key": "many"}]))
    with pytest.raises(DataError, match="the right answer is 'many'; expected a number"):
        asked(task)


def test_a_text_is_read_in_segments(at, tokenizer):
    from quantgate.tasks.prompts import Prompts

    at("book.txt", "the old ship sails north. " * 40)
    text = HEAD + 'kind = "perplexity"\ntext = "book.txt"\nsegment = 32\nsegments = 3\n'
    assert add_task_files([at("t.toml", text)]) == ["capitals", "kld_capitals"]
    items = TASKS["capitals"].items(None, Selection(), prompts := Prompts(tokenizer, 64, "tiny"))
    assert [len(item.row["tokens"]) for item in items] == [32, 32, 32]
    assert isinstance(TASKS["kld_capitals"].requests(items[0], prompts)[0], Rolling)
    assert "the text book.txt; non-overlapping segments of 32 tokens" in TASKS["capitals"].protocol


WRONG = {
    "schema = 2": "schema: found 2; expected schema = 1",
    HEAD + 'kind = "choice"': "kind: found 'choice'; expected 'multiple-choice'",
    CHOICE + 'questoin = "a"': "unknown key 'questoin'; did you mean 'question'",
    CHOICE + 'options = "a"\nright = "b"': "question: found nothing; expected a field's name or a template",
    CHOICE + 'question = "q"\nright = "b"': "options: found None",
    CHOICE + 'question = "{{ q"\noptions = "a"\nright = "b"': "question: its template cannot be used",
    CHOICE + 'question = "q"\noptions = "a"\nright = "b"\ncompare = "all"': "compare: found 'all'",
    CHOICE + 'question = "q"\noptions = "a"\nright = "b"\nshots = -1': "shots: found -1",
    CHOICE + 'question = "q"\noptions = "a"\nright = "b"\nexamples = "rows.jsonl"': "another file than the tested one",
    CHOICE + 'question = "q"\noptions = "a"\nright = "b"\ndataset = "a/b"': "expected a file",
    CHOICE.replace("rows.jsonl", "no.jsonl") + 'question = "q"\noptions = "a"\nright = "b"': "which is no file",
    CHOICE.replace("rows.jsonl", "t.toml") + 'question = "q"\noptions = "a"\nright = "b"': "that ends in .jsonl",
    ANSWER + 'extractor = "pattern"': "pattern: found None",
    ANSWER + 'extractor = "pattern"\npattern = "("': "is no regular expression",
    ANSWER + "chat = true\nshots = 2": "no examples in a chat turn",
    ANSWER + 'stop = ""': "stop: found ''; expected a list of texts",
    HEAD + 'kind = "perplexity"\ntext = "no.txt"': "'no.txt', which is no file",
    HEAD + 'kind = "perplexity"\ntext = "/proc/self/status"': "which lies outside of the task file's folder",
    CHOICE.replace("rows.jsonl", "../above.jsonl")
    + 'question = "q"\noptions = "a"\nright = "b"': "lies outside of the",
    CHOICE.replace("rows.jsonl", "link.jsonl") + 'question = "q"\noptions = "a"\nright = "b"': "lies outside of the",
    "no toml": "cannot be read (no TOML",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_refused_by_its_key(at, text):
    folder, above = at("in/rows.jsonl", lines(ROWS)).parent, at("above.jsonl", lines(ROWS))
    (folder / "link.jsonl").symlink_to(above)
    with pytest.raises(UsageError) as refused:
        add_task_files([at("in/t.toml", text)])
    assert WRONG[text] in str(refused.value)
    assert "t.toml" in str(refused.value)


ROW_FAULTS = {
    '{"ask": 1}\n{"ask"': "rows.jsonl, line 2: no JSON",
    "[1]\n": "line 1: a list, no JSON object",
    "": "no rows",
    '{"names": ["a", "b"], "key": "A"}\n': "row 0 of rows.jsonl: its template cannot be rendered",
    '{"ask": "q", "names": ["a"], "key": "A"}\n': "the right one of 1 options is 0",
    '{"ask": "q", "names": ["a", "b"], "key": "C"}\n': "the right one of 2 options is 2",
    '{"ask": "q", "names": ["a", "b"], "key": "neither"}\n': "the right one of 2 options is 'neither'",
    '{"ask": "q", "names": "word", "key": "A"}\n': "is no list of texts",
    '{"ask": "q", "names": {"x": [1]}, "key": "A"}\n': "expected a list of texts",
}


@pytest.mark.parametrize("text", ROW_FAULTS)
def test_a_wrong_row_is_named(at, text):
    at("rows.jsonl", text)
    path = at("t.toml", CHOICE + 'question = "{{ ask }}"\noptions = "names"\nright = "key"\n')
    with pytest.raises(DataError) as refused:
        asked(Described(path).tasks()[0])
    assert ROW_FAULTS[text] in str(refused.value)


def test_names_are_their_own_and_gone_with_the_next_run(at):
    at("rows.jsonl", lines(ROWS))
    text = CHOICE + 'question = "ask"\noptions = "names"\nright = "key"\n'
    path, taken = at("t.toml", text), at("u.toml", text.replace('"capitals"', '"mmlu"'))
    assert add_task_files([path]) == ["capitals"]
    assert add_task_files([path]) == ["capitals"]
    for wrong in ([taken], [path, path]):
        with pytest.raises(UsageError, match="already"):
            add_task_files(wrong)
    with pytest.raises(UsageError, match="a name that case ids cannot hold"):
        add_task_files([at("v.toml", text.replace('"capitals"', '"Kap-1"'))])
    with pytest.raises(UsageError, match=r"task 'a{40}…': a name of 300 letters; expected at most 100"):
        add_task_files([at("v.toml", text.replace('"capitals"', f'"{"a" * 300}"'))])
    assert add_task_files([]) == []
    assert "capitals" not in TASKS
    with pytest.raises(UsageError, match=r"ends in '\.json'"):
        add_task_files([at("t.json", "{}")])


# --- templates ------------------------------------------------------------------------------------------------------

ROW = {"text": " a b ", "list": ["x", "y"], "deep": {"key": "v"}, "n": 3}


@pytest.mark.parametrize(("template", "text"), [
    ("{{ text.strip() }}!\n", "a b!\n"), ("{{ list.index('y') }}", "1"), ("{{ deep.key ~ n }}", "v3"),
    ("{{ text.split(' ')[1:]|join('-') }}", "a-b-"), ("{% for x in list %}{{ loop.index }}{{ x }}{% endfor %}", "1x2y"),
    ("{% set t = text + 'c' %}{{ t|upper }}", " A B C"), ("{{ 'yes' if n > 2 else 'no' }}", "yes"),
    ("{{ text|regex_replace('[ab]', '*') }}", " * * "), ("{{ text.replace('a', 'c') }}", " c b "),
    ("{{ unknown is defined }}", "False"), ("{{ [text, list[0]] }}", "[' a b ', 'x']"),
])  # fmt: skip
def test_what_templates_do(template, text):
    assert rendered(template, ROW, "here") == text


HOSTILE = [
    "{{ ''.__class__.__mro__ }}",
    "{{ list.append('z') }}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ 'a' * 9999999 }}",
    "{{ list * 9999999 }}",
    "{% for x in range(9999999) %}{% endfor %}",
    "{% for x in range(1000) %}{% for y in range(1000) %}{% endfor %}{% endfor %}",
    "{% for x in range(1000) %}" + "a" * 2000 + "{% endfor %}",
    "{{ '%9999999d' % 1 }}",
    "{{ '{:9999999}'.format(1) }}",
    "{{ 'a'.center(9999999) }}",
    "{{ 'a'.ljust(9999999) }}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% macro m() %}{% endmacro %}",
    "{{ self.x }}",
    "{{ cycler }}",
    "{{ text|pprint }}",
    "{{ unknown }}",
    "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "{% set a = 'aaaaaaaa' %}" + "{% set a = a ~ a %}" * 40 + "{{ a }}",
    "{% set a = 'aaaaaaaa' %}" + "{% set a = a + a %}" * 40 + "{{ a }}",
    "{% set a = 'aaaaaaaa' %}" + "{% set a = a.replace('a', a) %}" * 8 + "{{ a }}",
    "{% set a = 'aaaaaaaa' %}" + "{% set a = a|replace('a', a) %}" * 8 + "{{ a }}",
    "{% set a = 'aaaaaaaa' %}" + "{% set a = [a, a]|join(a) %}" * 30 + "{{ a }}",
    "{% set a = 'aaaaaaaa' %}" + "{% set a = a.join([a, a]) %}" * 30 + "{{ a }}",
    "{% set a = [1] %}" + "{% set a = [a, a] %}" * 60 + "{{ a }}",
    "{% set n = 99999999 %}" + "{% set n = n * n %}" * 40 + "{{ n }}",
    "{{ ('a' * 60 ~ 'b')|regex_replace('^(a|a)*$', 'b') }}",
    "x" * 30_000,
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_no_template_gets_out_or_grows_without_end(number):
    with pytest.raises(DataError):  # whatever is refused when a file is read is refused here, too
        rendered(HOSTILE[number], ROW, "here")


# --- lm-eval --------------------------------------------------------------------------------------------------------

PLAIN = """
task: My-Task
dataset_path: org/set
dataset_name: null
output_type: multiple_choice
test_split: test
doc_to_text: "Q: {{q}}\\nA:"
doc_to_target: "{{names.index(key)}}"
doc_to_choice: names
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
metadata: {version: 1.0}
"""


@pytest.fixture
def data(tmp_path, write_jsonl):
    rows = [{"q": "one", "names": ["a", "bb"], "key": "bb", "good": "g", "bad": "b"}]
    write_jsonl(tmp_path, "org/set", "default", "test", rows)
    write_jsonl(tmp_path, "org/set", "default", "dev", [{**rows[0], "q": "zero", "key": "a"}])
    return DirectorySource(tmp_path)


def test_a_yaml_of_lm_eval_is_asked_as_it_asks(at, data):
    summed, normed = LmEval(at("t.yaml", PLAIN)).tasks()
    assert (summed.id, normed.id) == ("lm_my_task", "lm_my_task_norm")
    [item], [requests] = asked(summed, data)
    assert requests == [("Q: one\nA:", " a"), ("Q: one\nA:", " bb")]
    likely = [LikelihoodResponse(-3.0, 1, False), LikelihoodResponse(-4.0, 2, True)]
    assert (summed.score(item, likely).score, normed.score(item, likely).score) == (0.0, 1.0)


def test_examples_descriptions_and_includes(at, data):
    at("_base", PLAIN)
    text = "include: _base\ntask: other\ndescription: 'About {{q}}.\\n'\nnum_fewshot: 1\nfewshot_split: dev\n"
    task = LmEval(at("t.yaml", text.replace("'About", '"About').replace("\\n'", '\\n"'))).tasks()[0]
    _, [requests] = asked(task, data)
    assert task.id == "lm_other"
    assert requests[1] == ("About one.\nQ: zero\nA: a\n\nQ: one\nA:", " bb")


def test_options_may_be_contexts(at, data):
    text = PLAIN.replace('"Q: {{q}}\\nA:"', "0").replace('"{{names.index(key)}}"', "' goes on'")
    _, [requests] = asked(LmEval(at("t.yaml", text)).tasks()[0], data)
    assert requests == [("a", "  goes on"), ("bb", "  goes on")]


def test_endings_and_answers(at, data):
    ending = PLAIN.replace("multiple_choice", "loglikelihood").replace("acc_norm", "perplexity")
    ending = ending.replace("doc_to_choice: names\n", "").replace('"{{names.index(key)}}"', '" {{key}}"')
    accuracy, loss = LmEval(at("t.yaml", ending)).tasks()
    [item], [[request]] = asked(accuracy, data)
    assert request == ("Q: one\nA:", " bb")
    answer = [LikelihoodResponse(-2.5, 2, True)]
    assert (accuracy.score(item, answer).score, loss.score(item, answer).score) == (1.0, 2.5)


GENERATE = """
task: gen
dataset_path: org/set
output_type: generate_until
test_split: test
doc_to_text: q
doc_to_target: "{{names}}"
generation_kwargs: {until: ["\\n"], do_sample: false, temperature: 0.0}
metric_list:
  - {metric: exact_match, ignore_case: true, regexes_to_ignore: [","]}
filter_list:
  - {name: strict-match, filter: [{function: regex, regex_pattern: "is (\\\\w+)"}, {function: take_first}]}
  - {name: last, filter: [{function: regex, group_select: -1, regex_pattern: "(z)|(\\\\w+)"}]}
"""


def test_filters_and_several_right_answers(at, data):
    strict, last = LmEval(at("t.yaml", GENERATE)).tasks()
    assert (strict.id, last.id) == ("lm_gen", "lm_gen_last")
    [item], [[request]] = asked(strict, data)
    assert (request.prompt, request.stop, request.max_new_tokens) == ("one", ("\n",), 256)
    scores = {
        text: [task.score(item, [GenerateResponse(text, 3, "stop")]).score for task in (strict, last)]
        for text in ("it is B,B", "it is c or A", "", "a")
    }
    assert scores == {"it is B,B": [0, 0], "it is c or A": [0, 1], "": [0, 0], "a": [0, 1]}


UNSUPPORTED = {
    "process_docs: !function utils.process": "process_docs: found !function utils.process; expected no Python",
    "doc_to_text: !function utils.ask": "doc_to_text: found !function utils.ask",
    "output_type: loglikelihood_rolling": "output_type: found 'loglikelihood_rolling'",
    "gen_prefix: 'So'": "gen_prefix: found a key that is not done here",
    "use_prompt: promptsource": "use_prompt",
    "doc_to_image: image": "doc_to_image",
    "unsafe_code: true": "unsafe_code",
    "repeats: 4": "repeats: found 4",
    "metric_list: [{metric: f1}]": "metric_list: found f1; expected acc or acc_norm",
    "metric_list: [{metric: acc, hf_evaluate: true}]": "metric_list.acc.hf_evaluate",
    "fewshot_config: {sampler: balanced}": "fewshot_config.sampler: found 'balanced'",
    "dataset_kwargs: {data_dir: x}": "dataset_kwargs.data_dir",
    "test_split: null": "test_split: found neither it nor validation_split",
    "include: /etc/passwd": "include: '/etc/passwd'",
    "include: ../x": "include: '../x'",
    "include: t.yaml": "more than 5 files that include each other",
    "description: '{% include \"x\" %}'": "description: its template cannot be used",
    "tag: &a [*a]": "aliases (*name) are not taken",
    "!!python/object/apply:os.system ['true']": "is no YAML that is taken",
    "- 1": "is no YAML that is taken",
}


@pytest.mark.parametrize("line", UNSUPPORTED)
def test_what_is_not_done_is_refused_by_name(at, line):
    key = line.partition(":")[0]
    kept = PLAIN.split("metric_list:")[0] if key == "metric_list" else PLAIN
    text = "\n".join(each for each in kept.split("\n") if not each.startswith(f"{key}:")) + f"\n{line}\n"
    with pytest.raises(UsageError) as refused:
        LmEval(at("t.yaml", text)).tasks()
    assert UNSUPPORTED[line] in str(refused.value)


def test_what_is_left_out_is_told(at):
    file = LmEval(at("t.yaml", PLAIN.replace("acc_norm", "brier_score")))
    assert [task.id for task in file.tasks()] == ["lm_my_task"]
    assert file.notes == ["t.yaml: the metric brier_score is left out; done here: acc or acc_norm"]


@pytest.mark.parametrize(
    "line",
    [
        "output_type: []", "dataset_kwargs: 5", "generation_kwargs: 5", "filter_list: 5", "filter_list: [{filter: 5}]",
        "filter_list: [{filter: [5]}]", "generation_kwargs: {temperature: hot}", "generation_kwargs: {until: 5}",
    ],
)  # fmt: skip
def test_values_of_another_kind_are_one_sentence(at, line):
    key = line.partition(":")[0]
    text = "\n".join(each for each in PLAIN.split("\n") if not each.startswith(f"{key}:")) + f"\n{line}\n"
    if key != "output_type":
        text = text.replace("output_type: multiple_choice", "output_type: generate_until")
    with pytest.raises(UsageError, match=r"t\.yaml"):
        add_task_files([at("t.yaml", text)])
