"""From logits to text: the reference sampling, the token draw and the generation loop."""
