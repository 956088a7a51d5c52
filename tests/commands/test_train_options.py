"""Every option of a run changes its losses or is refused."""

from __future__ import annotations

import pytest

import nanochat
from nanochat.config.options import TrainConfig, options_of

CHANGES = {
    "n_layer": 2, "n_head": 1, "n_embd": 8, "block_size": 2, "activation": "relu2",
    "positions": "rope", "prev_token_tables": 1, "hash_embed_rows": 8, "ngram_order": 3,
    "tie_lm_head": True, "input_rmsnorm": False, "output_rmsnorm": True, "qk_norm": True,
    "logit_softcap": 0.05, "init_std": 0.5, "zero_init": True, "dropout": 0.5,
    "documents": "file", "tokenizer": "byte", "val_fraction": 0.5, "style": "futuristic", "batching": "windows",
    "steps": 7, "batch_size": 3, "grad_accum": 2, "optimizer": "sgd", "lr": 0.05,
    "matrix_lr": 0.05, "head_lr": 0.05, "lr_schedule": "sqrt", "warmup_ratio": 0.5,
    "warmdown_ratio": 0.2, "final_lr_frac": 0.5, "schedule_points": "0:0 2:0.9 6:1",
    "weight_decay": 0.5, "beta1": 0.5, "beta2": 0.5, "eps": 0.1, "grad_clip": 0.01, "seed": 1,
    "ema": 0.5,
    "dtype": "float64", "model_kind": "bigram", "preset": "microgpt",
}  # fmt: skip
SEEN_ELSEWHERE = {  # by which test; they do not change the losses
    "mode": "metrics_say_what_was_trained", "loss": "tensor engine", "compile": "tensor compiled", "device": "refused by the table",
    "numerics": "microgpt, parity", "data": "bad_input", "data_dir": "registry", "threads": "tensor", "deterministic": "tensor",
    "muon_momentum": "tensor muon", "ngram_share": "tensor mixture", "time_budget": "budget", "vocab_size": "bpe", "bpe_pattern": "bpe", "portable": "portable", "hash_embed_longest": "tensor models", "auto_batch": "tensor memory",
    "eval_every": "log", "eval_tokens": "train", "checkpoint_every": "resume", "keep": "best",
    "patience": "best", "baseline": "baseline", "separator": "documents", "text_column": "records",
    "deduplicate": "splits", "final_on_all": "final_on_all", "init_from": "init_from", "extend_vocabulary": "init_from",
    "memory_drift": "loop", "rank_timeout": "distributed", "out": "folder", "resume": "resume", "num_samples": "stdout",
    "max_new_tokens": "sample", "temperature": "sample", "top_k": "sample", "top_p": "sample",
    "stop": "train_stop", "log": "event_log", "record": "history", "model_file": "model_file", "show_mask": "test_show_mask",
}  # fmt: skip


def test_every_option_of_a_run_is_accounted_for():
    assert {*CHANGES, *SEEN_ELSEWHERE} == set(options_of(TrainConfig))


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    """The losses of the run from which the others differ, by engine."""
    return {}


@pytest.mark.parametrize("name", CHANGES)
def test_every_training_option_changes_the_losses_or_is_refused(
    run, tiny, mode, name, unchanged, records
):
    def losses(**options):
        model_kind = options.pop("model_kind", "mini-gpt")
        base = {"mode": mode, "steps": 4, "grad_clip": 0.1, "dtype": "float32", "num_samples": 0}
        if model_kind == "mini-gpt":
            base |= {"activation": "relu", "positions": "learned", "warmdown_ratio": 0.5}
        result = run(model_kind, **{**base, **options})
        return [r.get("loss", r.get("val_loss")) for r in records(result.run)]

    if mode not in unchanged:
        unchanged[mode] = losses()
    options = {name: CHANGES[name]}
    if name == "preset":  # everything else but what runs the test is the preset's
        config = TrainConfig(mode=mode, preset="microgpt", data="names.txt", documents="line",
                             steps=4, num_samples=0)  # fmt: skip
        assert config.n_embd == 16
        changed = [r.get("loss", r.get("val_loss")) for r in records(nanochat.train(config).run)]
    elif mode == "scalar" and name in ("dropout", "prev_token_tables", "hash_embed_rows"):
        with pytest.raises(nanochat.NanochatError, match=f"^mode scalar does not support {name}"):
            losses(**options)
        return
    else:
        changed = losses(**options)
    assert changed != unchanged[mode]
