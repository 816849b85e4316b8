"""What runs on the edge: the large model, and its half of the verification."""
