"""Attribution methods: occlusion, gradients, attention rollout and Shapley values."""
