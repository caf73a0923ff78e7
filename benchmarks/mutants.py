"""Guards of the library broken in the source text, one at a time, for ``mutation_check.py``: which tests go red?

A mutant is a file, a text that stands in it once, what it becomes, and the narrowest tests that should notice. The rows
of ``tests/suite/sabotage*`` break guards in whole runs; these are the guards behind them, clause by clause.
"""

from benchmarks import mutants_checkpoints  # noqa: F401  # puts down its own
from benchmarks.mutant import MUTANTS, NEVER, ROOT, Mutant, of

__all__ = ["MUTANTS", "ROOT", "Mutant"]

of(
    "quantgate/verify.py",
    "tests/unit/reports/test_check.py",
    ('if dict(stated) != {"file": EVIDENCE, "sha256": stated["sha256"]}:', NEVER),
)
of(
    "quantgate/core/reading.py",
    "tests/unit/core/test_reading.py",
    ("content = parse_unique(text, most)", "content = parse_json(text, most)"),
    ("or letter in _TURNING", "or False"),
)
of(
    "quantgate/verdict/policy_file.py",
    "tests/unit/verdict/test_policy.py",
    ("if not reading.plain(value):", NEVER),
)
of(
    "quantgate/store/bound.py",
    "tests/unit/store/test_store.py",
    ("found = zlib.crc32(key.encode())", 'found = zlib.crc32(b"")'),
    ("if sealed.keys() != {_CHECKSUM, _CONTENT}:", NEVER),
    ("if sealed[_CHECKSUM] != _json_checksum(path.name, sealed[_CONTENT], key):", NEVER),
    ("(name.encode(), body.encode())", "(body.encode(),)"),
    ("(name.encode(), body.encode())", "(name.encode(),)"),
)
of(
    "quantgate/engines/torch/kept.py",
    "tests/unit/engines/test_fidelity.py",
    ("if notes.pop(_CHECKSUM, None) != _checksum(tensors, path, key, notes):", NEVER),
    ("if set(tensors) not in names:", NEVER),
    ("checksum(key, (path.name.encode(), *", 'checksum("", (path.name.encode(), *'),
    ("checksum(key, (path.name.encode(), *", 'checksum(key, (b"", *'),
    ("for name in sorted(tensors))", "for name in ())"),
    ("for name in sorted(notes))", "for name in ())"),
)
of(
    "quantgate/subjects/recorded.py",
    "tests/unit/subjects/test_recorded.py",
    ("if more := sorted(set(layers) - named):", NEVER),
    ("if not _same(recorded, found):", NEVER),
    ('if not name.endswith(".bias") and _is_part(name, layers)', "if _is_part(name, layers)"),
    ("isinstance(recorded, int | float) and math.isclose(", "True or math.isclose("),
)
of(
    "reports/accounting.py",
    "tests/unit/reports/test_accounting.py",
    ("if self.unjudged or self.refused:", "if self.refused:"),
    ("if self.unjudged or self.refused:", "if self.unjudged:"),
    ("(self.planned or not self.others)", "not self.others"),
    ("if not self.judged and (self.planned or not self.others):", NEVER),
    (
        "        if self.listing and not self.judged:\n            return GREEN",
        "        if self.listing:\n            return GREEN",
    ),
    ("        if code != GREEN:", f"        {NEVER}"),
    ("        self.judged[key] = allowed", "        self.judged.setdefault(key, allowed)"),
    ("self._ids[max(found, key=len)]", "self._ids[min(found, key=len)]"),
    (
        "{'was' if len(self.planned) == 1 else 'were'} planned{self._left_out()}",
        "{'was' if len(self.planned) == 1 else 'were'} planned",
    ),
    ("if key in self.selected - set(self.judged)]", "if key in self.selected - set(self.judged) - set(self.excuses)]"),
)
of(
    "quantgate/tasks/repeats.py",
    "tests/unit/runs/test_asked.py",
    ("self._key_of_shot(item, shot) != own", "True"),
    ("if is_text(shot) and self", "if self"),
    ("self._first.setdefault(key, item.id)", "item.id"),
    ("covered(hit, len(words)) > MOSTLY:", "covered(hit, len(words)) > 1:"),
    ("tuple(sorted(map(normal, options)))", "tuple(map(normal, options))"),
    ('normal(_LETTERED.sub("", line))', "normal(line)"),
    ("    if len(copies) > MOSTLY * count:", f"    {NEVER}"),
    ("    if len(copies) > MOSTLY * count:", "    if copies:"),
    ("        or sign in _SIGNS\n", ""),
    ('replace(item, shots=(), group="")', "item"),
)
of(
    "quantgate/runs/preflight.py",
    "tests/suite/test_wrong_commands.py",
    *((f"    {name},\n", "") for name in (
        "check_texts", "check_numbers", "check_directories", "check_device", "check_sizes",
        "check_architecture", "check_calibration_data", "check_candidates",
    )),
    ("    check_model,\n", ""),
)  # fmt: skip
of(
    "quantgate/runs/preflight.py",
    "tests/unit/test_api.py",
    ("    for check in (check_device, check_numbers, check_calibration, check_model):", "    for check in ():"),
    ("    check_architecture(wanted, [method], data)\n", ""),
    ("        check_calibration_data(wanted, [method], data)\n", "        pass\n"),
)
of(
    "quantgate/core/reading.py",
    "tests/unit/core/test_reading.py",
    ("        if path.exists() and not path.is_file() and not path.is_dir():", f"        {NEVER}"),
    ("            if size > most:", f"            {NEVER}"),
    ("    if len(content) > most:", f"    {NEVER}"),
    ("    except UnicodeDecodeError as error:", "    except KeyError as error:"),
    (
        '    if len(text) > most:\n        raise Unreadable(f"{len(text)} characters of JSON',
        f'    {NEVER}\n        raise Unreadable(f"',
    ),
    (
        '    if len(text) > most:\n        raise Unreadable(f"{len(text)} characters of TOML',
        f'    {NEVER}\n        raise Unreadable(f"',
    ),
    ('raise Unreadable("no JSON that can be read', 'raise RuntimeError("'),
    ('raise Unreadable("no TOML that can be read', 'raise RuntimeError("'),
    ('raise Unreadable(f"no TOML', 'raise RuntimeError(f"'),
    ('raise Unreadable(f"it holds {twice[0]} twice")', "pass"),
    ("    if not isinstance(content, dict):", f"    {NEVER}"),
    ('in ("Cc", "Cs", "Zl", "Zp")', 'in ("Cs", "Zl", "Zp")'),
    ('in ("Cc", "Cs", "Zl", "Zp")', 'in ("Cc", "Zl", "Zp")'),
    ('in ("Cc", "Cs", "Zl", "Zp")', 'in ("Cc", "Cs")'),
)
of(
    "quantgate/verdict/seal.py",
    "tests/unit/reports/test_check.py tests/unit/verdict/test_seal.py",
    ("if name != UNSEALED}", "if name not in (UNSEALED, 'decisions')}"),
    ('return self.text + _line({"report": seal})', "return self.text"),
    ("        self._cases.pop(result.key, None)\n", "        pass\n"),
    ("return value if math.isfinite(value) else None", "return value"),
    ("case[side] = digest", 'case[side] = ""'),
    ("                if digest not in written:", "                if True:"),
)


