"""The machine: threads, processes, environment, durable writes, strict JSON."""
