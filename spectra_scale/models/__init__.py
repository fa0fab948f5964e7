"""PyTorch, GIS and UMAP models; no cluster, no device names."""
