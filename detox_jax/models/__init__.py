"""The language model, its layers and its adaptations; knows no data, files or meshes."""
