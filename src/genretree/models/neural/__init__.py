"""Neural networks: heads, training, augmentation and distillation."""
