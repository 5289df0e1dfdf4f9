"""ModelScope's files without TensorFlow: frozen graphs, the names and layouts of weights, model folders."""
