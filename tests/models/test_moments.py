"""Second moments are those of the inputs that a layer reads."""

import torch
from torch import Tensor

from everlearn.method import Context
from everlearn.models.activations import Store
from everlearn.models.bank import Shape, grow
from everlearn.models.inputs import layer_inputs
from everlearn.models.layers import below
from everlearn.models.moments import input_moments, input_statistics, prompt_tokens
from everlearn.testing.toys import toy_model, toy_stream


def test_a_moment_is_the_mean_outer_product_of_all_inputs_but_padding() -> None:
    model = toy_model()
    ctx = Context(model, toy_stream().experiences[2])
    batches = list(ctx.batches(ctx.experience.train[:5], batch_size=2))
    name, seen = "model.layers.1.mlp.down_proj", list[Tensor]()
    hook = model.module.get_submodule(name).register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    with torch.no_grad():
        for batch in batches:
            model.hidden(batch)
    hook.remove()
    rows = [x[batch.segments > 0] for x, batch in zip(seen, batches, strict=True)]
    expected = torch.cat([(r[:, :, None] * r[:, None, :]) for r in rows]).mean(0)
    assert any((batch.segments == 0).any() for batch in batches)
    assert torch.allclose(input_moments(model, [name], batches)[name], expected)


def test_layers_that_read_the_same_input_share_a_moment() -> None:
    model = toy_model()
    ctx = Context(model, toy_stream().experiences[0])
    grow(model.module, ("k_proj", "v_proj"), (Shape(2),))
    names = [f"model.layers.{i}.self_attn.{k}_proj" for i in (0, 1) for k in "kv"]
    found = input_moments(model, names, ctx.batches(ctx.experience.train))
    assert list(found) == names
    assert found[names[0]] is found[names[1]]
    assert found[names[2]] is found[names[3]]
    assert not torch.allclose(found[names[0]], found[names[2]])


def test_statistics_of_prompts_leave_targets_and_padding_out() -> None:
    model = toy_model()
    ctx = Context(model, toy_stream().experiences[2])
    batches = list(ctx.batches(ctx.experience.train[:5], batch_size=2))
    name = "model.layers.0.mlp.up_proj"
    rows = torch.cat([layer_inputs(model, [name], b, (b.segments > 0) & ~b.supervised)[name] for b in batches])
    mean, moment = input_statistics(model, [name], batches, prompt_tokens)[name]
    assert len(rows) == sum(int(((b.segments > 0) & ~b.supervised).sum()) for b in batches)
    assert torch.allclose(mean, rows.mean(0))
    assert torch.allclose(moment, rows.T @ rows / len(rows))


def test_moments_start_from_kept_states() -> None:
    model = toy_model()
    ctx = Context(model, toy_stream().experiences[2])
    batches, name = list(ctx.batches(ctx.experience.train[:5], batch_size=2)), "model.layers.1.mlp.up_proj"
    whole = input_moments(model, [name], batches)[name]
    for parameter in below(model.module, 1).values():
        parameter.requires_grad_(False)
    model.store = Store(10**6)
    torch.testing.assert_close(input_moments(model, [name], batches)[name], whole, rtol=0, atol=1e-12)
    assert len(model.store) == sum(len(batch.segments) for batch in batches)
