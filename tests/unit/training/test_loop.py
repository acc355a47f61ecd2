"""The loop that trainings share: what is not a number ends a run, a checkpoint goes on only with what it began."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ctxcompress_integrations.training.loop import Group, Learner, TrainingError, checkpoint_of, run


class Course:
    """Four steps; the gradient of those in ``bad`` is not a number, their loss is."""

    steps, eval_every, clip, seed, precision = 4, 2, 1.0, 0, "no"

    def __init__(self, bad=(), **plan):
        self.bad, self.plan = bad, {"lr": 0.1, "stages": [{"steps": 4, "mix": "short"}], **plan}

    def rate_at(self, step):
        return 1.0

    def losses_at(self, learner, step, process):
        losses = learner(step in self.bad)
        return losses["x"], losses


def trained(out, course, *, is_scheduled=True):
    weight = nn.Parameter(torch.ones(3))

    def losses(is_bad):
        nothing = (weight - weight).abs().sum().sqrt() * 0 if is_bad else 0.0  # the root of 0 has no slope
        return {"x": weight.sum() ** 2 + nothing}

    held = nn.Module()
    held.weight = weight
    run(Learner({"held": held}, losses), [Group([weight], 0.1, is_scheduled=is_scheduled)], course, out)
    return weight.detach()


@pytest.mark.parametrize("is_scheduled", [True, False])
def test_a_gradient_that_is_not_a_number_ends_the_run_and_keeps_the_checkpoint(tmp_path, is_scheduled):
    out = tmp_path / "x"
    with pytest.raises(TrainingError, match="the gradient is not a number at step 4") as caught:
        trained(out, Course(bad={3}), is_scheduled=is_scheduled)
    assert f"{checkpoint_of(out)}, where it exists, belongs to this recipe, delete it first" in str(caught.value)
    assert torch.isfinite(load_file(checkpoint_of(out))["learned.0"]).all()
    with pytest.raises(TrainingError, match="step 1"):
        trained(tmp_path / "y", Course(bad={0}), is_scheduled=is_scheduled)
    assert not checkpoint_of(tmp_path / "y").exists()


def test_another_recipe_is_refused_by_the_fields_that_differ(tmp_path):
    trained(tmp_path / "x", Course())
    with pytest.raises(ValueError, match="belongs to another recipe") as caught:
        trained(tmp_path / "x", Course(lr=0.01, stages=[{"steps": 4, "mix": "long"}], data="ab"))
    assert "(lr: 0.1 there, 0.01 here; stages.0.mix: 'short' there, 'long' here; data: 'nothing' there, 'ab' here)" in (
        str(caught.value)
    )


def test_a_checkpoint_cut_short_is_named(tmp_path):
    trained(tmp_path / "x", Course())
    state = checkpoint_of(tmp_path / "x")
    state.write_bytes(state.read_bytes()[:-4])
    with pytest.raises(ValueError, match=rf"{state} is no readable checkpoint .*; delete it"):
        trained(tmp_path / "x", Course())
