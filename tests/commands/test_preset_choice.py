"""`--preset auto` on a text: what is chosen, what given options change, what the terminal says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import nanochat
from nanochat import TrainConfig
from nanochat.commands.preset_choice import needs_text, with_chosen_preset
from nanochat.data.dataset import read_text, text_facts

NOVEL = "It was the best of times, it was the worst of times, it was the age of wisdom.\n" * 700


@pytest.fixture
def novel(tmp_path: Path) -> str:
    path = tmp_path / "novel.txt"
    path.write_text(NOVEL)
    return str(path)


def chosen(**options: object) -> TrainConfig:
    config = TrainConfig(**options)  # type: ignore[arg-type]  # options of any type
    return with_chosen_preset(config, read_text(config))[0]


def test_facts_are_those_of_the_training_part(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"Zoë{i:03}\n" for i in range(200)))
    text = read_text(TrainConfig(data=str(path), documents="line"))
    facts = text_facts(text)
    train = list(text.split.train)
    assert facts.size == sum(len(each.encode()) for each in train)
    assert facts.characters == sum(map(len, train))
    assert facts.document == pytest.approx(sum(map(len, train)) / len(train))
    assert facts.alphabet == len(set("".join(train)))


def test_a_novel_and_a_list_of_names_get_different_presets(novel: str, folder: Path) -> None:
    assert chosen(data=novel, mode="tensor").preset == "nano"
    lines = chosen(data="names.txt", documents="line", mode="tensor")
    assert lines.preset == "mini"


def test_given_options_override_the_choice(novel: str) -> None:
    config = chosen(data=novel, mode="tensor", dropout=0.05, block_size=32, tokenizer="byte")
    assert (config.dropout, config.block_size, config.tokenizer) == (0.05, 32, "byte")


def test_a_small_text_is_read_a_limited_number_of_times(novel: str) -> None:
    read = read_text(TrainConfig(data=novel))
    characters = sum(map(len, read.split.train))

    def readings(**options: object) -> float:
        config = chosen(data=novel, mode="tensor", **options)
        return config.steps * config.batch_size * config.block_size / characters

    few_rows = {"batch_size": 30}  # all 2,000 steps of `nano` would read the text 75 times
    assert readings(**few_rows) == pytest.approx(12, abs=0.1)
    assert readings(**few_rows, grad_accum=2) == pytest.approx(6, abs=0.1)
    assert readings(**few_rows, steps=2000) == pytest.approx(75, rel=0.1)
    assert readings(**few_rows, tokenizer="byte") == pytest.approx(75, rel=0.1)


def test_steps_do_not_change_the_model_of_a_small_text(novel: str) -> None:
    for steps in (2000, 100):
        config = chosen(data=novel, mode="tensor", steps=steps)
        assert (config.preset, config.hash_embed_rows, config.dropout) == ("nano", 0, 0.3)


def test_the_reason_names_only_what_was_chosen(novel: str) -> None:
    config = TrainConfig(data=novel, mode="tensor", dropout=0.05)
    reason = with_chosen_preset(config, read_text(config))[1]
    assert reason.startswith("preset nano (hash_embed_rows 0, lr 0.002): ")


def test_a_preset_with_another_text_does_not_replace_the_text_that_was_read() -> None:
    config = chosen(mode="tensor", documents="file")  # all names as one long document
    assert (config.preset, config.data) == ("nano", ("names",))


def test_a_run_without_data_can_be_resumed_and_scored(tmp_path: Path) -> None:
    size = {"n_layer": 1, "n_embd": 8, "block_size": 8, "batch_size": 2, "steps": 1}
    options = {"mode": "tensor", "documents": "file", "num_samples": 0, "baseline": False, **size}
    run = nanochat.train({**options, "out": str(tmp_path / "run")})
    again = nanochat.train({"resume": True, "out": str(run.run), "num_samples": 0})
    assert again.metrics["val_loss"] == run.metrics["val_loss"]
    scored = nanochat.evaluate({"run": str(run.run)})
    assert scored.loss == pytest.approx(run.metrics["val_loss"], rel=1e-6)


def test_exact_numerics_get_the_context_of_the_scalar_engine(novel: str) -> None:
    config = TrainConfig(data=novel, numerics="exact")
    assert needs_text(config)
    assert with_chosen_preset(config, read_text(config))[0].block_size == 32


def test_learned_positions_keep_heads_of_an_odd_size(novel: str) -> None:
    config = chosen(data=novel, mode="scalar", n_embd=20)  # 4 heads of 5
    assert config.n_head == TrainConfig(mode="scalar", n_embd=20).n_head == 4


@pytest.mark.parametrize(("n_embd", "n_head"), [(96, 3), (64, 2), (8, 2), (24, 3), (40, 2)])
def test_the_heads_of_the_choice_divide_a_given_size(novel: str, n_embd: int, n_head: int) -> None:
    assert chosen(data=novel, mode="tensor", n_embd=n_embd).n_head == n_head


def test_a_given_tokenizer_does_not_get_the_vocabulary_of_another(tmp_path: Path) -> None:
    path = tmp_path / "chinese.txt"
    path.write_text("".join(chr(0x4E00 + i % 3000) for i in range(200_000)))
    assert chosen(data=str(path), mode="tensor").tokenizer == "bpe"
    assert chosen(data=str(path), mode="tensor", tokenizer="byte").tokenizer == "byte"


def test_the_terminal_says_what_was_chosen_and_the_run_can_be_repeated(
    novel: str, cli, tmp_path: Path
) -> None:
    size = [
        "--n-layer=1",
        "--n-embd=8",
        "--block-size=20",
        "--batch-size=2",
        "--steps=2",
        "--num-samples=0",
    ]
    shown = cli("train", novel, "--mode=tensor", "--no-baseline", f"--out={tmp_path / 'a'}", *size)
    assert shown.code == 0
    said = re.search(r"^preset nano \(.*\): (\d+) kB of training text$", shown.err, re.M)
    assert said is not None
    # The training part is nine tenths of the text.
    assert int(said[1]) == round(len(NOVEL) * 0.9 / 1000)
    again = cli("train", f"--config={tmp_path / 'a' / 'config.toml'}", f"--out={tmp_path / 'b'}")
    assert again.code == 0
    weights = [
        nanochat.load(str(tmp_path / name), checkpoint="last").weights["wte"] for name in "ab"
    ]
    assert (weights[0] == weights[1]).all()
    assert "preset" not in again.err.splitlines()[0].split(":")[0]


def test_the_scalar_engine_reads_more_context_in_running_text(novel: str) -> None:
    config = chosen(data=novel, mode="scalar")
    assert (config.preset, config.block_size) == ("pico", 32)


def test_heads_that_only_the_chosen_preset_accepts_are_trained(novel: str, cli, tmp_path) -> None:
    words = ["--mode=tensor", "--no-baseline", "--num-samples=0", "--steps=1", "--n-head=3"]
    result = cli("train", novel, *words, "--n-layer=1", "--batch-size=1", f"--out={tmp_path / 'a'}")
    assert result.code == 0, result.err
    assert "\npreset nano (" in f"\n{result.err}"
    saved = (tmp_path / "a" / "config.toml").read_text()
    assert "n_head = 3\n" in saved
    assert "n_embd = 96\n" in saved


def test_heads_that_the_chosen_preset_refuses_are_one_line_after_the_choice(
    novel: str, refused, tmp_path
) -> None:
    out = tmp_path / "run"
    assert refused("train", novel, "--mode=tensor", "--n-head=5", f"--out={out}") == (
        "n_embd must be a multiple of n_head, got n_embd 96 and n_head 5; give both"
    )
    assert not out.exists()
