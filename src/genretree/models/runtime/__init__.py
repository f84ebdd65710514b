"""Inference runtimes: PyTorch, OpenVINO and ONNX Runtime, and export to their formats."""
