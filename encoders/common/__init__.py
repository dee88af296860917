"""What several encoders share: weights, the hub, timm models, training checkpoints."""
