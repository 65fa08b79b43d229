"""What is written for transformers, as far as it can be tried without it: test_transformers.py has the rest."""

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

from newllm.data.vocabulary import BOS, EOS, PAD, SPECIAL_TOKENS, load_tokenizer
from newllm.errors import UserError
from newllm.files import read_json, write_json
from newllm.model.definition import logits
from newllm.usage import export
from newllm.usage.card import figures_of, model_card
from newllm.usage.export import export_model, tokenizer_configuration
from newllm.usage.project import TrainedModel, open_model
from tests.usage.conftest import WORDS, write_tuned

SPECIAL = st.sampled_from(
    ["<unk>", "<pad>", "<BOS>", "<eos>", "a<eos>", "song", "The", "İ", "ẞ", "\x85", "\x1c", "\u200b"]
)
TEXTS = st.lists(st.text() | SPECIAL).flatmap(lambda parts: st.sampled_from([" ".join(parts), "".join(parts)]))


@pytest.fixture(scope="module")
def model(shared_project: Path) -> TrainedModel:
    return open_model(shared_project, 3, 7)


@pytest.fixture(scope="module")
def folder(shared_project: Path, model: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    export_model(model, shared_project, folder)
    return folder


def test_files(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "configuration_newllm.py",
        "generation_config.json",
        "model.safetensors",
        "modeling_newllm.py",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_configuration(folder: Path) -> None:
    found = json.loads((folder / "config.json").read_text())
    expected = {
        "model_type": "newllm",
        "vocab_size": 4 + WORDS,
        "embedding_dim": 5,
        "context_dim": 6,
        "hidden_size": 8,
        "num_hidden_layers": 3,
        "residual": True,
        "dropout": 0.1,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "dtype": "float32",
    }
    assert found.items() >= expected.items()
    for name in found["auto_map"].values():
        module, class_ = name.split(".")
        assert f"class {class_}(" in (folder / f"{module}.py").read_text()
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation == {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "suppress_tokens": [0, 2]}


@pytest.fixture(scope="module")
def tokenizers(shared_project: Path, folder: Path) -> tuple[Tokenizer, ...]:
    """The study's, the exported one, and that with the special tokens added to it, as transformers does."""
    exported, loaded = (Tokenizer.from_file(str(folder / "tokenizer.json")) for _ in range(2))
    settings = tokenizer_configuration()
    loaded.add_special_tokens([settings[name] for name in ("pad_token", "bos_token", "eos_token")])
    loaded.encode_special_tokens = settings["split_special_tokens"]
    return load_tokenizer(shared_project / "data/tokenizer.json"), exported, loaded


@given(TEXTS)
def test_ids_are_the_studys_on_any_text(tokenizers: tuple[Tokenizer, ...], text: str) -> None:
    study, *others = tokenizers
    for other in others:
        assert other.get_vocab_size() == study.get_vocab_size()
        for with_bos in (True, False):
            expected = study.encode(text, add_special_tokens=with_bos).ids
            assert other.encode(text, add_special_tokens=with_bos).ids == expected


def test_what_follows_a_prompt_begins_with_a_space(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode("the  xyz Song", add_special_tokens=False).ids) == " the <unk> song"


# The parts of transformers that the exported code names, just enough to compute with it.
class StandInModel(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def post_init(self) -> None:
        pass


class StandInConfig:
    def __init__(self, **values: Any) -> None:
        self.__dict__ |= values


class StandInOutput:
    pass


@pytest.fixture
def code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The exported modeling_newllm.py, loaded from its file, with stand-ins for transformers."""
    stand_in = SimpleNamespace(
        PreTrainedModel=StandInModel,
        GenerationMixin=object,
        PretrainedConfig=StandInConfig,
        utils=SimpleNamespace(ModelOutput=StandInOutput),
    )
    monkeypatch.setitem(sys.modules, "transformers", stand_in)  # type: ignore[misc]
    monkeypatch.setitem(sys.modules, "transformers.utils", stand_in.utils)
    package = ModuleType("exported_model")
    package.__path__ = [str(folder)]
    monkeypatch.setitem(sys.modules, "exported_model", package)
    yield importlib.import_module("exported_model.modeling_newllm")
    for name in ("modeling_newllm", "configuration_newllm"):
        sys.modules.pop(f"exported_model.{name}")


@pytest.fixture
def loaded(folder: Path, code: ModuleType) -> Any:
    """The exported model with its weights, as code and files say."""
    values = json.loads((folder / "config.json").read_text())
    exported = code.NewLLMForCausalLM(code.NewLLMConfig(**values))
    exported.load_state_dict(load_file(folder / "model.safetensors"))
    return exported.eval()


def test_the_code_names_nothing_of_the_project(folder: Path) -> None:
    for path in folder.glob("*.py"):
        assert "import newllm" not in path.read_text()
        assert "from newllm" not in path.read_text()


def test_logits_are_the_definitions(loaded: Any, model: TrainedModel) -> None:
    tokens = torch.randint(0, 4 + WORDS, (5, 9), generator=torch.Generator().manual_seed(0))
    expected = logits(model.parameters, tokens[None], residual=True)[0]
    with torch.no_grad():
        found = loaded(tokens)
        last = loaded(tokens, logits_to_keep=2)
    torch.testing.assert_close(found.logits, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last.logits, expected[:, -2:], rtol=1e-5, atol=1e-5)


def test_the_state_stands_for_what_was_read(loaded: Any) -> None:
    tokens = torch.randint(0, 4 + WORDS, (3, 8), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(3, 8)
    mask[0, :3] = 0
    with torch.no_grad():
        whole = loaded(tokens, attention_mask=mask)
        first = loaded(tokens[:, :5], attention_mask=mask[:, :5])
        rest = loaded(tokens[:, 5:], attention_mask=mask, state=first.state)
    torch.testing.assert_close(rest.logits, whole.logits[:, 5:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rest.state, whole.state, rtol=1e-5, atol=1e-5)
    assert loaded(tokens, use_cache=False).state is None
    swapped = loaded._reorder_cache(whole.state, torch.tensor([2, 0, 0]))
    assert torch.equal(swapped, whole.state[[2, 0, 0]])


def test_padding_on_either_side_is_not_read(loaded: Any) -> None:
    text = torch.tensor([[BOS, 5, 9, 7]])
    left, right = (nn.functional.pad(text, sides, value=PAD) for sides in ((3, 0), (0, 3)))
    with torch.no_grad():
        alone = loaded(text)
        padded_left = loaded(left, attention_mask=(left != PAD).long())
        padded_right = loaded(right, attention_mask=(right != PAD).long())
    torch.testing.assert_close(padded_left.logits[:, 3:], alone.logits)
    torch.testing.assert_close(padded_right.logits[:, :4], alone.logits)
    for padded in (padded_left, padded_right):
        torch.testing.assert_close(padded.state, alone.state)


def test_dropout_is_of_training_alone(loaded: Any) -> None:
    tokens = torch.tensor([[BOS, 5, 9, EOS]])
    assert torch.equal(loaded(tokens).logits, loaded(tokens).logits)
    loaded.train()
    assert not torch.equal(loaded(tokens).logits, loaded(tokens).logits)


def card(model: TrainedModel, project: Path) -> str:
    return model_card(model, figures_of(model, project), project)


def test_the_card_has_the_figures_of_the_model(shared_project: Path, model: TrainedModel) -> None:
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in card(model, shared_project).splitlines()
        if line.startswith("| v") or line.startswith("| t")
    ]
    assert [row[1:] for row in cells] == [
        ["27.50", "30.25 ± 0.75"],
        ["47.50", ""],
        ["31.25 %", "31.25 %"],
        ["31.50", "31.50 ± 1.25"],
    ]


def test_the_card_of_one_seed_has_no_intervals(project: Path) -> None:
    path = project / "metrics/layers/3.json"
    layers = read_json(path, "evaluate@3")["details"][0]
    write_json(path, {"details": [{name: value for name, value in layers.items() if "ci95" not in name}]})
    assert "±" not in card(open_model(project, 3), project).split("## Figures")[1].split("|", 1)[1]


@pytest.mark.parametrize("source", ["wikitext", "folder", "synthetic"])
def test_only_wikitext_is_named_as_a_dataset(project: Path, source: str) -> None:
    text = (project / "params.yaml").read_text().replace("source: wikitext", f"source: {source}")
    (project / "params.yaml").write_text(text.replace("folder: null", "folder: texts"))
    assert ("Salesforce/wikitext" in card(open_model(project), project)) == (source == "wikitext")


def test_a_tuned_model(project: Path) -> None:
    """Its card has its own figures and its recipe; of metrics or parameters of another training it says so."""
    write_tuned(project)
    model = open_model(project)
    text = card(model, project)
    cells = [row.strip("|").split("|") for row in text.splitlines() if row.startswith(("| v", "| t"))]
    assert [[cell.strip() for cell in row] for row in cells] == [
        ["validation PPL", "17.50", "20.25"],
        ["validation accuracy", "40.62 %", "40.62 %"],
        ["test PPL", "21.50", "21.50"],
    ]
    assert re.search(r"dropout 0\.3.*2 times.*of He.*no residual.*falls to zero", text, re.S)
    export_model(model, project, project / "exported")
    settings = read_json(project / "exported/config.json", "export")
    assert (settings["dropout"], settings["residual"], settings["num_hidden_layers"]) == (0.3, False, 2)
    path = project / "metrics/tuned/2.json"
    path.write_text(path.read_text().replace("5" * 64, "6" * 64))
    with pytest.raises(UserError, match=r"tuned/2\.json: figures of another training; run `dvc repro confirm@2`"):
        card(model, project)
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("patience: 30", "patience: 31"))
    with pytest.raises(UserError, match=r"params\.yaml: .*tuned depth 2.*other parameters.*dvc repro confirm@2"):
        card(model, project)


def test_figures_of_another_training_are_refused(project: Path) -> None:
    path = project / "metrics/runs/3.json"
    runs = read_json(path, "evaluate@3")["runs"][0]
    model = open_model(project, 3, 7)
    others = [
        runs | {"data_sha256": "6" * 64},
        runs | {"seeds": runs["seeds"][:1]},
        runs | {"seeds": [seed | {"train_loss": 2.0} for seed in runs["seeds"]]},
    ]
    for other in others:
        write_json(path, {"runs": [other]})
        with pytest.raises(UserError, match=r"runs/3\.json: .*dvc repro evaluate@3"):
            card(model, project)
    write_json(path, {"runs": [{}]})
    with pytest.raises(UserError, match=r"runs/3\.json: runs\.0\.data_sha256: .*dvc repro evaluate@3"):
        card(model, project)


def test_other_parameters_are_refused_and_nothing_is_left(project: Path, model: TrainedModel) -> None:
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("dropout: 0.1", "dropout: 0.2"))
    before = set(project.iterdir())
    with pytest.raises(UserError, match=r"params\.yaml: .*depth 3.*other parameters"):
        export_model(model, project, project / "exported")
    assert set(project.iterdir()) == before


def test_what_is_there_is_not_overwritten(project: Path, model: TrainedModel) -> None:
    with pytest.raises(UserError, match="there is something already"):
        export_model(model, project, project / "models")
    with pytest.raises(UserError, match="there is something already"):
        export_model(model, project, project / "params.yaml")
    (project / "empty").mkdir()
    export_model(model, project, project / "empty")
    assert (project / "empty/config.json").is_file()


def test_half_an_export_is_removed(project: Path, model: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "CODE", ("modeling_newllm.py", "missing.py"))
    before = set(project.iterdir())
    with pytest.raises(FileNotFoundError):
        export_model(model, project, project / "exported")
    assert set(project.iterdir()) == before


def test_special_tokens_are_named() -> None:
    settings = tokenizer_configuration()
    named = [settings.get(f"{name}_token") for name in ("pad", "unk", "bos", "eos")]
    assert named == [SPECIAL_TOKENS[0], None, *SPECIAL_TOKENS[2:]]
    assert settings["padding_side"] == "left"
