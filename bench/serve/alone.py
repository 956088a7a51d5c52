"""The sides of bench.serve without a server, in one process: loading, sample, the decoder.

    python -m bench.serve.alone RUN ROWS TOKENS REPEATS

Prints one JSON object: the seconds from the start of the process until the run is loaded, the best
tokens per second of REPEATS, the tokens that a text starts with and the likeliest after them.
"""

from __future__ import annotations

import json
import time

from bench.command import command_parser


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("run")
    for name in ("rows", "tokens", "repeats"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()

    import nanochat
    from nanochat.sampling.sampling import SamplingSettings, sample_tokens
    from nanochat.system.processes import age_s

    model = nanochat.load(options.run)
    load_s = age_s()
    trained = model._trained
    how = {"temperature": 1.0, "seed": 0, "max_new_tokens": options.tokens}
    start = trained.checkpoint.data["start"]
    settings = SamplingSettings(top_k=0, top_p=1.0, **how)
    sample, decoder, text = 0.0, 0.0, ""
    for _ in range(options.repeats + 1):  # the first one reads the weights
        began = time.perf_counter()
        text = model.generate(**how)
        took = time.perf_counter() - began
        tokens = sum(1 for _ in sample_tokens(trained.mixture, start, settings, rows=1))
        sample = max(sample, tokens / took)
        began = time.perf_counter()
        steps = sample_tokens(trained.mixture, start, settings, rows=options.rows)
        tokens = sum(token is not None for step in steps for token in step)
        decoder = max(decoder, tokens / (time.perf_counter() - began))
    likeliest = SamplingSettings(top_k=0, top_p=1.0, **{**how, "temperature": 0.0})
    greedy = [step[0] for step in sample_tokens(trained.mixture, start, likeliest, rows=1)]
    begins = model.tokenizer.decode(start)
    record = {
        "load_s": load_s, "sample_tokens_per_s": sample, "decoder_tokens_per_s": decoder,
        "text": text.removeprefix(begins), "start": start, "greedy": greedy,
    }  # fmt: skip
    print(json.dumps(record))


if __name__ == "__main__":
    main()
