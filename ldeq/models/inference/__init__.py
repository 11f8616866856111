"""Inference: the model with everything that depends on its weights alone computed once, and the engines that run it."""
