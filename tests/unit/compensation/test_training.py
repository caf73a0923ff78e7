"""What is trained, what is not, and how much of it there is."""

import pytest
import torch

from quantgate.compensation.training import Budget, LowRankLinear, n_trainable, pieces, train, with_terms
from quantgate.core.errors import MethodError
from quantgate.core.progress import Silent
from tests.unit.conftest import tiny_llama
from tests.unit.diagnosis.models import reference, segments

FEW = Budget(rank=4, steps=12, batch=2, length=16, rate=1e-2)
TEXT = [list(segment.tokens) for segment in segments((16,) * 3)]


@pytest.mark.parametrize("rank", [1, 4])
def test_as_many_parameters_are_trained_as_rank_times_inputs_and_outputs(rank):
    model = tiny_llama()
    shapes = {name: layer.weight.shape for name, layer in model.named_modules()
              if isinstance(layer, torch.nn.Linear) and ".layers." in name}  # fmt: skip
    terms = with_terms(model, Budget(rank=rank))
    assert terms.keys() == shapes.keys()
    assert n_trainable(model) == sum(rank * (out + into) for out, into in shapes.values())
    for name, term in terms.items():
        assert term.a.numel() + term.b.numel() == rank * sum(shapes[name])


def test_the_counts_of_the_paper_follow_from_the_shapes_of_its_models():
    # arXiv 2307.08072: r 8, targets q, k, v, o, up, gate, down; 20.0M, 31.3M and 99.9M for LLaMA-7B, 13B and 65B
    for hidden, inner, blocks, millions in ((4096, 11008, 32, 20.0), (5120, 13824, 40, 31.3), (8192, 22016, 80, 99.9)):
        assert round(8 * blocks * (4 * 2 * hidden + 3 * (hidden + inner)) / 1e6, 1) == millions


def test_a_model_with_untrained_terms_is_the_model():
    ids = torch.tensor([TEXT[0]])
    plain, model = reference(), reference()
    with_terms(model, FEW)
    with torch.no_grad():
        assert torch.equal(plain(input_ids=ids).logits, model(input_ids=ids).logits)


def test_training_learns_the_text_changes_terms_alone_and_repeats_itself():
    model = reference()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    parts, losses = train(model, None, TEXT, FEW, Silent())
    assert losses[-1] < losses[0] - 0.1
    assert len(losses) == FEW.steps
    after = {name.replace(".base.", "."): each for name, each in model.state_dict().items()}
    assert all(torch.equal(after[name], each) for name, each in before.items())
    again, _ = train(reference(), None, TEXT, FEW, Silent())
    assert all(torch.equal(one, other) for name in parts for one, other in zip(parts[name], again[name], strict=True))


def test_the_merged_term_is_what_was_trained():
    model = reference()
    parts, _ = train(model, None, TEXT, FEW, Silent())
    ids = torch.tensor([TEXT[0]])
    merged = reference()
    for name, (up, down) in parts.items():
        merged.get_submodule(name).weight.data += FEW.alpha / FEW.rank * up @ down
    with torch.no_grad():
        assert torch.allclose(model(input_ids=ids).logits, merged(input_ids=ids).logits, atol=1e-4)


def test_the_original_is_a_teacher_too():
    model = reference()
    layer = model.get_submodule("model.layers.2.mlp.down_proj")
    layer.weight.data = layer.weight.data * 0.3
    _, losses = train(model, reference(), TEXT, FEW, Silent())
    assert 0 <= losses[-1] < 0.7 * losses[0]
    _, none = train(reference(), reference(), TEXT, Budget(rank=4, steps=1, batch=2, length=16), Silent())
    assert abs(none[0]) < 1e-5


def test_padding_teaches_nothing():
    shapes = (8, 16)
    text = [list(each.tokens) for each in segments(shapes)]
    whole = Budget(rank=4, steps=1, batch=2, length=16)
    _, both = train(reference(), None, text, whole, Silent())
    single = [train(reference(), None, [each], Budget(rank=4, steps=1, batch=1, length=16), Silent())[1][0]
              for each in text]  # fmt: skip
    tokens = [length - 1 for length in shapes]
    mean = sum(loss * count for loss, count in zip(single, tokens, strict=True)) / sum(tokens)
    assert both[0] == pytest.approx(mean, rel=1e-5)


def test_text_is_cut_and_scraps_are_left_out():
    assert [len(each) for each in pieces([list(range(40)), [1] * 5], 16)] == [16, 16, 8]
    with pytest.raises(MethodError, match="no text to train on"):
        pieces([[1, 2, 3]], 16)


def test_codes_are_refused():
    model = tiny_llama()
    layer = model.get_submodule("model.layers.0.mlp.up_proj")
    layer.weight = torch.nn.Parameter(layer.weight.data.to(torch.int8), requires_grad=False)
    with pytest.raises(MethodError, match=r"up_proj keeps torch\.int8 codes"):
        with_terms(model, FEW)


def test_a_term_keeps_the_dtype_of_its_layer():
    base = torch.nn.Linear(8, 4, bias=True).to(torch.bfloat16)
    term = LowRankLinear(base, 2, 4.0, torch.Generator().manual_seed(0))
    assert term(torch.ones(3, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16
