"""The export in the hands of transformers and of the lm-evaluation-harness, where they are installed (docs/use.md)."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given

from newllm.data.vocabulary import BOS, EOS, PAD
from newllm.model.definition import logits
from newllm.training.weights import scores
from newllm.usage.export import export_model
from newllm.usage.generation import Sampling, continuations, text_stream
from newllm.usage.perplexity import Score, row_scores
from newllm.usage.project import TrainedModel, open_model
from tests.usage.conftest import WORDS
from tests.usage.test_export import TEXTS

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install transformers")

PROMPTS = ["the song was", "it", "of the second year , and"]
HARNESS = Path(__file__).parents[2] / "docs/harness"


@pytest.fixture(scope="module")
def model(shared_project: Path) -> TrainedModel:
    return open_model(shared_project, 3, 7)


@pytest.fixture(scope="module")
def folder(shared_project: Path, model: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("for_transformers") / "newllm-3"
    export_model(model, shared_project, folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)


@given(TEXTS)
def test_ids(model: TrainedModel, tokenizer: Any, text: str) -> None:
    study = model.tokenizer
    assert tokenizer(text)["input_ids"] == study.encode(text).ids
    assert tokenizer.encode(text, add_special_tokens=False) == study.encode(text, add_special_tokens=False).ids


def test_special_tokens(tokenizer: Any) -> None:
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (PAD, BOS, EOS)
    assert len(tokenizer) == 4 + WORDS


def test_logits(loaded: Any, model: TrainedModel) -> None:
    tokens = torch.randint(0, 4 + WORDS, (7, 20), generator=torch.Generator().manual_seed(0))
    expected = logits(model.parameters, tokens[None], residual=True)[0]
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, expected, rtol=0, atol=1e-5)


def test_loss_of_windows(loaded: Any, model: TrainedModel) -> None:
    """As the study counts: windows that begin anew, padding left out."""
    windows = torch.randint(1, 4 + WORDS, (30, 9), generator=torch.Generator().manual_seed(1))
    windows[20:, 6:] = PAD
    ((expected, _),) = scores(model.parameters, windows.int(), 16, torch.float32, residual=True)
    with torch.no_grad():
        found = loaded(windows, labels=windows.masked_fill(windows == PAD, -100)).loss
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_greedy_texts_are_those_of_the_command(loaded: Any, tokenizer: Any, model: TrainedModel) -> None:
    """One by one, and in a batch that is padded on the left."""
    ids = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    streams = [text_stream(0, number) for number in range(3)]
    steps = list(continuations(model.recurrence(), ids, Sampling(temperature=0), 12, streams))
    expected = [[step[place] for step in steps if step[place] is not None] for place in range(3)]
    batch = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    together = loaded.generate(**batch, max_new_tokens=12, do_sample=False)
    recomputed = loaded.generate(**batch, max_new_tokens=12, do_sample=False, use_cache=False)
    for place, prompt in enumerate(PROMPTS):
        one = tokenizer(prompt, return_tensors="pt")
        alone = loaded.generate(**one, max_new_tokens=12, do_sample=False)[0, one["input_ids"].shape[1] :]
        length = batch["input_ids"].shape[1]
        for found in (alone, together[place, length:], recomputed[place, length:]):
            assert [id_ for id_ in found.tolist() if id_ not in (EOS, PAD)] == expected[place]


def test_beams_follow_their_states(loaded: Any, tokenizer: Any) -> None:
    batch = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    options = {"max_new_tokens": 8, "num_beams": 3, "do_sample": False}
    assert torch.equal(loaded.generate(**batch, **options), loaded.generate(**batch, **options, use_cache=False))


def test_one_step_a_word(loaded: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    original = type(loaded).step
    monkeypatch.setattr(type(loaded), "step", lambda *arguments: steps.append(1) or original(*arguments))
    batch = tokenizer(PROMPTS[:1], return_tensors="pt")
    written = loaded.generate(**batch, min_new_tokens=9, max_new_tokens=9, do_sample=False)
    assert len(steps) == written.shape[1] - 1


def test_shares_of_sampled_tokens(loaded: Any, tokenizer: Any) -> None:
    """transformers' own temperature, top-k and top-p choose as `newllm generate` does."""
    batch = tokenizer(["the song was"], return_tensors="pt")
    with torch.no_grad():
        last = loaded(**batch).logits[:, -1]
    count = 4000
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    ours = Sampling(3.0, 8, 0.9).choose(last.expand(count, -1), uniform).bincount(minlength=4 + WORDS) / count
    transformers.set_seed(0)
    written = loaded.generate(
        **batch, max_new_tokens=1, do_sample=True, temperature=3.0, top_k=8, top_p=0.9, num_return_sequences=count
    )
    theirs = written[:, -1].bincount(minlength=4 + WORDS) / count
    assert ((ours > 0) == (theirs > 0)).all()
    assert (ours - theirs).abs().max() < 5 * math.sqrt(0.25 / count)
    assert (ours > 0).sum() > 3


def test_pipeline(folder: Path) -> None:
    write = transformers.pipeline("text-generation", model=str(folder), trust_remote_code=True)
    for found, prompt in zip(write(PROMPTS, max_new_tokens=4, batch_size=3, do_sample=False), PROMPTS, strict=True):
        text = found[0]["generated_text"]
        assert text == prompt or text.startswith(f"{prompt} ")


def test_the_harness_finds_the_same_word_perplexity(
    folder: Path, model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason="needs the lm-evaluation-harness: pip install 'lm-eval[hf]'")
    from lm_eval import simple_evaluate  # noqa: PLC0415
    from lm_eval.tasks import TaskManager  # noqa: PLC0415

    rows = ["The song was", "", "  it was a   song xyz <eos> <unk> ", " ", "of the second year , and the first"]
    (tmp_path / "data/raw").mkdir(parents=True)
    (tmp_path / "data/raw/test.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    settings = f"pretrained={folder},trust_remote_code=True,add_bos_token=False"
    found = simple_evaluate(
        "hf",
        model_args=settings,
        tasks=["newllm_rows"],
        task_manager=TaskManager(include_path=str(HARNESS)),
        batch_size=2,
        device="cpu",
    )
    total = Score()
    for _, score in row_scores(model.recurrence(), [model.tokenizer.encode(row).ids[1:] for row in rows]):
        total += score
    theirs = found["results"]["newllm_rows"]["word_perplexity,none"]
    assert theirs == pytest.approx(total.figures()["word_ppl"], rel=1e-5)
