"""NeuCF and how it is trained."""
