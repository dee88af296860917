"""The public release's files are read strictly: right ones exactly, unclear ones not at all."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from release_files import C, D, G, K, P, Pair, Perceptron, checkpoint, clear, experts, run
from torch import nn

from spade_bench.encoders.spade.release.importing import read_genes
from spade_bench.errors import DataError, WeightsError


def test_every_expert_gives_the_features_of_its_checkpoint(release):
    model = run(release, base_encoder="uni")
    x = torch.randn(20, D, generator=torch.Generator().manual_seed(1))
    g = torch.randn(20, G, generator=torch.Generator().manual_seed(2)).abs()
    for number, module in enumerate(experts()):
        with torch.no_grad():
            image, spot = module.image_projection(x), module.spot_projection(g)
        torch.testing.assert_close(model.encode(x, expert=number), image)
        torch.testing.assert_close(model.encode_expression(g, model.genes, number), spot)


def test_routing_follows_the_centroids_and_their_map(release):
    model = run(release)
    centroids, owner = np.load(release / "centroids.npy"), np.arange(C) % K
    x = np.random.default_rng(3).normal(size=(15, D)).astype(np.float32)
    distance = np.linalg.norm(x[:, None] - centroids[None], axis=2)
    q = np.exp(-distance / 0.1 - (-distance / 0.1).max(axis=1, keepdims=True))
    q /= q.sum(axis=1, keepdims=True)
    expected = np.stack([q[:, owner == e].sum(axis=1) for e in range(K)], axis=1)
    np.testing.assert_allclose(model.route(x), expected, atol=1e-4)


def test_sizes_and_contamination_are_recorded(release, capsys):
    model = run(release, base_encoder="uni")
    content = json.loads((release.parent / "out" / "spade.json").read_text())
    assert (content["D"], content["G"], content["K"], content["P"]) == (D, G, K, P)
    assert content["pretrained_on"] == ["HEST-1k"]
    assert content["expression"] == "raw"
    assert content["base_encoder"] == "uni"
    assert model.pretrained_on == ("HEST-1k",)
    assert any("54 of the 55" in note for note in content["notes"])
    assert "contaminated" in capsys.readouterr().err
    sources = content["extra"]["imported"]["checkpoints"]
    assert [s["expert"] for s in sources] == list(range(K))
    assert sources[0]["epoch"] == 7


def test_gene_names_are_taken_in_the_order_of_the_heads(release, tmp_path):
    names = [f"GENE{i}" for i in range(G)]
    (tmp_path / "genes.txt").write_text("\n".join(names) + "\n")
    model = run(release, genes=tmp_path / "genes.txt")
    assert model.genes == tuple(names)
    g = torch.rand(4, G)
    forward = model.encode_expression(g, names, 0)
    backward = model.encode_expression(g.flip(1), names[::-1], 0)
    torch.testing.assert_close(forward, backward)


def test_without_gene_names_placeholders_are_said(release, capsys):
    model = run(release)
    assert len(model.genes) == G
    assert model.genes[0].startswith("unnamed_gene")
    assert "placeholder" in capsys.readouterr().err
    with pytest.raises(DataError, match="None of the"):
        model.encode_expression(np.zeros((1, 1), dtype=np.float32), ["TP53"], 0)


def test_a_wrong_number_of_genes_is_refused(release, tmp_path):
    (tmp_path / "genes.csv").write_text("index,gene\n0,A\n1,B\n")
    assert read_genes(tmp_path / "genes.csv") == ("A", "B")
    with pytest.raises(DataError, match=f"2 genes for gene heads of width {G}"):
        run(release, genes=tmp_path / "genes.csv")


@pytest.mark.parametrize(
    "wrap",
    [
        checkpoint,
        lambda m, e: {"state_dict": m.state_dict(), "epoch": 3},
        lambda m, e: m.state_dict(),
        lambda m, e: {"model": {f"module.{k}": v for k, v in m.state_dict().items()}},
        lambda m, e: {"model": {"state_dict": m.state_dict()}},
    ],
    ids=["model", "state_dict", "bare", "module.", "nested"],
)
@pytest.mark.parametrize("kind", [Pair, Perceptron])
def test_wrappers_and_both_architectures_are_recognised(release, wrap, kind):
    folder = clear(release)
    for number, module in enumerate(experts(kind)):
        torch.save(wrap(module, number), folder / f"expert_{number}.pth")
    model = run(release)
    x = torch.randn(5, D)
    for number, module in enumerate(experts(kind)):
        with torch.no_grad():
            expected = module(x) if kind is Perceptron else module.image_projection(x)
        torch.testing.assert_close(model.encode(x, expert=number), expected)


@pytest.mark.parametrize("kind", [Perceptron, lambda: Pair(gene_side=False)])
def test_without_a_gene_side_the_import_is_image_only(release, kind):
    folder = clear(release)
    for number, module in enumerate(experts(kind)):
        torch.save(checkpoint(module, number), folder / f"proto{number}.pt")
    model = run(release)
    assert model.genes == ()
    assert model.encode(np.zeros((3, D), dtype=np.float32)).shape == (3, P)
    with pytest.raises(WeightsError, match="no gene side"):
        model.encode_expression(np.zeros((1, 1), dtype=np.float32), ["A"], 0)


def test_gene_names_for_image_only_checkpoints_are_refused(release, tmp_path):
    folder = clear(release)
    for number, module in enumerate(experts(Perceptron)):
        torch.save(module.state_dict(), folder / f"proto{number}.pt")
    (tmp_path / "genes.txt").write_text("A\n")
    with pytest.raises(DataError, match="no gene side"):
        run(release, genes=tmp_path / "genes.txt")


def test_missing_and_unexpected_keys_are_named(release):
    path = sorted((release / "checkpoints").iterdir())[1]
    content = torch.load(path, weights_only=True)
    content["model"]["image_projection.extra"] = content["model"].pop("image_projection.fc.bias")
    torch.save(content, path)
    with pytest.raises(WeightsError) as caught:
        run(release)
    assert "missing image_projection.fc.bias" in str(caught.value)
    assert "unexpected image_projection.extra" in str(caught.value)
    assert path.name in str(caught.value)
    assert not (release.parent / "out" / "spade.json").exists()


def test_keys_of_another_model_are_refused(release):
    folder = clear(release)
    for number in range(K):
        torch.save({"model": nn.Linear(3, 3).state_dict()}, folder / f"proto{number}.pt")
    with pytest.raises(WeightsError, match="fit no SPADE head"):
        run(release)


def test_inconsistent_shapes_are_refused(release):
    path = sorted((release / "checkpoints").iterdir())[0]
    content = torch.load(path, weights_only=True)
    content["model"]["image_projection.fc.weight"] = torch.zeros(P, P + 1)
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"fc.weight has shape \(8, 9\), not \(8, 8\)"):
        run(release)


def test_experts_of_two_kinds_are_refused(release):
    path = sorted((release / "checkpoints").iterdir())[-1]
    torch.save(checkpoint(Perceptron(), K - 1), path)
    with pytest.raises(WeightsError, match="mlp head"):
        run(release)
    torch.save(checkpoint(Pair(gene_side=False), K - 1), path)
    with pytest.raises(WeightsError, match="without a gene side"):
        run(release)
