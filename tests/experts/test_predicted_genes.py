"""Predicted genes follow what was planted in sections that no training saw."""

from __future__ import annotations

import numpy as np
import pytest

import spade_bench as sb
from spade_bench.encoders.spade.genepredictor import GenePredictor, training_spots
from spade_bench.encoders.spade.pretraining.validation.heldout import untrained_twin
from spade_bench.errors import ConfigError, DataError, UserError
from spade_bench.explain.experts.predictedgenes import gene_predictor, predicted_layers
from spade_bench.features.bags import read_bag

HELD_OUT = ("S12", "S13")


@pytest.fixture(scope="module")
def encoder(planted):
    return sb.load_encoder("spade", weights=planted.model, device="cpu")


@pytest.fixture(scope="module")
def predictor(encoder):
    return gene_predictor(encoder)


def agreement(planted, predictor, **how) -> np.ndarray:
    """Mean over held-out sections of the correlation of each marker with its planted driver."""
    rows, genes, drivers = [], [], []
    for d, members in enumerate(planted.genome.markers.values()):
        inside = [planted.genome.names[g] for g in members]
        inside = [gene for gene in inside if gene in predictor.genes][:3]
        genes, drivers = genes + inside, drivers + [d] * len(inside)
    assert len(genes) >= 9
    for name in HELD_OUT:
        found = predictor.predict(read_bag(planted.features / f"{name}.h5").features, genes, **how)
        planted_here = planted.drivers[name]
        rows.append([
            np.corrcoef(found[:, i], planted_here[:, d])[0, 1] for i, d in enumerate(drivers)
        ])  # fmt: skip
    return np.nan_to_num(np.array(rows)).mean(axis=0)


@pytest.mark.parametrize("weighting", ["uniform", "softmax"])
def test_planted_markers_are_found_in_sections_that_were_held_out(planted, predictor, weighting):
    assert not set(HELD_OUT) & set(predictor.samples)
    found = agreement(planted, predictor, nearest=20, weighting=weighting)
    assert found.mean() > 0.5


def test_random_weights_find_nothing(planted, encoder, predictor):
    trained = agreement(planted, predictor, nearest=20).mean()
    spots = training_spots(encoder.model, planted.model)
    means = [
        agreement(
            planted, GenePredictor(untrained_twin(encoder.model, seed), *spots), nearest=20
        ).mean()
        for seed in range(8)
    ]
    assert abs(np.mean(means)) < 0.1
    assert max(means) < trained / 2


def by_hand(planted, encoder, x: np.ndarray, genes, nearest: int, without=()) -> np.ndarray:
    """The prediction for one patch after another, every training spot seen by the query's expert.

    Nothing here knows which expert a training spot belongs to.
    """
    expression, sections, _ = training_spots(encoder.model, planted.model)
    kept = ~np.isin(sections, list(without))
    expression = expression.toarray()[kept]
    model, out = encoder.model, []
    for row in x:
        distance = np.linalg.norm(model.experts.centroids - row, axis=1)
        expert = int(model.experts.centroid_expert[distance.argmin()])
        image = model.encode(row[None], expert=expert)[0].astype(float)
        spots = model.encode_expression(expression, model.genes, expert).astype(float)
        cosine = spots @ image / np.linalg.norm(spots, axis=1) / np.linalg.norm(image)
        best = np.argsort(-cosine)[:nearest]
        out.append(expression[best][:, [model.genes.index(gene) for gene in genes]].mean(axis=0))
    return np.array(out)


@pytest.mark.parametrize("without", [(), ("S00", "S03")])
def test_every_spot_is_a_candidate_in_the_space_of_the_query(planted, encoder, predictor, without):
    x = np.concatenate([read_bag(planted.features / f"{name}.h5").features for name in HELD_OUT])
    x = x[np.random.default_rng(0).choice(len(x), 12, replace=False)].astype(np.float32)
    genes = list(predictor.genes[:5])
    found = predictor.predict(x, genes, nearest=7, without=without)
    expected = by_hand(planted, encoder, x, genes, 7, without)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_as_many_neighbours_as_spots_give_the_mean_of_them_all(planted, encoder, predictor):
    x = read_bag(planted.features / "S12.h5").features[:3]
    expression = training_spots(encoder.model, planted.model).expression
    found = predictor.predict(x, predictor.genes, nearest=10**6)
    mean = np.asarray(expression.mean(axis=0)).ravel()
    np.testing.assert_allclose(found, np.tile(mean, (3, 1)), rtol=1e-3, atol=1e-4)