# --- rows of other packages -------------------------------------------------------------------------------------------

of(
    "quantgate/core/requests.py",
    "tests/unit/engines/test_protocol.py",
    ("isinstance(value, (int, float)) and not isinstance(value, bool)", "isinstance(value, (int, float))"),
    ("if type(response) is not wanted:", "if not isinstance(response, wanted):"),
    ("if not is_number(response.logprob):", NEVER),
    ("if _ROUNDING < response.logprob < math.inf:", NEVER),
    ("type(response.n_tokens) is not int or response.n_tokens != len(request.continuation)", "False"),
    ("if not isinstance(values, tuple) or not are_numbers(values):", NEVER),
    ("if len(values) != positions and (asked or values):", "if len(values) != positions and values:"),
    ('("same_top", bool(response.kld))', '("same_top", False)'),
    ("if any(value < -_ROUNDING for value in response.nll):", NEVER),
    ("if values and math.fsum(values) / positions < -_ROUNDING:", NEVER),
    ("if set(response.same_top) <= {0, 1} else", "if True else"),
    ("if not isinstance(response.text, str):", NEVER),
    ("not 0 <= response.n_tokens <= request.max_new_tokens", "False"),
    ("if response.finish in get_args(Finish) else", "if True else"),
)
of(
    "quantgate/engines/guarded.py",
    "tests/unit/engines/test_protocol.py",
    ("if type(self.comparison) is not int:", NEVER),
    ("allow_nan=False) == json.dumps(again", ") == json.dumps(again"),
    ("if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):", NEVER),
    ("        if not same:", "        if False:"),
    ("if batch is not None and (type(batch) is not int or batch < 1):", NEVER),
    ('if not callable(getattr(opened, "run", None)):', NEVER),
    ("            if not open_:\n                return\n", ""),
    ("if type(index) is not int:", NEVER),
    ("self.engine.run(list(requests), taken, job)", "self.engine.run(requests, taken, job)"),
    ("except SystemExit as error:", "except ZeroDivisionError as error:"),
    ("if not isinstance(found, Capabilities) or not all(isinstance(able, bool) for able in _abilities(found)):", NEVER),
    ("or not math.isfinite(value) or value < 0", "or not math.isfinite(value)"),
    ("or not math.isfinite(value) or", "or"),
)
of(
    "quantgate/tasks/checked.py",
    "tests/unit/tasks/test_checked.py",
    ("kind=DataError, hint=_HINT, also=(Exception,)", "kind=DataError, hint=_HINT"),
    ("if len({item.id for item in items}) < len(items):", NEVER),
    ("if len(digests) > 1:", NEVER),
    ("if not isinstance(item, Item):", NEVER),
    ("if not isinstance(text, str) or visible(text) != text or len(text) > _LONGEST:", NEVER),
    ("if not isinstance(item.row, Mapping):", NEVER),
    ("    if not requests:\n", "    if False:\n"),
    ("if digest_requests(requests) != digest_requests(again):", NEVER),
    ("if type(request) not in (Likelihood, Rolling, Generate):", NEVER),
    ("type(each) is int and 0 <= each < vocabulary for each in tokens", "type(each) is int for each in tokens"),
    ("if isinstance(request, Rolling) and len(request.tokens) < 2:", NEVER),
    ("type(request.max_new_tokens) is not int or request.max_new_tokens < 1:", "False:"),
    ("if (found.item_id, found.group) != (item.id, item.group):", NEVER),
    ("if not isinstance(found.answer, str) or not isinstance(found.unscored, str):", NEVER),
    ('return "" if all(map(is_number, numbers)) else', 'return "" if True else'),
    ("    if not is_number(score):\n", "    if False:\n"),
    ("if metric.scale.either and score not in (0, 1):", NEVER),
    ("if low <= score <= high else", "if True else"),
    ("if not _same(outcome_of(task, item, responses), old):", NEVER),
    ("if looked_at and not moved:", NEVER),
    ('replace(old, answer=""), answers=False', "old"),
    ("if not chosen or len(chosen) < len(options):", "if not chosen:"),
    ("math.fsum(1 / len(each) for each in chosen) / len(chosen)", "1 / max(map(len, chosen))"),
)
of(
    "quantgate/tasks/table.py",
    "tests/unit/engines/test_protocol.py",
    ("if not isinstance(protocol, str) or not protocol or visible(protocol) != protocol:", NEVER),
    ("if type(version) is not int or not isinstance(dataset, str):", NEVER),
    ("if known and metric not in known:", NEVER),
    ("is_number(chance) and math.isfinite(chance) and _possible(metric, chance)", "_possible(metric, chance)"),
    ("math.isfinite(chance) and _possible(metric, chance)", "math.isfinite(chance)"),
)
of(
    "quantgate/core/registry.py",
    "tests/unit/engines/test_protocol.py tests/unit/quantize/test_plugins.py",
    ("if not isinstance(name, str) or not _NAME.fullmatch(name):", NEVER),
    ("    if _FAULTS:\n", "    if False:\n"),
    ("        except BaseException as error:  #", "        except ZeroDivisionError as error:  #"),
)
of(
    "quantgate/quantize/catalogue/plugins.py",
    "tests/unit/quantize/test_plugins.py",
    ("if not isinstance(plugin.rows, (list, tuple)):", NEVER),
    ("        check_row(who, row, Method)\n", "        pass\n"),
    ("if not isinstance(parts, Mapping) or not all(map(callable, parts.values())):", NEVER),
    ("if row.algorithm not in algorithms:", NEVER),
    ("if row.transformation is not None and type(row.transformation) not in transformations:", NEVER),
    ("if row.storage not in _STORAGES:", NEVER),
    ("is not int or not 1 <= number <= _MOST:", "is not int:"),
    ("if not all(isinstance(text, str) and text and visible(text) == text for text in texts):", NEVER),
    ("json.dumps(row.as_record(), allow_nan=False)", "row.as_record"),
)
of(
    "quantgate/quantize/sweep/results.py",
    "tests/unit/quantize/test_results.py",
    ("if not isinstance(found, (list, tuple)) or len(found) != len(weights):", NEVER),
    ("if not isinstance(result, LayerResult):", NEVER),
    ("if not is_number(result.loss):", NEVER),
    ("if result.weight.n_weights != weight.numel():", NEVER),
    ("if not isinstance(weight, Tensor) or weight.shape != shape or weight.dtype != dtype:", NEVER),
    ("if not bool(torch.isfinite(weight).all()):", NEVER),
)
of(
    "reports/reporters.py",
    "tests/unit/reports/test_reporters.py",
    ("not _FILE.fullmatch(row.file)", "False"),
    ("or row.file.casefold() in taken", "or row.file in taken"),
    ("except BaseException as error:", "except ZeroDivisionError as error:"),
    ("with redirect_stdout(StringIO()), redirect_stderr(StringIO()):", "if True:"),
    ("row.render(deepcopy(content))", "row.render(content)"),
    ("if type(text) is not str:", NEVER),
    ('    text.encode("utf-8")', "    text.strip()"),
)
of(
    "quantgate/verdict/power.py",
    "tests/unit/verdict/test_power.py",
    ("return max(float(rule.min_items), _whole(few))", "return _whole(few)"),
)
of(
    "quantgate/verdict/comparators/binary.py",
    "tests/unit/verdict/test_power.py",
    ("* (1 / amount - 1) * (1 - 1e-12)", "/ amount"),
)
of(
    "quantgate/verdict/comparators/means.py",
    "tests/unit/verdict/test_power.py",
    ('return math.log1p(amount) if kind == "relative" else None', 'return amount if kind == "relative" else None'),
    ("if allowed is None or stake is None or not stake > allowed:", "if True:"),
)
of(
    "quantgate/verdict/guided.py",
    "tests/unit/verdict/test_by_hand.py",
    ("((1 - chance) * weights**2 * rest**2)", "((1 - chance) * weights * rest**2)"),
    ("others = drawn & (self.fold != side)", "others = drawn"),
    ("budget, low, high = until - self._used, 0.0, _WIDE", "budget, low, high = until, 0.0, _WIDE"),
)
of(
    "quantgate/verdict/intervals.py",
    "tests/unit/verdict/test_by_hand.py",
    ("(np.arange(n) + 0.5) / n) * math.sqrt(2 / n)", "np.arange(n) / n) * math.sqrt(2 / n)"),
    ("round(0.4 * n ** (2 / 3))", "round(0.4 * n ** (1 / 2))"),
)
of(
    "fixtures/plan.py",
    "tests/unit/executors/test_executors.py",
    ("if isinstance(found, Payload) and found.result.key == case.key:", "if isinstance(found, Payload):"),
    ("running, self._running = self._running, None", "running = self._running"),
)
of(
    "fixtures/preflight.py",
    "tests/unit/executors/test_executors.py",
    ("hint=hint, also=(Exception,)):\n        row.check", "hint=hint):\n        row.check"),
)

