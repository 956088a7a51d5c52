"""`nanochat serve` under load: its start, its streams, and clients that abuse it."""
