"""A trained model behind an HTTP API: batches of texts that join and leave, requests, replies."""