of(
    "quantgate/store/facts.py",
    "tests/unit/store/test_facts.py",
    (
        'place = hashlib.blake2b(name.encode() + b"\\0" + of, digest_size=16)',
        "place = hashlib.blake2b(of, digest_size=16)",
    ),
    ("return found if whole else {}", "return found if whole else dict(found)"),
    ("if not self._new or self._room < 0 or not self._certain():", "if not self._new or not self._certain():"),
    ("if not self._new or self._room < 0 or not self._certain():", "if not self._new or self._room < 0:"),
    ("        if not self._certain():\n            return {}\n", ""),
    ("            _trim(self._path.parent)\n", ""),
    ('        digest.update(f"{file.relative_to(root).as_posix()}:{len(content)}\\n".encode() + content)\n', ""),
)
of(
    "quantgate/tasks/remembered.py",
    "tests/unit/tasks/test_remembered.py",
    ("ids {special}", "ids"),
    ("if more or not usual or type(text) is not str:", NEVER),
    ("if more or how or not numbers:", "if not numbers:"),
    ("if more or how.keys() != _AS_TEXT or not _is_usual(turns, **how):", "if not _is_usual(turns, **how):"),
    ("        and strftime_now == TODAY.strftime\n", ""),
    ("return type(value) is str", "return True"),
    ("return ask() if self._facts is None or self._touched else", "return ask() if self._touched else"),
    ("return ask() if self._facts is None or self._touched else", "return ask() if self._facts is None else"),
    ("            self._touched = True\n", ""),
    ("        self._touched |= name not in _READING", "        name not in _READING"),
)
of(
    "quantgate/core/installed.py",
    "tests/unit/core/test_installed.py",
    ('"distributions": _digest(sorted(set(_distributions()))),', '"distributions": "",'),
    (", {facts.st_mtime_ns}", ""),
)
of(
    "quantgate/core/machine.py",
    "tests/unit/core/test_machine.py",
    ("if sorted(chosen) != _given():", NEVER),
    ("*sorted(lines), *sorted(chosen)", "*sorted(lines)"),
)
of(
    "quantgate/engines/guarded.py",
    "tests/unit/engines/test_hangs_on.py",
    ('getattr(type(self.row), "hangs_on", None)', "lambda _, setting: self.row.hangs_on(setting)"),
)
of(
    "quantgate/engines/torch/row.py",
    "tests/unit/engines/test_hangs_on.py",
    ("type(self) is not TorchRow or vars(self)", "type(self) is not TorchRow"),
    ("type(self) is not TorchRow or vars(self)", "vars(self)"),
    ("**asdict(setting)}", "}"),
)
of(
    "quantgate/runs/questions.py",
    "tests/suite/test_second_run.py",
    ('files = {"config": digest.config, "tokenizer": digest.tokenizer}', 'files = {"config": digest.config}'),
    ("has_foreign_classes() or has_small_changed(model.path, model.stamps)", "has_foreign_classes()"),
)
of(
    "quantgate/engines/torch/row.py",
    "tests/suite/test_second_run.py",
    ('{**libraries, "processor": processor, **asdict(setting)}', "{**libraries, **asdict(setting)}"),
)
