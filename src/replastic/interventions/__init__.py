"""What a method is, and what runs one: on weights in a file, on a live model, in anybody's training loop."""
