"""What runs on the device: drafts with onnxruntime and does its half of the verification."""
