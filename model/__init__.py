"""The model: tensors in, probabilities out. Knows nothing of Kafka, Redis or `streams`."""
