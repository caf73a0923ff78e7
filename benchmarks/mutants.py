"""Guards of the library broken in the source text, one at a time, for ``mutation_check.py``: which tests go red?

A mutant is a file, a text that stands in it once, what it becomes, and the narrowest tests that should notice. The rows
of ``tests/suite/sabotage*`` break guards in whole runs; these are the guards behind them, clause by clause.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutant:
    """``before`` in ``file`` becomes ``after``; ``tests``: what pytest is called with."""

    file: str
    before: str
    after: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        first = self.before.strip().split("\n")[0]
        return (
            f"{self.file}: {first if len(first) <= 70 else first[:67] + '...'} -> {self.after.strip()[:30] or 'gone'}"
        )

    def text(self, root: Path = ROOT) -> str:
        """The file with the guard broken. Raises ValueError unless ``before`` stands in it once."""
        whole = (root / self.file).read_text(encoding="utf-8")
        if whole.count(self.before) != 1:
            raise ValueError(f"{self.file} holds {self.before!r} {whole.count(self.before)} times, not once")
        return whole.replace(self.before, self.after)


MUTANTS: list[Mutant] = []


def of(file: str, tests: str, *changes: tuple[str, str]) -> None:
    """Put down mutants of one file that the same tests should notice."""
    MUTANTS.extend(Mutant(file, before, after, tuple(tests.split())) for before, after in changes)


NEVER = "if False:"

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
    "quantgate/models/files.py",
    "tests/unit/models/test_files.py",
    ("content = reading.parse_unique(reading.read_text(path))", "content = reading.read_json(path)"),
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
    "quantgate/models/sameness.py",
    "tests/unit/models/test_sameness.py",
    ("differing_fields(reference, subject) + spelt_twice(subject)", "differing_fields(reference, subject)"),
    ("or old == new:", "or True:"),
)
of(
    "quantgate/checkpoints/audit.py",
    "tests/unit/checkpoints/test_audit.py",
    ("    if missing:\n", f"    {NEVER}\n"),
    ("name in ours or name == HEAD", "name in ours"),
    ("        and name not in theirs\n", "        and False\n"),
    ('if not name.endswith(".bias")}', "}"),
)
of(
    "quantgate/checkpoints/inspection.py",
    "tests/unit/checkpoints/test_audit.py tests/unit/checkpoints/test_inspection.py "
    "tests/unit/checkpoints/test_gguf_damages.py",
    ("    if not bool(found.sum().isfinite()):", f"    {NEVER}"),
    ("    if matrices.is_zero(found):", f"    {NEVER}"),
    ("    elif error > min(_UNLIKE, _SLACK * least):", "    elif False:"),
    ("(usual := _usually(seen)) > _USUAL", "(usual := _usually(seen)) > 1e9"),
    ("matrices.is_rotation(one, other) and _turned_alike", "_turned_alike"),
    ("    if apart := moved(pair.fit.scaled, pair.found):", f"    {NEVER}"),
    ("seen.lost_unless_folded if folded else seen.lost)[module]", "seen.zero)[module]"),
    ("        if allowed < much <= twice and matrices.own_ranges(weight, found, stored.group):", f"        {NEVER}"),
    ("if allowed < much <= twice and matrices.own_ranges(weight, found, stored.group):", "if allowed < much <= twice:"),
    ("        if len(same) > 1:", f"        {NEVER}"),
    ("    if lost := matrices.empty_blocks(*pair.sample, stored.group):", f"    {NEVER}"),
    ("    findings = [*checkpoint.suspicions()]", "    findings: list[Finding] = []"),
    ("    if seen.shifted:", f"    {NEVER}"),
    ("findings += [*more, *_others(", "findings += [*_others("),
)
of(
    "quantgate/checkpoints/beside.py",
    "tests/unit/checkpoints/test_beside.py",
    ("if ours.decode(ids) != theirs.decode(ids):", "if False:"),
    ("ending.end_of_turn(ours) in lost", "False"),
)
of(
    "quantgate/checkpoints/layouts/gguf_header.py",
    "tests/unit/checkpoints/test_hostile.py",
    ("        if each.begin < free:", f"        {NEVER}"),
    ("    if place.left < 0:", f"    {NEVER}"),
    ("        if free > size:", f"        {NEVER}"),
)
of(
    "quantgate/checkpoints/matrices.py",
    "tests/unit/checkpoints/test_audit.py tests/unit/checkpoints/test_folds.py",
    ("clamp(min=_TINY) + lost", "clamp(min=_TINY)"),
)
of(
    "quantgate/checkpoints/folds.py",
    "tests/unit/checkpoints/test_folds.py tests/unit/checkpoints/test_inspection.py",
    ("        if lost:", f"        {NEVER}"),
    ("if not _is_one(ratio) or bool(", "if bool("),
    ("_is_far(ratio) & felt", "_is_far(ratio) & False"),
    ("return all(self._answers(", "return any(self._answers("),
    ("abs(float(product.median()) - 1) < _EVEN", "True"),
    ("self.fit(module) if module in self.looked_at else None", "None"),
)
of(
    "quantgate/checkpoints/fields.py",
    "tests/unit/checkpoints/test_declared.py",
    ("        if name in known or empty or", "        if True or name in known or empty or"),
    ("if not isinstance(value, int) or isinstance(value, bool) or not", "if not isinstance(value, int) or not"),
)
of(
    "quantgate/models/files.py",
    "tests/unit/models/test_files.py",
    ("not chosen and not (directory / SINGLE).is_file() and", "not chosen and"),
    ("    plain = not (name", "    plain = True or not (name"),
    ("if not plain or not any(real.is_relative_to(each) for each in roots):", "if not plain:"),
    ('if not name.endswith(".safetensors"):', NEVER),
    ("    missing = [name for name in names if not (directory / name).is_file()]", "    missing = []"),
    ("if _is_weight(name) and name not in read)", "if False)"),
    ('chosen = config.get("transformers_weights") if isinstance(config, dict) else None', "chosen = None"),
    ("    if not (directory / chosen).is_file():", f"    {NEVER}"),
    ('"chat_template*.json", "*.jinja",', '"chat_template*.json",'),
    ("if name in named or any(", "if any("),
    ("or not all(isinstance(each, str) for each in named.values())", ""),
    ("if depth > 1 and not path.is_symlink():", "if False:"),
)
of(
    "quantgate/models/accounting.py",
    "tests/unit/models/test_accounting.py",
    ('sorted(info["missing_keys"]) + sorted(other)', "sorted(other)"),
    ('sorted(info["missing_keys"]) + sorted(other)', 'sorted(info["missing_keys"])'),
    ("    if names:\n", f"    {NEVER}\n"),
    ('if errors := list(info["error_msgs"]):', "if errors := []:"),
    ("    _check_head(model, who)\n", ""),
    ("    check_finite(model, who)\n", ""),
    (" and weight.itemsize > 1 and not", " and weight.itemsize > 2 and not"),
    (" and not bool(tensor(name).any())", ""),
    ('name.endswith(".bias") and not bool', "not bool"),
)
of(
    "quantgate/models/ending.py",
    "tests/unit/models/test_ending.py",
    (', _read(path / "generation_config.json")]', "]"),
    ("text if isinstance(text, Mapping) else {}, ", ""),
    ("tokenizer.eos_token_id, end_of_turn(tokenizer)):", "tokenizer.eos_token_id):"),
    ("(*named, tokenizer.eos_token_id,", "(*named,"),
    ("isinstance(token, bool) or ", ""),
    (" and token >= 0:", ":"),
    (" and int(tokens[0]) in _special(tokenizer) else", " else"),
    ("*(token for token, told in added.items() if told.special)", ""),
    ("if found.get(name, _NEUTRAL[name]) not in _idle(name)}", "if False}"),
    ("return (_NEUTRAL[name], None, [])", "return (_NEUTRAL[name],)"),
)
of(
    "quantgate/models/sameness.py",
    "tests/unit/models/test_sameness.py tests/unit/checkpoints/test_audit.py",
    ("if ours.get(name) != theirs.get(name)\n", "if name in ours and ours.get(name) != theirs.get(name)\n"),
    ("sorted(ours.keys() | theirs.keys())", "sorted(theirs.keys())"),
    ('        found |= _fields(getattr(config, name), f"{before}{name}.")\n', "        pass\n"),
    ("(name in known or name in source)", "name in known"),
    (" and (name in known or name in source):", ":"),
    ('if ours.get("tie_word_embeddings") is True and', "if"),
)
of(
    "quantgate/models/quantized.py",
    "tests/unit/models/test_quantized.py",
    ("_KEYS: Final = (*DECLARED, INPUTS, CACHE)", "_KEYS: Final = (MAIN,)"),
    ('_INNER: Final = ("text_config", "llm_config")', "_INNER: Final = ()"),
    ("        if (path / name).is_file():", f"        {NEVER}"),
    ("    if (path / _RECORD).is_file():", f"    {NEVER}"),
    ("        if packed or last in _PARTS:", "        if packed:"),
    ("        if packed or last in _PARTS:", "        if last in _PARTS:"),
    ("(last in _CODES or tensor.dtype not in _FLAGS)", "tensor.dtype not in _FLAGS"),
    ("(last in _CODES or tensor.dtype not in _FLAGS)", "True"),
)
of(
    "quantgate/models/files.py",
    "tests/unit/models/test_quantized.py tests/unit/models/test_files.py",
    ("    if not isinstance(content, dict):", f"    {NEVER}"),
)
of(
    "quantgate/checkpoints/static_cache.py",
    "tests/unit/checkpoints/test_static_cache.py",
    ('if match is None or match["layer"] not in found:', "if match is None:"),
    ('        if not 0 < scale < float("inf"):', f"        {NEVER}"),
    ('            if side in found[match["layer"]]:', f"            {NEVER}"),
    (
        'register_key_hook(layers[name], _rounding(sides["k"]))',
        'register_key_hook(layers[name], _rounding(sides["v"]))',
    ),
    ('        register_value_hook(layers[name], _rounding(sides["v"]))\n', ""),
    ("    if scale.numel() != 1 and (alone or not scale.numel()):", f"    {NEVER}"),
    ("        if name not in layers:", f"        {NEVER}"),
    ("        if len(sides) == 1:", f"        {NEVER}"),
    ("    if left_out or not ours:", "    if not ours:"),
    ("if left_out or not ours:\n", "if left_out:\n"),
    ("(TypeError, AttributeError)", "()"),
)
of(
    "quantgate/checkpoints/cache_scales.py",
    "tests/unit/checkpoints/test_static_cache.py",
    ("FACT if len(lacking) == len(scales) else WARNING", "FACT"),
    ("if not sides):", "if False):"),
)
of(
    "quantgate/checkpoints/stored_scales.py",
    "tests/unit/checkpoints/test_static_cache.py",
    ("        cache_scales.read(checkpoint, declared, who)\n", "        pass\n"),
    ("    if declared.activation_bits < 16:", f"    {NEVER}"),
)
of(
    "quantgate/checkpoints/biases.py",
    "tests/unit/checkpoints/test_biases.py",
    ("own * rows[module] if module in rows else own", "own"),
    ("(others if felt and", "(others if"),
)
of(
    "quantgate/checkpoints/layouts/mlx.py",
    "tests/unit/checkpoints/test_mlx.py",
    ("    return (codes * scales + offsets).flatten(1)", "    return (codes * scales - offsets).flatten(1)"),
)
of(
    "quantgate/checkpoints/declared_further.py",
    "tests/unit/checkpoints/test_mlx.py",
    ('only={"mode": ("affine",)}', 'harmless=("mode",)'),
    ("lambda name: own.get(name) is False", "lambda name: False"),
)
of(
    "quantgate/checkpoints/layouts/awq.py",
    "tests/unit/checkpoints/test_layouts.py tests/unit/checkpoints/test_inspection.py",
    ("(rows, 8 * width) or not groups", "(rows, 8 * width) or False and not groups"),
    (", used=_groups_gemv", ""),
    ("    if not uneven:", "    if True:"),
)
of(
    "quantgate/checkpoints/agreement.py",
    "tests/unit/checkpoints/test_lone.py",
    ("    if apart := [name for name in _matrices(files()) if kept[0](name) != kept[1](name)]:", f"    {NEVER}"),
    ("    except ModelError as error:\n", "    except ModelError as error:\n        return\n"),
    ("    if not all(lists) or _words(lists[0]) == _words(lists[1]):", "    if _words(lists[0]) == _words(lists[1]):"),
)
of(
    "quantgate/checkpoints/cache_ranges.py",
    "tests/unit/checkpoints/test_cache_ranges.py",
    ("            if reach > size.most and scales[layer][side] != 1:", f"            {NEVER}"),
    ("            elif reach < _LEAST * size.usual:", "            elif False:"),
    ("    if _uneven(stored) > max(_UNEVEN, 2 * _uneven(turned)):", f"    {NEVER}"),
    ("        if abs(ratio - usual) > _APART and abs(turned[layer] - usual) < _NEAR:", f"        {NEVER}"),
    (".startswith(_ONE_MORE):", '.startswith("no model"):'),
)
of(
    "quantgate/checkpoints/differences.py",
    "tests/unit/checkpoints/test_static_cache.py",
    ("        if key in STATIC\n", "        if False\n"),
    ('    found |= getattr(checkpoint, "cache_scales", dict)()\n', ""),
)
of(
    "quantgate/checkpoints/declared.py",
    "tests/unit/checkpoints/test_lone.py",
    ('        if inner.get("quant_algo"):  # ModelOpt', "        if False:  # ModelOpt"),
)
of(
    "quantgate/checkpoints/lone.py",
    "tests/unit/checkpoints/test_lone.py",
    (
        "if len(places) != 1 or (name := next(iter(places))) not in _PLACES:",
        "if (name := next(iter(places))) not in _PLACES:",
    ),
    (" if found and any(True for _ in quantized_tensors(place)) else None", " if found else None"),
    ("    if not isinstance(inner, Mapping) or", "    if"),
    ("**inner}", '"quant_algo": "FP8"}'),
)
of(
    "quantgate/models/files.py",
    "tests/unit/checkpoints/test_lone.py",
    ('"generation_config.json", *SIDE_FILES)', '"generation_config.json")'),
)
of(
    "quantgate/checkpoints/declared.py",
    "tests/unit/checkpoints/test_declared.py",
    ("    if not places:\n", "    if True:\n"),
    ("    _agree(path, found, places, who)\n", ""),
    ("        inner = in_usual_words(place, other) if", "        inner = other if"),
    ("    if declares is None:", f"    {NEVER}"),
    ('"checkpoint_format": _FORMATS, ', '"checkpoint_format": (*_FORMATS, "marlin"), '),
    ('bits = integer(config, "bits", lambda n: n in (2, 3, 4, 8), who, "2, 3, 4 or 8")', 'bits = config["bits"]'),
    ('    integer(config, "group_size", lambda n: n == -1 or n > 0, who, _GROUPS)\n', ""),
    (
        '        account(changes or {}, f"{who}.dynamic[{pattern!r}]", honoured=honoured[1:5],',
        "        (lambda *a, **k: 0)({}, honoured=(),",
    ),
    ('            return not config.get("lm_head")', "            return True"),
    ("        if dynamic_rule(config, name) is None or any(", "        if any("),
    ("        return bool(inner) and not any(", "        return False and not any("),
    ("    if eight == four:", f"    {NEVER}"),
    ('if four and config.get("bnb_4bit_quant_type", "fp4") not in ("nf4", "fp4"):', NEVER),
    ('return Declared("own", kept, 8, activation_bits=8, execution="int8")', 'return Declared("own", kept, 8)'),
    ("        return not should_convert_module(name, patterns)", "        return False"),
    ("inputs += [found[part] for part in parts[1:] if part in found]", "inputs += []"),
    ("    account(value, who, honoured=_ARGUMENTS, harmless=_OBSERVERS)\n", ""),
    ("    if classes or not names:", f"    {NEVER}"),
    ("return _matches(name, ignored) or not _matches(name, targets)", "return _matches(name, ignored)"),
    ('        account(inputs, f"{place}.activations",', "        (lambda *a, **k: 0)("),
    ("simulated = bool(cache) or any(bits < 16 for bits in activations)", "simulated = False"),
    ("    if not isinstance(name, str) or name not in FORMATS:", f"    {NEVER}"),
    ("    if name in _SETTINGS:", f"    {NEVER}"),
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
