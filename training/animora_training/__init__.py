"""Training NeuCF: from likes and comments in PostgreSQL to a published version of the model."""
