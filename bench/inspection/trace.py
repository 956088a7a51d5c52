"""The time of `nanochat inspect` and of a trace, the size of its page, and when a browser shows it.

    python -m bench.inspection.trace [--rounds 7] [--browser]

The models are the default run on the embedded names, and one of about 25,000 parameters on a text
of 32 tokens, each on both engines. In turn: the whole process of `nanochat inspect`; the trace; and
the same model's forward and backward pass without names, for the loss of the same targets.
--browser also loads the pages in Chromium and takes the first contentful paint (needs playwright).
Writes results/inspection/trace.json.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import nanochat
from bench.command import command_parser, module_command, module_environment
from bench.machine import write_result

TEXTS = {"default": "maria", "25k": "abcdefghijklmnopqrstuvwxyzabcde"}  # the latter of 31 tokens
SIZE = {"n_layer": 2, "n_head": 4, "n_embd": 28, "block_size": 32}
RUNS: dict[str, dict[str, Any]] = {
    "default, scalar": {"mode": "scalar", "steps": 200},
    "default, tensor": {"mode": "tensor", "steps": 100},
    "25k, scalar": {"mode": "scalar", "model_kind": "mini-gpt", "steps": 20, **SIZE},
    "25k, tensor": {"mode": "tensor", "model_kind": "mini-gpt", "steps": 20, **SIZE},
}
PAINT = "() => performance.getEntriesByName('first-contentful-paint').map((e) => e.startTime)[0]"


def seconds(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def inspect(folder: Path, text: str, page: Path) -> None:
    words = module_command("nanochat", "inspect", folder, "--text", text, "--out", page, "--quiet")
    subprocess.run(words, env=module_environment(), check=True, capture_output=True)


def plain_scalar(model: nanochat.LanguageModel, trace: nanochat.Trace) -> float:
    """Run the model in scalars forward and backward without names; return the mean loss."""
    from nanochat.scalar.functions import cross_entropy, total
    from nanochat.scalar.own_model import model_of
    from nanochat.scalar.value import Tape

    tape = Tape("float64")
    matrices = {name: tape.matrix(*array.shape) for name, array in model.weights.items()}
    for name, matrix in matrices.items():
        matrix.values[:] = model.weights[name]
    network = model_of(None, model.config, matrices)
    cache, losses = network.new_cache(), []
    pairs = zip(trace.tokens.tolist(), trace.targets.tolist(), strict=True)
    for position, (token, target) in enumerate(pairs):
        logits = network.logits(token, position, cache)
        by_network = logits[:-1] if model.config.ngram_order else logits
        losses.append(cross_entropy(by_network, target))
    loss = total(losses) / len(losses)
    loss.backward()
    return loss.data


def plain_tensor(model: nanochat.LanguageModel, trace: nanochat.Trace) -> float:
    """Do the same with the plain torch module."""
    import torch

    network = model.to_torch(network_only=True)
    logits = network(torch.from_numpy(trace.tokens)[None])[0]
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(trace.targets))
    loss.backward()
    return loss.item()


def first_paint(pages: dict[str, Path], rounds: int) -> dict[str, float]:
    """Return milliseconds to the first contentful paint of each page."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    found: dict[str, list[float]] = {name: [] for name in pages}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for _ in range(rounds):
            for name, path in pages.items():
                page = browser.new_page(viewport={"width": 1280, "height": 800})
                page.goto(path.absolute().as_uri())
                # The page's policy forbids the driver to wait by a function.
                while (painted := page.evaluate(PAINT)) is None:
                    page.wait_for_timeout(5)
                found[name].append(painted)
                page.close()
        browser.close()
    return {name: statistics.median(each) for name, each in found.items()}


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--browser", action="store_true", help="also load the pages in Chromium")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record: dict[str, dict[str, Any]] = {}
        pages = {}
        for label, given in RUNS.items():
            run = folder / label.replace(", ", "-")
            config = nanochat.TrainConfig(out=str(run), num_samples=0, seed=1, **given)
            nanochat.train(config)
            model, text = nanochat.load(run), TEXTS[label.partition(",")[0]]
            plain = plain_scalar if given["mode"] == "scalar" else plain_tensor
            trace = model.trace(text)
            chosen = trace["probabilities"][np.arange(len(trace.targets)), trace.targets]
            difference = abs(plain(model, trace) + float(np.log(chosen).mean()))
            if difference > 1e-4:
                raise SystemExit(f"error: {label}: the losses differ by {difference}")
            pages[label] = folder / f"{run.name}.html"
            times: dict[str, list[float]] = {"process": [], "trace": [], "plain": []}
            for _ in range(options.rounds):
                times["process"].append(seconds(partial(inspect, run, text, pages[label])))
                times["trace"].append(seconds(partial(model.trace, text)))
                times["plain"].append(seconds(partial(plain, model, trace)))
            medians = {f"{side}_s": statistics.median(each) for side, each in times.items()}
            record[label] = {
                "parameters": model.params, "tokens": len(trace.tokens), **medians,
                "trace_per_plain": medians["trace_s"] / medians["plain_s"],
                "page_bytes": pages[label].stat().st_size,
            }  # fmt: skip
        if options.browser:
            for label, milliseconds in first_paint(pages, options.rounds).items():
                record[label]["first_paint_ms"] = milliseconds
    for label, found in record.items():
        line = (
            f"{label}: {found['parameters']:,} parameters, {found['tokens']} tokens: inspect"
            f" {found['process_s']:.2f} s, trace {found['trace_s'] * 1e3:.0f} ms,"
            f" {found['trace_per_plain']:.1f} x plain, page {found['page_bytes'] / 1e6:.2f} MB"
        )
        if "first_paint_ms" in found:
            line += f", painted in {found['first_paint_ms']:.0f} ms"
        print(line)
    print("wrote", write_result("inspection/trace", {"rounds": options.rounds, "models": record}))


if __name__ == "__main__":
    main()