def test_a_section_that_trained_is_predicted_from_the_others(planted, predictor, capsys):
    bag = read_bag(planted.features / "S00.h5")
    genes = [predictor.genes[0]]
    (layer,) = predicted_layers(bag, predictor, genes, encoder="spade", nearest=5)
    others = predictor.predict(bag.features, genes, nearest=5, without=["S00"])[:, 0]
    np.testing.assert_array_equal(layer.values, others)
    assert "S00 trained this encoder" in " ".join(capsys.readouterr().err.split())
    assert not np.array_equal(others, predictor.predict(bag.features, genes, nearest=5)[:, 0])
    predicted_layers(read_bag(planted.features / "S12.h5"), predictor, genes, encoder="spade")
    assert "trained this encoder" not in capsys.readouterr().err


def test_other_sections_of_the_patient_are_left_out_too(planted, encoder, capsys):
    expression, names, _ = training_spots(encoder.model, planted.model)
    patients = {"S00": "A", "S01": "A", "S02": "B", "S12": "B"}
    mixed = GenePredictor(encoder.model, expression, names, patients)
    genes = [mixed.genes[0]]

    def layer(name: str, **how):
        bag = read_bag(planted.features / f"{name}.h5")
        (one,) = predicted_layers(bag, mixed, genes, encoder="spade", nearest=5, **how)
        return one, lambda out: mixed.predict(bag.features, genes, nearest=5, without=out)[:, 0]

    trained, without = layer("S00")
    np.testing.assert_array_equal(trained.values, without(["S00", "S01"]))
    assert not np.array_equal(trained.values, without(["S00"]))
    said = " ".join(capsys.readouterr().err.split())
    assert "its own spots and those of S01 of the same patient are left out" in said
    assert trained.legend.endswith("mean of 5 spots of other patients")
    # A section that was held out, whose patient was not.
    held_out, without = layer("S12")
    np.testing.assert_array_equal(held_out.values, without(["S02"]))
    assert "S12 is of patient B" in " ".join(capsys.readouterr().err.split())
    # A slide whose patient a table knows.
    by_table, without = layer("S13", patients=["A", "nobody"])
    np.testing.assert_array_equal(by_table.values, without(["S00", "S01"]))
    assert by_table.legend.endswith("of other patients")


def test_a_model_of_one_patient_predicts_from_other_sections_of_theirs(planted, encoder, capsys):
    expression, names, _ = training_spots(encoder.model, planted.model)
    single = GenePredictor(encoder.model, expression, names, dict.fromkeys([*names, "S12"], "A"))
    for name, without in (("S12", []), ("S00", ["S00"])):
        bag = read_bag(planted.features / f"{name}.h5")
        (layer,) = predicted_layers(bag, single, single.genes[:1], encoder="spade", nearest=5)
        assert layer.legend.endswith("mean of 5 spots of the same patient")
        expected = single.predict(bag.features, single.genes[:1], nearest=5, without=without)
        np.testing.assert_array_equal(layer.values, expected[:, 0])
        said = " ".join(capsys.readouterr().err.split())
        assert f"learned from no patient but A, of whom {name} is" in said
    alone = [i for i, name in enumerate(names) if name == "S00"]
    only = GenePredictor(encoder.model, expression[alone], ["S00"] * len(alone), {"S00": "A"})
    with pytest.raises(DataError, match=r"(?i)no training spots are left"):
        predicted_layers(read_bag(planted.features / "S00.h5"), only, only.genes[:1], encoder="s")


