"""From logits to text: drawing a token, the sampling loop, generation."""
