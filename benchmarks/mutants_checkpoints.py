"""Guards of what reads models and other people's checkpoints; see `benchmarks.mutants`."""

from benchmarks.mutant import NEVER, of

of(
    "quantgate/models/files.py",
    "tests/unit/models/test_files.py",
    ("content = reading.parse_unique(reading.read_text(path))", "content = reading.read_json(path)"),
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
    ("abs(float(product.median()) - 1) < _EVEN + left / 2", "True"),
    ("min(fit.error, most)", "fit.error"),
    ("self.fit(module) if module in self.looked_at else None", "None"),
)
of(
    "quantgate/checkpoints/turned.py",
    "tests/unit/checkpoints/test_turned.py",
    ("return _apart(one, other, bits, _ALONG_BOTH", "return False and _apart(one, other, bits, _ALONG_BOTH"),
    ("    if bits < _FINE and along and before", "    if along and before"),
    ("        self._see_head()\n", "        pass\n"),
)
of(
    "quantgate/checkpoints/token_rows.py",
    "tests/unit/checkpoints/test_token_rows.py",
    ("(held if held >= _SEVERAL else 0)", "held"),
    ("best + power < _SAME * power", "best < 9 * power"),
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
