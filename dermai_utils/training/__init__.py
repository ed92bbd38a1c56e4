"""A split -> a trained run, and what its network says of images."""
