"""What Local Aggregation is compared with: DeepCluster, and supervised training."""