def test_where_the_patient_is_unknown_that_is_said(planted, encoder, capsys):
    expression, names, _ = training_spots(encoder.model, planted.model)
    nameless = GenePredictor(encoder.model, expression, names)
    bag = read_bag(planted.features / "S00.h5")
    (layer,) = predicted_layers(bag, nameless, nameless.genes[:1], encoder="spade")
    assert layer.legend.endswith("of other sections")
    assert "does not say whose it is" in " ".join(capsys.readouterr().err.split())


def test_the_layer_says_that_it_is_predicted(planted, predictor):
    gene = predictor.genes[0]
    bag = read_bag(planted.features / "S12.h5")
    (layer,) = predicted_layers(bag, predictor, [gene], encoder="spade", nearest=9)
    assert gene in layer.title
    assert "predicted" in layer.title
    assert layer.legend == "PREDICTED log1p of counts per 10,000, mean of 9 spots"
    np.testing.assert_array_equal(layer.coords, bag.coords)


def test_the_hest_folder_gives_the_same_spots_as_the_prepared_file(planted, encoder):
    prepared, names, patients = training_spots(encoder.model, planted.model / "spots.h5ad")
    read, others, same_patients = training_spots(encoder.model, planted.hest)
    assert patients == same_patients == {f"S{i:02d}": f"P{i}" for i in range(len(patients))}
    order = {name: i for i, name in enumerate(dict.fromkeys(names))}
    assert order.keys() == set(others)
    rows = np.argsort([order[name] for name in others], kind="stable")
    assert [others[row] for row in rows] == names
    assert abs(read[rows] - prepared).max() == 0


def test_of_very_many_spots_a_seeded_sample_is_searched(planted, encoder):
    spots = training_spots(encoder.model, planted.model)
    a, b, c = (
        GenePredictor(encoder.model, *spots, most_spots=100, seed=seed) for seed in (0, 0, 1)
    )
    assert (a.searched, b.searched) == (100, 100)
    x = read_bag(planted.features / "S12.h5").features
    genes = a.genes[:3]
    np.testing.assert_array_equal(a.predict(x, genes), b.predict(x, genes))
    assert not np.array_equal(a.predict(x, genes), c.predict(x, genes))


def test_a_gene_outside_the_panel_is_named_with_those_nearly_called_so(predictor):
    gene = predictor.genes[3]
    with pytest.raises(UserError, match=f"'{gene}X' is not in the panel") as caught:
        predictor.predict(np.zeros((1, 24), np.float32), [gene + "X"])
    assert f"'{gene}'" in str(caught.value)
    with pytest.raises(UserError, match=r"genes\.csv"):
        predictor.predict(np.zeros((1, 24), np.float32), ["zzzz????"])


@pytest.mark.parametrize(
    ("how", "words"), [({"nearest": 0}, "mean of 0"), ({"weighting": "best"}, "weighting 'best'")]
)
def test_impossible_arguments_are_refused(predictor, how, words):
    with pytest.raises(UserError, match=words):
        predictor.predict(np.zeros((1, 24), np.float32), predictor.genes[:1], **how)


def test_no_spots_left_is_an_error(predictor):
    with pytest.raises(DataError, match=r"(?i)no training spots are left"):
        x = np.zeros((1, 24), np.float32)
        predictor.predict(x, predictor.genes[:1], without=predictor.samples)


def test_spots_that_are_not_at_hand_or_of_another_model_are_refused(planted, encoder, tmp_path):
    with pytest.raises(DataError, match=r"neither spots\.h5ad nor a folder st/"):
        gene_predictor(encoder, tmp_path)
    single = sb.load_encoder("spade", weights=planted.model / "controls" / "k1", device="cpu")
    assert gene_predictor(single).searched == gene_predictor(encoder).searched
    (tmp_path / "spots.h5ad").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not the spots that pretraining leaves"):
        gene_predictor(encoder, tmp_path)


def test_an_encoder_without_expression_says_so():
    with pytest.raises(ConfigError, match="predicts no expression"):
        gene_predictor(sb.load_encoder("mean-pool"))
