"""`nanochat sample`: which weights it takes, what it draws, what it refuses."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from nonempty import nonempty

import nanochat
from nanochat.cli import main
from nanochat.config.options import SampleConfig, TrainConfig
from nanochat.data.batches import evaluation_batches
from nanochat.data.counts import add_one_probabilities, transition_counts
from nanochat.data.dataset import load_dataset
from nanochat.engines import build_engine, resolve_hardware
from nanochat.errors import PromptTooLong, TokenizerError
from nanochat.output.terminal import Terminal
from nanochat.runs.checkpoint import find_checkpoint
from nanochat.runs.load import load_trained, read_checkpoint


def draw(run, **options):
    return nanochat.sample(SampleConfig(checkpoint=str(run.path), **options))


def test_the_same_seed_draws_the_same_texts_and_another_seed_others(trained):
    first = draw(trained, num_samples=8)
    assert draw(trained, num_samples=8) == first
    assert draw(trained, num_samples=8, seed=2) != first
    assert len(set(first)) > 1


def test_a_sample_does_not_depend_on_how_many_are_drawn_beside_it(trained):
    assert draw(trained, num_samples=5)[:2] == draw(trained, num_samples=2)


def test_a_run_draws_the_same_samples_as_its_checkpoint_does_later(trained):
    result = nanochat.train(
        TrainConfig(resume=True, out=str(trained.path), num_samples=4, max_new_tokens=12)
    )
    later = draw(trained, num_samples=4, max_new_tokens=12)
    assert [text.strip() for text in result.samples] == [text.strip() for text in later]


def test_a_prompt_is_continued(trained):
    for text in nonempty(draw(trained, prompt="an", num_samples=4)):
        assert text.startswith("an")


def test_no_more_than_max_new_tokens_are_added(trained):
    for length in (1, 3):
        texts = draw(trained, prompt="b", num_samples=6, max_new_tokens=length)
        assert max(map(len, texts)) <= 1 + length


def greedy(run, prompt):
    """The likeliest token again and again, from the logits of a decoder."""
    checkpoint, config, _ = read_checkpoint(str(run.path))
    model = load_trained(SampleConfig(), checkpoint, config)
    ids = [0, *model.tokenizer.encode(prompt).tolist()]
    decoder = model.engine.open_decoder([ids])
    for _ in range(8):
        token = int(np.argmax(decoder.logits[0]))
        if token == 0:
            break
        ids.append(token)
        decoder.advance([token])
    return model.tokenizer.decode(ids)


def test_temperature_zero_or_near_zero_and_a_single_candidate_are_greedy(trained):
    best = greedy(trained, "d")
    options = {"prompt": "d", "num_samples": 3, "max_new_tokens": 8}
    assert draw(trained, **options, temperature=0) == [best] * 3
    assert draw(trained, **options, temperature=0, seed=9) == [best] * 3
    assert draw(trained, **options, temperature=1e-6) == [best] * 3
    assert draw(trained, **options, top_k=1, temperature=5.0) == [best] * 3
    assert draw(trained, **options, top_p=1e-6, temperature=1.0) == [best] * 3


def test_a_candidate_list_of_every_token_changes_nothing(trained):
    assert draw(trained, num_samples=4, top_k=10**6) == draw(trained, num_samples=4)


def test_loaded_logits_equal_those_of_the_trained_engine_bit_for_bit(trained):
    config = resolve_hardware(TrainConfig(**{**trained.options, "out": None}))
    dataset = load_dataset(config)
    saved = find_checkpoint(trained.path, "best")
    engine = build_engine(config, dataset.tokenizer.vocab_size)
    engine.load_state_dict(saved.state)
    checkpoint, trained_config, _ = read_checkpoint(str(trained.path))
    loaded = load_trained(SampleConfig(), checkpoint, trained_config).engine
    prompts = [[0, 1, 2], [0, 3, 4]]
    ours, theirs = engine.open_decoder(prompts), loaded.open_decoder(prompts)
    for token in (5, 6, 1, 2, 3, 4, 5):
        assert ours.logits.tobytes() == theirs.logits.tobytes()
        for decoder in (ours, theirs):
            decoder.advance([token, token])
    for batch in evaluation_batches(dataset.val, batch_size=2, block_size=8):
        assert engine.token_losses(batch).tobytes() == loaded.token_losses(batch).tobytes()


@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_weights_of_one_engine_can_be_sampled_with_the_other(trained, mode):
    options = {"prompt": "e", "num_samples": 3, "dtype": "float64"}
    texts = draw(trained, mode=mode, threads=1, **options)
    assert texts == draw(trained, **options)


# ---------------------------------------------------------------------------------- which weights


def test_the_newest_run_is_taken_when_none_is_named(folder, tiny, trained):
    for seed in (1, 2):
        nanochat.train(TrainConfig(**tiny(seed=seed, num_samples=0, steps=1)))
    first, second = sorted(Path("runs").iterdir(), key=lambda p: p.stat().st_mtime_ns)
    newest = nanochat.sample(SampleConfig(num_samples=6))
    assert newest == nanochat.sample(SampleConfig(num_samples=6, checkpoint=str(second)))
    assert newest != nanochat.sample(SampleConfig(num_samples=6, checkpoint=str(first)))


def test_a_checkpoint_folder_names_the_weights_of_its_step(trained):
    early = trained.path / "checkpoints" / "step-000020"
    late = trained.path / "checkpoints" / "step-000040"
    texts = {path: nanochat.sample(SampleConfig(checkpoint=str(path), num_samples=9, top_k=3))
             for path in (early, late)}  # fmt: skip
    best = find_checkpoint(trained.path, "best").path
    asked = SampleConfig(checkpoint=str(best), num_samples=9, top_k=3)
    assert nanochat.sample(asked) == draw(trained, num_samples=9, top_k=3)
    assert texts[early] != texts[late]


@pytest.fixture
def copy(trained_gpt, folder):
    shutil.copytree(trained_gpt.path, "run")
    return Path("run/checkpoints/step-000040")


@pytest.mark.parametrize(
    "name",
    ["weights.safetensors", "optimizer.safetensors", "config.json", "tokenizer.json", "data.json",
     "trainer.json", "manifest.json"],
)  # fmt: skip
def test_one_flipped_bit_anywhere_is_found(copy, refused, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 4
    (copy / name).write_bytes(content)
    message = refused("sample", f"--checkpoint={copy}", code=1)
    assert message.startswith((f"{copy / name} ", f"{copy}"))
    assert "damaged" in message or "manifest" in message


def test_a_run_whose_best_checkpoint_is_damaged_falls_back_and_says_so(copy, cli):
    best = find_checkpoint(Path("run"), "best").path
    (best / "weights.safetensors").write_bytes(b"")
    (copy / "weights.safetensors").write_bytes(b"")
    result = cli("sample", "--checkpoint=run")
    assert result.code == 0
    for path in (best, copy):
        assert f"warning: {path}/weights.safetensors is damaged: its manifest says " in result.err
    assert " bytes, got 0; using the newest checkpoint instead, step-000020\n" in result.err
    assert "sampling from run/checkpoints/step-000020" in result.err


def test_a_pickle_is_never_read(folder, refused):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(folder / "executed"),)

    Path("model.pt").write_bytes(pickle.dumps(Trap()))
    Path("model.pkl").write_bytes(pickle.dumps(Trap()))
    for name in ("model.pt", "model.pkl", "names.txt"):
        assert refused("sample", f"--checkpoint={name}", code=1) == (
            f"{name} is not a nanochat checkpoint folder; name the folder of a run (pickle files are never read)"
        )
    Path("step-000001").mkdir()
    shutil.copy("model.pt", "step-000001/weights.safetensors")
    assert refused("sample", "--checkpoint=step-000001", code=1) == (
        "step-000001/manifest.json is missing; step-000001 is not a complete checkpoint folder"
    )
    assert not Path("executed").exists()


def test_nothing_to_sample_from_is_one_clear_line(folder, refused):
    assert refused("sample", code=1) == (
        "runs holds no run with a checkpoint; train one first or name a checkpoint"
    )
    assert refused("sample", "--checkpoint=no", code=1) == (
        "checkpoint must be best, last, a step, or the path of a checkpoint or run, got no: no run no"
        " here or in runs; train one first with `nanochat train`"
    )
    Path("empty").mkdir()
    assert refused("sample", "--checkpoint=empty", code=1) == (
        "empty holds no run and no checkpoint; `nanochat runs` lists the runs"
    )


# ---------------------------------------------------------------------------------------- prompts


def test_an_unknown_character_of_the_prompt_is_named_with_its_place(trained, refused):
    message = (
        "prompt: unknown token 'Z' at position 2; use characters of the training corpus, or train with"
        " tokenizer byte"
    )
    with pytest.raises(TokenizerError) as caught:
        draw(trained, prompt="anZ")
    assert str(caught.value) == message
    assert refused("sample", f"--checkpoint={trained.path}", "--prompt=anZ") == message


def test_a_prompt_that_leaves_no_room_is_refused_with_the_figures(trained, refused):
    assert draw(trained, prompt="a" * 7)  # eight with BOS, the block
    message = "prompt has 9 tokens with BOS, block_size is 8; shorten it to 7"
    with pytest.raises(PromptTooLong) as caught:
        draw(trained, prompt="a" * 8)
    assert str(caught.value) == message
    assert refused("sample", f"--checkpoint={trained.path}", "--prompt", "a" * 8) == message


# ------------------------------------------------------------------------------------ output, baseline


def test_one_sample_is_streamed_as_it_is_and_several_are_a_line_each(trained, cli):
    one = cli("sample", f"--checkpoint={trained.path}", "--prompt=an")
    assert one.out == draw(trained, prompt="an")[0] + "\n"
    three = cli("sample", f"--checkpoint={trained.path}", "--num-samples=3")
    assert three.out.splitlines() == draw(trained, num_samples=3)
    for count in (1, 3):
        result = cli("sample", f"--checkpoint={trained.path}", f"--num-samples={count}", "--json")
        assert json.loads(result.out) == {"samples": draw(trained, num_samples=count)}
    quiet = cli("sample", f"--checkpoint={trained.path}", "--quiet")
    assert quiet.err == "" and quiet.out


@pytest.mark.parametrize("mode", ["scalar", "tensor"])
def test_temperature_zero_is_the_same_on_both_engines(trained, mode):
    options = {"num_samples": 2, "temperature": 0, "max_new_tokens": 30, "dtype": "float64"}
    texts = draw(trained, mode=mode, threads=1, **options)
    assert texts == draw(trained, **options)
    assert texts[0] == texts[1]


def test_a_run_can_end_with_greedy_samples(folder, tiny):
    run = nanochat.train(TrainConfig(**tiny(num_samples=3, temperature=0, out="run")))
    assert len(set(run.samples)) == 1


def test_a_sample_ends_before_a_stop_text(trained):
    whole = draw(trained, num_samples=6)
    stop = ("a", "nn")
    cut = draw(trained, num_samples=6, stop=stop)
    assert cut == [text[: min([text.find(s) for s in stop if s in text] or [99])] for text in whole]
    assert cut != whole


def test_stop_texts_are_given_one_by_one_and_may_hold_spaces(trained, cli, refused, monkeypatch):
    words = ["sample", f"--checkpoint={trained.path}", "--num-samples=6"]
    expected = draw(trained, num_samples=6, stop=("a", "e"))
    assert cli(*words, "--stop=a", "--stop", "e").out.splitlines() == expected
    assert refused(*words, "--stop=") == (
        "stop must be text or a list of texts, none of them empty, got ['']"
    )
    monkeypatch.setenv("NCLAB_STOP", "a b")
    assert cli(*words).out.splitlines() == draw(trained, num_samples=6)


# ----------------------------------------------------------------------------------- on a terminal


@pytest.fixture
def lines_run(folder, tiny):
    """A run on a text whose samples have line breaks."""
    Path("poem.txt").write_text("ab\ncd\n\nba\ndc\n" * 9, encoding="utf-8")
    options = tiny(data="poem.txt", documents="file", out="poem", num_samples=0, steps=30)
    nanochat.train(TrainConfig(**options))
    return Path("poem")


def on_stdout(monkeypatch, *words):
    """What a terminal on stdout is sent."""

    class Text(io.StringIO):
        def isatty(self):
            return True

    seen = Text()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", seen)
        assert main(["sample", "--quiet", *words]) == 0
    return seen.getvalue()


def test_samples_of_several_lines_have_a_rule_each_on_a_terminal(lines_run, monkeypatch):
    texts = nanochat.sample(SampleConfig(checkpoint=str(lines_run), num_samples=3))
    assert any("\n" in text for text in texts)
    shown = on_stdout(monkeypatch, f"--checkpoint={lines_run}", "--num-samples=3")
    assert shown == "".join(
        f"--- sample {number} ---\n{text}\n" for number, text in enumerate(texts, start=1)
    )
    one = on_stdout(monkeypatch, f"--checkpoint={lines_run}")
    assert one == texts[0] + "\n"


def test_samples_without_line_breaks_are_a_line_each_on_a_terminal(trained, monkeypatch):
    shown = on_stdout(monkeypatch, f"--checkpoint={trained.path}", "--num-samples=3")
    assert shown.splitlines() == draw(trained, num_samples=3)


def test_control_characters_are_escaped_on_a_terminal_and_kept_in_a_pipe(
    folder, tiny, cli, monkeypatch
):
    Path("bad.txt").write_text("a\x1b[2J\x07b\n" * 20, encoding="utf-8")
    options = tiny(data="bad.txt", out="bad", num_samples=0, steps=30)
    nanochat.train(TrainConfig(**options))
    words = ["--checkpoint=bad", "--num-samples=4", "--max-new-tokens=30"]
    piped = cli("sample", *words).out
    assert "\x1b" in piped
    shown = on_stdout(monkeypatch, *words)
    assert shown == piped.replace("\x1b", "\\x1b").replace("\x07", "\\x07")


def test_a_sample_is_written_as_it_is_drawn_in_whole_characters(folder, tiny, monkeypatch):
    Path("names.txt").write_text("ü€😀\n" * 20, encoding="utf-8")
    nanochat.train(TrainConfig(**tiny(tokenizer="byte", num_samples=0, out="run", steps=60)))
    pieces = []
    monkeypatch.setattr("nanochat.output.terminal.write_result", pieces.append)
    config = SampleConfig(checkpoint="run", max_new_tokens=60, temperature=0.5)
    (text,) = nanochat.sample(config, terminal=Terminal(quiet=True))
    assert "".join(pieces) == text + "\n"
    assert len(pieces) > 3
    assert max(map(len, pieces)) <= 2


@pytest.mark.parametrize("on_terminal", [True, False])
def test_an_interrupt_ends_the_line_and_is_no_error(trained, monkeypatch, cli, on_terminal):
    def interrupted(*args, on_text, **options):
        on_text("begun")
        raise KeyboardInterrupt

    monkeypatch.setattr("nanochat.commands.sample.generate", interrupted)
    monkeypatch.setattr("nanochat.output.terminal._is_terminal", lambda stream: on_terminal)
    result = cli("sample", f"--checkpoint={trained.path}", "--quiet")
    assert (result.code, result.err) == (130, "interrupted\n")
    assert result.out == "begun" + "\n" * on_terminal


def test_the_counted_bigram_draws_by_the_counts_of_the_training_part(trained):
    config = TrainConfig(**trained.options)
    dataset = load_dataset(config)
    counts = transition_counts(dataset.train, dataset.tokenizer.vocab_size)
    probabilities = add_one_probabilities(counts)
    texts = draw(trained, from_counts=True, num_samples=4000, max_new_tokens=1, temperature=1.0)
    drawn = np.zeros(dataset.tokenizer.vocab_size)
    for text in texts:
        drawn[dataset.tokenizer.encode(text)[0] if text else 0] += 1
    expected = probabilities[0] * len(texts)
    chi_square = ((drawn - expected) ** 2 / expected).sum()
    freedom = len(expected) - 1
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


def test_the_earlier_name_of_from_counts_is_refused_with_the_new_one(folder, cli, refused):
    assert refused("sample", "--baseline=counts") == (
        "unknown option --baseline of nanochat sample; use --from-counts"
    )
    Path("sample.toml").write_text("baseline = 'counts'\n")
    assert refused("sample", "--config=sample.toml") == (
        "config file sample.toml: baseline is not an option; use from_counts"
    )


@pytest.mark.parametrize("value", ["0", "true"])
def test_the_variable_of_the_training_option_baseline_does_not_reach_sample(
    folder, cli, monkeypatch, value
):
    monkeypatch.setenv("NCLAB_BASELINE", value)
    monkeypatch.setenv("NCLAB_FROM_COUNTS", "1")
    assert cli("sample", "--num-samples=1", "--quiet").code == 0


def test_the_counted_bigram_needs_no_run(folder, cli):
    result = cli("sample", "--from-counts", "--num-samples=2", "--quiet")
    assert result.code == 0
    assert len(result.out.splitlines()) == 2
    assert not Path("runs").exists()


def test_the_futuristic_style_weighs_its_phrases(folder, tiny):
    run = nanochat.train(TrainConfig(**tiny(style="futuristic", num_samples=0, out="run")))
    texts = {
        weight: nanochat.sample(
            SampleConfig(checkpoint=str(run.run), num_samples=20, style_weight=weight)
        )
        for weight in (0.0, 1.0, 50.0)
    }
    assert texts[0.0] != texts[50.0]
    assert len({*map(tuple, texts.values())}) >= 2


def test_a_byte_model_writes_text_whatever_bytes_it_draws(folder, tiny):
    Path("names.txt").write_text("ü€😀\n" * 20, encoding="utf-8")
    run = nanochat.train(TrainConfig(**tiny(tokenizer="byte", num_samples=0, out="run", steps=1)))
    texts = nanochat.sample(SampleConfig(checkpoint=str(run.run), num_samples=20))
    for text in nonempty(texts):
        assert text.encode("utf-8").decode("utf-8") == text
