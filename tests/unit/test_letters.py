"""The transformer of the demo is trained on text that every Python has."""

import torch

from tersenet.lab import letters


def test_no_character_is_predicted_from_itself_or_from_later_ones() -> None:
    torch.manual_seed(0)
    network = letters.Letters().eval()
    text = torch.randint(letters.CHARACTERS, (2, letters.LENGTH))
    changed = text.clone()
    changed[:, 40] = (changed[:, 40] + 1) % letters.CHARACTERS
    before, after = network(text), network(changed)
    assert torch.allclose(before[:, :40], after[:, :40], atol=1e-5) and not torch.allclose(before[:, 40], after[:, 40])


def test_splits_are_of_different_modules_and_targets_are_the_next_characters() -> None:
    parts = (letters.TRAIN, letters.CALIBRATION, letters.VALIDATION, letters.TEST)
    assert len({name for part in parts for name in part}) == sum(map(len, parts))
    inputs, targets = next(iter(letters.make_task().split("test")))
    assert inputs.shape == (32, letters.LENGTH) and torch.equal(inputs[:, 1:], targets[:, :-1])


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    task, network = letters.make_task(), letters.Letters(width=32, blocks=1)
    inputs, targets = next(iter(task.split("validation")))
    before = task.loss(network(inputs), targets).item()
    after = task.loss(letters.train(network, task, steps=30)(inputs), targets).item()
    assert after < 0.8 * before
