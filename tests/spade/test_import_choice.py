"""Which checkpoint stands for which expert, and what is refused rather than guessed or run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from release_files import C, D, K, checkpoint, clear, experts, run

from spade_bench.encoders.spade.release.importing import import_release
from spade_bench.errors import ConfigError, DataError, WeightsError


def test_the_lowest_validation_loss_wins_and_last_does_not_count(release):
    folder = release / "checkpoints"
    better, last = experts(n=2)
    torch.save(checkpoint(better, 1, 0.5, 9), folder / "uni_k16_best_proto1_ep009_val0.500000.pt")
    # The release stores the best loss beside the LAST weights.
    torch.save(checkpoint(last, 1, 0.5, 100), folder / "uni_k16_last_proto1_ep100.pt")
    model = run(release)
    x = torch.randn(4, D)
    with torch.no_grad():
        torch.testing.assert_close(model.encode(x, expert=1), better.image_projection(x))


def test_equal_losses_are_ambiguous(release):
    module = experts(n=1)[0]
    torch.save(checkpoint(module, 2), release / "checkpoints" / "rerun_best_proto2_ep009.pt")
    with pytest.raises(WeightsError, match=r"none clearly the best.*--pattern"):
        run(release)


def test_the_loss_in_the_name_counts_where_the_file_has_none(release):
    folder = clear(release)
    modules = experts(n=2 * K)
    for i, module in enumerate(modules):
        loss = 0.9 if i < K else 0.1
        name = f"ep{i}_trloss0.1_valloss{loss}_proto{i % K}.pt"
        torch.save(module.state_dict(), folder / name)
    model = run(release)
    x = torch.randn(4, D)
    with torch.no_grad():
        expected = modules[K].image_projection(x)
    torch.testing.assert_close(model.encode(x, expert=0), expected)


@pytest.mark.parametrize(
    "pattern",
    [
        r"run7_(\d+)\.pt$",
        r"run(?P<run>\d+)_(?P<expert>\d+)",
    ],
)
def test_a_pattern_gives_the_expert_number(release, pattern):
    folder = clear(release)
    for number, module in enumerate(experts()):
        torch.save(module.state_dict(), folder / f"run7_{number}.pt")
    torch.save(experts(n=1)[0].state_dict(), folder / "notes.pt")  # does not match, is ignored
    assert run(release, pattern=pattern).n_experts == K


def test_the_releases_own_pattern_with_three_groups_is_understood(release):
    folder = clear(release)
    for number, module in enumerate(experts()):
        name = f"ep1_trloss0.5_valloss0.6_proto{number}.pt"
        torch.save(module.state_dict(), folder / name)
    own = r"ep([0-9]+)_trloss([0-9]+\.[0-9]+)_valloss[0-9]+\.[0-9]+_proto([0-9]+)\.pt"
    assert run(release, pattern=own).n_experts == K


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(", "not a regular expression"), (r"(\w+)_(\d+)", "2 groups"), ("proto", "0 groups")],
)
def test_unusable_patterns_are_explained(release, pattern, message):
    with pytest.raises(ConfigError, match=message):
        run(release, pattern=pattern)


def test_a_pattern_that_matches_nothing_shows_a_name(release):
    with pytest.raises(WeightsError, match="uni_k16_best_proto0"):
        run(release, pattern=r"expert(\d+)")


def test_the_number_inside_counts_where_the_name_has_none(release):
    folder = clear(release)
    for number, module in enumerate(experts()):
        torch.save(checkpoint(module, number), folder / f"{'abc'[number]}.pt")
    assert run(release).n_experts == K
    torch.save(experts(n=1)[0].state_dict(), folder / "d.pt")
    with pytest.raises(WeightsError, match="which expert it is"):
        run(release)


def test_a_name_that_contradicts_its_content_is_refused(release):
    torch.save(checkpoint(experts()[0], 2), release / "checkpoints" / "x_proto0_val0.1.pt")
    with pytest.raises(WeightsError, match="named expert 0, but says it is 2"):
        run(release)


def test_k_must_match_the_clusters(release):
    (release / "checkpoints" / "uni_k16_best_proto1_ep007_val1.250000.pt").unlink()
    with pytest.raises(WeightsError, match=r"no checkpoint for expert 1"):
        run(release)
    folder = clear(release)
    for number, module in enumerate(experts(), start=1):  # numbered from 1
        torch.save(module.state_dict(), folder / f"proto{number}.pt")
    with pytest.raises(WeightsError, match=r"expert 0; checkpoints for expert 3, which has no"):
        run(release)


def test_centroids_and_clusters_must_fit(release):
    np.save(release / "centroids.npy", np.zeros((C, D + 1)))
    with pytest.raises(WeightsError, match=f"takes {D} features, the centroids have {D + 1}"):
        run(release)
    np.save(release / "centroids.npy", np.zeros((C + 1, D)))
    with pytest.raises(DataError, match=f"{C} clusters for {C + 1} centroids"):
        run(release)
    np.save(release / "centroids.npy", np.zeros((1, C, D)))
    with pytest.raises(DataError, match="not that of one organ"):
        run(release)
    np.save(release / "centroids.npy", np.full((C, D), np.nan))
    with pytest.raises(DataError, match="NaN"):
        run(release)


def test_clusters_that_skip_an_expert_are_refused(release):
    np.save(release / "reassigned_clusters.npy", np.array([0, 2] * 5))
    with pytest.raises(DataError, match="no centroid belongs to expert 1"):
        run(release)
    np.save(release / "reassigned_clusters.npy", np.linspace(0, 2, C))
    with pytest.raises(DataError, match="whole numbers"):
        run(release)


class Malicious:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_pickled_code_is_never_run(release, capsys):
    path = next((release / "checkpoints").iterdir())
    torch.save({"model": Malicious()}, path)
    with pytest.raises(WeightsError, match="cannot be read as plain weights"):
        run(release)
    assert "unpickled" not in capsys.readouterr().out


def test_pickled_arrays_are_never_loaded(release):
    np.save(release / "centroids.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"not a plain .npy array"):
        run(release)


def test_weights_that_are_not_finite_are_refused(release):
    path = sorted((release / "checkpoints").iterdir())[0]
    content = torch.load(path, weights_only=True)
    content["model"]["image_projection.fc.bias"][0] = float("nan")
    torch.save(content, path)
    with pytest.raises(WeightsError, match="finite"):
        run(release)


def test_missing_files_are_named(release):
    with pytest.raises(WeightsError, match="no such folder"):
        import_release(
            release / "none",
            release / "centroids.npy",
            release / "reassigned_clusters.npy",
            release,
        )
    (release / "centroids.npy").unlink()
    with pytest.raises(DataError, match="no such file"):
        run(release)
