"""What neural families share: network, head, training loop, augmentation, distillation."""
