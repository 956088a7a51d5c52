"""What the JSON files of a checkpoint must hold."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from nonempty import nonempty
from runs.saved_checkpoints import CONFIG, DATA, trainer

from nanochat.config.options import TrainConfig, options_of
from nanochat.data.tokenizer import ByteTokenizer, CharTokenizer
from nanochat.runs import schema
from nanochat.training.deadline import TimePlan

SHA = "0123456789abcdef" * 4
BUDGET = {"time_budget": "1.5m", "spent_s": 3, "plan": dataclasses.asdict(TimePlan(0.1, 0, 5, 1.0))}
SOUND: dict[str, tuple[schema.Check, list[dict[str, Any]]]] = {
    "config.json": (schema.CONFIG, [CONFIG, {**CONFIG, "stop": ["a", ""], "data_dir": "x"}]),
    "data.json": (schema.DATA, [DATA, {
        **DATA, "ngram_sha256": SHA, "text_seal": SHA,
        "initialized_from": {"path": "runs/a", "step": 3, "weights_sha256": SHA},
    }]),
    "trainer.json": (schema.TRAINER, [
        dataclasses.asdict(trainer()),
        {**dataclasses.asdict(trainer(best_step=3, best_loss=2, budget=BUDGET)), "extra": {},
         "share": {"scale": 1.0, "offset": -2}},
    ]),
    "tokenizer.json": (schema.TOKENIZER, [
        ByteTokenizer().to_dict(), CharTokenizer("ab").to_dict(),
        {"kind": "bpe", "pattern": "x", "merged": ["6162"]},
    ]),
    "best": (schema.BEST, [
        {"format": "f", "version": 1, "step": 3, "val_loss": None, "weights_sha256": SHA},
    ]),
    "manifest.json": (schema.MANIFEST, [
        {"format": "f", "version": 1, "files": {"a": {"sha256": SHA, "size": 3}}},
    ]),
}  # fmt: skip
OTHERS = [None, True, 3, -1, 1 << 60, 0.5, 1e308, "x", "", [], [[]], {}, {"x": 1}]


@pytest.mark.parametrize("name", SOUND)
def test_what_a_run_writes_is_read_unchanged(name: str) -> None:
    check, records = SOUND[name]
    for record in nonempty(records):
        assert schema.parse_record(json.dumps(record).encode(), name, check) == record


@pytest.mark.parametrize("name", SOUND)
def test_every_key_is_refused_with_most_other_types_and_by_its_name(name: str) -> None:
    check, records = SOUND[name]
    record = records[-1]
    for key in nonempty(record):
        refused = []
        for value in OTHERS:
            try:
                schema.parse_record(json.dumps({**record, key: value}).encode(), name, check)
            except ValueError as error:
                refused.append(str(error))
        assert len(refused) >= 7, key
        assert all(name in message and len(message) < 200 for message in refused), refused


@pytest.mark.parametrize("name", SOUND)
def test_a_key_too_many_and_a_key_too_few_are_named(name: str) -> None:
    check, records = SOUND[name]
    with pytest.raises(ValueError, match=r"evil"):
        schema.parse_record(json.dumps({**records[0], "evil": 1}).encode(), name, check)
    for key in records[0].keys() - {"best_step", "best_loss", "misses", "interval_loss",
                                    "interval_steps", "budget", "processes", "kind"}:  # fmt: skip
        if name == "config.json" and (options_of(TrainConfig)[key].output or key in schema.ADDED):
            continue
        lacking = {other: value for other, value in records[0].items() if other != key}
        with pytest.raises(ValueError, match=f"{name} must have {key}, got none"):
            schema.parse_record(json.dumps(lacking).encode(), name, check)


# The options of the first files of version 1.
FIRST = (
    "mode model_kind preset n_layer n_head n_embd block_size activation positions "
    "prev_token_tables hash_embed_rows hash_embed_longest ngram_order tie_lm_head "
    "input_rmsnorm qk_norm logit_softcap init_std zero_init dropout data data_dir text_column "
    "documents separator deduplicate tokenizer vocab_size val_fraction style batching steps "
    "time_budget batch_size grad_accum auto_batch optimizer lr matrix_lr head_lr lr_schedule "
    "warmup_ratio warmdown_ratio final_lr_frac schedule_points weight_decay beta1 "
    "muon_momentum beta2 eps grad_clip ema ngram_share patience seed device dtype numerics "
    "loss compile threads deterministic eval_every eval_tokens baseline checkpoint_every keep "
    "log memory_drift out resume init_from extend_vocabulary final_on_all num_samples "
    "max_new_tokens temperature top_k top_p stop"
)  # fmt: skip


def read_config(config: dict[str, Any]) -> dict[str, Any]:
    return schema.parse_record(json.dumps(config).encode(), "config.json", schema.CONFIG)


def test_files_of_version_1_without_later_options_are_read() -> None:
    """An option that is added to TrainConfig must be added to ADDED, or belong to the output."""
    old = {name: CONFIG[name] for name in FIRST.split()}
    assert read_config(old) == old
    output = {name for name, each in options_of(TrainConfig).items() if each.output}
    shorter = {name: old[name] for name in old.keys() - output}
    assert read_config(shorter) == shorter


def test_every_option_of_a_run_has_a_check() -> None:
    config = json.loads(json.dumps(TrainConfig(mode="tensor").to_dict()))
    assert read_config(config) == config


@pytest.mark.parametrize(("tokenizer", "size"), [
    (ByteTokenizer(), 257), (CharTokenizer("abcé😀"), 6),
])  # fmt: skip
def test_the_vocabulary_has_the_size_of_the_tokenizer(tokenizer: Any, size: int) -> None:
    assert schema.vocab_size_of(tokenizer.to_dict()) == tokenizer.vocab_size == size
    merged = {"kind": "bpe", "pattern": "", "merged": ["6162", "6163"]}
    assert schema.vocab_size_of(merged) == 259
