"""The machine: threads, processes, streams, environment, durable writes, strict JSON."""
