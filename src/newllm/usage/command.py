"""The command `newllm`: use a trained model without knowing how it was trained."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from newllm.errors import UserError

TEXTS_AT_ONCE = 64
STDIN = "-"

app = typer.Typer(
    help="Use the language models that this project trained: write text, score text, export a model.",
    epilog="Examples:  newllm generate --prompt 'the song was'   |   newllm perplexity data/raw/test.txt   |   "
    "newllm export build/newllm-3 --depth 3",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Project = Annotated[
    Path,
    typer.Option(
        "--project",
        envvar="NEWLLM_PROJECT",
        help="The project's folder, which holds models/ and data/tokenizer.json.",
        show_default="the current folder",
    ),
]
Depth = Annotated[
    int | None,
    typer.Option(
        "--depth",
        min=1,
        help="Number of layers of the model.",
        show_default="the depth at hand with the lowest validation loss",
    ),
]
Tuned = Annotated[
    bool | None,
    typer.Option(
        "--tuned/--notebook",
        help="Trained with the best recipe that the search found for its depth, or with the notebook's.",
        show_default="whichever at hand has the lowest validation loss",
    ),
]
HERE = Path()


@app.command()
def generate(
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            "-p",
            help="Beginning of a text; may be given several times. - reads standard input, a prompt a line.",
            show_default="an empty beginning",
        ),
    ] = None,
    depth: Depth = None,
    tuned: Tuned = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest continuation, in words.")] = 50,
    temperature: Annotated[
        float, typer.Option(min=0, help="Below 1 more likely words, above 1 less; 0: always the likeliest.")
    ] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Draw among so many of the likeliest words; 0: all.")] = 0,
    top_p: Annotated[
        float, typer.Option(min=0, max=1, help="Draw among the likeliest words that together are so probable.")
    ] = 1.0,
    unk: Annotated[
        bool, typer.Option("--unk/--no-unk", help="Whether <unk>, a word outside the vocabulary, may be drawn.")
    ] = True,
    num: Annotated[int, typer.Option(min=1, help="Texts for each prompt.")] = 1,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Of the random numbers: the same seed, the same texts.")
    ] = 0,
    model_seed: Annotated[
        int | None, typer.Option(help="Seed that the model was trained with.", show_default="the best one")
    ] = None,
    project: Project = HERE,
) -> None:
    """Continues prompts, a line a text.

    The model knows words in lower case, separated by spaces, as in WikiText; any other word is <unk> to it. A text ends
    where the model ends its row, or after --max-tokens. On a terminal each word is shown as it comes.
    """
    import torch

    from newllm.usage.generation import Sampling, continuations, text_stream
    from newllm.usage.project import open_model

    torch.set_num_threads(1)  # products this small gain nothing from more, which would wait for one another
    model = open_model(project, depth, model_seed, tuned)
    recurrence, tokenizer = model.recurrence(), model.tokenizer
    sampling = Sampling(temperature, top_k, top_p, unk)
    live = sys.stdout.isatty()
    prompts = (text for text in _prompts(prompt or [""]) for _ in range(num))
    number = 0
    for texts in _groups(prompts, 1 if live else TEXTS_AT_ONCE):
        ids = [tokenizer.encode(text).ids for text in texts]  # each begins with <bos>
        words = [[tokenizer.decode([id_], skip_special_tokens=False) for id_ in beginning[1:]] for beginning in ids]
        if live:
            print(*words[0], end="", flush=True)
        streams = [text_stream(seed, number + place) for place in range(len(texts))]
        for tokens in continuations(recurrence, ids, sampling, max_tokens, streams):
            for text, token in zip(words, tokens, strict=True):
                if token is not None:
                    word = tokenizer.decode([token], skip_special_tokens=False)
                    if live:
                        print(" " if text else "", word, sep="", end="", flush=True)
                    text.append(word)
        print("\n".join("" if live else " ".join(text) for text in words), flush=True)
        number += len(texts)


@app.command()
def perplexity(
    file: Annotated[str, typer.Argument(help="Text in UTF-8, a row a line; - reads standard input.", metavar="FILE")],
    depth: Depth = None,
    tuned: Tuned = None,
    by_line: Annotated[
        bool, typer.Option("--by-line", help="A JSON object for each row with a word; the total follows on stderr.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The total as a JSON object.")] = False,
    model_seed: Annotated[
        int | None, typer.Option(help="Seed that the model was trained with.", show_default="the best one")
    ] = None,
    project: Project = HERE,
) -> None:
    """Scores a text: loss and perplexity (PPL), with and without <unk>.

    Each row is read from an empty context on, as <bos>, its words and <eos>, with the context carried through the whole
    row. Every word and <eos> is predicted once; rows without a word are left out. The study's own figures differ: they
    are of windows of 64 tokens that overlap and each begin with an empty context.
    """
    from newllm.data.vocabulary import encode
    from newllm.usage.perplexity import Score, row_scores
    from newllm.usage.project import open_model

    model = open_model(project, depth, model_seed, tuned)
    total = Score()
    for number, score in row_scores(model.recurrence(), encode(model.tokenizer, _rows(file))):
        total += score
        if by_line:
            print(json.dumps({"row": number} | score.figures()), flush=True)
    if not total.rows:
        raise UserError(f"{file}: no row has a word; give a text with words, a row a line")
    about = {"depth": model.shape.num_layers, "tuned": model.name.tuned, "model_seed": model.seed}
    figures = about | {"rows": total.rows} | total.figures()
    if as_json:
        print(json.dumps(figures), file=sys.stderr if by_line else sys.stdout)
        return
    print(
        f"{total.rows:,} rows of {total.words:,} words, {figures['unk_share_pct']:.2f} % <unk>; "
        f"{model.name}, trained with seed {model.seed}\n"
        f"words and ends of rows  loss {figures['loss']:.4f} nats  PPL {figures['ppl']:.4f}\n"
        f"  without <unk>         loss {figures['loss_without_unk']:.4f} nats  PPL {figures['ppl_without_unk']:.4f}\n"
        f"words alone                               PPL {figures['word_ppl']:.4f}",
        file=sys.stderr if by_line else sys.stdout,
    )


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    depth: Depth = None,
    tuned: Tuned = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed that the model was trained with.", show_default="the best one")
    ] = None,
    project: Project = HERE,
) -> None:
    """Writes a model as Hugging Face transformers loads it, with its tokenizer, its code and a model card.

    AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True) and AutoTokenizer.from_pretrained(FOLDER)
    then need nothing of this project.
    """
    from newllm.usage.export import export_model
    from newllm.usage.project import open_model

    model = open_model(project, depth, seed, tuned)
    export_model(model, project, folder)
    print(f"{folder}: {model.name}, trained with seed {model.seed}; README.md says how to use it")


@app.command()
def info(project: Project = HERE) -> None:
    """Says which models are at hand, and which one is taken where no depth is given."""
    from newllm.usage.project import best_of, best_seed, mean_val_loss, remedy, training_records

    records = training_records(project)
    if not records:
        print(f"{project / 'models'}: no model is there; {remedy()}")
        return
    best = best_of(records)
    print(f"{'depth':>5} {'recipe':>8} {'parameters':>11} {'mean val loss':>14} {'best seed':>10}  all seeds")
    for name, record in records.items():
        seeds = ", ".join(str(result.seed) for result in record.seeds)
        print(
            f"{name.num_layers:>5} {'tuned' if name.tuned else 'notebook':>8} {record.shape.num_params:>11,} "
            f"{mean_val_loss(record):>14.4f} {best_seed(record):>10}  {seeds}"
            + ("  <- taken by default" if name == best else "")
        )


def main() -> None:
    """Runs the command; ends with status 1 and one message for what the user can mend."""
    try:
        app()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {place}{error.strerror or error}")


def _rows(file: str) -> Iterator[str]:
    """The rows of a file or of standard input, ended by "\\n" alone."""
    from newllm.data.text import decode_row, read_rows

    if file != STDIN:
        yield from read_rows(Path(file), "name a text file, or - for standard input")
        return
    for number, row in enumerate(sys.stdin.buffer, start=1):
        yield decode_row(row.removesuffix(b"\n"), Path("standard input"), number)


def _prompts(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from _rows(STDIN) if text == STDIN else [text]


def _groups(texts: Iterator[str], size: int) -> Iterator[Sequence[str]]:
    group: list[str] = []
    for text in texts:
        group.append(text)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
