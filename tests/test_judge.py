"""The judge looks at bytes in batches."""

import pytest
import torch

from helpers.data import EVALUATION_BATCH, to_unit
from helpers.judge import Judge, judge_images


@pytest.fixture(scope="module")
def judge(images: torch.Tensor) -> Judge:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = Judge(8, 10)
    judge.trunk.whiten(images)
    return judge.eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    size = (EVALUATION_BATCH + 7, 3, 32, 32)
    return torch.randint(256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_predictions_are_those_of_the_head_on_the_features(judge: Judge, images: torch.Tensor) -> None:
    features, predicted = judge_images(judge, images)
    assert features.shape == (len(images), 4 * 8) and not features.requires_grad
    assert torch.equal(predicted, judge.head(features).argmax(1)) and len(features.unique(dim=0)) == len(images)
    with torch.no_grad():
        logits = judge.classify(to_unit(images))
    assert torch.allclose(judge.head(features), logits, atol=1e-4)


def test_features_do_not_depend_on_the_batch(judge: Judge, images: torch.Tensor) -> None:
    features, _ = judge_images(judge, images)
    apart = [judge_images(judge, part)[0] for part in images.split(40)]
    assert torch.allclose(features, torch.cat(apart), atol=1e-4)
