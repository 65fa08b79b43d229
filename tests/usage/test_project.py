"""Which models there are, which is taken, and what is said where one is missing."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from newllm.data.vocabulary import build_tokenizer, save_tokenizer
from newllm.errors import UserError
from newllm.files import write_checksum
from newllm.training.weights import load
from newllm.usage.project import Name, best_of, best_seed, mean_val_loss, open_model, training_records
from tests.usage.conftest import ROWS, write_tuned


def test_records_are_of_depths_in_order(project: Path) -> None:
    shutil.copytree(project / "models/2", project / "models/10")
    (project / "models/10/training.json").write_text(
        (project / "models/2/training.json").read_text().replace('"num_layers": 2', '"num_layers": 10')
    )
    shutil.copytree(project / "models/2", project / "models/expand/4-freeze")
    (project / "models/5").mkdir()
    assert list(training_records(project)) == [Name(2), Name(3), Name(10)]


def test_the_best_are_those_of_the_lowest_validation_loss(shared_project: Path) -> None:
    records = training_records(shared_project)
    assert {name: mean_val_loss(record) for name, record in records.items()} == pytest.approx(
        {(2, False): 1.55, (3, False): 1.35}
    )
    assert best_of(records) == Name(3)
    assert [best_seed(record) for record in records.values()] == [7, 0]


@pytest.mark.parametrize(
    ("depth", "seed", "found"), [(None, None, (3, 0)), (2, None, (2, 7)), (None, 7, (3, 7)), (2, 0, (2, 0))]
)
def test_a_model_has_the_weights_of_its_seed(
    shared_project: Path, depth: int | None, seed: int | None, found: tuple[int, int]
) -> None:
    model = open_model(shared_project, depth, seed)
    assert (model.shape.num_layers, model.seed) == found
    parameters, _ = load(shared_project / f"models/{found[0]}", found[0])
    place = (0, 7).index(found[1])
    assert all(torch.equal(model.parameters[name][0], value[place]) for name, value in parameters.items())


def test_a_tuned_model_is_taken_where_it_is_the_best_or_asked_for(project: Path) -> None:
    with pytest.raises(
        UserError, match=r"no trained model of tuned depth 2.*dvc pull .*confirm@2.*dvc repro confirm@2"
    ):
        open_model(project, 2, tuned=True)
    write_tuned(project)
    assert list(training_records(project)) == [Name(2), Name(2, tuned=True), Name(3)]
    for arguments, found in [((None,), (2, True)), ((2,), (2, True)), ((3,), (3, False))]:
        assert open_model(project, *arguments).name == found
    assert open_model(project, tuned=False).name == (3, False)
    assert open_model(project, 2, tuned=False).name == (2, False)
    tuned = open_model(project, tuned=True)
    assert (tuned.shape.residual, tuned.seed, str(tuned.name)) == (False, 7, "tuned depth 2")
    (project / "models/tuned/2/weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"tuned/2/weights\.safetensors: no such file; run `dvc repro confirm@2`"):
        open_model(project)


def test_what_is_missing_is_named_with_ways_to_get_it(project: Path) -> None:
    with pytest.raises(
        UserError, match=r"of depth 9, there is depth 2, depth 3; .*train@9.*dvc repro train@9.*make demo"
    ):
        open_model(project, 9)
    with pytest.raises(UserError, match=r"seed 3: .*seeds 0, 7"):
        open_model(project, 2, 3)
    shutil.rmtree(project / "models")
    with pytest.raises(UserError, match=r"models: .*dvc pull .*make demo.*--project build/demo"):
        open_model(project)


def test_another_vocabulary_is_refused(project: Path) -> None:
    save_tokenizer(build_tokenizer(ROWS, 10), project / "data/tokenizer.json")
    write_checksum(project / "data/tokenizer.json")
    with pytest.raises(UserError, match=r"tokenizer\.json: found 10 ids.* has 16; .*dvc repro train@3"):
        open_model(project)


def test_damage_is_named(project: Path) -> None:
    path = project / "data/tokenizer.json"
    path.write_text(path.read_text().replace('"song"', '"sonk"'))
    with pytest.raises(UserError, match=r"tokenizer\.json: found the SHA-256"):
        open_model(project)
    record = json.loads((project / "models/2/training.json").read_text())
    (project / "models/2/training.json").write_text(json.dumps(record | {"seeds": "two"}))
    with pytest.raises(UserError, match=r"models/2/training\.json: .*dvc repro train@2"):
        training_records(project)
