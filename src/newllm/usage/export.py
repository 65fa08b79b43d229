"""A trained model as Hugging Face transformers loads it: weights, tokenizer, configuration, code and model card."""

from importlib import resources
from pathlib import Path
from typing import Any

from safetensors.torch import save
from tokenizers import Regex, Tokenizer, decoders

from newllm.data.vocabulary import BOS, EOS, PAD, SPECIAL_TOKENS
from newllm.errors import UserError
from newllm.files import atomic_path, write_json
from newllm.model.definition import Parameters
from newllm.usage.card import figures_of, model_card
from newllm.usage.project import TrainedModel

CODE = ("configuration_newllm.py", "modeling_newllm.py")
CLASSES = {
    "AutoConfig": "configuration_newllm.NewLLMConfig",
    "AutoModelForCausalLM": "modeling_newllm.NewLLMForCausalLM",
}


def export_model(model: TrainedModel, project: Path, folder: Path) -> None:
    """Writes the model into a new `folder`, whole or not at all.

    Raises:
        UserError: the folder holds something, or the project's parameters or metrics are not those of the model.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: there is something already; name a new folder, or remove this one")
    figures = figures_of(model, project)
    card = model_card(model, figures, project)
    templates = resources.files("newllm.usage") / "huggingface"
    with atomic_path(folder) as beside:
        beside.mkdir()
        (beside / "model.safetensors").write_bytes(save(tensors(model.parameters), {"format": "pt"}))
        write_json(beside / "config.json", configuration(model, figures.dropout))
        write_json(beside / "generation_config.json", generation_configuration())
        write_json(beside / "tokenizer_config.json", tokenizer_configuration())
        (beside / "tokenizer.json").write_text(tokenizer(model.tokenizer).to_str(pretty=True) + "\n", encoding="utf-8")
        for name in CODE:
            (beside / name).write_text((templates / name).read_text(encoding="utf-8"), encoding="utf-8")
        (beside / "README.md").write_text(card, encoding="utf-8")


def tensors(parameters: Parameters) -> Parameters:
    """The parameters of one model, stacked [1, ...], by the names of the exported code, which counts layers from 0."""
    renamed = {}
    for name, value in parameters.items():
        parts = name.split(".")
        if parts[0] == "hidden":
            parts[1] = str(int(parts[1]) - 1)
        renamed[".".join(parts)] = value[0].contiguous()
    return renamed


def configuration(model: TrainedModel, dropout: float) -> dict[str, Any]:
    """config.json."""
    shape = model.shape
    return {
        "architectures": ["NewLLMForCausalLM"],
        "auto_map": CLASSES,
        "model_type": "newllm",
        "vocab_size": shape.vocabulary_size,
        "embedding_dim": shape.embedding_dim,
        "context_dim": shape.context_dim,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_layers,
        "residual": shape.residual,
        "dropout": dropout,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "tie_word_embeddings": False,
        "dtype": "float32",
    }


def generation_configuration() -> dict[str, Any]:
    """generation_config.json: as in `newllm generate`, `<pad>` and `<bos>` are never chosen."""
    return {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS, "suppress_tokens": [PAD, BOS]}


def tokenizer(study: Tokenizer) -> Tokenizer:
    """The study's tokenizer, its decoder aside: a space before each word, as who appends to a prompt expects it."""
    exported = Tokenizer.from_str(study.to_str())
    exported.decoder = decoders.Replace(Regex("^"), " ")
    return exported


def tokenizer_configuration() -> dict[str, Any]:
    """tokenizer_config.json.

    Batches are padded on the left, so that the last position of each text is its last word. `split_special_tokens`: a
    special token that stands in a text is not taken for one. `<unk>` is named as none of them, so that it is shown.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": SPECIAL_TOKENS[PAD],
        "bos_token": SPECIAL_TOKENS[BOS],
        "eos_token": SPECIAL_TOKENS[EOS],
        "padding_side": "left",
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
